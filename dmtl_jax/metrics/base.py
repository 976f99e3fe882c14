"""The interface of a metric: a state per image, added up over a set, then scored."""

import abc
from typing import ClassVar, NamedTuple

import numpy as np

State = dict[str, np.ndarray]  # float64 or int64 arrays of fixed shapes; states of one metric add up


def merge(a: State, b: State) -> State:
  """Adds the states of two disjoint sets of images."""
  if a.keys() != b.keys():
    raise ValueError(f'the states belong to different metrics: {sorted(a)} and {sorted(b)}')
  return {name: a[name] + b[name] for name in a}


def ratio(numerator, denominator) -> np.ndarray:
  """numerator / denominator, 0 where the denominator is 0 (as the original benchmarks count)."""
  return numerator / np.where(denominator == 0, 1, denominator)


def mean(total, count) -> float:
  """total / count; nan for an empty set."""
  return float(total / count) if count else float('nan')


class OperatingPoint(NamedTuple):
  """The threshold of a probability at which F is best, F there, and F at a threshold of 0.5; F in %."""

  threshold: float
  f: float
  f_at_half: float


class Metric(abc.ABC):
  """Scores of one task over a set of images.

  A metric holds no counts itself: `image` returns the state of one image, `merge` adds states (of images, batches,
  hosts), `compute` scores a state. An image without a labelled pixel adds nothing; a set without one scores nan.

  Args:
    task: a `tasks.Task`; uses its `name`, `classes`, `valid`, `blank` and `blank_prediction`.
    protocol: config.eval.protocol, which selects among definitions of the same metric.

  Attributes:
    sums_over_pixels: whether the state of an image is the sum of the states of its parts, so that a large image can be
      scored part by part.
  """

  sums_over_pixels: ClassVar[bool] = False

  def __init__(self, task, protocol: str = 'plain'):
    self.task, self.protocol = task, protocol

  @abc.abstractmethod
  def image(self, prediction: np.ndarray, label: np.ndarray) -> State:
    """State of one image.

    Args:
      prediction: as `Task.activate` returns it: [H, W], normals [H, W, 3].
      label: [H, W, K] in the encoding of tasks/base.py.
    """

  @abc.abstractmethod
  def compute(self, state: State) -> dict[str, float]:
    """Scores by name; shares are percentages in 0..100."""

  def operating_point(self, state: State) -> OperatingPoint | None:
    """The best threshold of a binary task's probability; None for other tasks, and for a set without positives."""
    return None

  def compute_one(self, state: State) -> dict[str, float]:
    """Scores a single image, as `compute` does a set."""
    return self.compute(state)

  def confusion(self, state: State) -> np.ndarray | None:
    """Pixel counts [label, prediction] of a state; None for metrics that do not count classes."""
    return None

  def empty(self) -> State:
    """State of the empty set: zeros."""
    return self.image(self.task.blank_prediction(), self.task.blank(1, 1))

  def valid(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mask [H, W] of the labelled pixels; raises ValueError unless the prediction has that size and is finite there."""
    name = self.task.name
    if prediction.shape[:2] != label.shape[:2]:
      raise ValueError(f"task '{name}': prediction {prediction.shape} and label {label.shape} differ in size")
    valid = self.task.valid(label)
    if not np.isfinite(prediction).all() and not np.isfinite(prediction[valid]).all():
      raise ValueError(f"task '{name}': the prediction contains values that are not finite")
    return valid
