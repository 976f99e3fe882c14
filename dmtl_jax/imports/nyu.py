"""NYU Depth v2's labelled data set, nyu_depth_v2_labeled.mat: photographs, depths and class maps in one HDF5 file."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.imports.export import Annotated, class_name, Export
from dmtl_jax.tasks import IGNORE

MOST = 40  # classes that are taken without --classes: those with the most pixels
MAX_PIXELS = 1 << 24  # of a frame, which has 640x480
MAX_FRAMES = 100_000
MAX_CHUNK = 1 << 26  # bytes that HDF5 unpacks together
FIX = 'download nyu_depth_v2_labeled.mat again'


def read(path: pathlib.Path, classes: list[str] | None) -> Export:
  """Reads the file.

  Args:
    classes: those to take; None for the `MOST` with the most pixels. Pixels of others are unlabelled.
  """
  file = _open(path)
  shape = _dataset(path, file, 'labels', 3).shape
  count, width, height = shape  # MATLAB stores columns first
  if not 0 < width * height <= MAX_PIXELS or not 0 < count <= MAX_FRAMES:
    raise UserError(f'{path}: "labels" has shape {sanitize(str(shape), 60)}; {FIX}')
  for name, expected in (('images', (count, 3, width, height)), ('depths', shape)):
    found = _dataset(path, file, name, len(expected)).shape
    if found != expected:
      raise UserError(f'{path}: "{name}" has shape {found}, not {expected}; {FIX}')
  names = _names(path, file)
  export = Export('NYU Depth v2', list(dict.fromkeys(names)), [])
  if classes is None and len(export.classes) > MOST:
    export.classes = _most_common(path, file, count, names)
    export.notes[f'classes beyond the {MOST} with the most pixels, left out (--classes takes others)'] = (
      len(names) - MOST
    )
  for i in range(count):
    frame = Frame(path, file, i, tuple(names))
    where = f'{path}: frame {i + 1}'
    export.images.append(
      Annotated([f'nyu_{i + 1:04d}'], where, frame, (width, height), pixels=frame.photograph, depth=frame.depths)
    )
  return export


def _most_common(path: pathlib.Path, file: Any, count: int, names: list[str]) -> list[str]:
  """The `MOST` classes with the most pixels, in the order of `names`."""
  pixels = np.zeros(65536, np.int64)
  with Progress('counting classes', count, 'img') as progress:
    for i in range(count):
      pixels += np.bincount(_frame(path, file, i, 'labels').astype(np.uint16).ravel(), minlength=65536)
      progress.update()
  largest = np.argsort(-pixels[1 : len(names) + 1], kind='stable')[:MOST]
  return list(dict.fromkeys(names[i] for i in sorted(largest)))


@dataclasses.dataclass(frozen=True)
class Frame:
  """One frame; arrays are turned from MATLAB's order to rows and columns."""

  path: pathlib.Path
  file: Any  # h5py.File, open
  index: int
  names: tuple[str, ...]

  def draw(self, size, ids, rest, notes):
    numbers = _frame(self.path, self.file, self.index, 'labels').T.astype(np.uint16)
    if numbers.shape != size or numbers.max(initial=0) > len(self.names):
      raise UserError(f'{self.path}: "labels" of frame {self.index + 1} hold a class that "names" does not have; {FIX}')
    table = np.array([IGNORE, *(ids.get(name, rest) for name in self.names)], np.uint8)
    return table[numbers]

  def photograph(self) -> np.ndarray:
    return _frame(self.path, self.file, self.index, 'images').transpose(2, 1, 0).astype(np.uint8)

  def depths(self) -> np.ndarray:
    return _frame(self.path, self.file, self.index, 'depths').T.astype(np.float32)


def _frame(path: pathlib.Path, file: Any, index: int, name: str) -> np.ndarray:
  try:
    return file[name][index]
  except (OSError, KeyError, ValueError, RuntimeError) as error:
    raise UserError(f'{path}: frame {index + 1} of "{name}" cannot be read; {FIX}') from error


def _open(path: pathlib.Path):
  try:
    import h5py
  except ImportError:
    raise UserError(f'{path}: reading it needs a package; run pip install h5py') from None
  try:
    return h5py.File(path, 'r', locking=False)
  except (OSError, ValueError, RuntimeError) as error:
    reason = sanitize(str(error), 80)
    raise UserError(f'{path}: not a MATLAB file of version 7.3, as NYU Depth v2 is ({reason}); {FIX}') from error


def _dataset(path: pathlib.Path, file, name: str, dimensions: int):
  """An array of numbers in the file itself: HDF5 has links to other files, which are not followed."""
  import h5py

  try:
    link = file.get(name, getlink=True)
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if _is_own(data) and data.ndim == dimensions and data.dtype.kind in 'uf':
      if math.prod(data.chunks or (1,)) * data.dtype.itemsize > MAX_CHUNK:
        raise UserError(f'{path}: "{name}" is stored in pieces of more than {MAX_CHUNK >> 20} MB; {FIX}')
      return data
  except UserError:
    raise
  except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
    raise UserError(f'{path}: "{name}" cannot be read; {FIX}') from error
  raise UserError(f'{path}: has no array "{name}" of {dimensions} dimensions; {FIX}')


def _is_own(data) -> bool:
  """Whether data are an array that lies in its own file."""
  import h5py

  return isinstance(data, h5py.Dataset) and not data.is_virtual and data.external is None


def _names(path: pathlib.Path, file) -> list[str]:
  import h5py

  try:
    link = file.get('names', getlink=True)
    if not isinstance(link, h5py.HardLink) or not _is_own(file['names']) or file['names'].size > 65535:
      raise ValueError('no names')
    texts = []
    for reference in np.ravel(file['names'][()]):
      letters = file[reference]
      if not _is_own(letters) or letters.size > 200 or letters.dtype.kind != 'u':
        raise ValueError('no letters')
      texts.append(''.join(chr(int(letter)) for letter in np.ravel(letters[()])))
  except UserError:
    raise
  except Exception as error:  # a cell array is a list of references, to anything
    raise UserError(f'{path}: "names" cannot be read; {FIX}') from error
  return [class_name(f'{path}: "names"', text) for text in texts]
