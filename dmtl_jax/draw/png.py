"""Pictures as files."""

import os
import pathlib

import numpy as np
from PIL import Image


def save_png(path: os.PathLike | str, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] whole or not at all, making its folder if need be."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  Image.fromarray(picture).save(temporary, format='PNG', compress_level=4)  # 6 takes twice the time to save 6%
  os.replace(temporary, path)
