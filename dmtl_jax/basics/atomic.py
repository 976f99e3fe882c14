"""Files that are written whole or not at all."""

from collections.abc import Iterator
import contextlib
import contextvars
import csv
import io
import json
import math
import os
import pathlib
import re
import secrets
import stat
import time

from dmtl_jax.basics import stopping

ABANDONED = 3600  # seconds after its last change from which a temporary file belongs to no running process
_TEMPORARY = re.compile(r'\.[0-9a-f]{16}\.tmp(\.\w+)?')  # videos have their own suffix behind it
_Pending = list[tuple[str | None, pathlib.Path]]  # of a `transaction`: (temporary, path), or (None, path) to remove it
_pending: contextvars.ContextVar[_Pending | None] = contextvars.ContextVar('pending', default=None)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = 'w'):
  """As `atomic_path`, with the file open for writing."""
  with atomic_path(path) as temporary, open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as file:
    yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, suffix: str = '.tmp'):
  """The name of an empty temporary file, which replaces `path` at the end of the `with` block.

  A reader, a crash or an error in the block leaves the old content or the new, whole. The folder is made if need be.
  Permissions stay as they were; those of a new file follow the umask.

  Args:
    suffix: of the temporary name, for writers that choose the format by it.

  Raises:
    OSError: `path` cannot be written; its old content stays.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = str(path.parent / f'.{secrets.token_hex(8)}{suffix}')  # without the path's name, which may be too long
  handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    try:
      with contextlib.suppress(FileNotFoundError):
        os.fchmod(handle, stat.S_IMODE(os.stat(path).st_mode))
      yield temporary
      os.fsync(handle)  # the content reaches the disk before the name, even if the power fails
    finally:
      os.close(handle)
    if (pending := _pending.get()) is None:
      os.replace(temporary, path)
    else:
      pending.append((temporary, path))
  except BaseException:
    os.unlink(temporary)
    raise


@contextlib.contextmanager
def transaction() -> Iterator[_Pending]:
  """All files written and removed in this block change together at its end, or none does.

  Only a kill or a crash between two renames could leave a part of it. A nested block joins the outer one.
  """
  if (pending := _pending.get()) is not None:
    yield pending
    return
  pending = []
  _pending.set(pending)
  try:
    yield pending
    with stopping.shielded():
      while pending:
        temporary, path = pending[0]
        _commit(temporary, path)
        del pending[0]
  finally:
    _pending.set(None)
    for temporary, _ in pending:
      if temporary:
        os.unlink(temporary)


def remove_abandoned(folder: pathlib.Path):
  """Removes temporary files that killed processes left in a folder and up to two levels below it, see `ABANDONED`."""
  for pattern in ('.*.tmp*', '*/.*.tmp*', '*/*/.*.tmp*'):
    for path in folder.glob(pattern):
      with contextlib.suppress(OSError):  # another process removes it too, or owns it
        status = path.stat()
        changed = max(status.st_mtime, status.st_ctime)  # a new hard link has the first alone from long ago
        if _TEMPORARY.fullmatch(path.name) and time.time() - changed > ABANDONED:
          path.unlink()


def remove(path: pathlib.Path):
  """Removes a file, and its folder if that is then empty; see `transaction`."""
  with transaction() as pending:
    pending.append((None, path))


def _commit(temporary: str | None, path: pathlib.Path):
  if temporary:
    os.replace(temporary, path)
    return
  path.unlink(missing_ok=True)
  with contextlib.suppress(OSError):
    path.parent.rmdir()


def write_atomic(path: str | os.PathLike, text: str):
  """Writes a text file, see `atomic_open`."""
  with atomic_open(path) as file:
    file.write(text)


def write_json(path: str | os.PathLike, value):
  """Writes JSON, see `atomic_open`; an undefined score (NaN) becomes null."""
  write_atomic(path, json_text(without_nan(value), indent=1) + '\n')


def json_text(value, indent: int | None = None) -> str:
  """JSON in which letters of any script are readable; surrogates, which UTF-8 cannot hold, are escaped."""
  text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
  return text.encode('utf-8', 'backslashreplace').decode('utf-8')  # which escapes surrogates as JSON does: \udcff


def write_csv(path: pathlib.Path, rows: list[dict]):
  """Writes rows of CSV atomically, with a column for every name that any row has."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
  writer.writeheader()
  writer.writerows(rows)
  write_atomic(path, text.getvalue())


def without_nan(value):
  """The value with None (null) for every NaN in it, which JSON does not have."""
  if isinstance(value, dict):
    return {key: without_nan(item) for key, item in value.items()}
  return None if isinstance(value, float) and math.isnan(value) else value
