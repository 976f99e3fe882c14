"""Depth errors over the valid pixels of the whole set."""

import numpy as np

NAMES = ('absErr', 'relErr', 'sqRel', 'RMSE', 'logRMSE')
NEAREST = 1e-3  # a prediction is at least this, where its logarithm is taken


class Depth:
  """Metric of depth, in the labels' unit: mean |d|, |d| / true, d^2 / true, RMSE and log-RMSE."""

  def empty(self) -> dict:
    return {'count': np.zeros(1), 'sums': np.zeros(len(NAMES))}

  def image(self, prediction: np.ndarray, label: np.ndarray) -> dict:
    """prediction [H, W], label [H, W, 1]; a label of 0 is unlabelled."""
    valid = label[..., 0] > 0
    p, q = np.asarray(prediction, np.float64)[valid], np.asarray(label, np.float64)[..., 0][valid]
    error = np.abs(p - q)
    logs = np.log(np.maximum(p, NEAREST)) - np.log(q)
    sums = [error.sum(), (error / q).sum(), (error**2 / q).sum(), (error**2).sum(), (logs**2).sum()]
    return {'count': np.array([float(error.size)]), 'sums': np.array(sums)}

  def compute(self, state: dict) -> dict[str, float]:
    """See class."""
    if not state['count'][0]:
      return dict.fromkeys(NAMES, float('nan'))
    means = state['sums'] / state['count'][0]
    means[3:] = np.sqrt(means[3:])
    return dict(zip(NAMES, map(float, means)))
