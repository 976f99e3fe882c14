"""Sources: random access to images and those of their labels that may be seen.

An example is {'image': uint8 [H, W, 3] RGB, 'labels': {task: [H, W, K]} (see tasks.py; visible
ones only), 'index': int}. Sources are frozen dataclasses, picklable, and know nothing of jax:

  tasks: tuple[Task, ...]
  ids: sequence of str, one an image
  label_mask: [N, T] bool, which labels exist and may be seen

`dataclasses.replace(source, label_mask=...)` hides labels: they are then never even read.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib
from typing import Any, Protocol

import numpy as np

from dmtl_jax.errors import UserError
from dmtl_jax.tasks import Task

PACKAGES = {'scenes': 'scenes', 'pascal': 'pascal_mt', 'nyud': 'nyud_mt', 'cityscapes': 'cityscapes_mt'}


class Source(Protocol):
  """See module."""

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  label_mask: np.ndarray

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
  """A split of a prepared TFDS data set.

  Attributes:
    examples: the TFDS data source.
    decode: of the data set's package: (example, tasks) -> {'image', 'labels'}.
  """

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  label_mask: np.ndarray
  examples: Any
  decode: Callable[[dict, Sequence[Task]], dict]

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> dict:
    visible = [task for t, task in enumerate(self.tasks) if self.label_mask[index, t]]
    return self.decode(self.examples[index], visible) | {'index': index}


def package(name: str):
  """The package of a TFDS data set: TASKS, builder(data_config), decode(example, tasks).

  Raises:
    UserError: no such data set.
  """
  if name not in PACKAGES:
    raise UserError(f"config.data.name: '{name}' is not one of folder, {', '.join(PACKAGES)}")
  return importlib.import_module(f'datasets.{PACKAGES[name]}')


def open_source(data_config, split: str) -> Source:
  """The split 'train' or 'val' of config.data, with every label it has.

  Raises:
    UserError: what is missing or broken in the data, and what to do.
  """
  if data_config.name == 'folder':
    from dmtl_jax.data import folder

    return folder.open_folder(data_config.path, split)
  module = package(data_config.name)
  builder = module.builder(data_config)
  ids = builder.info.metadata['ids'][split]
  mask = np.ones((len(ids), len(module.TASKS)), bool)
  return TfdsSource(tuple(module.TASKS), ids, mask, builder.as_data_source(split), module.decode)
