"""Which photographs are predicted already in a folder, so that a prediction that was stopped goes on with the others.

OUT/predicted.jsonl has a line for each photograph or video, written after its files:

  {"name": that of its results, "source": what it was, "fingerprint": see `fingerprint`,
   "files": {path below OUT: bytes}}

The last line of a name counts. One without "files" says that the recorded files are about to be replaced.
"""

from collections.abc import Iterable, Sequence
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from dmtl_jax.basics import atomic, files
from dmtl_jax.basics.errors import join_names, sanitize
from dmtl_jax.inference.images import count_of
from dmtl_jax.inference.prediction import Predictor

NAME = 'predicted.jsonl'
SUFFIXES = ('.npy', '.png', '.mp4', '.webm')  # of the files that a prediction writes


class Item(NamedTuple):
  """A photograph or video to predict.

  Attributes:
    name: of its results.
    source: its absolute path, bytes, time of the last change in ns, and whatever else its results depend on.
    fingerprint: of what predicts it.
  """

  path: pathlib.Path
  name: str
  source: list
  fingerprint: str


def describe_item(path: pathlib.Path, name: str, fingerprint: str, *details: Any) -> Item:
  """The item of a file as it is now, before it is read; `details` are added to `source`."""
  source: list = [os.path.abspath(path)]
  with contextlib.suppress(OSError):  # reported when it is read
    status = path.stat()
    source += [status.st_size, status.st_mtime_ns]
  return Item(path, name, [*source, *details], fingerprint)


def fingerprint(predictor: Predictor, *settings: Any) -> str:
  """A hash of what decides the files of a photograph: weights, config, tasks, calibration, version and settings.

  The weights of the paper's largest network, 0.5 GB, take half a second.
  """
  config = predictor.config.to_json_best_effort(sort_keys=True)
  tasks = [(task.name, task.kind, task.classes) for task in predictor.tasks]
  digest = hashlib.sha256(repr((_version(), config, tasks, predictor.calibration, settings)).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(predictor.variables):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:32]


def _version() -> str:
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of a checkout that is not installed
    return importlib.metadata.version('dmtl_jax')
  return ''


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A line of the record; see the module."""

  source: list
  fingerprint: str
  files: dict[str, int]

  def __post_init__(self):
    if not (isinstance(self.fingerprint, str) and isinstance(self.files, dict)):
      raise TypeError


class Record:
  """The record of a folder of predictions, which need not exist. `replace` and `add` may be called in threads."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._path = folder / NAME
    self._entries: dict[str, _Entry] = {}
    with contextlib.suppress(OSError):  # whoever cannot read it cannot write it either, which is reported
      if self._path.is_file():
        self._read()

  def _read(self):
    with open(self._path, encoding='utf-8', errors='replace') as file:
      for line in file:
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
          entry = json.loads(line)  # fails where a kill cut the line off
          name = str(entry.pop('name'))
          self._entries.pop(name, None)
          if entry:
            self._entries[name] = _Entry(**entry)

  def holds(self, item: Item) -> bool:
    """Whether the files of an item are there, whole, made of the same photograph by the same fingerprint."""
    entry = self._entries.get(item.name)
    if entry is None or (entry.source, entry.fingerprint) != (item.source, item.fingerprint) or len(item.source) < 3:
      return False
    with contextlib.suppress(OSError, ValueError):
      return all(os.stat(f'{self.folder}/{name}').st_size == size for name, size in entry.files.items())
    return False

  def files_of(self, item: Item) -> list[str]:
    """The recorded files of an item, below the folder."""
    return list(self._entries[item.name].files)

  def describe(self, items: Sequence[Item], todo: Sequence[Item], held: int) -> list[str]:
    """Sentences about what is in the folder already.

    Args:
      items: all that were given.
      todo: those that will be predicted.
      held: number of those that need not be, as the folder holds them.
    """
    sentences = []
    if held:
      then = 'predicting the rest' if todo else 'delete that folder to predict them again'
      sentences.append(f'already in {self.folder}: {held} of {count_of(held + len(todo), "file")}; {then}')
    current = {item.fingerprint for item in items}
    others = {name for name, entry in self._entries.items() if entry.files and entry.fingerprint not in current}
    if again := others & {item.name for item in todo}:
      number = count_of(len(again), 'file')
      sentences.append(f'in {self.folder}, {number} predicted by other weights or settings will be predicted again')
    if left := sorted(others - {item.name for item in items}):
      shown = join_names([sanitize(name, 80) for name in left])
      sentences.append(
        f'{self.folder} also holds predictions of {count_of(len(left), "other file")} ({shown}) by other weights or '
        'settings; delete that folder first, or choose another --out, to keep them apart'
      )
    return sentences

  def replace(self, item: Item, written: Iterable[pathlib.Path]):
    """Call it before files of an item take the place of older ones: removes those that are not written anew."""
    old = self._entries.get(item.name)
    if old is None:
      return
    self._append({'name': item.name})
    for name in sorted(old.files.keys() - {self._below(path) for path in written}):
      if _is_result(name, item.name):
        atomic.remove(self.folder / name)

  def add(self, item: Item, written: Iterable[pathlib.Path]):
    """Records the files of an item, which are in their places now."""
    sizes = {self._below(path): os.stat(path).st_size for path in written}
    self._append({'name': item.name, 'source': item.source, 'fingerprint': item.fingerprint, 'files': sizes})

  def _below(self, path: pathlib.Path) -> str:
    return path.relative_to(self.folder).as_posix()

  def _append(self, entry: dict):
    """Adds a line; the line break comes first, since a kill may have cut off the line before."""
    with open(self._path, 'ab') as file:
      file.write(f'\n{json.dumps(entry)}'.encode())


def _is_result(file: str, name: str) -> bool:
  """Whether a recorded file can be one of this name's results, which lie at most two folders below the record."""
  *places, last = file.split('/')
  stem, suffix = os.path.splitext(last)
  return len(places) <= 2 and all(map(files.is_id, places)) and stem == name and suffix in SUFFIXES
