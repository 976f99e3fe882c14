"""Depth."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.depth import Depth as DepthMetric
from dmtl_jax.tasks.base import Task

MILLIMETRE = 0.001  # metres; the unit of whole numbers in label files, unless dataset.json says another


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

  def rescale_for_zoom(self, values, zoom):
    return values / zoom

  @property
  def file_fields(self):
    return 'ignore', 'scale'

  def from_file(self, values, ignore=None, scale=None):
    """Floating-point numbers are metres.

    Args:
      ignore: a stored number that means no measurement, besides 0.
      scale: metres of a whole number's unit; None: 0.001, for which 8 bits are too few.
    """
    if scale is None and values.dtype == np.uint8:
      raise ValueError(
        'holds 8-bit numbers, too few for millimetres; store 16 bits, or say in dataset.json how many metres one is, '
        'as "scale": 0.1'
      )
    if scale not in (None, 1) and values.dtype.kind == 'f':
      raise ValueError(
        'holds floating-point numbers, which are metres, but dataset.json gives a "scale", the unit of whole numbers; '
        'remove "scale", or store whole numbers'
      )
    metres = values * np.float32(scale or MILLIMETRE) if values.dtype.kind in 'ui' else values
    label = super().from_file(metres)
    measured = label > 0
    if ignore is not None:
      measured &= self._plane(values) != ignore
    return np.where(measured, label, 0)

  def file_warnings(self, values, ignore=None, scale=None):
    """Sensors and converters often store the largest number of the type where they measured nothing."""
    if values.dtype.kind not in 'ui':
      return {}
    most = int(values.max())
    if most == ignore or most not in (65535, np.iinfo(values.dtype).max):  # 16 bits may have been read as 32
      return {}
    depth = f'{most * (scale or MILLIMETRE):.3g} m'
    text = f'hold {most} = {depth}: set "ignore": {most} in dataset.json if that means no measurement'
    return {text: int((values == most).sum())}

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
