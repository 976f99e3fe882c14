"""Class weights (config.class_weights): the loss of a pixel is multiplied by the weight of its class.

They are for tasks with named classes; saliency and boundary have balanced losses of their own. `balanced` makes rare
classes weigh more: with f_c the share of class c, the mean over training images of its share of the labelled pixels,

  w_c = min(10, 1 / (sqrt(f_c) * sum_j sqrt(f_j))),

so that the mean weight of a pixel is 1 (less where the limit of 10 applies, as it does to a class without a pixel).

A run keeps its weights in W/class_weights.json, {task: {class: weight}}, and a resumed run reads them there.
config.class_weights takes the path of such a file, too; classes that it does not name weigh 1.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import os
import pathlib

import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import transforms
from dmtl_jax.tasks import Task

SETTINGS = ('none', 'balanced')
MAX_WEIGHT = 10.0  # of `balanced`
MAX_GIVEN = 1e6
COUNTED = 500  # labels of a task that are counted, spread evenly over its labelled training images

Weights = dict[str, tuple[float, ...]]  # {task: weight of each class}, without tasks that have none


def check(setting: str, tasks: Sequence[Task]):
  """Raises UserError if config.class_weights is neither a known setting nor a file that `read` accepts."""
  if setting == 'none':
    return
  if not any(task.classes for task in tasks):
    raise UserError(f'config.class_weights={sanitize(setting)} would have no effect: no task has named classes')
  if setting not in SETTINGS:
    if not os.path.isfile(setting):
      raise unknown_value_error('config.class_weights', setting, (*SETTINGS, 'a file'))
    read(pathlib.Path(setting), tasks)


def of_run(setting: str, source, data_config, workdir: str, restart: bool) -> Weights:
  """The class weights of a run on `source`.

  Args:
    setting: config.class_weights.
    source: the training set, with its label setting applied.
    restart: whether to ignore those that the run keeps.

  Raises:
    UserError: a file that `read` refuses, or one with other weights than the run keeps.
  """
  if setting == 'none':
    return {}
  path = pathlib.Path(workdir) / 'class_weights.json'
  kept = read(path, source.tasks) if path.exists() and not restart else None
  if setting == 'balanced':
    return kept or {name: balanced(values) for name, values in shares(source, data_config).items()}
  given = read(pathlib.Path(setting), source.tasks)
  if kept not in (None, given):
    raise UserError(f'{setting}: this run was started with other weights, {path}; restore them or use --force')
  return given


def read(path: pathlib.Path, tasks: Sequence[Task]) -> Weights:
  """Reads {task: {class: weight}}; raises UserError with the entry and what it must be."""
  content = files.read_json(path)
  named = {task.name: task for task in tasks if task.classes}
  if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
    raise UserError(f'{path}: must map tasks to the weights of their classes, e.g. {{"semseg": {{"car": 5}}}}')
  weights: Weights = {}
  for name, entry in content.items():
    if name not in named:
      raise unknown_value_error(f'{path}: a task', name, named)
    classes = named[name].classes
    for label, weight in entry.items():
      if label not in classes:
        raise unknown_value_error(f'{path}: "{name}"', label, classes)
      if type(weight) not in (int, float) or not 0 <= weight <= MAX_GIVEN:
        raise UserError(f'{path}: "{name}"."{label}" must be a number from 0 to {MAX_GIVEN:g}')
    weights[name] = tuple(float(entry.get(label, 1)) for label in classes)
    if not any(weights[name]):
      raise UserError(f'{path}: every class of "{name}" has weight 0, so nothing would be learned; raise one')
  return weights


def write(workdir: str, tasks: Sequence[Task]):
  """Keeps the class weights of a run, or removes the file if its tasks have none."""
  path = pathlib.Path(workdir) / 'class_weights.json'
  weighted = {task.name: dict(zip(task.classes, task.class_weights)) for task in tasks if task.class_weights}
  if weighted:
    write_json(path, weighted)
  else:
    path.unlink(missing_ok=True)


def apply(tasks: Sequence[Task], weights: Mapping[str, tuple[float, ...]]) -> tuple[Task, ...]:
  """The tasks with their class weights, for the network that is trained."""
  return tuple(dataclasses.replace(task, class_weights=weights.get(task.name, ())) for task in tasks)


def describe(tasks: Sequence[Task]) -> str:
  """'class weights: semseg sky 0.6, car 3.1; parsing ...'; '' if there are none."""
  parts = [
    f'{task.name} ' + ', '.join(f'{name} {weight:.3g}' for name, weight in zip(task.classes, task.class_weights))
    for task in tasks
    if task.class_weights
  ]
  return f'class weights: {"; ".join(parts)}' if parts else ''


def balanced(shares: np.ndarray) -> tuple[float, ...]:
  """Weights of classes with these shares [C] of the pixels, see above; rounded to four digits."""
  roots = np.sqrt(shares / shares.sum())
  weights = 1 / np.maximum(roots * roots.sum(), 1 / MAX_WEIGHT)
  return tuple(float(f'{weight:.4g}') for weight in weights)


def shares(source, data_config) -> dict[str, np.ndarray]:
  """Share [C] of each class in the labels that the network gets, for the tasks with classes and visible labels.

  A share is the mean over images, because the loss is. It depends neither on the seed nor on the number of hosts.
  In a partly annotated label only annotated classes are counted: how many of the others it has is unknown. Labels that
  a model predicted are not counted, or a class that it seldom predicts would seem rare.
  """
  if source.predicted is not None:
    source = dataclasses.replace(source, label_mask=source.label_mask & ~source.predicted)
  tasks = [(t, task) for t, task in enumerate(source.tasks) if task.classes]
  rows = [np.flatnonzero(source.label_mask[:, t]) for t, _ in tasks]
  chosen = [r[np.linspace(0, len(r) - 1, min(len(r), COUNTED)).round().astype(int)] for r in rows]
  indices = np.unique(np.concatenate(chosen)).tolist()
  transform = transforms.train_transform(data_config, source.tasks)
  totals = {task.name: np.zeros((2, len(task.classes))) for _, task in tasks}

  def count(index: int) -> dict[str, np.ndarray]:
    labels = transform(source[index], np.random.default_rng((0, index)))['labels']
    return {task.name: _count(task, labels[task.name]) for _, task in tasks if task.name in labels}

  with Progress('counting classes', len(indices), 'img') as progress, ThreadPoolExecutor() as pool:
    for counts in pool.map(count, indices):
      for name, values in counts.items():
        totals[name] += values
      progress.update()
  means = {name: total / np.maximum(images, 1) for name, (total, images) in totals.items()}
  return {name: mean for name, mean in means.items() if mean.any()}


def _count(task: Task, label: np.ndarray) -> np.ndarray:
  """Share of each class in a label's pixels, and 1 where that is known, else 0: [2, C]; 0 if no pixel is labelled."""
  counts = np.bincount(label.ravel(), minlength=256)[: len(task.id_names)]
  known = np.ones(len(task.classes), bool)
  for ids, pixels in zip(task.annotated, counts[len(known) :]):
    if pixels:
      known &= np.isin(np.arange(len(known)), ids)
  if not counts.any():
    return np.zeros((2, len(known)))
  return np.stack([counts[: len(known)] / counts.sum() * known, known])
