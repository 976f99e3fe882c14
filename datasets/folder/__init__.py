"""Your own images: a folder in which a missing label file means *not labelled for this task*.

  PATH/dataset.json                     {"tasks": {"semseg": {"classes": [...]}, "depth": {}}}
  PATH/SPLIT/images/NAME.jpg            any format and size; SPLIT is train or val
  PATH/SPLIT/labels/TASK/NAME.png|npy   by the same name

dataset.json, for each task: "kind" (default: the task's name), "classes" (semseg, parsing), "ignore" (of class
maps and depth: another stored value of unlabelled pixels), "positive" (of two classes: stored value of class 1),
"scale" (depth: unit of whole numbers in metres, default 0.001; of 8-bit ones it must be given). Class maps are
one-channel PNG (palette or grey), 255 = unlabelled. Depth: PNG or .npy, 0 = unlabelled. Normals: .npy [H, W, 3] of
unit vectors, or 8/16-bit RGB PNG holding (xyz + 1) / 2 of the full range, 0 0 0 and what is far from unit length =
unlabelled; x right, y up, z to the camera. A kind says which fields it takes (`Task.file_fields`); others are refused.
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
from dmtl_jax.datasets.folder import scan
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import KINDS, LONGEST, make_task, Task

LABEL_SUFFIXES = ('.png', '.npy')
FIELDS = {'kind', 'classes', 'ignore', 'positive', 'scale'}
SCALES = (1e-9, 1e9)  # metres; beyond, float32 would lose depths
EXAMPLE = '{"tasks": {"saliency": {}}}'


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """The files of a split: reads what a `Source` asks for.

  Attributes:
    images: a path each.
    labels: {task: path} of each, of the labels that exist.
    encodings: {task: {field: value}}, what dataset.json says of its label files (`Task.file_fields`).
    stamps: {path: `scan.stamp` when it was checked}; a file that has changed since is not trained on.
  """

  tasks: tuple[Task, ...]
  images: Sequence[pathlib.Path]
  labels: Sequence[dict[str, pathlib.Path]]
  encodings: dict[str, dict]
  stamps: dict[pathlib.Path, tuple[int, int]]

  def __call__(self, index: int, tasks: Sequence[Task]) -> dict:
    there = [task for task in tasks if task.name in self.labels[index]]
    return {'image': self.image(index), 'labels': {task.name: self.label(index, task) for task in there}}

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
    """What `Source.warnings` gives, of labels that `label` has accepted."""
    paths = self.labels[index]
    there = [task for task in tasks if task.name in paths]
    return {task.name: task.file_warnings(_load(paths[task.name]), **self.encodings[task.name]) for task in there}

  @contextlib.contextmanager
  def _unchanged(self, path: pathlib.Path):
    """What is read in this block counts only if the file is, after it, the one that was checked."""
    try:
      yield path
    finally:
      if scan.stamp(path) != self.stamps[path]:
        raise UserError(f'{path}: changed or removed since it was checked; run the same command again to check it anew')


def tasks(data_config) -> tuple[Task, ...]:
  """The tasks of the folder config.data.path, from its dataset.json alone."""
  return read_description(_root(data_config.path) / 'dataset.json')[0]


def open_split(data_config, split: str) -> Source:
  """The split 'train' or 'val' of the folder config.data.path; see `open_folder`."""
  return open_folder(data_config.path, split)


def open_folder(path: str, split: str) -> Source:
  """Opens PATH/SPLIT and checks every file in it (once: the result is cached); raises UserError with what is wrong."""
  root = _root(path)
  tasks, encodings = read_description(root / 'dataset.json')
  images = _image_files(root / split / 'images')
  found = _label_files(root / split / 'labels', tasks, images)
  ids = sorted(images)
  labels = [{task.name: found[task.name][i] for task in tasks if i in found[task.name]} for i in ids]
  mask = np.array([[task.name in files for task in tasks] for files in labels])
  bare = [ids[i] for i in np.flatnonzero(~mask.any(1))]
  if bare and (split == 'train' or len(bare) == len(ids)):
    fix = f'remove the image or add {root / split}/labels/TASK/NAME.png'
    raise UserError(f'{root / split}: {join_names(bare)} without a label for any task; {fix}')
  stamps = {path: scan.stamp(path) for path in [*images.values(), *(p for files in labels for p in files.values())]}
  found = Files(tasks, [images[i] for i in ids], labels, encodings, stamps)
  scan.check(found, root / split)
  units = {task.name: 'm' for task in tasks if isinstance(task, KINDS['depth'])}
  return Source(tasks, ids, mask, found, read_warnings=found.warnings, units=units)


def _root(path: str) -> pathlib.Path:
  if not path:
    raise UserError('config.data.path is empty; give the folder of your images, --config.data.path=PATH')
  if not is_plain(path):
    raise UserError(f"config.data.path: '{sanitize(path)}' has control characters or is not UTF-8; rename the folder")
  return pathlib.Path(path)


def read_description(path: pathlib.Path) -> tuple[tuple[Task, ...], dict[str, dict]]:
  """Tasks and their encodings (see `Files`) from dataset.json; raises UserError with the field and what it must be."""
  if not path.is_file():
    raise UserError(f'{path}: no such file; it names the tasks, e.g. {EXAMPLE}')
  content = files.read_json(path)
  entries = content.get('tasks') if isinstance(content, dict) else None
  if not isinstance(entries, dict) or not entries:
    raise UserError(f'{path}: "tasks" must map at least one task name to its description, e.g. {EXAMPLE}')
  for field in sorted(FIELDS & content.keys()):  # others may say what the data are
    raise UserError(f'{path}: "{field}" has no effect beside "tasks"; put it into the description of a task')
  described = {
    name: _read_entry(f'{path}: "tasks"."{sanitize(name, LONGEST)}"', name, entry) for name, entry in entries.items()
  }
  return tuple(task for task, _ in described.values()), {name: e for name, (_, e) in described.items()}


def _read_entry(where: str, name: str, entry) -> tuple[Task, dict]:
  if not isinstance(entry, dict):
    raise UserError(f'{where} must be an object like {{}}')
  unknown = entry.keys() - FIELDS
  if unknown:
    raise UserError(f'{where}: unknown field "{sanitize(min(unknown), 40)}"; known are {", ".join(sorted(FIELDS))}')
  kind, classes = entry.get('kind', name), entry.get('classes', [])
  if not isinstance(kind, str):
    raise UserError(f'{where}."kind" must be one of {", ".join(KINDS)}')
  _check_classes(f'{where}."classes"', classes)
  encoding = _read_encoding(where, entry)
  try:
    task = make_task(name, kind, tuple(classes))
  except ValueError as error:
    raise UserError(f'{where}: {error}') from error
  known = ['kind', *(['classes'] if task.raw_channels is None else []), *task.file_fields]
  for field in sorted(entry.keys() - {*known}):
    what = f'{kind} of {len(classes)} classes' if classes else kind
    raise UserError(f'{where}."{field}" would have no effect: {what} takes {", ".join(known)}; remove it')
  return task, encoding


def _check_classes(where: str, classes):
  """Class names label tables, legends and files: each must be there to read, and another than the others."""
  if not isinstance(classes, list) or not all(isinstance(c, str) and is_plain(c) for c in classes):
    raise UserError(f'{where} must be a list of names, without control characters')
  first: dict[str, int] = {}
  for i, name in enumerate(classes):
    seen = unicodedata.normalize('NFC', name.strip())
    if not any(c.isprintable() and not c.isspace() for c in seen):
      raise UserError(f'{where}[{i}] is blank; name the class')
    if len(name) > LONGEST:
      raise UserError(f'{where}[{i}]: a name has at most {LONGEST} characters, not {len(name)}; shorten it')
    if first.setdefault(seen, i) != i:
      raise UserError(f'{where}[{i}]: [{first[seen]}] is named "{seen}" too; give one of them another name')


def _read_encoding(where: str, entry: dict) -> dict:
  """The fields that say how label files are stored."""
  for field, least in (('ignore', 0), ('positive', 1)):
    value = entry.get(field, least)
    if type(value) is not int or not least <= value <= 65535:
      raise UserError(f'{where}."{field}" must be a whole number from {least} to 65535')
  if 'scale' in entry and (type(entry['scale']) not in (int, float) or not SCALES[0] <= entry['scale'] <= SCALES[1]):
    raise UserError(f'{where}."scale" must be a positive number, {SCALES[0]:g} to {SCALES[1]:g} metres')
  encoding = {field: entry[field] for field in ('ignore', 'positive', 'scale') if field in entry}
  if 'positive' in encoding and encoding['positive'] == encoding.get('ignore'):
    raise UserError(f'{where}: "positive" and "ignore" are both {encoding["positive"]}; give one of them another value')
  return encoding


def _image_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """{id: path} of a split's images."""
  if folder.is_dir() and (unread := photographs.unsupported_files(_visible(folder))):
    raise UserError(f'{folder}: {unread}')
  images = _by_stem(folder, photographs.suffixes())
  if not images:
    raise UserError(f'{folder}: no image here; put images ({", ".join(photographs.suffixes())}) there')
  for id, path in images.items():
    if not files.is_name(f'{id}.png'):  # found now, not when a network has been trained
      raise UserError(f'{path}: its name is too long for its results, NAME.png; give it and its labels a shorter one')
  return images


