"""Angular errors of surface normals."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, State

BINS_PER_DEGREE = 1000
BINS = 180 * BINS_PER_DEGREE
WITHIN = (11.25, 22.5, 30)


def angles(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Angles [...] in degrees between vectors [..., 3] of any length; 90 if one of them is zero."""
  p, q = (np.moveaxis(vectors, -1, 0).astype(np.float64, order='C') for vectors in (prediction, truth))
  squares = (p * p).sum(0) * (q * q).sum(0)
  cosine = (p * q).sum(0) / np.sqrt(np.where(squares == 0, 1, squares))
  return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


class Normals(Metric):
  """mErr, median and RMSE in degrees; shares in % of pixels within 11.25, 22.5 and 30 degrees.

  All are over the labelled pixels of the set. The median comes from a histogram and is exact to 0.0005 degrees.
  """

  sums_over_pixels = True

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    error = angles(prediction, label)[valid]
    bins = np.minimum((error * BINS_PER_DEGREE).astype(np.int64), BINS - 1)
    return {
      'pixels': np.array(error.size, np.int64),
      'angle': error.sum(),
      'squared': (error**2).sum(),
      'within': np.array([(error < limit).sum() for limit in WITHIN], np.int64),
      'histogram': np.bincount(bins, minlength=BINS),
    }

  def compute(self, state) -> dict[str, float]:
    pixels = int(state['pixels'])
    scores = {
      'mErr': mean(state['angle'], pixels),
      'median': _median(state['histogram'], pixels),
      'RMSE': mean(state['squared'], pixels) ** 0.5,
    }
    return scores | {f'{limit:g}': 100 * mean(count, pixels) for limit, count in zip(WITHIN, state['within'])}


def _median(histogram, pixels):
  if pixels == 0:
    return float('nan')
  middle = np.searchsorted(np.cumsum(histogram), [(pixels - 1) // 2, pixels // 2], side='right')
  return float((middle.mean() + 0.5) / BINS_PER_DEGREE)
