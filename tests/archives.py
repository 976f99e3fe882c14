"""Archives in memory, also those that no honest program would write."""

import contextlib
import io
import tarfile
from typing import NamedTuple
import zipfile


class Item(NamedTuple):
  name: str
  content: bytes = b'1'
  kind: bytes = tarfile.REGTYPE
  target: str = ''  # of a link
  mode: int = 0o644


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Item:
  return Item(name, b'', kind, target, 0o777)


def tar(items, mode: str = 'w:gz') -> bytes:
  """Items that cannot be written are left out."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode=mode) as file:
    for item in items:
      info = tarfile.TarInfo(item.name)
      info.type, info.linkname, info.mode = item.kind, item.target, item.mode
      info.size = len(item.content) if item.kind == tarfile.REGTYPE else 0
      with contextlib.suppress(ValueError, UnicodeError):
        file.addfile(info, io.BytesIO(item.content))
  return stream.getvalue()


def zipped(items, method=zipfile.ZIP_DEFLATED) -> bytes:
  """As `tar`; all members are links, for readers who believe it."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w', method) as file:
    for item in items:
      info = zipfile.ZipInfo('a')
      info.filename, info.external_attr = item.name, (0o120000 | item.mode) << 16
      with contextlib.suppress(ValueError, UnicodeError):
        file.writestr(info, item.content, method)
  return stream.getvalue()
