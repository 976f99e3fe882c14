"""Checks every file of a folder data set when it is opened; the result is cached."""

from concurrent.futures import ThreadPoolExecutor
import hashlib
import json
import pathlib

from absl import logging
from PIL import Image

from dmtl_jax.basics import caches, files, photographs
from dmtl_jax.basics.atomic import write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say

VERSION = 5  # of the checks; a change invalidates cached results
EXIF_ORIENTATION = 0x0112
TURNS = {5: 'transposed', 6: 'clockwise', 7: 'transposed, then by 180 degrees', 8: 'counterclockwise'}


def check(source, root: pathlib.Path):
  """Reads every image and label of a split, `folder.Files`; raises UserError with the first few problems."""
  cache = _cache_file(source, root)
  problems, remark = _scan_once(source, root, cache) if cache else _scan(source, root)
  if remark:
    say(f'{root}/images: {remark}')
  if problems:
    rest = f' (and {len(problems) - 3} more files; --mode=check lists all)' if len(problems) > 3 else ''
    raise UserError('; '.join(problems[:3]) + rest, problems)


def _scan_once(source, root: pathlib.Path, cache: pathlib.Path) -> tuple[list[str], str]:
  """The cached result of `_scan`; if there is none or it is damaged, scans and caches the result."""
  try:
    problems, remark = files.read_json(cache)
    return list(problems), str(remark)
  except (ValueError, TypeError):
    problems, remark = _scan(source, root)
  try:
    write_atomic(cache, json.dumps([problems, remark]))
  except OSError as error:  # only costs another scan next time
    logging.warning('%s: cannot be written (%s); the data set will be checked again', cache, error.strerror)
  return problems, remark


def stamp(path: pathlib.Path) -> tuple[int, int]:
  """A file's size and modification time, which reveal a change; -1, -1 for a missing file."""
  try:
    stat = path.stat()
  except OSError:
    return -1, -1
  return stat.st_size, stat.st_mtime_ns


def _cache_file(source, root: pathlib.Path) -> pathlib.Path | None:
  """The cache file, if there is a cache folder; its name depends on the files' paths, sizes and times."""
  formats = photographs.extra_formats()  # a package installed later may read files that were refused
  description = (VERSION, formats, source.tasks, sorted(source.encodings.items()), str(root.resolve()))
  digest = hashlib.sha256(repr(description).encode())
  for path, (size, time) in source.stamps.items():
    digest.update(f'{path.parent.name}/{path.name} {size} {time}\n'.encode())
  home = caches.folder()
  return home and home / 'scans' / f'{digest.hexdigest()[:32]}.json'


def _scan(source, root: pathlib.Path) -> tuple[list[str], str]:
  """One sentence per broken file, and a remark on the images (see `photographs.describe_extra_bytes`)."""
  problems = []
  with Progress(f'checking {root}', len(source.images), 'img') as progress, ThreadPoolExecutor() as pool:
    for sentences in pool.map(lambda i: _check_one(source, i), range(len(source.images))):
      problems += sentences
      progress.update()
  return problems, photographs.describe_extra_bytes(source.images)


def _check_one(source, index: int) -> list[str]:
  """Problems of one image and its labels."""
  path = source.images[index]
  try:
    size = source.image(index).shape[:2]
  except UserError as error:
    return [str(error)]
  problems = []
  for task in source.tasks:
    label_path = source.labels[index].get(task.name)
    if label_path is None:
      continue
    try:
      label = source.label(index, task)
    except UserError as error:
      problems.append(str(error))
      continue
    if label.shape[:2] != size:
      problems.append(f'{label_path}: {_describe_sizes(label.shape[:2], path, size)}')
  return problems


def _describe_sizes(label_size: tuple[int, int], path: pathlib.Path, size: tuple[int, int]) -> str:
  """The message for a label that differs in size (H, W) from its image, perhaps because EXIF rotates the image."""
  label, image = (f'{width}x{height}' for height, width in (label_size, size))
  with Image.open(path) as file:  # not decoded, as Pillow then drops the orientation of a TIFF
    turn = TURNS.get(file.getexif().get(EXIF_ORIENTATION, 1))
  if turn and label_size == size[::-1]:
    return (
      f'{label}, as its image {path.name} is stored; EXIF rotates the image by 90 degrees, to {image}: rotate the '
      f'label too ({turn}), or save the image again without its EXIF orientation'
    )
  return f'{label}, but its image {path.name} is {image}; make them equal'
