"""Checks every file of a folder data set when it is opened; what is found is remembered (cache.py)."""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import hashlib
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from dmtl_jax.basics import photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.datasets import duplicates
from dmtl_jax.datasets.folder.cache import Cache, Row
from dmtl_jax.datasets.summary import summarize

VERSION = 7  # of the checks; a change invalidates cached results
CHUNK = 256  # images between two writes of the cache
EXIF_ORIENTATION = 0x0112
TURNS = {5: 'transposed', 6: 'clockwise', 7: 'transposed, then by 180 degrees', 8: 'counterclockwise'}


class Scan(NamedTuple):
  """What is known of N images whose files are all in order.

  Attributes:
    results: the JSON of each image, see `scan_image`.
    thumbnails: [N, P] uint8, see datasets/duplicates.py.
  """

  results: list[str]
  thumbnails: np.ndarray


def scan(files, folder: pathlib.Path) -> Scan:
  """Reads every new or changed image and label of a split, `folder.Files`, kept in `folder`.

  Raises:
    UserError: names the first few broken files; the rest are its parts.
  """
  stamps = _stamps(files)
  results = [''] * len(stamps)
  thumbnails = np.zeros((len(stamps), duplicates.SIDE**2), np.uint8)

  def keep(index: int, row: Row):
    results[index] = row.result
    if row.thumbnail:
      thumbnails[index] = np.frombuffer(row.thumbnail, np.uint8)

  with contextlib.closing(Cache(folder)) as cache:
    position = {id: index for index, id in enumerate(files.ids)}
    gone = []
    for row in cache.rows():
      index = position.get(row.id)
      if index is None:
        gone.append(row.id)
      elif row.stamp == stamps[index]:
        keep(index, row)
    cache.remove(gone)
    left = [index for index, result in enumerate(results) if not result]
    if left:
      with Progress(f'checking {folder}', len(results), 'img', len(results) - len(left)) as progress:
        for index, row in _rows(files, stamps, left, cache, progress):
          keep(index, row)
  _report(files, results, folder)
  return Scan(results, thumbnails)


def _rows(files, stamps, indices: list[int], cache: Cache, progress: Progress):
  """Scans these images and writes what is found to the cache; yields (index, `Row`)."""
  with ThreadPoolExecutor() as pool:
    for start in range(0, len(indices), CHUNK):
      rows = []
      part = indices[start : start + CHUNK]
      for index, (result, thumbnail) in zip(part, pool.map(lambda index: scan_image(files, index), part)):
        rows.append(Row(files.ids[index], stamps[index], json.dumps(result), thumbnail))
        progress.update()
        yield index, rows[-1]
      cache.write(rows)


def _stamps(files) -> list[bytes]:
  """A digest for each image, of its files' names, sizes and times and of how they are read."""
  # A package installed later may read files that were refused.
  reading = repr((VERSION, photographs.extra_formats())).encode()
  encodings = {task.name: repr((task, sorted(files.encodings[task.name].items()))) for task in files.tasks}
  digests = []
  for id, image, labels, stamps in zip(files.ids, files.images, files.labels, files.stamps):
    described = [(encodings[task], files.annotated[task].get(id)) for task in labels]
    names = ['/'.join(path.rsplit(os.sep, 2)[-2:]) for path in (image, *labels.values())]
    text = repr((described, names)).encode(errors='surrogateescape')
    digests.append(hashlib.blake2b(reading + text + stamps.tobytes(), digest_size=16).digest())
  return digests


def scan_image(files, index: int) -> tuple[dict, bytes]:
  """Reads one image and its labels.

  Returns:
    {'problems': sentences, 'size': (H, W), 'labels': {task: `LabelSummary`}, 'extra': whether there are bytes behind
    the last pixel (see `photographs.describe_extra_bytes`)}, without the last three if the image is unreadable, and the
    thumbnail.
  """
  path = files.images[index]
  try:
    image = files.image(index)
  except UserError as error:
    return {'problems': [str(error)]}, b''
  problems, labels = [], {}
  for task in files.tasks:
    label_path = files.labels[index].get(task.name)
    if label_path is None:
      continue
    try:
      label = files.label(index, task)
      labels[task.name] = summarize(task, label, files.warnings(index, task))
    except UserError as error:
      problems.append(str(error))
      continue
    if label.shape[:2] != image.shape[:2]:
      problems.append(f'{label_path}: {_describe_sizes(label.shape[:2], path, image.shape[:2])}')
  result = {'problems': problems, 'size': image.shape[:2], 'labels': labels}
  if photographs.has_extra_bytes(path):
    result['extra'] = True
  return result, duplicates.thumbnail(image).tobytes()


def _report(files, results: list[str], folder: pathlib.Path):
  """Says what is remarkable, and raises UserError for what is wrong, of the `scan_image` of each image."""
  suspects = [(files.images[i], json.loads(text)) for i, text in enumerate(results) if _is_remarkable(text)]
  extra = [os.path.basename(path) for path, result in suspects if result.get('extra')]
  if extra:
    say(f'{folder}/images: {photographs.describe_extra_bytes(extra)}')
  problems = [problem for _, result in suspects for problem in result['problems']]
  if problems:
    rest = f' (and {len(problems) - 3} more files; --mode=check lists all)' if len(problems) > 3 else ''
    raise UserError('; '.join(problems[:3]) + rest, problems)


def _is_remarkable(result: str) -> bool:
  """Whether the JSON of `scan_image` names problems or bytes; parsing all would take seconds."""
  return not result.startswith('{"problems": [],') or result.endswith('"extra": true}')


def _describe_sizes(label_size: tuple[int, int], path: str, size: tuple[int, int]) -> str:
  """The message for a label that differs in size (H, W) from its image, perhaps because EXIF rotates the image."""
  label, image = (f'{width}x{height}' for height, width in (label_size, size))
  name = os.path.basename(path)
  with Image.open(path) as file:  # not decoded, as Pillow then drops the orientation of a TIFF
    turn = TURNS.get(file.getexif().get(EXIF_ORIENTATION, 1))
  if turn and label_size == size[::-1]:
    return (
      f'{label}, as its image {name} is stored; EXIF rotates the image by 90 degrees, to {image}: rotate the '
      f'label too ({turn}), or save the image again without its EXIF orientation'
    )
  fix = 'export it at that size, or resize it by nearest pixel, which mixes no values'
  return f'{label}, but its image {name} is {image}; {fix}'
