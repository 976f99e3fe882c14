"""Reads the label files of a folder data set."""

import pathlib

import cv2
import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.tasks import Task


def read_label(path: pathlib.Path, task: Task, encoding: dict) -> np.ndarray:
  """Reads a label file, encoded as in tasks/base.py [H, W, K]; raises ValueError, without the file's name."""
  return task.from_file(load_for(path, task), **encoding)


def load_for(path: pathlib.Path, task: Task) -> np.ndarray:
  """As `load`, for a task: grey that is stored as a colour has one channel where the task's labels have one."""
  values = load(path)
  if task.label_channels > 1:
    return values
  values = reduce_grey(values)
  if values.ndim == 3 and path.suffix.lower() == '.png':
    if (values[..., 3:] != np.iinfo(values.dtype).max).any():
      raise ValueError('is partly transparent; save it without transparency')
    raise ValueError(
      f'is a picture of colours, and a {task.kind} label has one number per pixel; --mode=import with --colors=FILE '
      'turns colours into classes'
    )
  return values


def reduce_grey(values: np.ndarray) -> np.ndarray:
  """One channel [H, W] of an opaque picture [H, W, 3 or 4] that is grey everywhere; other arrays as they are."""
  if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype.kind != 'u':
    return values
  is_opaque = (values[..., 3:] == np.iinfo(values.dtype).max).all()
  is_grey = is_opaque and (values[..., :1] == values[..., 1:3]).all()
  return np.ascontiguousarray(values[..., 0]) if is_grey else values


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
