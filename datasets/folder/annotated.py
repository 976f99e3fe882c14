"""annotated.json: in which labels only some of the classes were annotated.

  PATH/SPLIT/labels/TASK/annotated.json   {"IMG_1": ["road"], "IMG_2": ["road", "car"]}

It maps the name of an image, without suffix, to the classes that were annotated in its label. In such a label, a pixel
of another class, or with any other value but those that mean unlabelled, is none of the annotated classes; if those are
all classes of the task, it is unlabelled. An image that is not listed is annotated for all classes.
"""

from collections.abc import Mapping
import dataclasses
import pathlib

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError
from dmtl_jax.datasets.folder.listing import File
from dmtl_jax.tasks import Task

NAME = 'annotated.json'
EXAMPLE = '{"IMG_1": ["road"]}'


def read(labels: Mapping[str, File], task: Task) -> dict[str, tuple[int, ...]]:
  """Reads the file beside the labels of a task with classes.

  Args:
    labels: {image: file of its label}.

  Returns:
    {image: ids of the classes annotated in its label, in ascending order}, of the listed images.

  Raises:
    UserError: names the file, the image and what its entry must be.
  """
  if not labels:
    return {}
  path = pathlib.Path(next(iter(labels.values())).path).parent / NAME
  if not path.exists():
    return {}
  if not task.classes:
    raise UserError(f'{path}: {task.kind} has no classes to list; remove the file')
  entries = files.read_json(path)
  if not isinstance(entries, dict):
    raise UserError(f'{path}: must map names of images to lists of classes, e.g. {EXAMPLE}')
  annotated: dict[str, tuple[int, ...]] = {}
  for name, classes in entries.items():
    where = f'{path}: "{sanitize(name, 80)}"'
    image = files.nfc(name)
    if image not in labels:
      raise UserError(f'{where}: no label of this name lies beside it; correct the name (without suffix) or remove it')
    if image in annotated:
      raise UserError(f'{where}: listed twice, in two Unicode forms (NFC and NFD); remove one of them')
    annotated[image] = _class_ids(where, classes, task)
  return annotated


def _class_ids(where: str, classes, task: Task) -> tuple[int, ...]:
  if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
    raise UserError(f'{where} must be a list of class names, e.g. ["{task.classes[-1]}"]')
  if not classes:
    raise UserError(f'{where} lists no class; list those that were annotated, or remove the label')
  for name in classes:
    if name not in task.classes:
      raise unknown_value_error(where, name, task.classes)
  return tuple(sorted({task.classes.index(name) for name in classes}))


def with_sets(task: Task, annotated: Mapping[str, tuple[int, ...]], folder: pathlib.Path) -> Task:
  """The task with the sets of annotated classes of its labels; raises UserError if there are too many."""
  sets = {ids for ids in annotated.values() if len(ids) < len(task.classes) - 1}  # else only one class is left
  try:
    return dataclasses.replace(task, annotated=tuple(sorted(sets)))
  except ValueError as error:
    raise UserError(f'{folder / NAME}: {error}; list the same classes for more images') from error
