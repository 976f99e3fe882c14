"""Cityscapes at 128x256: semantic segmentation (7 classes) and inverse depth.

Prepared by `main.py --mode=prepare --config=configs/cityscapes.py`; README.md tells from what.
"""

from dmtl_jax.datasets import mtan, stored
from dmtl_jax.datasets.cityscapes.cityscapes_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task

TASKS = (
  make_task('semseg', 'semseg', Builder.CLASSES),
  make_task('depth', 'depth'),
)


def open_split(data_config, split: str) -> stored.TfdsSource:
  """The prepared split 'train' or 'val'; depth is inverse depth, 0..0.5, made from disparity.

  Raises:
    UserError: it is not prepared.
  """
  return stored.open_split(stored.prepared(Builder, data_config), split, TASKS, mtan.decode)
