"""What evaluation scores: pieces of a prediction with their labels, small enough to be sent to other processes.

A piece is the map of one stage and task of an image, or a band of its rows where the metric allows that
(`Metric.sums_over_pixels`): whole float maps of a photograph of 12 megapixels would take gigabytes.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import time

import numpy as np

from dmtl_jax.inference import images
from dmtl_jax.inference.prediction import bands, Raw
from dmtl_jax.metrics.base import Metric, State

STAGES = ('final', 'initial')  # the stages that are scored


@dataclasses.dataclass(frozen=True)
class Piece:
  """One piece of an image.

  Attributes:
    index: of the image.
    metric: of the task.
    prediction: as `Metric.image` takes it; None: the image is not labelled for this task.
    labels: label [h, w, K] of the prediction's size, and maybe the benchmark's own truth.
  """

  index: int
  stage: str
  task: str
  metric: Metric
  prediction: np.ndarray | None = None
  labels: tuple[np.ndarray, ...] = ()


@dataclasses.dataclass
class Tally:
  """What a pass over this host's images took.

  Attributes:
    seconds: of prediction, without scoring.
    images: number of images that all hosts together predicted in that time.
    shrunk: images whose boundaries were scored at config.eval.boundary_side.
  """

  seconds: float = 0.0
  images: int = 0
  shrunk: int = 0

  @contextlib.contextmanager
  def timed(self):
    """Counts the time that the block takes."""
    began = time.monotonic()
    yield
    self.seconds += time.monotonic() - began


def score(piece: Piece) -> tuple[int, str, str, State]:
  """(index, stage, task, state) of a piece; the empty state where there is no label."""
  metric, prediction = piece.metric, piece.prediction
  state = metric.empty() if prediction is None else metric.image(prediction, *piece.labels)
  return piece.index, piece.stage, piece.task, state


def cut_image(raw: Raw, example: dict, metrics: dict[str, Metric], side: int, tally: Tally) -> Iterator[Piece]:
  """The pieces of one image at its own size, against its labels as they are.

  Args:
    raw: the network's maps of the image.
    example: of a `Source`.
    metrics: {task: metric}.
    side: where the label of a line-like kind is longer, it is resized to this side (`Task.resize_label`), and the
      prediction is averaged over the pixels that shrink into one; 0: at any size as they are.
  """
  size, index = example['image'].shape[:2], example['index']
  stages, shrunk = [stage for stage in STAGES if stage in raw.stages], False
  for task in raw.tasks:
    label, metric = example['labels'].get(task.name), metrics[task.name]
    for stage in stages:
      empty = Piece(index, stage, task.name, metric)
      if label is None:
        yield empty
      elif metric.sums_over_pixels:
        for rows in bands(size):
          with tally.timed():
            prediction = raw.prediction(stage, task, size, rows)
          yield dataclasses.replace(empty, prediction=prediction, labels=(label[rows],))
      else:
        with tally.timed():
          prediction = raw.prediction(stage, task, size)
        if task.line_like and 0 < side < max(size):
          shrunk, prediction = True, images.shrink(prediction, side)
          label = task.resize_label(label, prediction.shape[:2])
        yield dataclasses.replace(empty, prediction=prediction, labels=(label,))
  tally.shrunk += shrunk
