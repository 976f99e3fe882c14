"""PASCAL-Context: semantic segmentation, human parsing, saliency, normals and boundaries.

Prepared by `main.py --mode=prepare --config=configs/pascal.py`; README.md tells from what.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from dmtl_jax.datasets import raw
from dmtl_jax.datasets.pascal_mt import labels
from dmtl_jax.datasets.pascal_mt.pascal_mt_dataset_builder import Builder
from dmtl_jax.tasks import make_task, Task

TASKS = (
  make_task('semseg', 'semseg', labels.CLASSES),
  make_task('parsing', 'parsing', ('background', *labels.PARTS)),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
)


def builder(data_config) -> Builder:
  """The prepared data set in `data_config.dir`; `info.metadata['ids']` is {split: ids}.

  Raises:
    UserError: it is not prepared.
  """
  return raw.prepared(Builder, data_config)


def decode(example: dict, tasks: Sequence[Task] = TASKS) -> dict:
  """One example of `builder(...).as_data_source(split)` as arrays.

  Args:
    example: with image and label files as bytes.
    tasks: whose labels to decode; the others cost nothing.

  Returns:
    {'image': uint8 [H,W,3] RGB, 'labels': {task: [H,W,K]}}, encoded as `dmtl_jax.tasks` says.
  """
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # labels know nothing of EXIF's rotation
  return dict(
    image=_rgb(example['image'], flags),
    labels={task.name: _label(task, example[task.name]) for task in tasks},
  )


def _label(task, data):
  if task.name == 'normals':
    return labels.unit_normals(_rgb(data, cv2.IMREAD_COLOR))
  return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[..., None]


def _rgb(data, flags):
  return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flags), cv2.COLOR_BGR2RGB)
