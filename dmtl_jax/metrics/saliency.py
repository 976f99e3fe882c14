"""Maximal F-measure and mean intersection over union of saliency."""

import numpy as np

from dmtl_jax.metrics.base import Metric, OperatingPoint, ratio, State
from dmtl_jax.metrics.segmentation import intersection_over_union

LEVELS = 255  # thresholds k / 255, k = 1..255
BETA_SQUARED = 0.3
# The released code thresholds sigmoid(probability) at 0.05, 0.10, ..., 0.95. A probability is at least 0, so its
# sigmoid passes every threshold up to 0.5.
RELEASED = np.arange(1, 20) / 20
RELEASED_EDGES = np.log(RELEASED / (1 - RELEASED))


def f_measure(precision, recall, beta_squared: float):
  """Weighted harmonic mean; 0 where both are 0."""
  return ratio((1 + beta_squared) * precision * recall, beta_squared * precision + recall)


def _passing(levels: np.ndarray, count: int) -> np.ndarray:
  """Numbers of entries of `levels` that are at least 1, 2, ..., count."""
  return np.cumsum(np.bincount(levels, minlength=count + 1)[::-1])[::-1][1:]


class Saliency(Metric):
  """maxF (beta^2 = 0.3) and mIoU, in %.

  maxF is the best F over thresholds of the probability, with precision and recall of the whole set. It has two
  definitions: plain, over 255 thresholds; and released, as the released code computes it, over thresholds 0.05..0.95
  after a second sigmoid. With the protocol 'pascal' they are called maxF_plain and maxF, otherwise maxF and
  maxF_released. Both are nan without a salient pixel, since then every F is 0, also that of a right prediction. mIoU is
  the mean IoU of salient and background at probability 0.5.
  """

  sums_over_pixels = True

  def __init__(self, task, protocol: str = 'plain'):
    super().__init__(task, protocol)
    self.names = ('maxF_plain', 'maxF') if protocol == 'pascal' else ('maxF', 'maxF_released')

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    salient = label[..., 0][valid] == 1
    probability = prediction[valid].astype(np.float32)
    fine = np.floor(probability * np.float32(LEVELS)).astype(np.int64)
    coarse = np.searchsorted(RELEASED_EDGES, probability, side='right')
    inside = probability >= 0.5
    return {
      'hits': _passing(fine[salient], LEVELS),
      'guesses': _passing(fine, LEVELS),
      'released_hits': _passing(coarse[salient], len(RELEASED)),
      'released_guesses': _passing(coarse, len(RELEASED)),
      'confusion': np.bincount(2 * salient + inside, minlength=4).reshape(2, 2),
    }

  def confusion(self, state):
    """Counts at probability 0.5, of background and salient pixels."""
    return state['confusion']

  def compute(self, state) -> dict[str, float]:
    confusion = state['confusion']
    if confusion.sum() == 0:
      return dict.fromkeys((*self.names, 'mIoU'), float('nan'))
    salient = confusion[1].sum()

    def best(hits, guesses):
      if not salient:
        return float('nan')
      return 100 * float(f_measure(ratio(hits, guesses), ratio(hits, salient), BETA_SQUARED).max())

    plain, released = self.names
    return {
      plain: best(state['hits'], state['guesses']),
      released: best(state['released_hits'], state['released_guesses']),
      'mIoU': 100 * float(np.nanmean(intersection_over_union(confusion))),
    }

  def operating_point(self, state):
    salient = state['confusion'][1].sum()
    if not salient:
      return None
    f = 100 * f_measure(ratio(state['hits'], state['guesses']), ratio(state['hits'], salient), BETA_SQUARED)
    hits, guesses = state['confusion'][1, 1], state['confusion'][:, 1].sum()
    at_half = 100 * f_measure(ratio(hits, guesses), ratio(hits, salient), BETA_SQUARED)
    return OperatingPoint((int(f.argmax()) + 1) / LEVELS, float(f.max()), float(at_half))
