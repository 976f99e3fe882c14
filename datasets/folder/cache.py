"""Remembers what a scan found, image by image, so that only new and changed files are read again."""

from collections.abc import Iterable, Iterator
import contextlib
import hashlib
import pathlib
import sqlite3
from typing import NamedTuple

from absl import logging

from dmtl_jax.basics import caches

_TABLE = 'CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, stamp BLOB, result TEXT, thumbnail BLOB)'


class Row(NamedTuple):
  """What a scan found in one image and its labels.

  Attributes:
    stamp: digest of the files and of how they were read.
    result: JSON, see `scan.scan_image`.
    thumbnail: uint8, see datasets/duplicates.py; empty for an unreadable image.
  """

  id: str
  stamp: bytes
  result: str
  thumbnail: bytes


class Cache:
  """Rows of a folder in a SQLite file of the user's cache folder; without that, or if the file fails, of nothing.

  A scan that is killed loses only the rows that were not yet written.
  """

  def __init__(self, folder: pathlib.Path):
    home = caches.folder()
    digest = hashlib.sha256(str(folder.resolve()).encode(errors='surrogateescape')).hexdigest()[:32]
    self._path = home and home / 'scans' / f'{digest}.sqlite'
    self._database: sqlite3.Connection | None = None
    if self._path and not self._open():
      self._path.unlink(missing_ok=True)  # damaged; it can be made again
      self._open()

  def _open(self) -> bool:
    with self._forgiving():
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._database = sqlite3.connect(self._path, timeout=30)
      self._database.execute(_TABLE)
    return self._database is not None

  def rows(self) -> Iterator[Row]:
    """All rows; none after a failure."""
    with self._forgiving():
      if self._database:
        for row in self._database.execute('SELECT id, stamp, result, thumbnail FROM images'):
          yield Row(*row)

  def write(self, rows: Iterable[Row]):
    """Adds rows, or replaces those of the same ids, at once."""
    with self._forgiving():
      if self._database:
        with self._database:
          self._database.executemany('INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)', rows)

  def remove(self, ids: Iterable[str]):
    """Removes the rows of these ids."""
    with self._forgiving():
      if self._database:
        with self._database:
          self._database.executemany('DELETE FROM images WHERE id = ?', [(id,) for id in ids])

  def close(self):
    """Closes the file."""
    if self._database:
      self._database.close()

  @contextlib.contextmanager
  def _forgiving(self):
    """Gives up the file after an error: that only costs another scan next time."""
    try:
      yield
    except (sqlite3.Error, OSError) as error:
      logging.warning('%s: cannot be used (%s); what the scan finds is not remembered', self._path, error)
      if self._database:
        self._database.close()
      self._database = None
