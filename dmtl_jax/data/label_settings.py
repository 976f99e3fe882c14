"""Label settings: which labels of each training image are visible (docs/paper.md, Problem).

  full      all of them
  one       exactly one task per image, as balanced over tasks as the labels allow
  random    a random non-empty subset per image
  PATH      a mapping: CSV (header image,tasks with tasks separated by ';', or image,TASK,TASK,...
            with 1 or 0), JSON ({image: [tasks]}) or an official .pth of MTPSL or DiffusionMTL

`one` and `random` use the benchmark's official mapping if it has one (Cityscapes has the same for both). Otherwise
the draw depends only on the seed and the image's id, not on order, platform or library versions.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib

from absl import logging
import numpy as np

from dmtl_jax.basics import files, torch_file
from dmtl_jax.basics.atomic import write_atomic
from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError

PREDICTED = 'predicted:'  # before the task, in the labels.json of a run that learned from predicted labels
SETTINGS = ('full', 'one', 'random')
OFFICIAL_PASCAL = ('semseg', 'parsing', 'saliency', 'normals', 'boundary')
OFFICIAL_MTPSL = {2: ('semseg', 'depth'), 3: ('semseg', 'depth', 'normals')}


def apply_labels(source, setting: str, seed: int = 0):
  """Hides the labels of a source that a setting does not show; labels that a model predicted are always shown.

  Args:
    source: a split or part of one; a mapping covers the whole split.

  Raises:
    UserError: the setting is unknown, does not fit the source or leaves no label visible.
  """
  check(setting)
  if setting == 'full':
    mask = source.label_mask
  elif setting in source.official:
    path = source.official[setting]
    if not path.is_file():
      raise UserError(f"{path}: the official '{setting}' mapping is missing; run --mode=prepare to fetch it")
    if setting == 'random' and path == source.official.get('one'):
      logging.warning('config.data.labels=random: this benchmark has one mapping only, that of the one-label setting')
    mask = source.label_mask & _mapping_mask(path, source)
  elif setting == 'one':
    mask = draw_one(source.ids, source.label_mask, seed)
  elif setting == 'random':
    mask = draw_random(source.ids, source.label_mask, seed)
  else:
    mask = source.label_mask & _mapping_mask(pathlib.Path(setting), source)
  if not mask.any():
    names = ', '.join(task.name for task in source.tasks)
    raise UserError(
      f'config.data.labels={sanitize(setting)}: none of {len(mask)} training images has a label for {names}'
    )
  return dataclasses.replace(source, label_mask=mask if source.predicted is None else mask | source.predicted)


def _mapping_mask(path: pathlib.Path, source) -> np.ndarray:
  """Mask [N, T] of a source, from a mapping of the whole split."""
  whole = source.part_of or source
  mask = load_mapping(path, whole.ids, whole.tasks)
  rows = {id: n for n, id in enumerate(whole.ids)}
  return mask[np.ix_([rows[id] for id in source.ids], [whole.tasks.index(task) for task in source.tasks])]


def check(setting: str):
  """Raises UserError if config.data.labels is neither a known setting nor a file."""
  if setting not in SETTINGS and not os.path.isfile(setting):
    raise unknown_value_error('config.data.labels', setting, (*SETTINGS, 'a file'))


def stable_hash(seed: int | str, name: str) -> int:
  """A number from 0 to 2**64 - 1 that depends on the seed and the name only."""
  return int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:8], 'big')


def draw_one(ids, exists: np.ndarray, seed: int) -> np.ndarray:
  """Draws one of the existing labels of each image: mask [N, T]; an image without labels gets none.

  Images with the fewest choices come first, in random order; each takes the task that has the fewest images so far.
  """
  mask = np.zeros_like(exists)
  counts = np.zeros(exists.shape[1], int)
  for i in sorted(range(len(ids)), key=lambda i: (exists[i].sum(), stable_hash(seed, ids[i]))):
    choices = np.flatnonzero(exists[i])
    if len(choices):
      t = choices[np.argmin(counts[choices])]
      mask[i, t] = True
      counts[t] += 1
  return mask


def draw_random(ids, exists: np.ndarray, seed: int) -> np.ndarray:
  """Draws a non-empty subset of the existing labels of each image, uniformly: mask [N, T]."""
  mask = np.zeros_like(exists)
  for i, name in enumerate(ids):
    choices = np.flatnonzero(exists[i])
    if len(choices):
      subset = 1 + stable_hash(seed, name) % (2 ** len(choices) - 1)
      mask[i, choices] = [(subset >> bit) & 1 for bit in range(len(choices))]
  return mask


def draw_half(rows: dict[str, list[str]], seed: int = 0) -> dict[str, list[str]]:
  """Half of the labelled images of a mapping {image: [tasks]}, rounded up, of each combination of tasks."""
  groups: dict[tuple[str, ...], list[str]] = {}
  for name, tasks in rows.items():
    if tasks:
      groups.setdefault(tuple(tasks), []).append(name)
  kept = {
    name
    for names in groups.values()
    for name in sorted(names, key=lambda name: stable_hash(seed, name))[: (len(names) + 1) // 2]
  }
  return {name: tasks for name, tasks in rows.items() if name in kept}


def save_mapping(path: pathlib.Path, ids, tasks, mask: np.ndarray, predicted: np.ndarray | None = None):
  """Writes {image: [tasks]} as JSON; a label that is `predicted` (see `Source`) is named predicted:TASK."""
  write_atomic(path, json.dumps(_rows(ids, tasks, mask, predicted), indent=0))


def images(path: pathlib.Path) -> set[str]:
  """Ids of the images that `save_mapping` wrote."""
  return set(_read_json(path))


def check_same(path: pathlib.Path, ids, tasks, mask: np.ndarray, predicted: np.ndarray | None = None):
  """Raises UserError if the visible labels differ from those that `save_mapping` wrote."""
  before, now = _read_json(path), _rows(ids, tasks, mask, predicted)
  changed = [i for i in before | now if before.get(i) != now.get(i)]
  if changed:
    old, new = (';'.join(rows.get(changed[0], ['not there'])) or 'none' for rows in (before, now))
    raise UserError(
      f'{path}: this run was started with other labels: {len(changed)} images differ, e.g. {sanitize(changed[0])}: '
      f'{old} -> {new}; restore the data or the mapping, choose a new --workdir, or use --force'
    )


def _rows(ids, tasks, mask: np.ndarray, predicted: np.ndarray | None) -> dict[str, list[str]]:
  names = [[task.name, PREDICTED + task.name] for task in tasks]
  origin = np.zeros(mask.shape, int) if predicted is None else predicted.astype(int)
  return {i: [names[t][origin[n, t]] for t in range(len(tasks)) if mask[n, t]] for n, i in enumerate(ids)}


def load_mapping(path: pathlib.Path, ids, tasks) -> np.ndarray:
  """Reads a mapping file: mask [N, T], False for images that it does not name, and for predicted labels.

  Raises UserError if it does not fit.
  """
  reader = {'.csv': _read_csv, '.json': _read_json}.get(path.suffix.lower())
  rows = reader(path) if reader else _read_torch(path, ids)
  names = [task.name for task in tasks]
  others = () if reader else OFFICIAL_PASCAL + OFFICIAL_MTPSL[3]  # an official file names tasks that were not chosen
  mask = np.zeros((len(ids), len(names)), bool)
  by_id = {files.nfc(i): visible for i, visible in rows.items()}  # the ids of a folder are in NFC
  if len(by_id) < len(rows):
    raise UserError(
      f'{path}: two of its images have the same name in two Unicode forms (NFC and NFD); keep one of them'
    )
  position = {i: n for n, i in enumerate(ids)}
  unknown = [i for i in by_id if i not in position]
  if unknown:
    raise UserError(f"{path}: {len(unknown)} images are not in the data set, e.g. '{sanitize(unknown[0])}'")
  for i, visible in by_id.items():
    for name in visible:
      if name in names:
        mask[position[i], names.index(name)] = True
      elif name not in others and not name.startswith(PREDICTED):
        raise UserError(f"{path}: image '{i}' names task '{sanitize(name)}'; the data set has {', '.join(names)}")
  return mask


def _read_csv(path) -> dict[str, list[str]]:
  try:
    reader = csv.DictReader(io.StringIO(files.read_text(path), newline=''))
    rows, header = list(reader), list(reader.fieldnames or ())
  except (OSError, ValueError, csv.Error) as error:
    raise UserError(f'{path}: not a CSV file in UTF-8 ({files.reason(error)}); save it again') from error
  if not rows or header[:1] != ['image'] or len(header) < 2 or len(set(header)) < len(header):
    raise UserError(f'{path}: must start with a line image,tasks or image,TASK,... (each once) and have another line')
  for number, row in enumerate(rows, 2):
    if None in row or None in row.values():
      raise UserError(f'{path}: line {number} has more or fewer columns than the first line')
  if len({row['image'] for row in rows}) < len(rows):
    raise UserError(f'{path}: an image is on more than one line; keep one of them')
  if set(rows[0]) == {'image', 'tasks'}:
    return {row['image']: list(filter(None, map(str.strip, row['tasks'].split(';')))) for row in rows}
  return {row['image']: _marked_tasks(f'{path}: line {number}', row) for number, row in enumerate(rows, 2)}


def _marked_tasks(where: str, row: dict[str, str]) -> list[str]:
  flags = {name: flag for name, flag in row.items() if name != 'image'}
  if not set(flags.values()) <= {'0', '1'}:
    raise UserError(f'{where} must hold an image and 0 or 1 for each of {len(flags)} tasks')
  return [name for name, flag in flags.items() if flag == '1']


def _read_json(path) -> dict[str, list[str]]:
  rows = files.read_json(path)
  fits = isinstance(rows, dict) and all(
    isinstance(names, list) and all(isinstance(name, str) for name in names) for names in rows.values()
  )
  if not fits:
    raise UserError(f'{path}: must map each image to a list of task names')
  return rows


def _read_torch(path, ids) -> dict[str, list[str]]:
  """Reads an official mapping: {image: 5 flags} of PASCAL, or labels_weights [N, T] of MTPSL."""
  content = torch_file.load(path)
  if isinstance(content, dict) and 'labels_weights' in content:
    table = _numbers(path, content['labels_weights'], len(ids))
    if table.ndim != 2 or table.shape[1] not in OFFICIAL_MTPSL or len(table) != len(ids):
      raise UserError(f'{path}: labels_weights has shape {table.shape}; the data set has {len(ids)} images')
    columns = OFFICIAL_MTPSL[table.shape[1]]
    rows = dict(zip(ids, table))
  else:
    columns = OFFICIAL_PASCAL
    rows = {}
    if isinstance(content, dict) and all(isinstance(i, str) for i in content):
      rows = {i: _numbers(path, values, len(columns)).ravel() for i, values in content.items()}
    if not rows or any(flags.size != len(columns) for flags in rows.values()):
      raise UserError(f'{path}: neither a mapping of image ids to {len(columns)} flags nor labels_weights')
  return {i: [c for c, flag in zip(columns, flags) if flag > 0] for i, flags in rows.items()}


def _numbers(path, values, count: int) -> np.ndarray:
  """Converts an array, or a list of numbers or of lists of numbers, to floats.

  Sizes are checked before anything is copied: in a .pth file one list may be referenced endlessly often.
  """
  if isinstance(values, (list, tuple)) and len(values) <= count:
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in values]
    is_table = all(len(row) <= len(OFFICIAL_PASCAL) and all(_is_number(x) for x in row) for row in rows)
  else:
    is_table = isinstance(values, np.ndarray) and values.size <= count * len(OFFICIAL_PASCAL)
  if is_table:
    try:
      return np.asarray(values, float)
    except (TypeError, ValueError, OverflowError):
      pass
  raise UserError(f'{path}: must hold flags as numbers in {count} rows, and does not; restore the file')


def _is_number(value) -> bool:
  return isinstance(value, (int, float)) or (isinstance(value, np.ndarray) and value.ndim == 0)
