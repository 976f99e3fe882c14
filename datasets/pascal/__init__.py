"""PASCAL-Context: semantic segmentation, human parsing, saliency, normals and boundaries.

Prepared by `main.py --mode=prepare --config=configs/pascal.py`; README.md says from which files.
"""

from collections.abc import Sequence
import functools
from pathlib import Path

import cv2
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.files import decode_image
from dmtl_jax.datasets import stored
from dmtl_jax.datasets.pascal import labels
from dmtl_jax.datasets.pascal.pascal_mt_dataset_builder import Builder
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import make_task, Task

LISTED = 'boundary_ids.txt'  # in checksums.tsv
TASKS = (
  make_task('semseg', 'semseg', labels.CLASSES),
  make_task('parsing', 'parsing', ('background', *labels.PARTS)),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
)


def open_split(data_config, split: str) -> Source:
  """Opens a prepared split; raises UserError if it is not prepared.

  To train only on parsing it has only the images with people, as in the benchmark's code.
  """
  builder = stored.prepared(Builder, data_config)
  read_truth = functools.partial(truth, listed=stored.official_file(builder, LISTED))
  source = stored.open_split(builder, split, TASKS, decode, read_truth)
  if split == 'train' and tuple(data_config.get('tasks', ())) == ('parsing',):
    return source.subset(builder.info.metadata['people'][split])
  return source


def truth(example: dict, listed: Path) -> dict[str, np.ndarray | None]:
  """The boundaries that the benchmark scores against, other than those for training: {'boundary': bool [H,W]}.

  None if the file `listed` does not have the example's id; raises UserError if that file is missing.
  """
  if not listed.is_file():
    raise UserError(f'{listed}: the list of images with scored boundaries is missing; run --mode=prepare to fetch it')
  if example['id'].decode() not in _read_scored(listed):
    return {'boundary': None}
  return {'boundary': decode_image(example['boundary_truth'])[..., 0] > 0}


_read_scored = functools.lru_cache(maxsize=1)(labels.read_scored)


def decode(example: dict, tasks: Sequence[Task] = TASKS) -> dict:
  """Decodes the image and the labels of these tasks, from an example of `Builder.as_data_source(split)`."""
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # labels are not rotated by EXIF either
  maps = {task.name: decode_image(example[task.name]) for task in tasks}
  if 'normals' in maps:
    maps['normals'] = labels.unit_normals(maps['normals'])
  return dict(image=decode_image(example['image'], flags), labels=maps)
