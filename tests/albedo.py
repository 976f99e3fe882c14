"""A kind of task from outside, as docs/extending.md has it."""

import numpy as np

from dmtl_jax.tasks import Task


class Albedo(Task):
  kind, title = 'albedo', 'Albedo'
  label_channels = raw_channels = 3

  def from_file(self, values):
    return super().from_file(values / np.float32(255))

  def picture(self, values, limits=None):
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
