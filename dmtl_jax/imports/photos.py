"""The photographs that an export is about: found by name, and compared in size."""

import collections
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import filecmp
import functools
import hashlib
import itertools
import os
import pathlib
import re

import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import is_plain, join_names, sanitize, UserError
from dmtl_jax.imports.target import SPLITS
from dmtl_jax.inference import images

MAX_PIXELS = 1 << 28  # of a photograph, so that a header of a few bytes cannot ask for a label of gigabytes
DATE = r'((19|20)\d\d[01]\d[0-3]\d|[0-3]\d[0-3]\d(19|20)\d\d)-'  # with which cameras and people begin names
# A file uploaded to Label Studio, in all of its exports.
UPLOADED = re.compile(rf'(?P<folder>.*/)?(?!{DATE})[0-9a-f]{{8}}-(?P<name>[^/]+)')


@dataclasses.dataclass(frozen=True)
class Photo:
  """A photograph on disk.

  Attributes:
    id: its name in our folder, without suffix.
    known: the same photograph in our folder, if it is there already.
  """

  path: pathlib.Path
  id: str
  known: pathlib.Path | None = None

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
  """The photographs of --images, by name.

  Args:
    spec: see `images.find_images`.
    root: our folder; what it holds is left out where it lies among other photographs, and its labels always.
    masks: files of the export that are no photographs, though they may lie among them.

  Raises:
    UserError: there is no photograph.
  """

  def __init__(self, spec: str, root: pathlib.Path, masks: Collection[pathlib.Path] = ()):
    labels = {path.absolute() for path in masks}
    found = [path for path in images.find_images(spec) if not images.is_video(path)]
    paths = [path for path in found if path.absolute() not in labels and not _is_label(path, root)]
    if found and not paths:
      raise UserError(f'--images={sanitize(spec)}: holds only labels; give the folder of the photographs')
    paths = [path for path in paths if root.absolute() not in path.absolute().parents] or paths
    self.unsupported = [path for path in paths if photographs.unsupported_format(path)]
    self.photos = _named([path for path in paths if not photographs.unsupported_format(path)])
    self._index()

  def _index(self):
    self._by_name: dict[str, list[Photo]] = collections.defaultdict(list)
    self._by_stem: dict[str, list[Photo]] = collections.defaultdict(list)
    self._by_uploaded: dict[str, list[Photo]] = collections.defaultdict(list)
    for photo in self.photos:
      name = files.nfc(photo.path.name)
      self._by_name[name].append(photo)
      self._by_stem[_stem(name)].append(photo)
      self._by_uploaded[_stem(_uploaded(name))].append(photo)

  def match(self, ours: Mapping[str, pathlib.Path]):
    """Finds the photographs that our folder has, perhaps under another name: a name depends on what else was given.

    Args:
      ours: {id: path} of our folder.
    """
    ours = {id: path for id, path in ours.items() if path.is_file()}
    others: dict[int, list[str]] = collections.defaultdict(list)  # by size, since few files share theirs
    for id in sorted(ours.keys() - {photo.id for photo in self.photos}):
      others[ours[id].stat().st_size].append(id)
    digests: dict[int, dict[bytes, str]] = {}

    def find_id(photo: Photo) -> str | None:
      if photo.id in ours and _is_same(ours[photo.id], photo.path):
        return photo.id
      size = photo.path.stat().st_size
      if size in others:
        digests[size] = {_digest(ours[id]): id for id in others.pop(size)}
      return digests[size].pop(_digest(photo.path), None) if digests.get(size) else None

    ids = map(find_id, self.photos)
    self.photos = [
      dataclasses.replace(photo, id=id, known=ours[id]) if id else photo for photo, id in zip(self.photos, ids)
    ]
    self._index()

  def find(self, where: str, names: Sequence[str]) -> Photo | None:
    """The photograph of one of these names, the first first; a suffix and upper case may differ.

    Raises:
      UserError: several have the name, in folders that the export does not tell apart.
    """

    def by_name(last: str) -> list[Photo] | None:
      return self._by_name.get(last) or self._by_stem.get(_stem(last))

    def by_uploaded_name(last: str) -> list[Photo] | None:
      return self._by_uploaded.get(_stem(last))

    names = [files.nfc(name).replace('\\', '/') for name in names]
    uploads = [upload for upload in map(UPLOADED.fullmatch, names) if upload]
    plain = [f'{upload["folder"] or ""}{upload["name"]}' for upload in uploads]
    searches = [(name, by_name) for name in names]
    searches += [(name, look_up) for name in plain for look_up in (by_name, by_uploaded_name)]
    return next(filter(None, (self._find(where, name, look_up) for name, look_up in searches)), None)

  def _find(self, where: str, name: str, look_up: Callable[[str], list[Photo] | None]) -> Photo | None:
    *folders, last = [part for part in name.split('/') if part] or ['']
    found = look_up(last) or []
    if len(found) > 1:
      found = _most_alike(found, folders)
    if len(found) > 1:
      raise UserError(
        f'{where}: {join_names([photo.path for photo in found])} have its name; give the folder of one of them'
      )
    return found[0] if found else None


def _is_label(path: pathlib.Path, root: pathlib.Path) -> bool:
  """Whether a file lies where our folder `root` keeps labels and predictions."""
  if root.absolute() not in path.absolute().parents:
    return False
  parts = path.absolute().relative_to(root.absolute()).parts[:-1]
  return parts[1 if parts[:1] and parts[0] in SPLITS else 0 :][:1] in (('labels',), ('predicted',))


def _stem(name: str) -> str:
  """The name without the suffix of an image, in one case."""
  stem, dot, suffix = name.rpartition('.')
  is_suffix = f'.{suffix.lower()}' in (*photographs.SUFFIXES, *photographs.EXTRA_SUFFIXES)
  return (stem if dot and is_suffix else name).casefold()


def _uploaded(name: str) -> str:
  """What Label Studio makes of the name of an uploaded file: no blanks, and only letters, digits, '_', '-' and '.'."""
  return re.sub(r'[^-\w.]', '', name.strip().replace(' ', '_'))


def _is_same(path: pathlib.Path, other: pathlib.Path) -> bool:
  return os.path.samefile(path, other) or filecmp.cmp(path, other, shallow=False)


def _digest(path: pathlib.Path) -> bytes:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'blake2b').digest()


def _most_alike(photos: list[Photo], folders: list[str]) -> list[Photo]:
  """Those whose last folders agree with most of these, and of them those with the most folders of these names."""

  def agreeing(photo: Photo) -> tuple[int, int]:
    own = photo.path.parent.parts
    pairs = zip(reversed(own), reversed(folders))
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))), len({*own} & {*folders})

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
