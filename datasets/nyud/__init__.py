"""NYUD-v2 at 288x384: semantic segmentation (13 classes), depth in metres and normals.

Prepared by `main.py --mode=prepare --config=configs/nyud.py`; README.md says from which files.
"""

import functools

from dmtl_jax.datasets import mtan
from dmtl_jax.datasets.nyud.nyud_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task

TASKS = (
  make_task('semseg', 'semseg', Builder.CLASSES),
  make_task('depth', 'depth'),
  make_task('normals', 'normals'),
)

open_split = functools.partial(mtan.open_split, Builder, TASKS, units={'depth': 'm'})
