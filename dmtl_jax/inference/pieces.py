"""What evaluation scores: pieces of a prediction with their labels, small enough to be sent to other processes.

A piece is the map of one image, stage and task, or a band of its rows where the metric allows that
(`Metric.sums_over_pixels`): whole float maps of a photograph of 12 megapixels would take gigabytes.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import time
from typing import NamedTuple

import numpy as np

from dmtl_jax.inference import images
from dmtl_jax.inference.forward import STAGES
from dmtl_jax.inference.raw_maps import bands, RawMaps
from dmtl_jax.metrics.base import Metric, State
from dmtl_jax.tasks import Task


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


class ScoredPiece(NamedTuple):
  index: int
  stage: str
  task: str
  state: State


@dataclasses.dataclass
class Tally:
  """Counts of one pass over this host's images.

  Attributes:
    seconds: spent in prediction, without scoring.
    images: how many images all hosts together predicted in that time.
    shrunk: how many images had their boundaries scored at config.eval.boundary_side.
  """

  seconds: float = 0.0
  images: int = 0
  shrunk: int = 0

  @contextlib.contextmanager
  def timed(self):
    """Adds the time of the block to `seconds`."""
    began = time.monotonic()
    yield
    self.seconds += time.monotonic() - began


def score(piece: Piece) -> ScoredPiece:
  """The metric's state of a piece; the empty state if there is no label."""
  metric = piece.metric
  state = metric.empty() if piece.prediction is None else metric.image(piece.prediction, *piece.labels)
  return ScoredPiece(piece.index, piece.stage, piece.task, state)


def cut_input(
  predictions: dict, batch: dict, i: int, truths: dict, tasks: Sequence[Task], metrics: dict[str, Metric]
) -> Iterator[Piece]:
  """Yields the pieces of one image at the network's input.

  Args:
    predictions: {stage: {task: [B, H, W, ...]}} of the batch.
    batch: as `pipeline.eval_batches` gives it.
    i: place of the image in the batch.
    truths: {task: the benchmark's own truth [h, w] of the image's own size}, to score against instead.
    metrics: {task: metric}.
  """
  for n, task in enumerate(tasks):
    label = batch['labels'][task.name][i]
    truth = truths.get(task.name)
    is_scored = truth is not None or (batch['label_mask'][i, n] and task.name not in truths)
    for stage, maps in predictions.items():
      piece = Piece(int(batch['index'][i]), stage, task.name, metrics[task.name])
      prediction = maps[task.name][i]
      if not is_scored:
        yield piece
      elif truth is None:
        yield dataclasses.replace(piece, prediction=prediction, labels=(label,))
      else:
        inside = region_slices(batch['region'][i])
        size = truth.shape[:2]
        labels = (task.resize_label(label[inside], size), truth.astype(np.uint8)[..., None])
        yield dataclasses.replace(piece, prediction=task.resize_prediction(prediction[inside], size), labels=labels)


def region_slices(region) -> tuple[slice, slice]:
  """Rows and columns of an image within its padding; `region` as in a batch (data/pipeline.py)."""
  top, left, height, width = region
  return slice(top, top + height), slice(left, left + width)


def cut_image(raw: RawMaps, example: dict, metrics: dict[str, Metric], side: int, tally: Tally) -> Iterator[Piece]:
  """Yields the pieces of one image at its own size, with its labels as they are.

  Args:
    raw: the network's maps of the image.
    example: of a `Source`.
    metrics: {task: metric}.
    side: if the image is longer, labels of line-like kinds are resized to this side (`Task.resize_label`), and the
      prediction is averaged over the pixels that shrink into one; 0: never.
  """
  index = example['index']
  size = example['image'].shape[:2]
  is_shrunk = False
  for task in raw.tasks:
    label = example['labels'].get(task.name)
    metric = metrics[task.name]
    for stage in STAGES:
      if stage not in raw.stages:
        continue
      piece = Piece(index, stage, task.name, metric)
      if label is None:
        yield piece
      elif metric.sums_over_pixels:
        for rows in bands(size):
          with tally.timed():
            prediction = raw.prediction(stage, task, size, rows)
          yield dataclasses.replace(piece, prediction=prediction, labels=(label[rows],))
      else:
        with tally.timed():
          prediction = raw.prediction(stage, task, size)
        if task.line_like and 0 < side < max(size):
          is_shrunk = True
          prediction = images.shrink(prediction, side)
          label = task.resize_label(label, prediction.shape[:2])
        yield dataclasses.replace(piece, prediction=prediction, labels=(label,))
  tally.shrunk += is_shrunk
