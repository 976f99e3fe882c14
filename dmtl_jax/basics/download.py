"""Downloads checked by sha256, and archives unpacked only into their own folder."""

import bz2
import contextlib
import gzip
import hashlib
import http.client
import lzma
import os
from pathlib import Path
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile

from absl import logging

from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import Progress

BLOCK = 1 << 20  # bytes read at a time; the unit of progress
TIMEOUT = 60  # seconds without a byte
UNKNOWN = 'unknown'
EXPANSION = 100  # how many times larger than the archive its files may be; at most 10 in the benchmarks
SMALL = 64 << 20  # bytes that any archive may unpack to


def download(url: str, path: str | os.PathLike, sha256: str) -> Path:
  """Downloads `url` to `path`; a file that is already there is only checked.

  The data are kept in `path`.part until they are complete and checked. An interrupted download resumes
  from there, except with sha256 'unknown', where a mixture of two versions could not be noticed.

  Args:
    url: http or https address.
    sha256: hexadecimal digest the file must have, or 'unknown' to log the one it has.

  Raises:
    UserError: the server does not deliver the file, or it has another digest.
  """
  path = Path(path)
  if path.exists():
    check(path, sha256)
    return path
  part = path.with_name(f'{path.name}.part')
  part.parent.mkdir(parents=True, exist_ok=True)
  if sha256 == UNKNOWN:
    part.unlink(missing_ok=True)
  _fetch(url, part)
  try:
    check(part, sha256)
  except UserError:
    part.unlink()
    raise
  os.replace(part, path)
  return path


def check(path: Path, sha256: str):
  """Raises UserError if a file has another sha256; with 'unknown', logs it."""
  actual = digest(path)
  if sha256 == UNKNOWN:
    logging.warning('%s: taken unchecked; its sha256 is %s', path, actual)
  elif actual != sha256.lower():
    raise UserError(f'{path}: sha256 is {actual}, expected {sha256}; replace the file')


