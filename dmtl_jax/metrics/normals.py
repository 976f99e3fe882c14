"""Angular error of surface normals over the valid pixels of the whole set."""

import numpy as np

BINS = 1 << 18  # of angles 0..180 degrees, for the median: 0.0007 degrees each
THRESHOLDS = (11.25, 22.5, 30.0)


class Normals:
  """Metric of normals: mean error, median, RMSE and shares below 11.25, 22.5 and 30 degrees."""

  def empty(self) -> dict:
    return {
        'count': np.zeros(1),
        'sum': np.zeros(1),
        'squares': np.zeros(1),
        'below': np.zeros(len(THRESHOLDS)),
        'histogram': np.zeros(BINS, np.int64),
    }

  def image(self, prediction: np.ndarray, label: np.ndarray) -> dict:
    """prediction [H, W, 3] and label [H, W, 3] unit vectors; a label of zeros is unlabelled."""
    valid = (label != 0).any(-1)
    p, q = np.asarray(prediction, np.float64)[valid], np.asarray(label, np.float64)[valid]
    # The angle from its tangent is exact near 0 and 180 degrees, where arccos loses digits.
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(p, q), axis=-1), (p * q).sum(-1)))
    bins = np.minimum((angle * (BINS / 180)).astype(np.int64), BINS - 1)
    return {
        'count': np.array([float(angle.size)]),
        'sum': np.array([angle.sum()]),
        'squares': np.array([(angle**2).sum()]),
        'below': np.array([float((angle < t).sum()) for t in THRESHOLDS]),
        'histogram': np.bincount(bins, minlength=BINS),
    }

  def compute(self, state: dict) -> dict[str, float]:
    """mErr, median, RMSE in degrees; 11.25, 22.5, 30 in %."""
    count = state['count'][0]
    names = ['mErr', 'median', 'RMSE', *(f'{t:g}' for t in THRESHOLDS)]
    if not count:
      return dict.fromkeys(names, float('nan'))
    values = [state['sum'][0] / count, self._median(state), np.sqrt(state['squares'][0] / count)]
    return dict(zip(names, map(float, [*values, *(100 * state['below'] / count)])))

  def _median(self, state):
    middle = np.searchsorted(state['histogram'].cumsum(), state['count'][0] / 2)
    return (middle + 0.5) * 180 / BINS
