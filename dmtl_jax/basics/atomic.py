"""Files that are there whole or not at all."""

from collections.abc import Iterator
import contextlib
import contextvars
import csv
import io
import json
import math
import os
import pathlib
import secrets
import stat

from dmtl_jax.basics import stopping

_Waiting = list[tuple[str | None, pathlib.Path]]  # of `transaction`: (temporary or None, path)
_waiting: contextvars.ContextVar[_Waiting | None] = contextvars.ContextVar('waiting', default=None)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = 'w'):
  """As `atomic_path`, with the file open for writing."""
  with atomic_path(path) as temporary, open(temporary, mode, encoding=None if 'b' in mode else 'utf-8') as file:
    yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, suffix: str = '.tmp'):
  """The name of an empty file that takes the place of `path` at the end of the `with` block.

  A reader, a crash or an error in the block sees the old content or the new, whole. The folder is made if need be.
  Who may read the file is as it was; of a new one the umask says it.

  Args:
    suffix: of the name, for a writer that goes by it.

  Raises:
    OSError: `path` cannot be written; its old content stays.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = str(path.parent / f'.{secrets.token_hex(8)}{suffix}')  # not of the path's name, which may be too long
  handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    try:
      with contextlib.suppress(FileNotFoundError):
        os.fchmod(handle, stat.S_IMODE(os.stat(path).st_mode))
      yield temporary
      os.fsync(handle)  # the content before the name, also where the power fails
    finally:
      os.close(handle)
    if (waiting := _waiting.get()) is None:
      os.replace(temporary, path)
    else:
      waiting.append((temporary, path))
  except BaseException:
    os.unlink(temporary)
    raise


@contextlib.contextmanager
def transaction() -> Iterator[_Waiting]:
  """What is written and removed in this block shows together at its end, or none of it does.

  Only a kill or a crash between two renames could part it. A block in another is part of that.
  """
  if (waiting := _waiting.get()) is not None:
    yield waiting
    return
  waiting = []
  _waiting.set(waiting)
  try:
    yield waiting
    with stopping.shielded():
      while waiting:
        _show(*waiting[0])
        del waiting[0]
  finally:
    _waiting.set(None)
    for temporary, _ in waiting:
      if temporary:
        os.unlink(temporary)


def remove(path: pathlib.Path):
  """Removes a file, and its folder if that is empty then; see `transaction`."""
  with transaction() as waiting:
    waiting.append((None, path))


def _show(temporary: str | None, path: pathlib.Path):
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
  """Writes JSON, see `atomic_open`; a score that is not defined (NaN) becomes null."""
  write_atomic(path, json.dumps(without_nan(value), indent=1, allow_nan=False) + '\n')


def write_csv(path: pathlib.Path, rows: list[dict]):
  """Writes rows of CSV atomically, under all the names that some row has."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
  writer.writeheader()
  writer.writerows(rows)
  write_atomic(path, text.getvalue())


def without_nan(value):
  """The value with null (None) for every NaN in it: JSON has none."""
  if isinstance(value, dict):
    return {key: without_nan(item) for key, item in value.items()}
  return None if isinstance(value, float) and math.isnan(value) else value
