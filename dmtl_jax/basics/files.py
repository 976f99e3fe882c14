"""Safe readers of text, array and image files from elsewhere.

A header of a few bytes may claim any size, so it is compared with the file's length before memory
is allocated. Nothing is unpickled, and only the decoders of the requested formats run (Pillow would
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
# A PNG of one bit per pixel holds 8 pixels per byte, which deflate makes at most 1032 times smaller.
PIXELS_PER_BYTE = 10_000
LONGEST_NAME = 255  # bytes
TEXT_BYTES = 1 << 28  # limit for a text file
LOG_BYTES = 1 << 32  # limit for log.jsonl, which grows with training
# OpenCV's IMWRITE_PNG_FILTER and two of its values; versions that do not have it ignore it.
_PNG_FILTER = 19
_PNG_UNFILTERED = 8
_PNG_UP = 32
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def is_id(name) -> bool:
  """Whether `name` can be the id of an image, which names files: plain text without '/', not '..' and the like."""
  return isinstance(name, str) and is_plain(name) and name not in ('', '.', '..') and not set('/\\') & set(name)


def is_name(name: str) -> bool:
  """Whether a file name is short enough: common file systems allow 255 bytes."""
  return len(os.fsencode(name)) <= LONGEST_NAME


def nfc(name: str) -> str:
  """A name in Unicode's NFC; macOS, and archives made there, write `é` and the like in other bytes (NFD)."""
  return unicodedata.normalize('NFC', name)


def read_text(path: str | os.PathLike, max_bytes: int = TEXT_BYTES, errors: str = 'strict') -> str:
  """The content of a UTF-8 text file, without the byte order mark that spreadsheets write.

  Args:
    errors: as for `open`.

  Raises:
    OSError: it cannot be read.
    ValueError: it is a pipe or a device (whose end may never come), too long, or not in UTF-8.
  """
  status = os.stat(path)
  if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
    raise ValueError('it is a pipe or a device')
  if status.st_size > max_bytes:
    raise ValueError(f'it has {status.st_size} bytes, more than {max_bytes}')
  with open(path, encoding='utf-8-sig', errors=errors, newline='') as file:
    return file.read()


def read_json(path: str | os.PathLike, fix: str = 'fix it', max_bytes: int = TEXT_BYTES) -> Any:
  """The content of a JSON file.

  Args:
    fix: what to do if it is broken; ends the sentence.
    max_bytes: limit for the file.

  Raises:
    UserError: it cannot be read or is not JSON.
  """
  try:
    return json.loads(read_text(path, max_bytes))
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror})') from error
  except (ValueError, RecursionError) as error:  # ValueError also for bytes not in UTF-8 and endless numbers
    raise UserError(f'{path}: not JSON ({reason(error)}); {fix}') from error


def read_npy(path: str | os.PathLike) -> np.ndarray:
  """The array in a .npy file of real numbers or bool; raises ValueError that says what is wrong with the file."""
  try:
    with open(path, 'rb') as file:
      read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
      shape, by_columns, dtype = read_header(file)
      if dtype.kind not in 'biuf':
        raise ValueError('holds something else than real numbers')
      count = math.prod(shape)
      left = os.fstat(file.fileno()).st_size - file.tell()
      if min(shape, default=0) < 0 or count * dtype.itemsize > left:
        raise ValueError(f'{left} bytes follow a header that claims more')
      return np.fromfile(file, dtype, count).reshape(shape, order='F' if by_columns else 'C')
  except Exception as error:  # a header is a Python literal: its parser raises nearly anything
    raise ValueError(f'not a readable .npy ({reason(error)})') from error


@contextlib.contextmanager
def opened_image(path: str | os.PathLike, formats: Sequence[str] = IMAGE_FORMATS) -> Iterator[Image.Image]:
  """Opens an image file and reads only its header; `formats` are Pillow's names of the formats allowed.

  Raises ValueError for a header that claims more than the file can hold, and whatever Pillow raises.
  """
  with Image.open(path, formats=tuple(formats)) as file:
    length = os.path.getsize(path)
    if file.width * file.height > PIXELS_PER_BYTE * length:
      raise ValueError(f'{length} bytes that claim {file.width}x{file.height} pixels')
    yield file


def open_image(path: str | os.PathLike, formats: Sequence[str] = IMAGE_FORMATS) -> Image.Image:
  """Decodes an image file, with pixels as stored; `photographs.read_image` gives them as a viewer shows them.

  Args:
    formats: Pillow's names of the formats allowed.

  Raises:
    ValueError: says what is wrong with the file, without its name.
  """
  try:
    with opened_image(path, formats) as file:
      file.load()
      return file
  except Exception as error:  # Pillow has no common error: OSError, SyntaxError, struct.error, KeyError, ...
    raise ValueError(f'not a readable image ({reason(error)})') from error


def encode_png(array: np.ndarray) -> bytes:
  """Encodes [H, W], [H, W, 1] or RGB [H, W, 3], uint8 or uint16, as a PNG file that is fast to decode.

  A map of class ids without PNG's filters is a third smaller than with OpenCV's choice of filters, and is decoded in a
  quarter of the time; normals with the filter `UP` are 5% larger, and are decoded in 0.7 of the time.
  """
  has_ids = array.dtype == np.uint8 and array.shape[2:] in ((), (1,))
  level, chosen = (6, _PNG_UNFILTERED) if has_ids else (3, _PNG_UP)
  array = array[..., ::-1] if array.ndim == 3 else array
  return cv2.imencode('.png', array, [cv2.IMWRITE_PNG_COMPRESSION, level, _PNG_FILTER, chosen])[1].tobytes()


def decode_image(data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
  """Decodes a file that we wrote to an image [H, W, 3] RGB or a map [H, W, 1]; `flags` are OpenCV's."""
  array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if array is None:
    raise ValueError('not a readable image')
  return array[..., None] if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def reason(error: Exception) -> str:
  """An error's message in one short line."""
  if isinstance(error, UnidentifiedImageError):
    return 'unknown format'  # Pillow would repeat the path
  return sanitize(str(error).rstrip('.') or type(error).__name__)
