"""Lists the files of a folder data set, of which there may be hundreds of thousands, with their sizes and times."""

import os
import pathlib
from typing import NamedTuple

from dmtl_jax.basics import files, photographs
from dmtl_jax.basics.errors import is_plain, join_names, sanitize, UserError

LABEL_SUFFIXES = ('.png', '.npy')
LOSSY = ('.jpg', '.jpeg')
EXPORTED = ('.json', '.xml', '.txt')  # of files in which labelling tools keep labels
POOL = 'unlabelled'  # photographs without labels, beside the splits


class File(NamedTuple):
  """A file, and its size and modification time in nanoseconds, which reveal a change."""

  path: str
  size: int
  time: int


def stamp(path: str) -> tuple[int, int]:
  """Size and time of a file as in `File`; -1, -1 for a missing file."""
  try:
    status = os.stat(path)
  except OSError:
    return -1, -1
  return status.st_size, status.st_mtime_ns


def split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
  """The folder of a split's images and labels: PATH/SPLIT; without PATH/train, PATH is that of the training images."""
  folder = root / split
  if split == 'val' or not (root / 'images').is_dir():
    return folder
  if folder.is_dir():
    raise UserError(f'{root}: has images both in images and in train/images; move all to train, with their labels')
  return root


def image_files(folder: pathlib.Path, pool: pathlib.Path | None = None) -> dict[str, File]:
  """{id: file} of a split's images.

  Args:
    folder: of the split's images; with a pool it need not exist.
    pool: folder of further images; need not exist.
  """
  folders = [place for place in (folder, pool) if place and place.is_dir()] or [folder]
  images: dict[str, File] = {}
  for place in folders:
    if not place.is_dir():
      raise UserError(_describe_missing(place, folder.parent.name == 'val'))
    paths = visible_files(place)
    unknown = not all(path.lower().endswith(photographs.suffixes()) for path in paths)
    if unknown and (unread := photographs.unsupported_files(map(pathlib.Path, paths))):
      raise UserError(f'{place}: {unread}')
    for id, file in by_stem(place, photographs.suffixes()).items():
      check_distinct(file.path, images.setdefault(id, file).path)
  if not images:
    raise UserError(f'{folder}: contains no images; put images ({", ".join(photographs.suffixes())}) there')
  for id, file in images.items():
    if not files.is_name(f'{id}.png'):  # reported before a network is trained
      raise UserError(
        f'{file.path}: the name is too long for result files, NAME.png; shorten it and those of its labels'
      )
  return images


def _describe_missing(folder: pathlib.Path, is_val: bool) -> str:
  """What to do about a missing folder of images."""
  for place in (folder.parent, folder.parent.parent):
    if place.is_dir() and any(path.lower().endswith(photographs.suffixes()) for path in visible_files(place)):
      return f'{folder}: no such folder; move the images of {place} there'
  if is_val:
    return f'{folder}: no such folder; put images there, or remove {folder.parent} to validate on a part of the others'
  return f'{folder}: no such folder; put your images there, or in {folder.parent.parent / "images"}'


def by_stem(folder: pathlib.Path, suffixes: tuple[str, ...], beside: str = '') -> dict[str, File]:
  """{name without suffix, in NFC: file} of a folder's files, sorted, without hidden ones and that named `beside`."""
  stems: dict[str, File] = {}
  try:
    with os.scandir(os.fspath(folder)) as entries:
      found = sorted((entry for entry in entries if not entry.name.startswith('.')), key=lambda entry: entry.name)
  except OSError as error:
    raise UserError(f'{folder}: cannot be read ({error.strerror}); check its permissions') from error
  for entry in found:
    if not is_plain(entry.name):
      raise UserError(f"{folder}: '{sanitize(entry.name)}' has control characters or is not UTF-8; rename the file")
    path = entry.path
    if not entry.is_file():
      raise UserError(f'{path}: is not a file, or is a broken link; replace or remove it')
    if entry.name == beside:
      continue
    # If it were skipped, a label in another format would silently mean "not labelled".
    stem, suffix = os.path.splitext(entry.name)
    if suffix.lower() not in suffixes:
      is_lossy = suffix.lower() in LOSSY and not set(LOSSY) & set(suffixes)
      fix = 'JPEG changes the numbers of a label, so export it again as PNG' if is_lossy else 'convert or remove it'
      if suffix.lower() in EXPORTED:
        fix = "if it holds a labelling tool's labels, import them with --mode=import, then move it elsewhere"
      raise UserError(f'{path}: is not one of {", ".join(suffixes)}; {fix}')
    status = entry.stat()
    file = File(path, status.st_size, status.st_mtime_ns)
    check_distinct(path, stems.setdefault(files.nfc(stem), file).path)
  return stems


def check_distinct(path: str | pathlib.Path, other: str | pathlib.Path):
  """Raises UserError if two files would be the same image, label or task."""
  if path == other:
    return
  path, other = pathlib.Path(path), pathlib.Path(other)
  name = other.name if other.parent == path.parent else str(other)
  if path.stem == other.stem:
    raise UserError(f'{path}: {name} has the same name; rename one of them')
  raise UserError(
    f'{path}: {other.name!a} and {path.name!a} are the same name in two Unicode forms (NFC and NFD); rename or remove '
    'one of them'
  )


def visible_files(folder: pathlib.Path) -> list[str]:
  """Paths of what a folder holds, sorted, without hidden files."""
  try:
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if not name.startswith('.'))
  except OSError as error:
    raise UserError(f'{folder}: cannot be read ({error.strerror}); check its permissions') from error


def check_no_orphans(labels: dict[str, dict[str, File]], images: dict[str, File], folder: pathlib.Path):
  """Raises UserError for labels {task: {id: file}} without an image of the same name in `folder`."""
  orphans = [file.path for by_id in labels.values() for id, file in by_id.items() if id not in images]
  if orphans:
    raise UserError(f'{join_names(orphans)}: no image of the same name in {folder}')
