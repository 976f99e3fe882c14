"""Your own images: a folder in which a missing label file means *not labelled for this task*.

  PATH/dataset.json                     {"tasks": {"semseg": {"classes": [...]}, "depth": {}}}
  PATH/SPLIT/images/NAME.jpg            any format and size; SPLIT is train or val
  PATH/SPLIT/labels/TASK/NAME.png|npy   has the same NAME as its image
  PATH/SPLIT/labels/TASK/annotated.json where only some classes were annotated (see annotated.py)
  PATH/unlabelled/NAME.jpg              more training images; labels that they get later lie beside the others

PATH/val is optional: without it a fifth of the labelled images is held out (dmtl_jax/data/holdout.py). Without
PATH/train, images and labels are those of PATH itself.

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
import json
import pathlib

import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import is_plain, join_names, sanitize, UserError
from dmtl_jax.datasets.folder import annotated as annotated_lib
from dmtl_jax.datasets.folder import label_files, listing, predicted, proposal, scan
from dmtl_jax.datasets.folder.description import read_description
from dmtl_jax.datasets.folder.listing import File
from dmtl_jax.datasets.source import Source
from dmtl_jax.datasets.summary import ImageSummary, LabelSummary
from dmtl_jax.tasks import KINDS, Task

HELD_OUT = 0.2  # share of the labelled images to validate on where there is no folder val


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """The files of a split, with the readers of its `Source`.

  Attributes:
    images: path of each image.
    labels: {task: path} of each image, for the labels that exist, in the order of `tasks`.
    stamps: [N, 1 + T, 2] int64, `listing.stamp` of each image and its labels when they were listed; a file that changed
      since then is refused.
    encodings: {task: {field: value}}, how dataset.json describes its label files (`Task.file_fields`).
    annotated: {task: {image: ids of the annotated classes}}, of partly annotated labels (see annotated.py).
    results: the JSON of `scan.scan_image` for each image; empty before the scan.
  """

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  images: Sequence[str]
  labels: Sequence[dict[str, str]]
  stamps: np.ndarray
  encodings: dict[str, dict]
  annotated: dict[str, dict[str, tuple[int, ...]]]
  results: Sequence[str] = ()

  def __call__(self, index: int, tasks: Sequence[Task], least: tuple[int, int] | None = None) -> dict:
    """See `Source.example`."""
    labels = {task.name: self.label(index, task) for task in tasks if task.name in self.labels[index]}
    return {'image': self.image(index, least), 'labels': labels}

  def image(self, index: int, least: tuple[int, int] | None = None) -> np.ndarray:
    with self._unchanged(self.images[index], self.stamps[index, 0]) as path:
      return photographs.read_image(path, least)

  def label(self, index: int, task: Task) -> np.ndarray:
    with self._unchanged_label(index, task) as path:
      try:
        return label_files.read_label(path, task, self.encoding(index, task))
      except ValueError as error:
        raise UserError(f'{path}: {error}') from error

  def warnings(self, index: int, task: Task) -> dict[str, int]:
    """`Task.file_warnings` of a label, which must be valid, where there are any."""
    encoding = self.encoding(index, task)
    has_none = isinstance(task, KINDS['semseg']) and 'annotated' not in encoding
    if has_none or type(task).file_warnings is Task.file_warnings:  # reading the file again would only take time
      return {}
    with self._unchanged_label(index, task) as path:
      counts = task.file_warnings(label_files.load_for(path, task), **encoding)
    return {text: count for text, count in counts.items() if count}

  def summary(self, index: int, tasks: Sequence[Task]) -> ImageSummary:
    """See `Source.summary`; reads no file."""
    result = json.loads(self.results[index])
    labels = {task.name: LabelSummary(*result['labels'][task.name]) for task in tasks}
    return ImageSummary(tuple(result['size']), labels)

  def encoding(self, index: int, task: Task) -> dict:
    """How a label file is stored, as keyword arguments of `Task.from_file`."""
    annotated = self.annotated[task.name].get(self.ids[index])
    return self.encodings[task.name] | ({'annotated': annotated} if annotated else {})

  def _unchanged_label(self, index: int, task: Task):
    path = self.labels[index][task.name]
    return self._unchanged(path, self.stamps[index, 1 + self.tasks.index(task)])

  @contextlib.contextmanager
  def _unchanged(self, path: str, stamp: np.ndarray):
    """Raises UserError after the block, in which the file is read, if it is no longer the file that was checked."""
    try:
      yield pathlib.Path(path)
    finally:
      if listing.stamp(path) != tuple(stamp):
        raise UserError(f'{path}: changed or removed since it was checked; run the same command again to check it anew')


def tasks(data_config) -> tuple[Task, ...]:
  """Tasks of the folder config.data.path; reads only its dataset.json."""
  return read_description(_root(data_config.path) / 'dataset.json')[0]


def propose(data_config) -> proposal.Proposal | None:
  """What the labels of config.data.path suggest for its dataset.json; None if that describes them all."""
  root = _root(data_config.path)
  return proposal.propose(root, [listing.split_folder(root, 'train'), root / 'val'], label_files.load)


def holdout_fraction(data_config) -> float:
  """Share of the training images to validate on: 0 if there is a folder of validation images."""
  return 0.0 if (_root(data_config.path) / 'val').is_dir() else HELD_OUT


def open_split(data_config, split: str) -> Source:
  """Opens the split 'train' or 'val' of the folder config.data.path; see `open_folder` and `predicted.add`."""
  source = open_folder(data_config.path, split)
  if split != 'train' or not data_config.get('predicted_labels'):
    return source
  root = _root(data_config.path)
  return predicted.add(source, root, read_description(root / 'dataset.json')[1])


def open_folder(path: str, split: str) -> Source:
  """Opens a split and checks its new and changed files; raises UserError with what is wrong."""
  root = _root(path)
  tasks, encodings = read_description(root / 'dataset.json')
  folder = listing.split_folder(root, split)
  images = listing.image_files(folder / 'images', root / listing.POOL if split == 'train' else None)
  by_task = _label_files(folder / 'labels', tasks, images)
  annotated = {task.name: annotated_lib.read(by_task[task.name], task) for task in tasks}
  tasks = tuple(annotated_lib.with_sets(task, annotated[task.name], folder / 'labels' / task.name) for task in tasks)
  ids = sorted(images)
  split_files = _files(tasks, encodings, annotated, ids, images, by_task)
  mask = np.array([[task.name in paths for task in tasks] for paths in split_files.labels])
  if not mask.any():
    add = f'add {folder}/labels/TASK/NAME.png'
    raise UserError(f'{folder}: none of {len(ids)} images ({join_names(ids)}) has a label for any task; {add}')
  scanned = scan.scan(split_files, folder)
  split_files = dataclasses.replace(split_files, results=scanned.results)
  return Source(
    tasks,
    ids,
    mask,
    split_files,
    read_summary=split_files.summary,
    units={task.name: 'm' for task in tasks if isinstance(task, KINDS['depth'])},
    classes_shown=_values_shown(split_files, [(task.name, id) for task in tasks for id in range(len(task.classes))]),
    positives_shown=_values_shown(split_files, [(task.name, 1) for task in tasks if task.binary]),
    thumbnails=scanned.thumbnails,
    reads_reduced=True,
  )


def _root(path: str) -> pathlib.Path:
  if not path:
    raise UserError('config.data.path is empty; give the folder of your images with --config.data.path=PATH')
  if not is_plain(path):
    raise UserError(f"config.data.path: '{sanitize(path)}' has control characters or is not UTF-8; rename the folder")
  return pathlib.Path(path)


def _files(
  tasks, encodings, annotated, ids: list[str], images: dict[str, File], label_files: dict[str, dict[str, File]]
) -> Files:
  labels = []
  stamps = np.full((len(ids), 1 + len(tasks), 2), -1, np.int64)
  for row, id in enumerate(ids):
    stamps[row, 0] = images[id][1:]
    labels.append({})
    for column, task in enumerate(tasks, 1):
      if file := label_files[task.name].get(id):
        labels[row][task.name] = file.path
        stamps[row, column] = file[1:]
  return Files(tasks, ids, [images[id].path for id in ids], labels, stamps, encodings, annotated)


def _values_shown(split_files: Files, values: Sequence[tuple[str, int]]) -> np.ndarray:
  """Mask [N, V]: whether a label of that task has a pixel of that class id, from the pixels that were counted."""
  columns = {value: column for column, value in enumerate(values)}
  shown = np.zeros((len(split_files.ids), len(columns)), bool)
  for row, (result, labels) in enumerate(zip(split_files.results, split_files.labels)):
    if not labels or not columns:
      continue
    for name, summary in json.loads(result)['labels'].items():
      counts = LabelSummary(*summary).counts
      shown[row, [columns[name, id] for id, count in enumerate(counts) if count and (name, id) in columns]] = True
  return shown


def _label_files(folder: pathlib.Path, tasks, images) -> dict[str, dict[str, File]]:
  """{task: {stem: file}}; a task without a folder has no labels in this split."""
  names = {files.nfc(task.name): task.name for task in tasks}
  folders: dict[str, pathlib.Path] = {}
  for path in map(pathlib.Path, listing.visible_files(folder) if folder.is_dir() else ()):
    if files.nfc(path.name) not in names:
      raise UserError(
        f'{folder}/{sanitize(path.name)}: dataset.json has no such task; --mode=check proposes what to add there, or '
        'remove this'
      )
    listing.check_distinct(path, folders.setdefault(files.nfc(path.name), path))
  labels = {}
  for name, task in names.items():
    labels[task] = {}
    if name in folders:
      labels[task] = listing.by_stem(folders[name], listing.LABEL_SUFFIXES, beside=annotated_lib.NAME)
  listing.check_no_orphans(labels, images, folder.parent / 'images')
  return labels
