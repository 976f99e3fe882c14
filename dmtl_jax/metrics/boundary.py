"""Boundary F at a fixed tolerance, by distance: fast enough for periodic evaluation.

The matching protocol of the Berkeley benchmark is the other metric here.
"""

import cv2
import numpy as np

from dmtl_jax.metrics.base import Metric
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import Task

LEVELS = np.arange(1, 10) / 10


class ToleranceF(Metric):
  """Best F over 9 thresholds for the whole set, thinned predictions, a pixel matched where the
  other map has any pixel within the tolerance (so that several may share one): `tolF` in %.

  Args:
    tolerance: share of the image's diagonal.
  """

  def __init__(self, task: Task, tolerance: float = 0.0075):
    super().__init__(task)
    self.tolerance = tolerance

  def empty(self) -> dict:
    """Counts by threshold [9] of predicted, correct and found pixels, and of true ones [1]."""
    return {name: np.zeros(n) for name, n in (('predicted', 9), ('correct', 9), ('true', 1), ('found', 9))}

  def image(self, prediction: np.ndarray, label: np.ndarray) -> dict:
    """prediction [H, W] probability, label [H, W, 1]; unlabelled pixels count nowhere."""
    valid = self.valid(prediction, label)
    true = (label[..., 0] == 1) & valid
    reach = self.tolerance * np.hypot(*true.shape)
    near_true = _within(true, reach)
    state = self.empty() | {'true': np.array([float(true.sum())])}
    for k, level in enumerate(LEVELS):
      mask = thin((prediction >= level) & valid)
      state['predicted'][k] = mask.sum()
      state['correct'][k] = (mask & near_true).sum()
      state['found'][k] = (true & _within(mask, reach)).sum()
    return state

  def compute(self, state: dict) -> dict[str, float]:
    """tolF in %; NaN without a labelled image."""
    if not state['true'][0]:
      return {'tolF': float('nan')}
    precision = state['correct'] / np.maximum(state['predicted'], 1)
    recall = state['found'] / state['true']
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {'tolF': 100 * float(f.max())}


def _within(mask: np.ndarray, reach: float) -> np.ndarray:
  """Pixels at most `reach` from a pixel of the mask."""
  n = np.arange(-int(reach), int(reach) + 1)
  disk = (np.hypot(n[:, None], n) <= reach).astype(np.uint8)
  return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)
