"""Opens data sets by name."""

from collections.abc import Sequence
import dataclasses
import importlib
import pkgutil

import numpy as np

from dmtl_jax import datasets
from dmtl_jax.basics import bucket, bucket_copy
from dmtl_jax.basics.errors import sanitize, unknown_value_error, UserError
from dmtl_jax.data.holdout import hold_out
from dmtl_jax.datasets.folder.proposal import Proposal
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import Task

SPLITS = ('train', 'val')


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

  With a `holdout_fraction`, 'val' is that share of the labelled training images (see `holdout.hold_out`), and 'train'
  the rest.

  Raises:
    UserError: says what is missing or broken in the data, and what to do.
  """
  return open_splits(data_config, (split,))[split]


def open_splits(data_config, splits: Sequence[str] = SPLITS) -> dict[str, Source]:
  """Opens several splits as `open_source` does; where one is a part of the other, their files are listed only once."""
  open_split = package(data_config.name).open_split
  data_config = with_local_copy(data_config)
  share = holdout_fraction(data_config)
  if share:
    whole = open_split(data_config, 'train')
    held_out = hold_out(whole, share)  # of all tasks, so that runs of some are validated on the same images
    if not held_out.any():
      raise UserError(
        f'config.data: one labelled image ({whole.labelled().ids[0]}) cannot be held out to validate on and learned '
        f'from as well; label another, or add a validation set'
      )
    parts = {'train': ~held_out, 'val': held_out}
    sources = {split: whole.subset(np.flatnonzero(parts[split]).tolist()) for split in splits}
  else:
    sources = {split: open_split(data_config, split) for split in splits}
  if 'train' in sources and data_config.get('augment') == 'pascal':
    guide = next((task for task in sources['train'].tasks if task.guides_crops), None)
    sources['train'] = dataclasses.replace(sources['train'], crop_guide=guide)
  names = data_config.get('tasks', ())
  return {split: source.with_tasks(_task_positions(source.tasks, names)) for split, source in sources.items()}


def with_local_copy(data_config):
  """The config with the path of a local copy in place of a `path` or `dir` in a bucket, which is copied at first."""
  copied = {}
  for field in ('path', 'dir'):
    value = data_config.get(field) or ''
    if bucket.is_address(value):
      copied[field] = bucket_copy.local(value, f'config.data.{field}')
  if not copied:
    return data_config
  data_config = data_config.copy_and_resolve_references()
  data_config.update(copied)
  return data_config


def holdout_fraction(data_config) -> float:
  """Share of the labelled training images to validate on instead of learning from them; 0: there is a split for it."""
  module = package(data_config.name)
  data_config = with_local_copy(data_config)
  default = module.holdout_fraction(data_config) if hasattr(module, 'holdout_fraction') else 0
  return data_config.get('holdout_fraction', 0) or default


def is_built(data_config) -> bool:
  """Whether config.data is built from raw files or rendered before it is opened; every image then has all labels."""
  return hasattr(package(data_config.name), 'Builder')


def propose(data_config) -> Proposal | None:
  """The description that a folder of images lacks, as its labels suggest it; None where there is one."""
  module = package(data_config.name)
  return module.propose(with_local_copy(data_config)) if hasattr(module, 'propose') else None


def data_tasks(data_config) -> tuple[Task, ...]:
  """Tasks of config.data; for a folder only its dataset.json needs to exist. Raises as `open_source` does."""
  module = package(data_config.name)
  tasks = module.tasks(with_local_copy(data_config)) if hasattr(module, 'tasks') else module.TASKS
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
