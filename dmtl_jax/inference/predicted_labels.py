"""Predictions as labels: unlabelled where the model is not sure."""

import numpy as np

from dmtl_jax.inference.raw_maps import RawMaps
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
  if not task.has_probabilities:
    label = values.reshape(*size, -1).astype(task.label_dtype)
    return np.where(task.valid(label)[..., None], label, task.label_dtype(task.unlabelled))
  if task.binary:
    positive = raw.calibration.mask(task, values)
    confidence = np.where(positive, values, 1 - values)
    values = positive.astype(np.uint8)
  else:
    confidence = raw.confidence(task, size)
  return np.where(confidence < min_confidence, np.uint8(task.unlabelled), values)[..., None]
