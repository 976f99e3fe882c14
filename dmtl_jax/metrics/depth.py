"""Errors of depth, and the mean absolute error of any regression."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, State

FLOOR = 1e-9  # smallest depth of the released code's metric; keeps the logarithm finite


class AbsoluteError(Metric):
  """MAE: mean absolute error over channels and the labelled pixels of the set, in the label's unit."""

  sums_over_pixels = True

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    error = np.abs(prediction.reshape(label.shape).astype(np.float64) - label)[valid]
    return {'pixels': np.array(len(error)), 'error': error.mean(-1).sum()}

  def compute(self, state) -> dict[str, float]:
    return {'MAE': mean(state['error'], state['pixels'])}


class Depth(Metric):
  """absErr, relErr, sqRel, RMSE in the data set's unit and logRMSE, over the labelled pixels of the set.

  With d the label and p the prediction: absErr = mean |p - d|, relErr = mean |p - d| / d,
  sqRel = mean (p - d)^2 / d, RMSE = root of the mean (p - d)^2, logRMSE = root of the mean (ln p - ln d)^2.
  As in the released code, predictions below FLOOR are raised to it first.
  """

  sums_over_pixels = True

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
    means = {name: mean(total, state['pixels']) for name, total in state.items()}
    return {
      'absErr': means['absolute'],
      'relErr': means['relative'],
      'sqRel': means['squared_relative'],
      'RMSE': means['squared'] ** 0.5,
      'logRMSE': means['squared_log'] ** 0.5,
    }
