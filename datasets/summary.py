"""What an image and its labels hold, in a few numbers, for `--mode=check` and for drawing a validation set."""

from typing import NamedTuple

import numpy as np

from dmtl_jax.tasks import Task


class LabelSummary(NamedTuple):
  """What one label holds.

  Attributes:
    pixels, labelled: number of all pixels, and of labelled ones.
    counts: labelled pixels of each class id, up to the highest that occurs; empty for kinds without classes.
    low, high: least and greatest value; None for kinds with classes and labels without a labelled pixel.
    warnings: see `Task.file_warnings`.
  """

  pixels: int
  labelled: int
  counts: list[int]
  low: float | None
  high: float | None
  warnings: dict[str, int]


class ImageSummary(NamedTuple):
  """Size (H, W) of an image, and {task: `LabelSummary`} of its labels."""

  size: tuple[int, int]
  labels: dict[str, LabelSummary]


def summarize(task: Task, label: np.ndarray, warnings: dict[str, int] | None = None) -> LabelSummary:
  """Summarises a label [H, W, K]; `warnings` are those of its file."""
  values = label[task.valid(label)]
  counts, low, high = [], None, None
  if task.has_probabilities:
    counts = np.bincount(values[:, 0]).tolist()
  elif len(values):
    low, high = float(values.min()), float(values.max())
  counted = {text: int(count) for text, count in (warnings or {}).items()}
  return LabelSummary(label[..., 0].size, len(values), counts, low, high, counted)
