"""Your own images: a folder in which a missing label file means *not labelled for this task*.

  PATH/dataset.json                     {"tasks": {"semseg": {"classes": [...]}, "depth": {}}}
  PATH/SPLIT/images/NAME.jpg            any format and size; SPLIT is train or val
  PATH/SPLIT/labels/TASK/NAME.png|npy   has the same NAME as its image

dataset.json has for each task: "kind" (default: the task's name), "classes" (semseg, parsing), "ignore" (class maps
and depth: another stored value of unlabelled pixels), "positive" (two classes: stored value of class 1), "scale"
(depth: unit of integers in metres, default 0.001; required for 8-bit integers). Class maps are one-channel PNG (palette
or grey), 255 = unlabelled. Depth is PNG or .npy, 0 = unlabelled. Normals are .npy [H, W, 3] of unit vectors, or 8- or
16-bit RGB PNG of (xyz + 1) / 2 over the full range, with x right, y up, z towards the camera; 0 0 0 and vectors far
from unit length are unlabelled. Each kind takes certain fields (`Task.file_fields`); others are refused.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import unicodedata

import cv2
import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import is_plain, join_names, sanitize, UserError
from dmtl_jax.datasets.folder import predicted, scan
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import KINDS, make_task, MAX_NAME_LENGTH, Task

LABEL_SUFFIXES = ('.png', '.npy')
FIELDS = {'kind', 'classes', 'ignore', 'positive', 'scale'}
MIN_SCALE, MAX_SCALE = 1e-9, 1e9  # metres; beyond, depths may not fit float32
EXAMPLE = '{"tasks": {"saliency": {}}}'


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """The files of a split, with the readers of its `Source`.

  Attributes:
    images: path of each image.
    labels: {task: path} of each image, for the labels that exist.
    encodings: {task: {field: value}}, how dataset.json describes its label files (`Task.file_fields`).
    stamps: {path: `scan.stamp` at the time of the check}; a file that changed since then is refused.
  """

  tasks: tuple[Task, ...]
  images: Sequence[pathlib.Path]
  labels: Sequence[dict[str, pathlib.Path]]
  encodings: dict[str, dict]
  stamps: dict[pathlib.Path, tuple[int, int]]

  def __call__(self, index: int, tasks: Sequence[Task]) -> dict:
    labels = {task.name: self.label(index, task) for task in tasks if task.name in self.labels[index]}
    return {'image': self.image(index), 'labels': labels}

  def image(self, index: int) -> np.ndarray:
    with self._unchanged(self.images[index]) as path:
      return photographs.read_image(path)

  def label(self, index: int, task: Task) -> np.ndarray:
    with self._unchanged(self.labels[index][task.name]) as path:
      try:
        return read_label(path, task, self.encodings[task.name])
      except ValueError as error:
        raise UserError(f'{path}: {error}') from error

  def warnings(self, index: int, tasks: Sequence[Task]) -> dict[str, dict[str, int]]:
    """`Task.file_warnings` of each label, which must be valid (see `Source.warnings`)."""
    paths = self.labels[index]
    labelled = [task for task in tasks if task.name in paths]
    return {task.name: task.file_warnings(_load(paths[task.name]), **self.encodings[task.name]) for task in labelled}

  @contextlib.contextmanager
  def _unchanged(self, path: pathlib.Path):
    """Raises UserError after the block, in which the file is read, if it is no longer the file that was checked."""
    try:
      yield path
    finally:
      if scan.stamp(path) != self.stamps[path]:
        raise UserError(f'{path}: changed or removed since it was checked; run the same command again to check it anew')


def tasks(data_config) -> tuple[Task, ...]:
  """Tasks of the folder config.data.path; reads only its dataset.json."""
  return read_description(_root(data_config.path) / 'dataset.json')[0]


def open_split(data_config, split: str) -> Source:
  """Opens the split 'train' or 'val' of the folder config.data.path; see `open_folder` and `predicted.add`."""
  source = open_folder(data_config.path, split)
  if split != 'train' or not data_config.get('predicted_labels'):
    return source
  root = _root(data_config.path)
  return predicted.add(source, root, read_description(root / 'dataset.json')[1])


def open_folder(path: str, split: str) -> Source:
  """Opens PATH/SPLIT and checks all its files, once, as the result is cached; raises UserError with what is wrong."""
  root = _root(path)
  tasks, encodings = read_description(root / 'dataset.json')
  images = _image_files(root / split / 'images')
  label_files = _label_files(root / split / 'labels', tasks, images)
  ids = sorted(images)
  labels = [{name: paths[i] for name, paths in label_files.items() if i in paths} for i in ids]
  mask = np.array([[task.name in paths for task in tasks] for paths in labels])
  unlabelled = [ids[i] for i in np.flatnonzero(~mask.any(1))]
  if unlabelled and (split == 'train' or len(unlabelled) == len(ids)):
    fix = f'remove the image or add {root / split}/labels/TASK/NAME.png'
    raise UserError(f'{root / split}: {join_names(unlabelled)} without a label for any task; {fix}')
  stamps = {path: scan.stamp(path) for paths in (images, *labels) for path in paths.values()}
  split_files = Files(tasks, [images[i] for i in ids], labels, encodings, stamps)
  scan.check(split_files, root / split)
  units = {task.name: 'm' for task in tasks if isinstance(task, KINDS['depth'])}
  return Source(tasks, ids, mask, split_files, read_warnings=split_files.warnings, units=units)


def _root(path: str) -> pathlib.Path:
  if not path:
    raise UserError('config.data.path is empty; give the folder of your images with --config.data.path=PATH')
  if not is_plain(path):
    raise UserError(f"config.data.path: '{sanitize(path)}' has control characters or is not UTF-8; rename the folder")
  return pathlib.Path(path)


def read_description(path: pathlib.Path) -> tuple[tuple[Task, ...], dict[str, dict]]:
  """Reads tasks and encodings (see `Files`) from dataset.json; raises UserError with the field and what it must be."""
  if not path.is_file():
    raise UserError(f'{path}: no such file; it must name the tasks, e.g. {EXAMPLE}')
  content = files.read_json(path)
  entries = content.get('tasks') if isinstance(content, dict) else None
  if not isinstance(entries, dict) or not entries:
    raise UserError(f'{path}: "tasks" must map at least one task name to its description, e.g. {EXAMPLE}')
  for field in sorted(FIELDS & content.keys()):  # other fields may document the data
    raise UserError(f'{path}: "{field}" has no effect beside "tasks"; move it into the description of a task')
  tasks, encodings = [], {}
  for name, entry in entries.items():
    task, encodings[name] = _read_entry(f'{path}: "tasks"."{sanitize(name, MAX_NAME_LENGTH)}"', name, entry)
    tasks.append(task)
  return tuple(tasks), encodings


def _read_entry(where: str, name: str, entry) -> tuple[Task, dict]:
  if not isinstance(entry, dict):
    raise UserError(f'{where} must be an object like {{}}')
  unknown = entry.keys() - FIELDS
  if unknown:
    raise UserError(f'{where}: unknown field "{sanitize(min(unknown), 40)}"; use {", ".join(sorted(FIELDS))}')
  kind = entry.get('kind', name)
  classes = entry.get('classes', [])
  if not isinstance(kind, str):
    raise UserError(f'{where}."kind" must be one of {", ".join(KINDS)}')
  _check_classes(f'{where}."classes"', classes)
  encoding = _read_encoding(where, entry)
  try:
    task = make_task(name, kind, tuple(classes))
  except ValueError as error:
    raise UserError(f'{where}: {error}') from error
  allowed = ['kind', *(['classes'] if task.raw_channels is None else []), *task.file_fields]
  for field in sorted(entry.keys() - {*allowed}):
    subject = f'{kind} with {len(classes)} classes' if classes else kind
    raise UserError(f'{where}."{field}" would have no effect: {subject} takes {", ".join(allowed)}; remove it')
  return task, encoding


def _check_classes(where: str, classes):
  """Raises UserError unless class names, which label tables, legends and files, are legible and distinct."""
  if not isinstance(classes, list) or not all(isinstance(c, str) and is_plain(c) for c in classes):
    raise UserError(f'{where} must be a list of names, without control characters')
  first: dict[str, int] = {}
  for i, name in enumerate(classes):
    visible = unicodedata.normalize('NFC', name.strip())
    if not any(c.isprintable() and not c.isspace() for c in visible):
      raise UserError(f'{where}[{i}] is blank; name the class')
    if len(name) > MAX_NAME_LENGTH:
      raise UserError(f'{where}[{i}]: a name has at most {MAX_NAME_LENGTH} characters, not {len(name)}; shorten it')
    if first.setdefault(visible, i) != i:
      raise UserError(f'{where}[{i}]: [{first[visible]}] is also named "{visible}"; rename one of them')


def _read_encoding(where: str, entry: dict) -> dict:
  """Reads the fields that say how label files are stored."""
  for field, low in (('ignore', 0), ('positive', 1)):
    value = entry.get(field, low)
    if type(value) is not int or not low <= value <= 65535:
      raise UserError(f'{where}."{field}" must be a whole number from {low} to 65535')
  scale = entry.get('scale', 1)
  if type(scale) not in (int, float) or not MIN_SCALE <= scale <= MAX_SCALE:
    raise UserError(f'{where}."scale" must be a positive number, {MIN_SCALE:g} to {MAX_SCALE:g} metres')
  encoding = {field: entry[field] for field in ('ignore', 'positive', 'scale') if field in entry}
  if 'positive' in encoding and encoding['positive'] == encoding.get('ignore'):
    raise UserError(f'{where}: "positive" and "ignore" are both {encoding["positive"]}; change one of them')
  return encoding


def _image_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """{id: path} of a split's images."""
  if folder.is_dir() and (unread := photographs.unsupported_files(_visible_files(folder))):
    raise UserError(f'{folder}: {unread}')
  images = _by_stem(folder, photographs.suffixes())
  if not images:
    raise UserError(f'{folder}: contains no images; put images ({", ".join(photographs.suffixes())}) there')
  for id, path in images.items():
    if not files.is_name(f'{id}.png'):  # reported before a network is trained
      raise UserError(f'{path}: the name is too long for result files, NAME.png; shorten it and those of its labels')
  return images


