"""Files that are there whole or not at all."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import tempfile


@contextlib.contextmanager
def replacing(path: os.PathLike | str):
  """A binary file to write, which takes the place of `path` at the end of the block; after an error nothing is left."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      yield file
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def write_atomic(path: pathlib.Path, text: str):
  """Writes a text file so that a reader, or a crash, sees the old or the new content, whole."""
  with replacing(path) as file:
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())  # the content before the name, also where the power fails


def write_json(path: pathlib.Path, value):
  """Writes JSON atomically; a score that is not defined (NaN) becomes null."""
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
