"""Checks every file of a folder data set when it is opened; the result is cached."""

from concurrent.futures import ThreadPoolExecutor
import hashlib
import json
import pathlib

from absl import logging
import numpy as np

from dmtl_jax.basics import caches, files
from dmtl_jax.basics.atomic import write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress

VERSION = 3  # of the checks: a change makes old results void


def check(source, root: pathlib.Path):
  """Reads every image and label of a split, `folder.Files`; raises UserError with what is wrong with the first few."""
  cache = _cache_file(source, root)
  problems = _scan_once(source, root, cache) if cache else _scan(source, root)
  if problems:
    rest = f' (and {len(problems) - 3} more files; --mode=check lists them)' if len(problems) > 3 else ''
    raise UserError('; '.join(problems[:3]) + rest, problems)


def _scan_once(source, root: pathlib.Path, cache: pathlib.Path) -> list[str]:
  """What is kept of an earlier `_scan`; where there is none, or a damaged one, it is made and kept."""
  try:
    return list(files.read_json(cache))
  except (ValueError, TypeError):
    problems = _scan(source, root)
  try:
    write_atomic(cache, json.dumps(problems))
  except OSError as error:  # costs a scan next time, no more
    logging.warning('%s: cannot be written (%s); the data set will be checked again', cache, error.strerror)
  return problems


def stamp(path: pathlib.Path) -> tuple[int, int]:
  """A file's size and time, by which a change is told; of one that is not there, none."""
  try:
    stat = path.stat()
  except OSError:
    return -1, -1
  return stat.st_size, stat.st_mtime_ns


def _cache_file(source, root: pathlib.Path) -> pathlib.Path | None:
  """Where the result is kept, if anywhere: named by the files' paths, sizes and times; a change is a new scan."""
  description = (VERSION, source.tasks, sorted(source.encodings.items()), str(root.resolve()))
  digest = hashlib.sha256(repr(description).encode())
  for path, (size, time) in source.stamps.items():
    digest.update(f'{path.parent.name}/{path.name} {size} {time}\n'.encode())
  home = caches.folder()
  return home and home / 'scans' / f'{digest.hexdigest()[:32]}.json'


def _scan(source, root: pathlib.Path) -> list[str]:
  """One sentence a broken file."""
  problems, values = [], {}
  with Progress(f'checking {root}', len(source.images), 'img') as progress, ThreadPoolExecutor() as pool:
    for found, seen in pool.map(lambda i: _check_one(source, i), range(len(source.images))):
      problems += found
      for name, ids in seen.items():
        values.setdefault(name, set()).update(ids)
      progress.update()
  for task in source.tasks:
    # A mask stored as 0 and 255 would silently become "nothing, and unlabelled".
    if values.get(task.name) == {0, task.unlabelled}:
      where = f'{root}/labels/{task.name}'
      problems.append(f'{where}: holds only 0 and 255, and 255 is unlabelled; store 1 for {task.kind}')
  return problems


def _check_one(source, index: int) -> tuple[list[str], dict[str, set]]:
  """Problems of one image and its labels, and the values its binary labels hold."""
  path = source.images[index]
  try:
    size = files.open_image(path, upright=True).size[::-1]
  except ValueError as error:
    return [f'{path}: {error}; replace or remove it'], {}
  try:
    decoded = source.image(index).shape[:2]  # by OpenCV, as in training
  except UserError as error:
    return [str(error)], {}
  if decoded != size:
    return [f'{path}: OpenCV and Pillow do not agree on its size; convert it to PNG or JPEG'], {}
  problems, seen = [], {}
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
      sizes = [f'{width}x{height}' for height, width in (label.shape[:2], size)]
      problems.append(f'{label_path}: {sizes[0]}, but its image {path.name} is {sizes[1]}; make them equal')
    if task.binary:
      seen[task.name] = set(np.unique(label).tolist())
  return problems, seen
