"""Labels that a model predicted, for the images of a folder that have none.

  PATH/train/predicted/TASK/NAME.png|npy   as PATH/train/labels/TASK, see `encoding`
  PATH/train/predicted/source.json         where they come from

--mode=predict --save=labels writes them; training reads them if config.data.predicted_labels is set. An image's own
label for a task replaces the predicted one. Those of depth and normals are not read: they have no probabilities that
would leave out what the model is unsure of, and made networks worse (docs/your_own_data.md).
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib

import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import join_names, UserError
from dmtl_jax.datasets.folder import label_files, listing
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import IGNORE, Task

FOLDER = 'predicted'  # beside labels
SOURCE = 'source.json'
GREY = 128  # unlabelled where 255 means class 1


def place(root: pathlib.Path) -> pathlib.Path:
  """The folder of predicted labels of the folder data set PATH, beside those of images and labels."""
  return listing.split_folder(root, 'train') / FOLDER


def find_root(where: pathlib.Path) -> pathlib.Path | None:
  """PATH, if its predicted labels lie in the folder `where`; None if that is of no folder data set."""
  where = pathlib.Path(os.path.abspath(where))
  roots = (root for root in where.parents[:2] if place(root) == where and (root / 'dataset.json').is_file())
  return next(roots, None)


def encoding(task: Task, own: dict) -> dict:
  """How predicted label files are stored: as the folder's own (`folder.Files.encodings`), and with unlabelled pixels.

  These are 255, or the folder's "ignore"; 128 where "positive" is 255 and there is no "ignore"; 0 for depth and
  normals.
  """
  if 'ignore' not in task.file_fields:
    return own
  return {'ignore': GREY if own.get('positive') == IGNORE else task.unlabelled} | own


def write_source(where: pathlib.Path, tasks: Sequence[Task], origin: dict):
  """Writes source.json into the folder of predicted labels; what it says of other tasks stays.

  Args:
    origin: what predicted the labels of these tasks. The date of the same origin stays that of the first time.
  """
  path = where / SOURCE
  stored = _read_source(path) if path.is_file() else {}
  entries = {task.name: origin | describe(task) for task in tasks}
  same = {name for name, entry in entries.items() if entry | {'date': ''} == stored.get(name, {}) | {'date': ''}}
  write_json(path, stored | {name: entry for name, entry in entries.items() if name not in same})


def describe(task: Task) -> dict:
  """What a label of the task depends on, as in source.json."""
  return {'kind': task.kind, 'classes': list(task.classes)}


def _read_source(path: pathlib.Path) -> dict[str, dict]:
  """{task: {"kind", "classes", "run", ...}}; raises UserError if the file is damaged."""
  fix = 'delete this folder and predict its labels again'
  content = files.read_json(path, fix)
  if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
    raise UserError(f'{path}: must map each task to what predicted it; {fix}')
  return content


def add(source: Source, root: pathlib.Path, encodings: dict[str, dict]) -> Source:
  """Adds the predicted labels of PATH/train to its source, as `Source.predicted`.

  Args:
    root: PATH.
    encodings: {task: {field: value}} of the folder's own labels.

  Raises:
    UserError: there are none, or they were predicted for other tasks or classes.
  """
  where = place(root)
  paths = _label_files(where, [task for task in source.tasks if task.has_probabilities])
  origin = _origin(where / SOURCE, [task for task in source.tasks if paths.get(task.name)])
  exists = np.array([[id in paths.get(task.name, ()) for task in source.tasks] for id in source.ids])
  used = [
    {task.name: paths[task.name][id].path for t, task in enumerate(source.tasks) if exists[i, t]}
    for i, id in enumerate(source.ids)
  ]
  encodings = {task.name: encoding(task, encodings[task.name]) for task in source.tasks}
  read = _Reader(source, used, encodings)
  return dataclasses.replace(source, read=read, predicted=exists & ~source.label_mask, predicted_by=origin)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  """Reads an image with its labels, the predicted ones for tasks without its own; see `Source.read`.

  Attributes:
    source: of the folder's own labels.
    paths: {task: path} of each image's predicted labels.
    encodings: see `encoding`.
  """

  source: Source
  paths: Sequence[dict[str, str]]
  encodings: dict[str, dict]

  def __call__(self, index: int, tasks: Sequence[Task], least: tuple[int, int] | None = None) -> dict:
    example = self.source.read(index, tasks, least)
    missing = [task for task in tasks if task.name not in example['labels'] and task.name in self.paths[index]]
    labels = {task.name: self._label(index, task) for task in missing}
    return example | {'labels': example['labels'] | labels}

  def _label(self, index: int, task: Task) -> np.ndarray:
    path = self.paths[index][task.name]
    fix = 'predict it again or delete it'
    try:
      label = label_files.read_label(pathlib.Path(path), task, self.encodings[task.name])
    except (ValueError, OSError) as error:
      raise UserError(f'{path}: {files.reason(error)}; {fix}') from error
    size = self.source.summary(index).size
    if label.shape[:2] != size:
      sizes = (f'{width}x{height}' for height, width in (label.shape[:2], size))
      raise UserError(f'{path}: {" but its image is ".join(sizes)}; {fix}')
    return label


def _label_files(where: pathlib.Path, tasks: Sequence[Task]) -> dict[str, dict[str, listing.File]]:
  """{task: {name: path}} of these tasks; names of images that are not (any more) in the training split do no harm."""
  paths = {
    task.name: listing.by_stem(where / task.name, listing.LABEL_SUFFIXES)
    for task in tasks
    if (where / task.name).is_dir()
  }
  if not any(paths.values()):
    command = '--mode=predict --workdir=RUN --save=labels'
    raise UserError(
      f'config.data.predicted_labels: {where} holds no labels of classes or masks; predict them first with {command}'
    )
  return {task.name: paths.get(task.name, {}) for task in tasks}


def _origin(path: pathlib.Path, tasks: Sequence[Task]) -> dict[str, dict]:
  """{task: its entry in source.json}; raises UserError if one is missing or names other classes than dataset.json."""
  if not path.is_file():
    raise UserError(f'{path}: no such file; it says what {path.parent} was predicted by: predict these labels again')
  stored = _read_source(path)
  other = [task.name for task in tasks if not describe(task).items() <= stored.get(task.name, {}).items()]
  if other:
    raise UserError(
      f'{path}: {join_names(other)} had another kind or other classes; train without config.data.predicted_labels on '
      'those of dataset.json, and predict these labels again with that run'
    )
  return {task.name: stored[task.name] for task in tasks}
