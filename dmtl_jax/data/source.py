"""Opens data sets by their names, and knows their tasks."""

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
  """The package of a data set (see `dmtl_jax.datasets`), the folder of that name; raises UserError where none is."""
  if name not in names():
    raise unknown_value_error('config.data.name', name, names())
  return importlib.import_module(f'{datasets.__name__}.{name}')


def names() -> list[str]:
  """Of all data sets."""
  return sorted({found.name for found in pkgutil.iter_modules(datasets.__path__) if found.ispkg})


def open_source(data_config, split: str) -> Source:
  """The split 'train' or 'val' of config.data, with every label it has of config.data.tasks (default: all).

  With config.data.holdout_fraction both are of the training images, the same in every run: 'val' is that share of them.

  Raises:
    UserError: what is missing or broken in the data, and what to do.
  """
  share = data_config.get('holdout_fraction', 0)
  source = package(data_config.name).open_split(data_config, 'train' if share else split)
  if split == 'train' and data_config.get('augment') == 'pascal':
    source = dataclasses.replace(source, crop_guide=next((task for task in source.tasks if task.guides_crops), None))
  source = source.with_tasks(_columns(source.tasks, data_config.get('tasks', ())))
  if not share:
    return source
  count = round(share * len(source))
  if count in (0, len(source)):
    raise UserError(
      f'config.data.holdout_fraction={share:g} leaves {count} of {len(source)} images to validate on; '
      f'it must leave some for that and some to train on'
    )
  back, rest = np.split(np.random.default_rng(0).permutation(len(source)), [count])
  return source.subset(sorted(map(int, back if split == 'val' else rest)))


def data_tasks(data_config) -> tuple[Task, ...]:
  """Tasks of config.data; no more of the data needs to exist than says what they are. Raises as `open_source`."""
  module = package(data_config.name)
  tasks = module.tasks(data_config) if hasattr(module, 'tasks') else module.TASKS
  return tuple(tasks[t] for t in _columns(tasks, data_config.get('tasks', ())))


def _columns(tasks: Sequence[Task], names: Sequence[str]) -> list[int]:
  """Where the tasks of these names are, of no names all; raises UserError for a name that is none, or twice."""
  known = [task.name for task in tasks]
  for name in names:
    if name not in known:
      raise unknown_value_error('config.data.tasks', name, known)
  if len(set(names)) != len(names):
    raise UserError(f'config.data.tasks: {sanitize(",".join(names))} names a task twice')
  return [known.index(name) for name in names or known]