def digest(path: Path) -> str:
  """The sha256 of a file in hexadecimal; raises UserError if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}); remove it or choose another place') from error


def _fetch(url, part):
  """Downloads to `part` the bytes of `url` that it does not have yet."""
  offset = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={'Range': f'bytes={offset}-'} if offset else {})
  try:
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
      if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        offset = 0  # the server sends the whole file
      _save(response, part, offset)
  except urllib.error.HTTPError as error:
    is_complete = offset and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    if not is_complete:
      raise UserError(f'{url}: the server says {error.code} {sanitize(error.reason)}; {_by_hand(part)}') from error
  except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
    raise UserError(f'{url}: {sanitize(str(error))}; run again to go on, or {_by_hand(part)}') from error


def _save(response, part, offset):
  length = response.headers.get('Content-Length', '')
  total = offset + int(length) if re.fullmatch(r'[0-9]{1,18}', length) else 0
  progress = Progress(f'downloading {part.stem}', total >> 20, 'MB', start=offset >> 20)
  with open(part, 'r+b' if offset else 'wb') as file, progress:
    file.seek(offset)
    while block := response.read(BLOCK):
      file.write(block)
      progress.update((file.tell() >> 20) - progress.done)
    received = file.tell()
  if received < total:
    raise http.client.HTTPException(f'the connection broke after {received} of {total} bytes')


def _by_hand(part):
  return f'save the file as {part.with_suffix("")}'


def extract(archive: str | os.PathLike, folder: str | os.PathLike) -> Path:
  """Unpacks a .tar, .tgz, .tar.gz, .tar.bz2, .tar.xz or .zip archive into `folder`.

  The folder appears when everything is unpacked; until then the files are in `folder`.incomplete, which the
  next run removes. An existing folder is left unchanged.

  Raises:
    UserError: the archive is none, is damaged, holds a file that would land outside `folder`, or unpacks to more than
      EXPANSION times its size.
  """
  archive, folder = Path(archive), Path(folder)
  if folder.exists():
    return folder
  incomplete = folder.with_name(f'{folder.name}.incomplete')
  shutil.rmtree(incomplete, ignore_errors=True)
  incomplete.mkdir(parents=True)
  try:
    if zipfile.is_zipfile(archive):
      _unzip(archive, incomplete)
    else:
      _untar(archive, incomplete)
  except UserError:
    raise
  except Exception as error:  # zipfile, tarfile, zlib, lzma, struct, ... have their own types; most mean damage
    if isinstance(error, OSError) and error.errno:  # two members of one name, a name too long, a full disk
      raise UserError(
        f'{archive}: cannot be unpacked ({error.strerror}); unpack it by hand and give its folder'
      ) from error
    raise UserError(f'{archive}: damaged or cut short ({sanitize(str(error))}); download it again') from error
  os.replace(incomplete, folder)
  return folder


def _unzip(archive, folder):
  with zipfile.ZipFile(archive) as file:
    members = file.infolist()
    if sum(member.file_size for member in members) > _size_limit(archive):
      raise _bomb_error(archive)
    with Progress(f'unpacking {archive.name}', len(members), 'file') as progress:
      for member in members:
        _check_inside(archive, member.filename)
        file.extract(member, folder)  # makes files of links, and none larger than the list says
        progress.update()


def _untar(archive, folder):
  with open(archive, 'rb') as raw, _decompressed(raw) as stream:
    try:
      file = tarfile.open(fileobj=_Bounded(stream, archive), mode='r:')  # noqa: SIM115 # pyrefly: ignore[no-matching-overload]
    except tarfile.TarError as error:
      raise UserError(f'{archive}: neither a .zip nor a .tar archive, or cut short; download it again') from error
    with file, Progress(f'unpacking {archive.name}', archive.stat().st_size >> 20, 'MB') as progress:
      total = 0
      for member in file:
        total += member.size  # of a sparse file more than it takes in the archive
        if total > _size_limit(archive):
          raise _bomb_error(archive)
        _check_inside(archive, member.name)
        if member.issym() or member.islnk():
          _check_inside(archive, member.linkname)
        try:
          file.extract(member, folder, filter='data')  # no devices, links only within the folder
        except tarfile.FilterError as error:
          raise UserError(f'{archive}: refused to unpack it: {sanitize(str(error))}') from error
        progress.update((raw.tell() >> 20) - progress.done)


def _decompressed(raw):
  """Opens the tar file inside a compressed or plain file."""
  start = raw.read(6)
  raw.seek(0)
  for magic, opened in ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open), (b'\xfd7zXZ\0', lzma.open)):
    if start.startswith(magic):
      return opened(raw)
  return contextlib.nullcontext(raw)


class _Bounded:
  """A readable tar file that raises an error when it grows beyond the limit or claims a huge header."""

  def __init__(self, stream, archive):
    self.stream = stream
    self.archive = archive
    self.limit = _size_limit(archive)
    self.tell = stream.tell

  def seek(self, position, whence=os.SEEK_SET):
    return self.stream.seek(position, whence)

  def read(self, size):
    if size > BLOCK or self.tell() > self.limit:  # tarfile reads headers whole
      raise _bomb_error(self.archive)
    return self.stream.read(size)


def _size_limit(archive) -> int:
  return EXPANSION * archive.stat().st_size + SMALL


def _bomb_error(archive):
  return UserError(
    f'{archive}: unpacks to more than {EXPANSION} times its size; '
    f'if you trust it, unpack it by hand and give its folder'
  )


def _check_inside(archive, name):
  """Raises UserError for absolute names and '..', so that no chain of links can lead out either."""
  parts = re.split(r'[/\\]', name)
  if not parts[0] or '..' in parts or '\0' in name or re.match('[A-Za-z]:', name):
    raise UserError(f"{archive}: refused to unpack '{sanitize(name)}', which would land outside the folder")