def files_by_name(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """{name without suffix: path} of the label files in a folder."""
  return _by_stem(folder, LABEL_SUFFIXES)


def _by_stem(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
  """{name without suffix, in NFC: path} of a folder's files, without hidden ones."""
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; see docs/your_own_data.md')
  by_stem = {}
  for path in _visible_files(folder):
    if not is_plain(path.name):
      raise UserError(f"{folder}: '{sanitize(path.name)}' has control characters or is not UTF-8; rename the file")
    if not path.is_file():
      raise UserError(f'{path}: is not a file, or is a broken link; replace or remove it')
    # If it were skipped, a label in another format would silently mean "not labelled".
    if path.suffix.lower() not in suffixes:
      raise UserError(f'{path}: is not one of {", ".join(suffixes)}; convert or remove it')
    _check_distinct(path, by_stem.setdefault(files.nfc(path.stem), path))
  return by_stem


def _check_distinct(path: pathlib.Path, other: pathlib.Path):
  """Raises UserError if two files of a folder would be the same image, label or task."""
  if path == other:
    return
  if path.stem == other.stem:
    raise UserError(f'{path}: {other.name} has the same name; rename one of them')
  raise UserError(
    f'{path}: {other.name!a} and {path.name!a} are the same name in two Unicode forms (NFC and NFD); rename or remove '
    'one of them'
  )


def _visible_files(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
  except OSError as error:
    raise UserError(f'{folder}: cannot be read ({error.strerror}); check its permissions') from error


def _label_files(folder: pathlib.Path, tasks, images) -> dict[str, dict[str, pathlib.Path]]:
  """{task: {stem: path}}; a task without a folder has no labels in this split."""
  names = {files.nfc(task.name): task.name for task in tasks}
  folders = {}
  for path in _visible_files(folder) if folder.is_dir() else ():
    if files.nfc(path.name) not in names:
      raise UserError(f'{folder}/{sanitize(path.name)}: dataset.json has no such task; add it there or remove this')
    _check_distinct(path, folders.setdefault(files.nfc(path.name), path))
  labels = {task: _by_stem(folders[name], LABEL_SUFFIXES) if name in folders else {} for name, task in names.items()}
  orphans = [path for paths in labels.values() for stem, path in paths.items() if stem not in images]
  if orphans:
    raise UserError(f'{join_names(orphans)}: no image of the same name in {folder.parent / "images"}')
  return labels


def read_label(path: pathlib.Path, task: Task, encoding: dict) -> np.ndarray:
  """Reads a label file, encoded as in tasks/base.py [H, W, K]; raises ValueError, without the file's name."""
  return task.from_file(_load(path), **encoding)


def _load(path: pathlib.Path) -> np.ndarray:
  """Reads the array in a .npy or PNG file, with channels in RGB order and palette indices unchanged."""
  if path.suffix.lower() == '.npy':
    return files.read_npy(path)
  image = files.open_image(path, ['PNG'])
  if image.mode in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'F'):
    return np.asarray(image)
  values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow would reduce 16-bit RGB to 8 bits
  if values is None or values.ndim != 3:
    raise ValueError('is not a PNG that OpenCV can read; save it again')
  return values[..., ::-1] if values.shape[2] == 3 else values
