"""Depth."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.depth import Depth as DepthMetric
from dmtl_jax.tasks.base import Task


class Depth(Task):
  """Labels are positive, in the data set's unit, 0 unlabelled; L1; absErr."""

  kind = 'depth'
  title = 'Depth'
  metric = 'absErr'
  scored_by = DepthMetric
  lower = frozenset(('absErr', 'relErr', 'sqRel', 'RMSE', 'logRMSE'))
  digits = 4
  relative_to_view = True

  def valid(self, label):
    return label[..., 0] > 0

  def nearer(self, values, zoom):
    return values / zoom

  def from_file(self, values, ignore=0, scale=1.0):
    values = super().from_file(values, ignore, scale)
    return np.where(values > 0, values, 0)

  def encode_label(self, label):
    return _relative(label)

  def encode_prediction(self, logits, key):
    return _relative(logits)

  def limits(self, values):
    """Nearest and farthest depth of a map, without the outermost 1%; (0, 1) where it has none."""
    valid = values[np.isfinite(values) & (values > 0)]
    if not valid.size:
      return 0.0, 1.0
    low, high = np.percentile(valid, (1, 99))
    return float(low), float(max(high, low * 1.01))

  def spread_limit(self, limits):
    """A tenth of the farthest depth."""
    return limits[1] / 10

  def picture(self, values, limits=None):
    """From yellow (near) to dark blue (far)."""
    plane = values[..., 0] if values.ndim == 3 else values
    low, high = limits or self.limits(plane)
    # A prediction may be 0 or less; in a label that means unlabelled.
    labelled = np.isfinite(plane) & ((plane > 0) | (values.ndim == 2))
    return colors.hatch_unless(labelled, colors.heat(-np.where(labelled, plane, high), (-high, -low)))

  def key(self, limits=None, present=None):
    # The colours leave out the outermost 1%: what is nearer or farther looks like the ends.
    low, high = (f'< {limits[0]:.3g}', f'> {limits[1]:.3g} (label units)') if limits else ('near', 'far')
    return legends.Scale(colors.ramp()[::-1], low, high)


def _relative(depth: jax.Array) -> jax.Array:
  """Depth [B, H, W, 1] over the image's largest absolute depth."""
  return depth / jnp.maximum(jnp.abs(depth).max((1, 2, 3), keepdims=True), 1e-6)
