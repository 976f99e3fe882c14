"""The PNG files that we write: what they hold, and the filter of each row, by which they are fast to decode."""

import io
import zlib

import cv2
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import files

RNG = np.random.default_rng(0)


def filters(data: bytes, bytes_per_row: int) -> set[int]:
  """PNG's filter of each row: 0 none, 1 `Sub`, 2 `Up`, 3 `Average`, 4 `Paeth`."""
  packed = b''
  position = 8  # after the signature; a chunk is its length, name, content and check sum
  while position < len(data):
    length = int.from_bytes(data[position : position + 4], 'big')
    if data[position + 4 : position + 8] == b'IDAT':
      packed += data[position + 8 : position + 8 + length]
    position += 12 + length
  return set(np.frombuffer(zlib.decompress(packed), np.uint8).reshape(-1, 1 + bytes_per_row)[:, 0])


@pytest.mark.parametrize('shape, dtype', [((5, 7), 'uint8'), ((5, 7, 1), 'uint8'), ((5, 7, 3), 'uint8')])
def test_a_png_holds_the_array(shape, dtype):
  array = RNG.integers(0, 256, shape).astype(dtype)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files.encode_png(array)))), np.squeeze(array))


def test_a_png_holds_16_bits():
  array = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(files.encode_png(array)))), array)


@pytest.mark.skipif(not hasattr(cv2, 'IMWRITE_PNG_FILTER'), reason='this version of OpenCV chooses the filters itself')
def test_ids_are_not_filtered_and_colours_are_by_rows():
  ids = np.repeat(RNG.integers(0, 20, (32, 4)), 8, 1).astype(np.uint8)
  assert filters(files.encode_png(ids), 32) == {0}
  assert filters(files.encode_png(np.stack([ids] * 3, -1)), 3 * 32) == {2}
  assert filters(files.encode_png(ids.astype(np.uint16)), 2 * 32) == {2}
