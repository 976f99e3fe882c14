"""The error of any regression."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, State


class AbsoluteError(Metric):
  """MAE: mean absolute error over channels and the valid pixels of the set, in the label's unit."""

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    error = np.abs(prediction.reshape(label.shape).astype(np.float64) - label)[valid]
    return {'pixels': np.array(len(error)), 'error': error.mean(-1).sum()}

  def compute(self, state) -> dict[str, float]:
    return {'MAE': mean(state['error'], state['pixels'])}
