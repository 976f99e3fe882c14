"""Archives in memory, also those that no honest program would write."""

import io
import tarfile
import zipfile

FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def tar(items, mode: str = 'w:gz') -> bytes:
  """Of (name, kind, link's target, bits, content); items that cannot be written are left out."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode=mode) as file:
    for name, kind, link, bits, content in items:
      info = tarfile.TarInfo(name)
      info.type, info.linkname, info.mode = kind, link, bits
      info.size = len(content) if kind == FILE else 0
      try:
        file.addfile(info, io.BytesIO(content))
      except (ValueError, UnicodeError):
        pass
  return stream.getvalue()


def zipped(items, method=zipfile.ZIP_DEFLATED) -> bytes:
  """As `tar`; all members are links, for those who believe it."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w', method) as file:
    for name, _, _, bits, content in items:
      info = zipfile.ZipInfo('a')
      info.filename, info.external_attr = name, (0o120000 | bits) << 16
      try:
        file.writestr(info, content, method)
      except (ValueError, UnicodeError):
        pass
  return stream.getvalue()


def file(name: str, content: bytes = b'1'):
  """An item of `tar`."""
  return name, FILE, '', 0o644, content


def link(name: str, target: str, kind: bytes = LINK):
  return name, kind, target, 0o777, b''
