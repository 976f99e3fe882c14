"""Writes pictures to files."""

import os

import cv2
import numpy as np
from PIL import Image

from dmtl_jax.basics import atomic


def save_png(path: os.PathLike | str, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] atomically, creating its folder if needed."""
  with atomic.atomic_open(path, 'wb') as file:
    if picture.ndim == 3:  # a quarter of Pillow's time, for a file 8% larger
      file.write(cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])
    else:
      Image.fromarray(picture).save(file, format='PNG', compress_level=4)  # 6 takes twice the time to save 6%
