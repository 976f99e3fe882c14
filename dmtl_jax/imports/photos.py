"""The photographs that an export is about: found by name, and compared in size."""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
import pathlib

import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import is_plain, join_names, sanitize, UserError
from dmtl_jax.inference import images

MAX_PIXELS = 1 << 28  # of a photograph, so that a header of a few bytes cannot ask for a label of gigabytes


@dataclasses.dataclass(frozen=True)
class Photo:
  """A photograph on disk.

  Attributes:
    id: its name in our folder, without suffix.
  """

  path: pathlib.Path
  id: str

  @functools.cached_property
  def stored(self) -> photographs.StoredSize:
    size = photographs.read_size(self.path)
    if size.width * size.height > MAX_PIXELS:
      raise UserError(
        f'{self.path}: has {size.width}x{size.height} pixels; make it smaller than {MAX_PIXELS >> 20} million'
      )
    return size

  @property
  def shown(self) -> tuple[int, int]:
    """Width and height as viewers show it."""
    width, height, orientation = self.stored
    return (height, width) if orientation > 4 else (width, height)

  def is_turned(self, where: str, size: tuple[int, int] | None) -> bool:
    """Whether a label of this size was drawn on the pixels as stored, which EXIF turns.

    Where the size fits both, as after a turn by 180 degrees, it is taken to be drawn on what viewers show: the tools
    heed EXIF.

    Raises:
      UserError: it fits neither.
    """
    stored = (self.stored.width, self.stored.height)
    if size in (None, self.shown):
      return False
    if size == stored:
      return True
    have = ' or '.join(f'{width}x{height}' for width, height in dict.fromkeys([self.shown, stored]))
    raise UserError(
      f'{where}: {size[0]}x{size[1]} pixels in the export, but {self.path} has {have}; give the photographs that were '
      'labelled'
    )


class Photos:
  """The photographs of --images, by name."""

  def __init__(self, spec: str):
    paths = [path for path in images.find_images(spec) if not images.is_video(path)]
    self.unsupported = [path for path in paths if photographs.unsupported_format(path)]
    self.photos = _named([path for path in paths if not photographs.unsupported_format(path)])
    self._by_name: dict[str, list[Photo]] = collections.defaultdict(list)
    self._by_stem: dict[str, list[Photo]] = collections.defaultdict(list)
    for photo in self.photos:
      name = files.nfc(photo.path.name)
      self._by_name[name].append(photo)
      self._by_stem[_stem(name)].append(photo)

  def find(self, where: str, names: Sequence[str]) -> Photo | None:
    """The photograph of one of these names, the first first; a suffix and upper case may differ.

    Raises:
      UserError: several have the name, in folders that the export does not tell apart.
    """
    for name in names:
      parts = [part for part in files.nfc(name).replace('\\', '/').split('/') if part]
      if not parts:
        continue
      found = self._by_name.get(parts[-1]) or self._by_stem.get(_stem(parts[-1])) or []
      if len(found) > 1:
        found = _most_alike(found, parts[:-1])
      if len(found) > 1:
        raise UserError(
          f'{where}: {join_names([photo.path for photo in found])} have its name; give the folder of one of them'
        )
      if found:
        return found[0]
    return None


def _stem(name: str) -> str:
  """The name without the suffix of an image, in one case."""
  stem, dot, suffix = name.rpartition('.')
  is_suffix = f'.{suffix.lower()}' in (*photographs.SUFFIXES, *photographs.EXTRA_SUFFIXES)
  return (stem if dot and is_suffix else name).casefold()


def _most_alike(photos: list[Photo], folders: list[str]) -> list[Photo]:
  """Those whose last folders agree with most of these."""

  def agreeing(photo: Photo) -> int:
    pairs = zip(reversed(photo.path.parent.parts), reversed(folders))
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

  scores = [agreeing(photo) for photo in photos]
  return [photo for photo, score in zip(photos, scores) if score == max(scores)]


def _named(paths: list[pathlib.Path]) -> list[Photo]:
  """Names each photograph by its own name, or where two share it, with its folders: cam1/x.jpg becomes cam1_x."""
  counts = collections.Counter(files.nfc(path.stem).casefold() for path in paths)
  root = os.path.commonpath([path.absolute().parent for path in paths]) if paths else ''
  photos = []
  taken: dict[str, pathlib.Path] = {}
  for path in paths:
    id = files.nfc(path.stem)
    if counts[id.casefold()] > 1:
      id = files.nfc('_'.join((*path.absolute().parent.relative_to(root).parts, path.stem)))
    if not is_plain(id):
      raise UserError(f"--images: '{sanitize(str(path))}' has control characters or is not UTF-8; rename the file")
    if not files.is_name(f'{id}.png'):
      raise UserError(f'--images: {path}: the name {id}.png would be too long; rename the file')
    if (other := taken.setdefault(id.casefold(), path)) is not path:
      raise UserError(f'--images: {other} and {path} would both be named {id}; rename one of them')
    photos.append(Photo(path, id))
  return photos


def turn(photo: Photo, array: np.ndarray) -> np.ndarray:
  """Turns a label drawn on the stored pixels as viewers turn the photograph."""
  return photographs.turn(array, photo.stored.orientation)
