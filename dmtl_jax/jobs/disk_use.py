"""Estimates how many bytes a prediction will write, before it writes them."""

from collections.abc import Sequence
import contextlib
import pathlib
import shutil

import numpy as np

from dmtl_jax.basics import files, photographs
from dmtl_jax.tasks import Task

SAMPLE = 100  # images whose size is looked up; the others are taken to be as large
# Bytes per pixel of PNGs, measured on predictions of rooms and CamVid.
CLASS_LABEL = 0.05
VALUE_LABEL = 1.0  # per channel


def describe_labels(paths: Sequence[pathlib.Path], tasks: Sequence[Sequence[Task]], out: pathlib.Path) -> str:
  """The sentence about label files.

  Args:
    tasks: those to write for each of the paths.
  """
  by_image = [sum(_label_bytes(task) for task in each) for each in tasks]
  return _sentence(len(paths), _pixels(paths) * sum(by_image) / max(len(by_image), 1), out)


def _label_bytes(task: Task) -> float:
  """Bytes per pixel of a label file."""
  return CLASS_LABEL if task.classes or task.binary else VALUE_LABEL * task.label_channels


def _pixels(paths: Sequence[pathlib.Path]) -> float:
  """Pixels of all images, estimated from the headers of some of them."""
  shown = [paths[i] for i in np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths))).astype(int)]
  counts = []
  for path in shown:
    with (
      contextlib.suppress(Exception),
      files.opened_image(path, (*photographs.FORMATS, *photographs.extra_formats())) as image,
    ):
      counts.append(image.width * image.height)  # broken files are reported when they are read
  return len(paths) * float(np.mean(counts or [0]))


def _sentence(count: int, size: float, out: pathlib.Path) -> str:
  place = next(path for path in (out, *out.absolute().parents) if path.exists())
  return f'{count} images: about {_readable(size)} in {out} ({_readable(shutil.disk_usage(place).free)} free)'


def _readable(size: float) -> str:
  """12 345 678 as '12 MB'."""
  for unit in ('kB', 'MB', 'GB', 'TB'):
    size /= 1000
    if size < 999.5:
      break
  return f'{size:.2g} {unit}' if size < 99.5 else f'{size:.0f} {unit}'
