"""Estimates how many bytes a prediction will write, before it writes them."""

from collections.abc import Iterable, Sequence
import contextlib
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.inference import images
from dmtl_jax.tasks import KINDS, Task

LOOKED_AT = 100  # images whose size is read; the others are taken to be as large
# Bytes per pixel of PNGs, measured on photographs and rendered rooms.
CLASS_LABEL = 0.05
VALUE_LABEL = 1.0  # per channel
PICTURE = 1.5
PANEL = 1.6e5  # bytes per task of a panel


class _Sizes(NamedTuple):
  """Mean pixels per image, in full and after pictures were shrunk."""

  full: float
  shown: float


def describe_labels(paths: Sequence[pathlib.Path], tasks: Iterable[Sequence[Task]], out: pathlib.Path) -> str:
  """The sentence about label files.

  Args:
    tasks: those whose labels are missing, for each of the paths.
  """
  pixels = _mean_sizes(paths, 1).full
  return _sentence(len(paths), pixels * sum(_label_bytes(task) for missing in tasks for task in missing), out)


def describe_maps(paths: Sequence[pathlib.Path], tasks: Sequence[Task], samples: int, side: int, out) -> str:
  """The sentence about arrays, pictures and, with several samples, those of their uncertainty; '' if all are videos.

  Args:
    side: longest side of pictures.
  """
  stills = [path for path in paths if not images.is_video(path)]
  if not stills:
    return ''
  sizes = _mean_sizes(stills, side)
  arrays = sum(_map_bytes(task) for task in tasks)
  pictures = len(tasks)
  if samples > 1:
    arrays += 4 * len(tasks)
    pictures *= 2
  return _sentence(
    len(stills), len(stills) * (sizes.full * arrays + sizes.shown * pictures * PICTURE + PANEL * len(tasks)), out
  )


def _map_bytes(task: Task) -> int:
  """Bytes per pixel of an array: class ids in 8 bits, normals in float16, the rest in float32."""
  if task.classes:
    return 1
  return task.label_channels * (2 if isinstance(task, KINDS['normals']) else 4)


def _label_bytes(task: Task) -> float:
  """Bytes per pixel of a label file."""
  return CLASS_LABEL if task.has_probabilities else VALUE_LABEL * task.label_channels


def _mean_sizes(paths: Sequence[pathlib.Path], side: int) -> _Sizes:
  """From the headers of some of the images, for pictures of at most `side` pixels per side."""
  full, shown = [], []
  for i in np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).astype(int):
    with contextlib.suppress(Exception), files.opened_image(paths[i], photographs.formats()) as image:
      full.append(image.width * image.height)  # a broken file is reported when its turn comes
      shown.append(full[-1] * min(1, side / max(image.size)) ** 2)
  return _Sizes(float(np.mean(full or [0])), float(np.mean(shown or [0])))


def _sentence(count: int, size: float, out: pathlib.Path) -> str:
  place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
  free = shutil.disk_usage(place).free
  return f'{images.count_of(count, "image")} will take about {_readable(size)} in {out} ({_readable(free)} are free)'


def _readable(size: float) -> str:
  """12 345 678 as '12 MB'."""
  unit, scale = next(((u, s) for u, s in (('GB', 1e9), ('MB', 1e6)) if size >= s), ('kB', 1e3))
  return f'{size / scale:.2g} {unit}' if size < 99.5 * scale else f'{size / scale:.0f} {unit}'
