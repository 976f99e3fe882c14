"""Array and image files that others wrote, read by what they hold and not by what they claim.

A header of a few bytes may claim any size: it is compared with the file's length before memory
is taken. Nothing is unpickled, and no decoder runs but that of a format asked for (Pillow would
hand PostScript to Ghostscript, whatever the file is called).
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import math
import os
import stat
from typing import Any
import unicodedata

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from dmtl_jax.basics.errors import is_plain, sanitize, UserError

IMAGE_FORMATS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP')
# A PNG of one bit a pixel holds 8 pixels a byte, which deflate makes at most 1032 times smaller.
PIXELS_A_BYTE = 10_000
LONGEST_NAME = 255  # bytes
TEXT_BYTES = 1 << 28  # of a text file that is read whole
LOG_BYTES = 1 << 32  # of log.jsonl, which grows by a line with each that training logs
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_id(name) -> bool:
  """Whether it can be the id of an image, which names files: a word without '/', not '..' and the like."""
  return isinstance(name, str) and is_plain(name) and name not in ('', '.', '..') and not set('/\\') & set(name)


def is_name(name: str) -> bool:
  """Whether a file can have this name: common file systems take 255 bytes."""
  return len(os.fsencode(name)) <= LONGEST_NAME


def nfc(name: str) -> str:
  """A name in Unicode's NFC: of `é` and the like macOS, and archives made there, have other bytes (NFD)."""
  return unicodedata.normalize('NFC', name)


def read_text(path: str | os.PathLike, most: int = TEXT_BYTES, errors: str = 'strict') -> str:
  """The content of a text file in UTF-8, without its mark of the encoding (which spreadsheets write).

  Args:
    most: bytes.
    errors: as of `open`.

  Raises:
    OSError: it cannot be read.
    ValueError: it is a pipe, which would be waited for, a device, which may have no end, too long, or not in UTF-8.
  """
  status = os.stat(path)
  if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
    raise ValueError('it is a pipe or a device')
  if status.st_size > most:
    raise ValueError(f'it has {status.st_size} bytes, more than {most}')
  with open(path, encoding='utf-8-sig', errors=errors, newline='') as file:
    return file.read()


def read_json(path: str | os.PathLike, fix: str = 'mend it') -> Any:
  """The content of a JSON file.

  Args:
    fix: what to do where it is broken; ends the sentence.

  Raises:
    UserError: it cannot be read or is not JSON.
  """
  try:
    return json.loads(read_text(path))
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror})') from error
  except (ValueError, RecursionError) as error:  # ValueError: also of bytes not in UTF-8 and of endless numbers
    raise UserError(f'{path}: not JSON ({reason(error)}); {fix}') from error


def read_npy(path: str | os.PathLike) -> np.ndarray:
  """The array in a .npy file, of real numbers or bool; raises ValueError with what is wrong with the file."""
  try:
    with open(path, 'rb') as file:
      read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
      shape, by_columns, dtype = read_header(file)
      if dtype.kind not in 'biuf':
        raise ValueError('holds something else than real numbers')
      count, left = math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
      if min(shape, default=0) < 0 or count * dtype.itemsize > left:
        raise ValueError(f'{left} bytes follow a header that claims more')
      return np.fromfile(file, dtype, count).reshape(shape, order='F' if by_columns else 'C')
  except Exception as error:  # a header is a Python literal: its parser raises nearly anything
    raise ValueError(f'not a readable .npy ({reason(error)})') from error


@contextlib.contextmanager
def opened_image(path: str | os.PathLike, formats: Sequence[str] = IMAGE_FORMATS) -> Iterator[Image.Image]:
  """An image file of which only the header has been read; `formats` are Pillow's names of those it may have.

  Raises ValueError for a header that claims more than the file can hold, and whatever Pillow raises.
  """
  with Image.open(path, formats=tuple(formats)) as file:
    length = os.path.getsize(path)
    if file.width * file.height > PIXELS_A_BYTE * length:
      raise ValueError(f'{length} bytes that claim {file.width}x{file.height} pixels')
    yield file


def open_image(path: str | os.PathLike, formats: Sequence[str] = IMAGE_FORMATS) -> Image.Image:
  """A decoded image file, pixels as they are stored: see `photographs.read_image` for what a viewer shows.

  Args:
    formats: Pillow's names of those it may have.

  Raises:
    ValueError: what is wrong with the file, without its name.
  """
  try:
    with opened_image(path, formats) as file:
      file.load()
      return file
  except Exception as error:  # Pillow has no common error: OSError, SyntaxError, struct.error, KeyError, ...
    raise ValueError(f'not a readable image ({reason(error)})') from error


def encode_png(array: np.ndarray) -> bytes:
  """The PNG file of [H, W], [H, W, 1] or RGB [H, W, 3], uint8 or uint16."""
  array = array[..., ::-1] if array.ndim == 3 else array
  return cv2.imencode('.png', array, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def decode_image(data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
  """A file of ours as an image [H, W, 3] RGB or a map [H, W, 1], uint8 or uint16; `flags` are OpenCV's."""
  array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if array is None:
    raise ValueError('not a readable image')
  return array[..., None] if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def reason(error: Exception) -> str:
  """An error's words in one short line."""
  if isinstance(error, UnidentifiedImageError):
    return 'unknown format'  # Pillow would repeat the path
  return sanitize(str(error).rstrip('.') or type(error).__name__)
