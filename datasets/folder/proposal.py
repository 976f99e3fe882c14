"""Proposes the dataset.json of a folder, or what it lacks, from the names and values of the label files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import os
import pathlib
from typing import NamedTuple

import cv2
import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import json_text, write_atomic, write_json
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.datasets.folder import label_files, listing
from dmtl_jax.tasks import KINDS, MAX_NAME_LENGTH
from dmtl_jax.tasks.base import IGNORE

# Parts of folder names that tell the kind, unless the name is a kind.
WORDS = {'pars': 'parsing', 'bound': 'boundary', 'edge': 'boundary', 'contour': 'boundary', 'salien': 'saliency'}
WORDS |= {'normal': 'normals', 'depth': 'depth', 'seg': 'semseg', 'class': 'semseg'}
MANY = 100  # different integers above which a map holds measurements, not classes
THIN = 0.05  # share of a line's pixels that have only such pixels around them
UNANNOTATED = 254  # in maps with annotated.json: none of the classes that were annotated
CHUNK = 256  # files handed to the reading threads at a time


class Proposal(NamedTuple):
  """A description that was not yet written.

  Attributes:
    path: of dataset.json.
    content: what that holds; None if there is none.
    entries: {task: its description}, of the tasks that it lacks.
    reasons: a line for each folder of labels, also for those that cannot be described.
  """

  path: pathlib.Path
  content: dict | None
  entries: dict[str, dict]
  reasons: list[str]

  def text(self) -> str:
    """The entries as dataset.json has them, a line for each task."""
    tasks = [f'  {json_text(name)}: {json_text(entry)}' for name, entry in self.entries.items()]
    return '{"tasks": {\n' + ',\n'.join(tasks) + '\n}}\n'

  def lines(self, written: bool) -> list[str]:
    """What to tell the owner."""
    end = f'written to {self.path}' if written else f'the same command with --write writes this to {self.path.name}'
    name_classes = ', and name the classes' if any('classes' in entry for entry in self.entries.values()) else ''
    lack = 'no such file' if self.content is None else f'does not describe {join_names(list(self.entries))}'
    return [
      f'{self.path}: {lack}; the labels suggest',
      self.text().rstrip(),
      *(f'  {reason}' for reason in self.reasons),
      f'{end}; correct what is wrong in it{name_classes}',
    ]

  def write(self):
    """Writes dataset.json; raises UserError if the folder cannot be written to."""
    try:
      if self.content is None:
        write_atomic(self.path, self.text())
      else:
        write_json(self.path, self.content | {'tasks': self.content['tasks'] | self.entries})
    except OSError as error:
      raise UserError(f'{self.path}: cannot be written ({error.strerror}); check the permissions') from error


def propose(root: pathlib.Path, splits: Sequence[pathlib.Path], load: Callable) -> Proposal | None:
  """Proposes the dataset.json of a folder, or the tasks that it lacks; None if it describes all labels.

  Args:
    root: the folder.
    splits: its folders with images and labels.
    load: path -> array of a label file; raises ValueError.

  Raises:
    UserError: there is no label to look at, or none that can be described.
  """
  path = root / 'dataset.json'
  content = files.read_json(path) if path.exists() else None
  described = content.get('tasks') if isinstance(content, dict) else None
  if path.exists() and not isinstance(described, dict):
    return None  # what is wrong with it is found where it is read
  if not root.is_dir():
    raise UserError(f'{root}: no such folder; give the folder of your images with --config.data.path=PATH')
  folders: dict[str, list[pathlib.Path]] = {}
  for folder in (split / 'labels' for split in splits):
    for place in map(pathlib.Path, listing.visible_files(folder) if folder.is_dir() else ()):
      if place.is_dir() and files.nfc(place.name) not in map(files.nfc, described or ()):
        folders.setdefault(place.name, []).append(place)
  if not folders:
    if described is not None:
      return None
    raise UserError(
      f"{root}: has neither dataset.json nor labels; --mode=import brings in a tool's, and a label file is "
      f'{splits[0]}/labels/TASK/NAME.png or .npy'
    )
  entries, reasons = {}, []
  for name, places in folders.items():
    entry, reason = _describe(name, _read(name, places, load))
    reasons.append(f'{sanitize(name, MAX_NAME_LENGTH)}: {reason}')
    if entry is not None:
      entries[name] = entry
  if not entries:
    lack = 'no such file, and none' if content is None else 'does not describe all labels, and nothing'
    raise UserError(f'{path}: {lack} can be proposed: {"; ".join(reasons)}')
  return Proposal(path, content, entries, reasons)


# --- Reading ---------------------------------------------------------------------------------


@dataclasses.dataclass
class _Values:
  """What the label files of a task hold.

  Attributes:
    files, broken: number of files that were read; paths of those that cannot be.
    vectors: files of 3 channels that are normals.
    others: shape of a file with another number of channels, or that is no normals; None: there is no such file.
    is_float, is_8_bit: whether a file holds floating-point numbers; whether all hold 8-bit integers.
    counts: pixels of each integer from 0 to 65535.
    low, high: least and greatest finite number.
    inner, positive: pixels of the highest value that have only such pixels around them; all such pixels; of files that
      hold two values (besides 255).
    is_partial: whether there is an annotated.json.
  """

  files: int = 0
  broken: list[str] = dataclasses.field(default_factory=list)
  vectors: int = 0
  others: tuple[int, ...] | None = None
  is_float: bool = False
  is_8_bit: bool = True
  counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(65536, np.int64))
  low: float = np.inf
  high: float = -np.inf
  inner: int = 0
  positive: int = 0
  is_partial: bool = False

  def add(self, values: np.ndarray):
    self.files += 1
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 and _is_normals(values):
      self.vectors += 1
      return
    values = label_files.reduce_grey(values)
    if values.ndim != 2:
      self.others = values.shape
      return
    finite = values[np.isfinite(values)]
    if finite.size:
      self.low = min(self.low, float(finite.min()))
      self.high = max(self.high, float(finite.max()))
    self.is_float |= values.dtype.kind == 'f'
    self.is_8_bit &= values.dtype in (np.uint8, bool)
    if values.dtype.kind in 'uib' and self.low >= 0 and self.high <= 65535:
      self.counts += np.bincount(values.ravel().astype(np.int64), minlength=65536)
      self._add_lines(values)

  def _add_lines(self, values: np.ndarray):
    ids = np.unique(values)
    ids = ids if len(ids) < 3 else ids[ids != IGNORE]
    if len(ids) == 2:
      mask = (values == ids[1]).astype(np.uint8)
      self.positive += int(mask.sum())
      self.inner += int(cv2.erode(mask, np.ones((3, 3), np.uint8)).sum())


def _is_normals(values: np.ndarray) -> bool:
  """Whether an array is accepted as normals and has at least one vector."""
  task = KINDS['normals']('normals')
  try:
    return bool(task.valid(task.from_file(values)).any())
  except ValueError:
    return False


def _read(name: str, places: list[pathlib.Path], load: Callable) -> _Values:
  """Reads all label files of a task."""
  values = _Values(is_partial=any((place / 'annotated.json').exists() for place in places))
  paths = [path for place in places for path in listing.visible_files(place) if path.lower().endswith(('.png', '.npy'))]

  def try_load(path: str) -> np.ndarray | None:
    try:
      return load(pathlib.Path(path))
    except ValueError:
      return None

  with Progress(f'looking at {sanitize(name)}', len(paths), 'label') as progress, ThreadPoolExecutor() as pool:
    for start in range(0, len(paths), CHUNK):
      part = paths[start : start + CHUNK]
      for path, array in zip(part, pool.map(try_load, part)):
        if array is None:
          values.broken.append(path)
        else:
          values.add(array)
        progress.update()
  return values


# --- Describing ------------------------------------------------------------------------------


def _describe(name: str, values: _Values) -> tuple[dict | None, str]:
  """The description of a task, None if there is none that fits, and the reason for it."""
  if not name.isidentifier() or len(name) > MAX_NAME_LENGTH:
    return None, f'rename the folder: a name consists of at most {MAX_NAME_LENGTH} letters, digits and _'
  if not values.files:
    broken = (
      f'; these cannot be read: {join_names(list(map(os.path.basename, values.broken)))}' if values.broken else ''
    )
    return None, f'the folder has no label that can be read, NAME.png or NAME.npy{broken}'
  kind = name if name in KINDS else next((kind for word, kind in WORDS.items() if word in name.lower()), None)
  entry, reason = _describe_values(kind, values)
  if entry is not None and entry['kind'] == name:
    del entry['kind']
  broken = f'; {len(values.broken)} more cannot be read' if values.broken else ''
  return entry, f'{reason} ({values.files} files{broken})'


def _describe_values(kind: str | None, values: _Values) -> tuple[dict | None, str]:
  """As `_describe`, for the kind that the name suggests, if it does."""
  if kind not in (None, *WORDS.values()):
    return {'kind': kind}, f'has the name of the kind {kind}'
  if values.others:
    size = 'x'.join(map(str, values.others))
    return (
      None,
      f'has maps of {size} numbers, which are neither normals nor opaque grey; --mode=import reads masks of colours',
    )
  if values.vectors:
    if kind not in (None, 'normals') or values.vectors < values.files:
      return None, 'has both maps of three channels and of one; keep one kind of file'
    return {'kind': 'normals'}, 'three channels that hold unit vectors'
  if kind == 'normals':
    return None, 'one channel, and normals have three; rename the folder if these are no normals'
  if values.is_float:
    return _describe_floats(kind, values)
  if values.low < 0 or values.high > 65535:
    return None, f'holds integers from {values.low:.10g} to {values.high:.10g}; store 0 to 65535'
  if kind == 'depth' or (kind is None and np.count_nonzero(values.counts) > MANY):
    return _describe_depth(values)
  return _describe_classes(kind, values)


def _describe_floats(kind: str | None, values: _Values) -> tuple[dict | None, str]:
  span = f'floating-point numbers from {values.low:.4g} to {values.high:.4g}'
  if kind == 'depth' or (kind is None and values.high > 1):
    return {'kind': 'depth'}, f'{span}, taken as metres'
  return None, f'{span}, and class ids are integers; store integers, or if it is depth, rename the folder to depth'


def _describe_depth(values: _Values) -> tuple[dict | None, str]:
  if values.is_8_bit:
    return None, (
      f'8-bit numbers from {values.low:.0f} to {values.high:.0f}; if they are depth, describe the task in dataset.json '
      f'as {{"kind": "depth", "scale": S}}, with the metres S of the number 1'
    )
  entry, mark = {'kind': 'depth'}, ''
  measured = np.flatnonzero(values.counts)
  measured = measured[measured > 0]
  if len(measured) > 1 and measured[-1] == 65535 and measured[-2] < 60000:
    entry['ignore'] = 65535
    mark = ', and 65535 as not measured'
    measured = measured[:-1]
  span = f'{measured[0] / 1000:.4g} to {measured[-1] / 1000:.4g} m' if len(measured) else 'all 0, not measured'
  return entry, f'integers taken as millimetres, {span}{mark}; for another unit set "scale", its metres'


def _describe_classes(kind: str | None, values: _Values) -> tuple[dict | None, str]:
  marks = {IGNORE, UNANNOTATED} if values.is_partial else {IGNORE}
  ids = np.flatnonzero(values.counts).tolist()
  classes = [id for id in ids if id not in marks]
  if ids == [0, IGNORE] and not values.is_partial:
    classes = ids
  if len(classes) < 2 and (not classes or classes == [0]):
    return None, f'every pixel holds {" or ".join(map(str, ids))}, so there are no two classes; check these files'
  if kind not in ('boundary', 'saliency') and (kind or len(classes) != 2 or classes[0]):
    return _describe_class_map(kind or 'semseg', classes, values)
  if len(classes) != 2 or classes[0]:
    return (
      None,
      f'holds {len(classes)} values ({join_names(classes, 5)}), and {kind} has two: 0 and 1, or 0 and another; '
      'export masks without soft edges',
    )
  look = 'areas'
  if not kind and values.inner <= THIN * values.positive:
    look = 'thin lines'
  kind = kind or ('saliency' if look == 'areas' else 'boundary')
  entry = {'kind': kind} | ({'positive': classes[1]} if classes[1] != 1 else {})
  return entry, f'{look if kind == "saliency" else "lines"} of {classes[1]} on 0, {_shares(classes, values)}'


def _describe_class_map(kind: str, classes: list[int], values: _Values) -> tuple[dict | None, str]:
  entry, mark = {'kind': kind}, ''
  if len(classes) == 2 and classes[0] == 0 and classes[1] != 1:
    entry['positive'] = classes[1]
    names = 2
  else:
    if len(classes) > 2 and classes[-1] >= 100 and classes[-1] > 2 * classes[-2] + 1:
      entry['ignore'] = classes.pop()
      mark = f', {entry["ignore"]}, far from the rest, as unlabelled'
    names = classes[-1] + 1
  if names > IGNORE:
    return None, f'class ids up to {classes[-1]}, and the highest is {IGNORE - 1}; number the classes from 0'
  entry['classes'] = [f'class {id}' for id in range(names)]
  return entry, f'a map of classes: {_shares(classes, values)}{mark}'


def _shares(classes: list[int], values: _Values) -> str:
  """'0 61%, 1 30%, 2 9%; 255, unlabelled, 5% of all pixels'."""
  counts = {id: int(values.counts[id]) for id in classes}
  total = int(values.counts.sum())
  shares = ', '.join(f'{id} {100 * count / sum(counts.values()):.3g}%' for id, count in counts.items())
  unlabelled = int(values.counts[IGNORE]) if IGNORE not in classes else 0
  return shares + (f'; 255, unlabelled, {100 * unlabelled / total:.3g}% of all pixels' if unlabelled else '')
