"""Copies of data and images that lie in a bucket, in the user's cache folder.

A copy is made once. Later only what changed in the bucket since is copied, and what is gone there is removed. Within a
job a folder is listed once, so that all of the job sees the same data; the process's next job calls `renew` first.
"""

import base64
from concurrent import futures
import fcntl
import fnmatch
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

from dmtl_jax.basics import bucket, caches, errors, files
from dmtl_jax.basics.atomic import atomic_path, write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress

AT_ONCE = 16  # downloads
PATTERN = '*?['


def local_images(spec: str, where: str) -> str:
  """The local path or glob of the images that an address or a glob in a bucket names."""
  parts = spec.split('/')
  count = next((i for i, part in enumerate(parts) if set(PATTERN) & set(part)), len(parts))
  if count == len(parts) and pathlib.PurePosixPath(spec).suffix:  # a file
    count -= 1
  folder = local('/'.join(parts[:count]), where, '/'.join(parts[count:]))
  return '/'.join([folder, *parts[count:]])


def renew():
  """Makes `local` list every folder again."""
  local.cache_clear()


@functools.cache
def local(address: str, where: str, pattern: str = '') -> str:
  """The local folder that a folder in a bucket is copied to.

  Args:
    where: flag or field, for messages.
    pattern: copy only files whose names below the folder match it.

  Raises:
    UserError: no such folder, no place here, or a file that arrives otherwise than it was stored.
  """
  address = address.rstrip('/')
  bucket.check_address(where, address)
  cache = caches.folder()
  if not cache:
    raise UserError(f'{where}: there is no cache folder to copy {address} to; set XDG_CACHE_HOME to one')
  folder = cache / 'buckets' / address.removeprefix(f'{bucket.SCHEME}://')
  errors.aliases[str(folder)] = address
  with bucket.report_outages(address):
    sync(bucket.file_system(), address.removeprefix(f'{bucket.SCHEME}://'), folder, address, pattern)
  return str(folder)


def sync(store: Any, source: str, folder: pathlib.Path, name: str, pattern: str = ''):
  """Makes a local folder a copy of a folder in a bucket.

  Args:
    store: fsspec's file system of the bucket.
    source: folder in it.
    name: of the folder, for messages.
    pattern: see `local`.

  Raises:
    UserError: no file there, no space here, or a file that arrives otherwise than it was stored.
  """
  facts = folder.with_name(f'{folder.name}.copied.json')  # {file: [bytes, sum or version]}
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder.with_name(f'{folder.name}.lock'), 'ab') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # another process on this machine may be copying the same
    there = _list(store, source, pattern)
    if not there:
      raise UserError(f'{name}{"/" * bool(pattern)}{pattern}: no file there; check the address')
    copied = _read(facts)
    stale = {n for n in copied if copied[n] != there.get(n) and (n in there or _matches(n, pattern))}
    stale |= {n for n in there.keys() - copied.keys() if not _is_same(folder / n, there[n])}
    for gone in stale - there.keys():
      (folder / gone).unlink(missing_ok=True)
      del copied[gone]
    # From now on a file that is here is the one recorded, or recorded as [], whatever interrupts the copy.
    write_json(facts, copied | there | {n: [] for n in stale & there.keys()})
    try:
      _download(store, source, folder, {n: there[n] for n in there if n in stale or not (folder / n).is_file()}, name)
    except OSError as error:
      if error.errno is None:  # gcsfs's
        raise
      raise UserError(
        f'{folder}: {os.strerror(error.errno)}; make room for a copy of {name}, or set XDG_CACHE_HOME'
      ) from error
    write_json(facts, copied | there)


def _list(store: Any, source: str, pattern: str) -> dict[str, list]:
  """{name below the folder: [bytes, sum or version]} of the files that match."""
  found = {}
  for path, facts in store.find(source, detail=True).items():
    name = path.lstrip('/').removeprefix(f'{source.lstrip("/")}/')
    parts = name.split('/')
    if all(files.is_id(part) and files.is_name(part) for part in parts) and _matches(name, pattern):
      found[name] = [facts['size'], facts.get('md5Hash') or str(facts.get('generation') or facts.get('mtime') or '')]
  return found


def _matches(name: str, pattern: str) -> bool:
  if not pattern or '**' in pattern:
    return not pattern or fnmatch.fnmatchcase(name, pattern.replace('**/', '*'))
  parts, patterns = name.split('/'), pattern.split('/')
  return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _download(store: Any, source: str, folder: pathlib.Path, wanted: dict[str, list], name: str):
  def fetch(file: str):
    with atomic_path(folder / file) as temporary:
      store.get_file(f'{source}/{file}', temporary)
      if not _is_same(pathlib.Path(temporary), wanted[file]):
        raise UserError(
          f'{name}/{file}: arrives with another length or MD5 sum than it was stored with; run the same command again'
        )
    return file

  if not wanted:
    return
  megabytes = sum(size for size, _ in wanted.values()) / 1e6
  with (
    futures.ThreadPoolExecutor(AT_ONCE) as pool,
    Progress(f'copying {name}, {megabytes:.0f} MB,', len(wanted), 'file') as progress,
  ):
    try:
      for done in futures.as_completed([pool.submit(fetch, file) for file in wanted]):
        progress.update(1, done.result())
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)  # or the end of the block would wait for all of them
      raise


def _is_same(path: pathlib.Path, facts: list) -> bool:
  """Whether a file has the length and, where the bucket tells it, the MD5 sum."""
  size, checksum = facts
  if not path.is_file() or path.stat().st_size != size:
    return False
  try:
    expected = base64.b64decode(checksum, validate=True)
  except ValueError:
    return True
  if len(expected) != 16:
    return True
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'md5').digest() == expected


def _read(path: pathlib.Path) -> dict[str, list]:
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, dict) else {}
