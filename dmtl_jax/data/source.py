"""Opens data sets by name."""

from collections.abc import Sequence
import dataclasses
import importlib
import pkgutil

import numpy as np

from dmtl_jax import datasets
from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import Task


def package(name: str):
  """Imports the package of a data set (see `dmtl_jax.datasets`); raises UserError if there is none of that name."""
  if name not in names():
    raise unknown_value_error('config.data.name', name, names())
  return importlib.import_module(f'{datasets.__name__}.{name}')


def names() -> list[str]:
  """Names of all data sets."""
  return sorted({module.name for module in pkgutil.iter_modules(datasets.__path__) if module.ispkg})


def open_source(data_config, split: str) -> Source:
  """Opens the split 'train' or 'val' of config.data, with all its labels of config.data.tasks (default: all tasks).

  With config.data.holdout_fraction, 'val' is that share of the training images, the same in every run, and 'train'
  the rest.

  Raises:
    UserError: says what is missing or broken in the data, and what to do.
  """
  share = data_config.get('holdout_fraction', 0)
  source = package(data_config.name).open_split(data_config, 'train' if share else split)
  if split == 'train' and data_config.get('augment') == 'pascal':
    source = dataclasses.replace(source, crop_guide=next((task for task in source.tasks if task.guides_crops), None))
  source = source.with_tasks(_task_positions(source.tasks, data_config.get('tasks', ())))
  if not share:
    return source
  count = round(share * len(source))
  if count in (0, len(source)):
    raise UserError(
      f'config.data.holdout_fraction={share:g} leaves {count} of {len(source)} images to validate on; '
      f'both training and validation need at least one'
    )
  validation, training = np.split(np.random.default_rng(0).permutation(len(source)), [count])
  return source.subset(sorted(map(int, validation if split == 'val' else training)))


def data_tasks(data_config) -> tuple[Task, ...]:
  """Tasks of config.data; for a folder only its dataset.json needs to exist. Raises as `open_source` does."""
  module = package(data_config.name)
  tasks = module.tasks(data_config) if hasattr(module, 'tasks') else module.TASKS
  return tuple(tasks[t] for t in _task_positions(tasks, data_config.get('tasks', ())))


def _task_positions(tasks: Sequence[Task], names: Sequence[str]) -> list[int]:
  """Positions of the named tasks, by default of all; raises UserError for an unknown or repeated one."""
  all_names = [task.name for task in tasks]
  for name in names:
    if name not in all_names:
      raise unknown_value_error('config.data.tasks', name, all_names)
  if len(set(names)) != len(names):
    raise UserError(f'config.data.tasks: {sanitize(",".join(names))} names a task twice')
  return [all_names.index(name) for name in names or all_names]
