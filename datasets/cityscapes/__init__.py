"""Cityscapes at 128x256: semantic segmentation (7 classes) and inverse depth, 0..0.5, from disparity.

Prepared by `main.py --mode=prepare --config=configs/cityscapes.py`; README.md says from which files.
"""

import functools

from dmtl_jax.datasets import mtan
from dmtl_jax.datasets.cityscapes.cityscapes_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task

TASKS = (
  make_task('semseg', 'semseg', Builder.CLASSES),
  make_task('depth', 'depth'),
)

open_split = functools.partial(mtan.open_split, Builder, TASKS)
