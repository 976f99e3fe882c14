"""Writes pictures to files."""

from collections.abc import Iterator
import os
import struct

from isal import isal_zlib
import numpy as np
from PIL import Image

from dmtl_jax.basics import atomic

LEVEL = 1  # of isal's 0 to 3: 0 takes as long for files 13% larger, 2 as long for files 1% smaller
RGB = 2  # PNG's number of the colour type
UP = 2  # PNG's number of the filter: a row's difference from the row above


def save_png(path: os.PathLike | str, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] atomically, creating its folder if needed."""
  with atomic.atomic_open(path, 'wb') as file:
    if picture.ndim == 3:
      file.writelines(_encode_rgb(picture))
    else:
      Image.fromarray(picture).save(file, format='PNG', compress_level=4)  # 6 takes twice the time to save 6%


def _encode_rgb(picture: np.ndarray) -> Iterator[bytes]:
  """Yields the parts of a PNG file of uint8 [H, W, 3].

  Of overlays of a photograph at 2048x1536, 0.018 s each: OpenCV takes 0.08 s for files 5% smaller.
  """
  height, width, _ = picture.shape
  pixels = picture.reshape(height, 3 * width)
  rows = np.empty((height, 1 + 3 * width), np.uint8)
  rows[:, 0] = UP
  rows[0, 1:] = pixels[0]
  np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])  # modulo 256, as PNG has it
  yield b'\x89PNG\r\n\x1a\n'
  yield from _chunk(b'IHDR', struct.pack('>2I5B', width, height, 8, RGB, 0, 0, 0))
  yield from _chunk(b'IDAT', isal_zlib.compress(rows, LEVEL))
  yield from _chunk(b'IEND', b'')


def _chunk(name: bytes, data: bytes) -> Iterator[bytes]:
  yield struct.pack('>I', len(data)) + name
  yield data
  yield struct.pack('>I', isal_zlib.crc32(data, isal_zlib.crc32(name)))