def _by_stem(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
  """Files of a folder by name without suffix, in Unicode's NFC; hidden files do not count."""
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; see docs/your_own_data.md')
  by_stem = {}
  for path in _visible(folder):
    if not is_plain(path.name):
      raise UserError(f"{folder}: '{sanitize(path.name)}' has control characters or is not UTF-8; rename the file")
    if not path.is_file():
      raise UserError(f'{path}: is not a file, or a link to none; replace or remove it')
    # Passed over, a label in another format would silently mean "not labelled".
    if path.suffix.lower() not in suffixes:
      raise UserError(f'{path}: is not one of {", ".join(suffixes)}; convert or remove it')
    _refuse_same_name(path, by_stem.setdefault(files.nfc(path.stem), path))
  return by_stem


def _refuse_same_name(path: pathlib.Path, other: pathlib.Path):
  """Raises UserError where two files of a folder would be one image, label or task."""
  if path == other:
    return
  if path.stem == other.stem:
    raise UserError(f'{path}: {other.name} has the same name; rename one of them')
  raise UserError(
    f'{path}: {other.name!a} and {path.name!a} are one name in other bytes (Unicode NFC and NFD); rename '
    'or remove one of them'
  )


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
  except OSError as error:
    raise UserError(f'{folder}: cannot be read ({error.strerror}); check its permissions') from error


def _label_files(folder: pathlib.Path, tasks, images) -> dict[str, dict[str, pathlib.Path]]:
  """{task: {stem: path}}; a task without a folder has no labels in this split."""
  names, present = {files.nfc(task.name): task.name for task in tasks}, {}
  for path in _visible(folder) if folder.is_dir() else ():
    if files.nfc(path.name) not in names:
      raise UserError(f'{folder}/{sanitize(path.name)}: dataset.json has no such task; add it there or remove this')
    _refuse_same_name(path, present.setdefault(files.nfc(path.name), path))
  found = {task: _by_stem(present[name], LABEL_SUFFIXES) if name in present else {} for name, task in names.items()}
  orphans = [path for files in found.values() for stem, path in files.items() if stem not in images]
  if orphans:
    raise UserError(f'{join_names(orphans)}: no image of the same name in {folder.parent / "images"}')
  return found


def read_label(path: pathlib.Path, task: Task, encoding: dict) -> np.ndarray:
  """A label file as tasks/base.py says [H, W, K]; raises ValueError with what is wrong, without the file's name."""
  return task.from_file(_load(path), **encoding)


def _load(path: pathlib.Path) -> np.ndarray:
  """The array in a .npy or PNG file, channels in RGB order, palette indices as they are."""
  if path.suffix.lower() == '.npy':
    return files.read_npy(path)
  image = files.open_image(path, ['PNG'])
  if image.mode in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'F'):
    return np.asarray(image)
  values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # keeps 16 bits of RGB, where PIL does not
  if values is None or values.ndim != 3:
    raise ValueError('is not a PNG that OpenCV reads; write it again')
  return values[..., ::-1] if values.shape[2] == 3 else values
