"""Reads the label files of a folder data set."""

import pathlib

import cv2
import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.tasks import Task


def read_label(path: pathlib.Path, task: Task, encoding: dict) -> np.ndarray:
  """Reads a label file, encoded as in tasks/base.py [H, W, K]; raises ValueError, without the file's name."""
  return task.from_file(load(path), **encoding)


def load(path: pathlib.Path) -> np.ndarray:
  """Reads the array in a .npy or PNG file, with channels in RGB order and palette indices unchanged."""
  if path.suffix.lower() == '.npy':
    return files.read_npy(path)
  image = files.open_image(path, ['PNG'])
  if image.mode in ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'F'):
    return np.asarray(image)
  values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow would reduce 16-bit RGB to 8 bits
  if values is None or values.ndim != 3:
    raise ValueError('is not a PNG that OpenCV can read; save it again')
  return values[..., ::-1] if values.shape[2] == 3 else values
