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
    self._remade = False
    if self._path:
      self._open(self._path)

  def _open(self, path: pathlib.Path):
    with self._forgiving():
      path.parent.mkdir(parents=True, exist_ok=True)
      self._database = sqlite3.connect(path, timeout=30)
      self._database.execute(_TABLE)

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
    """After an error makes a damaged file anew, and gives up any other: that only costs another scan next time."""
    try:
      yield
    except (sqlite3.Error, OSError) as error:
      self.close()
      self._database = None
      if type(error) is sqlite3.DatabaseError and not self._remade:  # its subclasses are not about the file's content
        self._remade = True
        self._path.unlink(missing_ok=True)
        self._open(self._path)
      else:
        logging.warning('%s: cannot be used (%s); what the scan finds is not remembered', self._path, error)
