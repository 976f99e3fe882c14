"""Cityscapes at 128x256: semantic segmentation (7 classes) and inverse depth.

Prepared by `main.py --mode=prepare --config=configs/cityscapes.py`; README.md tells from what.
"""

from collections.abc import Sequence

from dmtl_jax.datasets import mtan, raw
from dmtl_jax.datasets.cityscapes_mt.cityscapes_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task, Task

TASKS = (
  make_task('semseg', 'semseg', Builder.CLASSES),
  make_task('depth', 'depth'),
)


def builder(data_config) -> Builder:
  """The prepared data set in `data_config.dir`; `info.metadata['ids']` is {split: ids}.

  Raises:
    UserError: it is not prepared.
  """
  return raw.prepared(Builder, data_config)


def decode(example: dict, tasks: Sequence[Task] = TASKS) -> dict:
  """One example of `builder(...).as_data_source(split)` as arrays.

  Returns:
    {'image': uint8 [H,W,3] RGB, 'labels': {task: [H,W,K]}} with the labels of `tasks`, encoded as
    `dmtl_jax.tasks` says; depth is inverse depth, 0..0.5, made from disparity.
  """
  return mtan.decode(example, tasks)
