"""Files from the network, checked by sha256, and archives, unpacked nowhere but where they should be."""

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from absl import logging

from dmtl_jax.errors import UserError
from dmtl_jax.progress import Progress

BLOCK = 1 << 20  # bytes read at a time; progress counts them
TIMEOUT = 60  # seconds without a byte
UNKNOWN = 'unknown'


def download(url: str, path: str | os.PathLike, sha256: str) -> Path:
  """Fetches `url` into `path`; a file that is already there is only checked.

  What arrives is kept in `path`.part until it is whole and checked. An interrupted download goes on
  from there, but not with sha256 'unknown': nothing could then tell two versions glued together.

  Args:
    url: http or https address.
    path: of the file to write.
    sha256: hexadecimal digest the file must have, or 'unknown' to log the one it has.

  Returns:
    path.

  Raises:
    UserError: the server does not deliver, or the file is not the one that was asked for.
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
  """Compares a file's sha256; with 'unknown', logs it.

  Raises:
    UserError: it is another.
  """
  with open(path, 'rb') as file:
    found = hashlib.file_digest(file, 'sha256').hexdigest()
  if sha256 == UNKNOWN:
    logging.warning('%s: taken unchecked; its sha256 is %s', path, found)
  elif found != sha256.lower():
    raise UserError(f'{path}: sha256 is {found}, expected {sha256}; replace the file')


def _fetch(url, part):
  """Appends to `part` what it lacks of `url`."""
  have = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
  try:
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
      if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        have = 0  # the server sends all of it
      _save(response, part, have)
  except urllib.error.HTTPError as error:
    nothing_lacks = have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    if not nothing_lacks:
      raise UserError(f'{url}: the server says {error.code} {error.reason}; {_by_hand(part)}') from error
  except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
    raise UserError(f'{url}: {error}; run again to go on, or {_by_hand(part)}') from error


def _save(response, part, have):
  length = response.headers.get('Content-Length')
  total = have + int(length) if length else 0
  progress = Progress(f'downloading {part.stem}', total >> 20, 'MB', start=have >> 20)
  with open(part, 'r+b' if have else 'wb') as file, progress:
    file.seek(have)
    while block := response.read(BLOCK):
      file.write(block)
      progress.update(_megabytes(file.tell() - len(block), file.tell()))
    received = file.tell()
  if received < total:
    raise http.client.HTTPException(f'the connection broke after {received} of {total} bytes')


def _by_hand(part):
  return f'save the file as {part.with_suffix("")}'


def _megabytes(before, after):
  """Whole megabytes completed between two positions: what Progress counts."""
  return (after >> 20) - (before >> 20)


def extract(archive: str | os.PathLike, folder: str | os.PathLike) -> Path:
  """Unpacks a .tar, .tgz, .tar.gz, .tar.bz2, .tar.xz or .zip archive into `folder`.

  The folder appears when all is unpacked; until then the files lie in `folder`.incomplete, which the
  next run removes. A folder that is already there is taken as it is.

  Returns:
    folder.

  Raises:
    UserError: not an archive, a damaged one, or one with a file that would land outside `folder`.
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
    elif tarfile.is_tarfile(archive):
      _untar(archive, incomplete)
    else:
      raise UserError(f'{archive}: neither a .zip nor a .tar archive, or cut short; download it again')
  except (zipfile.BadZipFile, tarfile.ReadError, zlib.error, EOFError) as error:
    raise UserError(f'{archive}: damaged or cut short ({error}); download it again') from error
  os.replace(incomplete, folder)
  return folder


def _unzip(archive, folder):
  with zipfile.ZipFile(archive) as file:
    members = file.infolist()
    with Progress(f'unpacking {archive.name}', len(members), 'file') as progress:
      for member in members:
        _check_inside(archive, member.filename, folder)
        file.extract(member, folder)
        progress.update()


def _untar(archive, folder):
  with open(archive, 'rb') as raw, tarfile.open(fileobj=raw) as file:
    with Progress(f'unpacking {archive.name}', archive.stat().st_size >> 20, 'MB') as progress:
      position = 0
      for member in file:
        _check_inside(archive, member.name, folder)
        try:
          file.extract(member, folder, filter='data')  # no devices, links only within the folder
        except tarfile.FilterError as error:
          raise UserError(f'{archive}: refused to unpack it: {error}') from error
        progress.update(_megabytes(position, raw.tell()))
        position = raw.tell()


def _check_inside(archive, name, folder):
  inside = (folder / name).resolve().is_relative_to(folder.resolve())
  if not inside or name.startswith(('/', '\\')):
    raise UserError(f"{archive}: refused to unpack '{name}', which would land outside the folder")
