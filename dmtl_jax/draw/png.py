"""Writes pictures to files."""

import os

import numpy as np
from PIL import Image

from dmtl_jax.basics import atomic


def save_png(path: os.PathLike | str, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] atomically, creating its folder if needed."""
  with atomic.atomic_open(path, 'wb') as file:
    Image.fromarray(picture).save(file, format='PNG', compress_level=4)  # 6 takes twice the time to save 6%
