"""Folders in a bucket (gs://BUCKET/FOLDER): local mirrors of their small files, and the errors of the storage.

A job works in the mirror as in any folder. What it wrote is copied to the bucket, each file as a whole object, when
`Mirror.push` is called and at the end of the command. Checkpoints are not mirrored: Orbax writes and reads them there.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, NamedTuple

from dmtl_jax.basics import errors, files, progress
from dmtl_jax.basics.errors import sanitize, UserError

SCHEME = 'gs'
BUCKET_NAME = re.compile(r'[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]')
MIRRORED = re.compile(r'[^/]+|(panels|tensorboard)/.+')  # of what is in the bucket already
AT_ONCE = 32  # objects that are on their way
# Of a bucket that does not answer, for about five minutes. For a checkpoint TensorStore waits for a quarter of an hour,
# and gcsfs, which lists, for a minute.
RETRIES = {'max_retries': 16, 'initial_delay': '500ms', 'max_delay': '32s'}
GO_ON = 'run the same command again: what was saved is whole, and the run goes on from its last checkpoint'
# TensorStore has no error classes, only these words in the message.
STATUS = re.compile(
  r'\b(NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|INTERNAL'
  r'|FAILED_PRECONDITION|UNKNOWN|CANCELLED)\b'
)
HTTP_CODE = re.compile(r"(?<=http_response_code=')\d{3}")
# Packages whose errors are the storage's or the network's.
CLIENTS = ('gcsfs', 'aiohttp', 'google', 'requests', 'urllib3')

_mirrors: dict[str, 'Mirror'] = {}  # by local folder


class OutageError(UserError):
  """The bucket cannot be reached, or refuses what is asked of it."""


def is_address(path: str | os.PathLike) -> bool:
  return os.fspath(path).startswith(f'{SCHEME}://')


def check_address(where: str, address: str, depth: int = 0):
  """Raises UserError for an address that names no folder in a bucket, or if the library for buckets is missing.

  Args:
    where: flag or field; begins the sentence.
    depth: how many folders it names at least; 0: it may be the bucket itself.
  """
  bucket, *parts = address.removeprefix(f'{SCHEME}://').rstrip('/').split('/')
  is_folder = len(parts) >= depth and all(map(files.is_id, parts)) and not set('#?[]*') & set(address)
  if not (BUCKET_NAME.fullmatch(bucket) and is_folder):
    raise UserError(f"{where}: '{sanitize(address)}' is no folder in a bucket; give gs://BUCKET/FOLDER")
  check_library(where)


def check_library(where: str):
  """Raises UserError if gcsfs is missing, through which Orbax lists a bucket."""
  if not importlib.util.find_spec('gcsfs'):
    raise UserError(f"{where}: gs:// needs the package gcsfs; run pip install 'dmtl_jax[gcs]'")


def mirror(address: str, where: str, fetch: bool = True) -> str:
  """The local mirror of a folder in a bucket, made at the first call.

  Args:
    where: flag or field, for messages.
    fetch: copy the small files that are there into it; at a later call, those that changed there since.

  Raises:
    UserError: no such address, bucket or permission.
  """
  address = address.rstrip('/')
  check_address(where, address)
  for folder, known in _mirrors.items():
    if known.address == address:
      if fetch:
        known.fetch()
      return folder
  made = Mirror(address, _open_store(address), functools.partial(_list_names, address))
  if fetch:
    try:
      made.fetch()
    except UserError:
      made.remove()  # or the next call would take it for the run
      raise
  return str(made.folder)


def find(folder: str | os.PathLike) -> 'Mirror | None':
  """The mirror whose local folder this is; None for any other folder."""
  return _mirrors.get(os.fspath(folder))


def push(folder: str | os.PathLike):
  """Copies what changed in a mirror to its bucket; does nothing for any other folder."""
  if found := find(folder):
    found.push()


def share(folder: str | os.PathLike):
  """Gives the other hosts the small files that the first wrote into its mirror; all hosts must call it."""
  from dmtl_jax.basics import sharding  # not above: the command line imports this module before JAX

  if found := find(folder):
    sharding.on_first_host(found.push)
    if progress.silent:
      found.fetch()


class Stored(NamedTuple):
  """A file of a mirror as it was when last copied: its stamp here, and the object's generation in the bucket."""

  stamp: tuple[int, int]
  generation: bytes


