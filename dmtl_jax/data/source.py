"""Sources: random access to images and those of their labels that may be seen.

An example is {'image': uint8 [H, W, 3] RGB, 'labels': {task: [H, W, K]} (see tasks.py; visible
ones only), 'index': int}. Sources are frozen dataclasses, picklable, and know nothing of jax:

  tasks: tuple[Task, ...]
  ids: sequence of str, one an image
  label_mask: [N, T] bool, which labels exist and may be seen
  official: {label setting: file of the benchmark's mapping for it} (see label_settings.py)

`dataclasses.replace(source, label_mask=...)` hides labels: they are then never even read.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib
import pathlib
from typing import Any, Protocol

import numpy as np

from dmtl_jax.basics.errors import is_plain, shown, UserError
from dmtl_jax.tasks import Task

PACKAGES = {'scenes': 'scenes', 'pascal': 'pascal_mt', 'nyud': 'nyud_mt', 'cityscapes': 'cityscapes_mt'}
# Where `--mode=prepare` puts the official mappings, below the prepared data.
MAPPINGS = {'one': 'label_mappings/onelabel.pth', 'random': 'label_mappings/randomlabels.pth'}


class Source(Protocol):
  """See module."""

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  label_mask: np.ndarray
  official: dict[str, pathlib.Path]

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
  official: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)

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
    raise UserError(f"config.data.name: '{shown(name)}' is not one of folder, {', '.join(PACKAGES)}")
  return importlib.import_module(f'dmtl_jax.datasets.{PACKAGES[name]}')


def open_source(data_config, split: str) -> Source:
  """The split 'train' or 'val' of config.data, with every label it has of config.data.tasks (default: all).

  Raises:
    UserError: what is missing or broken in the data, and what to do.
  """
  if data_config.name == 'folder':
    from dmtl_jax.data import folder

    source = folder.open_folder(data_config.path, split)
  else:
    source = _open_tfds(package(data_config.name), data_config, split)
  names = data_config.get('tasks', ())
  return choose_tasks(source, names) if names else source


def _open_tfds(module, data_config, split: str) -> TfdsSource:
  builder = module.builder(data_config)
  ids = builder.info.metadata['ids'][split]
  if not all(map(is_id, ids)):
    raise UserError(f'{builder.data_path}: its ids of images are no names of files; prepare it again')
  mask = np.ones((len(ids), len(module.TASKS)), bool)
  has = {info.filename for info in builder.url_infos.values()}
  folder = pathlib.Path(builder.data_path)
  official = {setting: folder / file for setting, file in MAPPINGS.items() if pathlib.Path(file).name in has}
  return TfdsSource(tuple(module.TASKS), ids, mask, builder.as_data_source(split), module.decode, official)


def is_id(name) -> bool:
  """Whether it can be the id of an image, which names files: a word without '/', not '..' and the like."""
  return isinstance(name, str) and is_plain(name) and name not in ('', '.', '..') and not set('/\\') & set(name)


def choose_tasks(source: Source, names: Sequence[str]) -> Source:
  """The source with the tasks `names` only, in that order.

  Raises:
    UserError: a name that is not a task of the data set, or twice.
  """
  known = [task.name for task in source.tasks]
  if len(set(names)) != len(names) or not set(names) <= set(known):
    raise UserError(f"config.data.tasks: '{shown(','.join(names))}' are not different ones of {', '.join(known)}")
  columns = [known.index(name) for name in names]
  tasks = tuple(source.tasks[t] for t in columns)
  return dataclasses.replace(source, tasks=tasks, label_mask=source.label_mask[:, columns])
