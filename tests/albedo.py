"""A kind of task from outside: albedo, three channels in 0..1; docs/extending.md shows this file."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric
from dmtl_jax.tasks import Task


class AbsoluteError(Metric):
  def image(self, prediction, label):
    valid = self.valid(prediction, label)
    return {'pixels': np.array(valid.sum()), 'error': np.abs(prediction - label)[valid].mean(-1).sum()}

  def compute(self, state):
    return {'MAE': mean(state['error'], state['pixels'])}


class Albedo(Task):
  kind, title, metric, lower, digits = 'albedo', 'Albedo', 'MAE', frozenset({'MAE'}), 3
  label_channels = raw_channels = 3

  def from_file(self, values, ignore=0, scale=1.0):
    return super().from_file(values / np.float32(255))

  def scorer(self, protocol='plain', tolerance=0.0075, quick=False):
    return AbsoluteError(self)

  def picture(self, values, limits=None):
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