class Mirror:
  """A local folder that mirrors the small files of a folder in a bucket.

  Attributes:
    address: gs://BUCKET/FOLDER.
    folder: the local one, removed when the process ends.
    store: a `tensorstore.KvStore` of the folder's objects. It is not asked to list them: where a page is refused, it
      says nothing and leaves out the rest (0.1.86).
    lock: the lock of the process that trains there (see `bucket_lock`), which `push` checks; None without one.
  """

  def __init__(self, address: str, store: Any, list_names: Callable[[], list[str]]):
    self.address = address
    self.store = store
    self._list_names = list_names
    temporary = pathlib.Path(tempfile.mkdtemp(prefix='dmtl_jax.')).resolve()
    self.folder = temporary / address.rpartition('/')[2]  # a report names runs by their last folder
    self.folder.mkdir()
    self.lock: Any = None
    self._stored: dict[str, Stored] = {}  # by name
    _mirrors[str(self.folder)] = self
    errors.aliases[str(self.folder)] = address
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)

  def remove(self):
    """Removes the folder; what lies in the bucket stays."""
    del _mirrors[str(self.folder)]
    shutil.rmtree(self.folder.parent, ignore_errors=True)

  def fetch(self):
    """Copies the bucket's small files that are new or changed into the folder, and removes those that are gone there.

    Raises:
      OutageError: not all could be copied.
    """
    with report_outages(self.address):
      listed = self._list_names()
      names = [name for name in listed if MIRRORED.fullmatch(name) and _is_usable(name)]
      for some in _chunks(names):
        known = {name: self._stored[name].generation if name in self._stored else None for name in some}
        for name, read in [(name, self.store.read(name, if_not_equal=known[name])) for name in some]:
          found = read.result()
          if found.state != 'value':  # the same as before, or deleted since it was listed
            continue
          path = self.folder / name
          path.parent.mkdir(parents=True, exist_ok=True)
          path.write_bytes(found.value)
          self._stored[name] = Stored(_stamp(path), found.stamp.generation)
    for name in self._stored.keys() - set(listed):
      (self.folder / name).unlink(missing_ok=True)
      del self._stored[name]

  def push(self):
    """Copies files that changed to the bucket and deletes there what is gone here; only on the first host.

    Files in subfolders go first, so that metrics.json and report.html never speak of what is not there yet.

    Raises:
      OutageError: not all could be copied; the objects are each old or new.
      UserError: another process has taken over the run.
    """
    if progress.silent:
      return
    if self.lock:
      self.lock.check()
    here = self._files()
    changed = [name for name, stamp in here.items() if name not in self._stored or self._stored[name].stamp != stamp]
    with report_outages(self.address):
      for names in ([n for n in changed if '/' in n], [n for n in changed if '/' not in n]):
        for some in _chunks(names):
          writes = {}
          for name in some:
            with contextlib.suppress(FileNotFoundError):  # see `_files`
              writes[name] = self.store.write(name, self._content(name))
          for name, write in writes.items():
            self._stored[name] = Stored(here[name], write.result().generation)
      for name in [name for name in self._stored if name not in here]:
        self.store.write(name, None).result()
        del self._stored[name]

  def _files(self) -> dict[str, tuple[int, int]]:
    """{name: stamp} of the folder's files. A tracker's process may remove its own at any time."""
    found = {}
    for path in self.folder.rglob('*'):
      with contextlib.suppress(FileNotFoundError):
        if path.is_file() and not path.name.startswith('.'):
          found[path.relative_to(self.folder).as_posix()] = _stamp(path)
    return found

  def _content(self, name: str) -> bytes:
    """The content of a file; of a report, which names folders, with addresses for the mirrors."""
    path = self.folder / name
    if path.name.startswith('report.'):
      return errors.name_addresses(path.read_text(encoding='utf-8')).encode()
    return path.read_bytes()


