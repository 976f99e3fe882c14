"""maxF of saliency: the best F over thresholds, from the counts of the whole set."""

import numpy as np

from dmtl_jax.tasks import IGNORE

BETA2 = 0.3
LEVELS = 255  # thresholds k / 255, k = 0..254
RELEASED_THRESHOLDS = np.arange(0.05, 1, 0.05)


class Saliency:
  """Metric of saliency.

  `maxF`: 255 thresholds on the probability. `maxF_released`: as the authors' code, which passes
  the probability through a second sigmoid and takes 19 thresholds 0.05..0.95 (PAPER.md, Metrics).
  """

  def empty(self) -> dict:
    """Counts of predicted-and-true and of predicted pixels by threshold; true pixels; IoU counts."""
    zeros = lambda n: np.zeros(n, np.int64)
    names = {'hit': LEVELS, 'predicted': LEVELS, 'hit_released': 19, 'predicted_released': 19}
    return {name: zeros(n) for name, n in names.items()} | {'true': zeros(1), 'confusion': zeros((2, 2))}

  def image(self, prediction: np.ndarray, label: np.ndarray) -> dict:
    """prediction [H, W] probability, label [H, W, 1]."""
    valid = label[..., 0] != IGNORE
    probability = np.asarray(prediction, np.float64)[valid]
    true = label[..., 0][valid] == 1
    hit, predicted = _above(probability, true, np.arange(LEVELS) / 255)
    again = 1 / (1 + np.exp(-probability))
    hit_released, predicted_released = _above(again, true, RELEASED_THRESHOLDS)
    confusion = np.bincount(true * 2 + (probability > 0.5), minlength=4).reshape(2, 2)
    return {
        'hit': hit,
        'predicted': predicted,
        'hit_released': hit_released,
        'predicted_released': predicted_released,
        'true': np.array([true.sum()]),
        'confusion': confusion,
    }

  def compute(self, state: dict) -> dict[str, float]:
    """maxF, mIoU and maxF_released in %."""
    if not state['confusion'].sum():
      return {'maxF': float('nan'), 'mIoU': float('nan'), 'maxF_released': float('nan')}
    confusion = state['confusion'].astype(float)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return {
        'maxF': _max_f(state['hit'], state['predicted'], state['true']),
        'mIoU': 100 * float((np.diag(confusion) / np.maximum(union, 1)).mean()),
        'maxF_released': _max_f(state['hit_released'], state['predicted_released'], state['true']),
    }


def _above(values, true, thresholds):
  """Pixels with value > threshold, true ones and all, for ascending thresholds."""
  level = np.searchsorted(thresholds, values, side='left')  # thresholds below the value
  count = lambda levels: np.bincount(levels, minlength=len(thresholds) + 1)[::-1].cumsum()[::-1][1:]
  return count(level[true]), count(level)


def _max_f(hit, predicted, true) -> float:
  precision, recall = hit / np.maximum(predicted, 1), hit / np.maximum(true, 1)
  f = (1 + BETA2) * precision * recall / np.maximum(BETA2 * precision + recall, 1e-12)
  return 100 * float(f.max())
