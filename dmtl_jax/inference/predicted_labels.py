"""Predictions as labels: unlabelled where the model is not sure."""

import jax.numpy as jnp
import numpy as np

from dmtl_jax.inference import tiles
from dmtl_jax.inference.prediction import bands, RawMaps
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import Task


def predict_label(raw: RawMaps, task: Task, size: tuple[int, int], min_confidence: float) -> np.ndarray:
  """The final prediction of a task as a label [H, W, K] of a size (H, W), encoded as in tasks/base.py.

  Classes and binary labels: a pixel is unlabelled if the probability of its value is below `min_confidence`. Lines are
  thinned; a pixel that thinning removes has the value 0, and is therefore unlabelled unless `min_confidence` is low.
  Other kinds have no probabilities: all pixels are labelled, except those with a depth of 0 or less. (On rooms
  the 70% of the pixels where initial and final maps agree best have 0.96 of the mean error for
  normals and 0.99 for depth; those where 8 draws agree best have 0.91 and 0.97, at 8 times the cost.)
  """
  values = raw.prediction('final', task, size)
  if not (task.classes or task.binary):
    label = values.reshape(*size, -1).astype(task.label_dtype)
    return np.where(task.valid(label)[..., None], label, task.label_dtype(task.unlabelled))
  if task.binary:
    positive = _mask(task, values)
    confidence = np.where(positive, values, 1 - values)
    values = positive.astype(np.uint8)
  else:
    confidence = _confidence(raw, task, size)
  return np.where(confidence < min_confidence, np.uint8(task.unlabelled), values)[..., None]


def _confidence(raw: RawMaps, task: Task, size: tuple[int, int]) -> np.ndarray:
  """Probability [H, W] of the predicted class."""
  final = raw.maps['final', task.name]
  parts = [tiles.enlarge(final, raw.extent, size, rows, raw.origin) for rows in bands(size)]
  return np.concatenate([np.asarray(task.soft_prediction(jnp.asarray(part)).max(-1)) for part in parts])


def _mask(task: Task, probability: np.ndarray) -> np.ndarray:
  """The pixels [H, W] of a binary task that are predicted to be positive, as thin as labels are."""
  return thin(probability >= 0.5) if task.line_like else probability >= 0.5
