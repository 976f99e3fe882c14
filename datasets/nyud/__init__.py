"""NYUD-v2 at 288x384: semantic segmentation (13 classes), depth and normals.

Prepared by `main.py --mode=prepare --config=configs/nyud.py`; README.md tells from what.
"""

from dmtl_jax.datasets import mtan, stored
from dmtl_jax.datasets.nyud.nyud_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task

TASKS = (
  make_task('semseg', 'semseg', Builder.CLASSES),
  make_task('depth', 'depth'),
  make_task('normals', 'normals'),
)


def open_split(data_config, split: str) -> stored.TfdsSource:
  """The prepared split 'train' or 'val'; depth in metres.

  Raises:
    UserError: it is not prepared.
  """
  return stored.open_split(stored.prepared(Builder, data_config), split, TASKS, mtan.decode)
