"""Errors of depth."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, State

FLOOR = 1e-9  # the released meter's smallest depth, which keeps a logarithm finite


class Depth(Metric):
  """absErr, relErr, sqRel, RMSE in the data set's unit and logRMSE, over the valid pixels of the set.

  With d the label and p the prediction: absErr = mean |p - d|, relErr = mean |p - d| / d,
  sqRel = mean (p - d)^2 / d, RMSE and logRMSE = root of the mean (p - d)^2, (ln p - ln d)^2.
  A prediction is at least FLOOR in all of them, as in the released code.
  """

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    truth = label[..., 0][valid].astype(np.float64)
    guess = np.maximum(prediction[valid].astype(np.float64), FLOOR)
    error = guess - truth
    return {
      'pixels': np.array(truth.size, np.int64),
      'absolute': np.abs(error).sum(),
      'relative': (np.abs(error) / truth).sum(),
      'squared_relative': (error**2 / truth).sum(),
      'squared': (error**2).sum(),
      'squared_log': ((np.log(guess) - np.log(truth)) ** 2).sum(),
    }

  def compute(self, state) -> dict[str, float]:
    over = {name: mean(total, state['pixels']) for name, total in state.items()}
    return {
      'absErr': over['absolute'],
      'relErr': over['relative'],
      'sqRel': over['squared_relative'],
      'RMSE': over['squared'] ** 0.5,
      'logRMSE': over['squared_log'] ** 0.5,
    }