@contextlib.contextmanager
def mirrored() -> Iterator[None]:
  """Copies what a command wrote in mirrors to their buckets at its end, also if it ends with a sentence."""
  try:
    with report_outages():
      yield
  except UserError as error:
    if not isinstance(error, OutageError):
      with contextlib.suppress(UserError):
        _push_all()
    raise
  _push_all()


def _push_all():
  for known in list(_mirrors.values()):
    known.push()


@contextlib.contextmanager
def report_outages(where: str = '') -> Iterator[None]:
  """Turns errors of a bucket, whichever client raises them, into an OutageError of one sentence.

  Args:
    where: the address, if it is known.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    place = where or next((known.address for known in _mirrors.values()), '')
    if not place or not (sentence := describe_outage(error)):
      raise
    raise OutageError(f'{place}: {sentence}') from error


def describe_outage(error: BaseException | None) -> str:
  """What is wrong with the bucket and what to do, if an error or its cause is the storage's; else ''.

  A missing object is none: that is for the caller to understand.
  """
  while error:
    status = _status(error)
    text = str(error)
    code = str(getattr(error, 'code', None) or (HTTP_CODE.search(text) or ' ')[0][-3:])
    if status == 'UNAUTHENTICATED' or type(error).__module__.startswith('google.auth') or code == '401':
      return f'not signed in, or no longer; run gcloud auth application-default login, then {GO_ON}'
    if status == 'PERMISSION_DENIED' or text.startswith('Forbidden') or code == '403':
      roles = 'the roles Storage Object Admin and Storage Legacy Bucket Reader'  # Orbax asks how the bucket is made
      return f"no permission; give this machine's account {roles} on the bucket, then {GO_ON}"
    if (status and status != 'NOT_FOUND') or type(error).__module__.split('.')[0] in CLIENTS:
      reason = sanitize(text.split(' [')[0] or type(error).__name__, 120)  # TensorStore goes on with [the answer]
      return f'the bucket does not answer ({reason}); {GO_ON}'
    error = error.__cause__ or error.__context__
  return ''


def _status(error: BaseException) -> str:
  """TensorStore's word for what went wrong over HTTP; '' for another error."""
  match = STATUS.search(str(error)) if isinstance(error, ValueError) and not isinstance(error, UserError) else None
  return match[1] if match and ('http' in str(error) or 'CURL' in str(error)) else ''


def _open_store(address: str) -> Any:
  import tensorstore

  bucket, _, folder = address.removeprefix(f'{SCHEME}://').partition('/')
  spec = {'driver': 'gcs', 'bucket': bucket, 'path': f'{folder}/' if folder else ''}
  return tensorstore.KvStore.open({**spec, 'context': {'gcs_request_retries': RETRIES}}).result()


def file_system() -> Any:
  """gcsfs, as Orbax gets it too; its listings are not cached, since TensorStore writes objects that it does not see."""
  import fsspec

  for name in ('gcsfs', 'fsspec'):  # they log tracebacks of errors that we report in a sentence
    logging.getLogger(name).setLevel(logging.CRITICAL)
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
  return fsspec.filesystem('gcs')


def _list_names(address: str) -> list[str]:
  """The names of all objects below a folder."""
  path = address.removeprefix(f'{SCHEME}://')
  try:
    return [name.removeprefix(f'{path}/') for name in file_system().find(path)]
  except FileNotFoundError:
    raise OutageError(f'{address}: no such bucket; make it, or check its name') from None


def _is_usable(name: str) -> bool:
  """Whether an object's name can be that of a file below a folder, and is not our own (the lock, a temporary file)."""
  parts = name.split('/')
  return all(files.is_id(part) and files.is_name(part) for part in parts) and not parts[-1].startswith('.')


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns


def _chunks(names: list[str]) -> Iterator[list[str]]:
  for start in range(0, len(names), AT_ONCE):
    yield names[start : start + AT_ONCE]
