"""What evaluation notes of each image besides its scores, so that a report can say why the worst are bad.

They are columns of per_image.csv:

  height, width                 of the image, in pixels
  brightness                    mean grey value, 0 to 255
  sharpness                     see `sharpness`
  TASK/labelled %               share of the image's pixels that are labelled
  TASK/most missed, /missed %   the class with the most labelled pixels taken for another, and their share of it
  TASK/taken for                the class that most of these were taken for
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dmtl_jax.inference import images
from dmtl_jax.metrics.base import Metric
from dmtl_jax.tasks import Task

SIDE = 256  # longest side at which light and sharpness are measured, in pixels


def describe(image: np.ndarray, labels: dict[str, np.ndarray], tasks: Sequence[Task], size: Sequence[int]) -> dict:
  """Describes one image by columns of per_image.csv.

  Args:
    image: uint8 [h, w, 3], maybe resized.
    labels: {task: label [h', w', K]}, labelled tasks only.
    size: height and width of the image itself.
  """
  grey = cv2.cvtColor(images.shrink(image, SIDE), cv2.COLOR_RGB2GRAY)
  height, width = map(int, size)
  shares = {f'{t.name}/labelled %': 100 * float(t.valid(labels[t.name]).mean()) for t in tasks if t.name in labels}
  return {
    'height': height,
    'width': width,
    'brightness': float(grey.mean()),
    'sharpness': sharpness(grey),
    **shares,
  }


def sharpness(grey: np.ndarray) -> float:
  """Standard deviation of the Laplacian of an image [h, w] over that of its grey values; 0 for a flat image.

  The division makes it independent of contrast, so that dark images do not count as blurred.
  """
  deviation = float(grey.std())
  return float(cv2.Laplacian(grey, cv2.CV_32F).std()) / deviation if deviation else 0.0


def mistakes(states: dict, tasks: Sequence[Task], metrics: dict[str, Metric]) -> dict:
  """The largest mistake of each task's final map, as columns of per_image.csv.

  Args:
    states: {(stage, task): metric's state} of one image.
  """
  columns: dict[str, str | float] = {}
  for task in tasks:
    confusion = metrics[task.name].confusion(states['final', task.name])
    names = task.classes or ('background', task.name)
    if confusion is not None and (mistake := largest_mistake(confusion)):
      columns[f'{task.name}/most missed'] = names[mistake.label]
      columns[f'{task.name}/missed %'] = mistake.share
      columns[f'{task.name}/taken for'] = names[mistake.prediction]
  return columns


class Mistake(NamedTuple):
  """Pixels of class `label` taken for others, most of them for `prediction`: `share` in % of the class's pixels."""

  label: int
  prediction: int
  share: float


def largest_mistake(confusion: np.ndarray) -> Mistake | None:
  """The class with the most missed pixels, from counts [label, prediction]; None if none is missed."""
  wrong = confusion - np.diag(np.diag(confusion))
  missed = wrong.sum(1)
  label = int(missed.argmax())
  if not missed[label]:
    return None
  return Mistake(label, int(wrong[label].argmax()), 100 * float(missed[label] / confusion[label].sum()))
