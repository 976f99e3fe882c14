"""Depth."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.depth import Depth as DepthMetric
from dmtl_jax.tasks.base import Task

MILLIMETRE = 0.001  # metres; unit of integers in label files, unless dataset.json gives another "scale"
NYUD_MEAN, NYUD_STD = 2.3618, 1.5876  # of NYUD's depths; JTR's code has them on Cityscapes too


class Depth(Task):
  """Labels are positive numbers in the data set's unit, 0 unlabelled; L1 loss; absErr."""

  kind = 'depth'
  title = 'Depth'
  metric = 'absErr'
  metric_class = DepthMetric
  lower_metrics = frozenset(('absErr', 'relErr', 'sqRel', 'RMSE', 'logRMSE'))
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
    """Floating-point numbers are metres, integers multiples of `scale`.

    Args:
      ignore: stored number that means no measurement, besides 0.
      scale: metres per unit of an integer; None: 0.001, except that 8-bit integers need an explicit scale.
    """
    if scale is None and values.dtype == np.uint8:
      raise ValueError(
        'holds 8-bit integers, too few for millimetres; store 16 bits, or give the unit in metres in dataset.json, '
        'e.g. "scale": 0.1'
      )
    if scale not in (None, 1) and values.dtype.kind == 'f':
      raise ValueError(
        'holds floating-point numbers, which are metres, but "scale" in dataset.json is the unit of integers; '
        'remove "scale", or store integers'
      )
    metres = values * np.float32(scale or MILLIMETRE) if values.dtype.kind in 'ui' else values
    label = super().from_file(metres)
    measured = label > 0
    if ignore is not None:
      measured &= self._plane(values) != ignore
    return np.where(measured, label, 0)

  def to_file(self, label, ignore=None, scale=None):
    """Whole numbers of `scale`, 16 bits if they fit; a depth too large for 32 bits becomes unlabelled."""
    units = np.round(label[..., 0].astype(np.float64) / (scale or MILLIMETRE))
    limit = np.iinfo(np.uint32).max
    units = np.where((label[..., 0] > 0) & (units <= limit), np.maximum(units, 1), 0)
    if ignore is not None:
      units = np.where((units == ignore) & (units > 0), max(ignore - 1, 0), units)
    small = units.max(initial=0) <= np.iinfo(np.uint16).max
    return ('.png', units.astype(np.uint16)) if small else ('.npy', units.astype(np.uint32))

  def file_warnings(self, values, ignore=None, scale=None, **_):
    """Counts the largest number of the type, which sensors and converters often store for *no measurement*."""
    if values.dtype.kind not in 'ui':
      return {}
    largest = int(values.max())
    if largest == ignore or largest not in (65535, np.iinfo(values.dtype).max):  # 16 bits may have been read as 32
      return {}
    depth = f'{largest * (scale or MILLIMETRE):.3g} m'
    text = f'hold {largest} = {depth}: set "ignore": {largest} in dataset.json if that means no measurement'
    return {text: int((values == largest).sum())}

  def encode_label(self, label):
    return _relative(label)

  def encode_prediction(self, logits, key):
    return _relative(logits)

  def to_unit(self, values):
    """The share of NYUD's depths that are smaller, as a normal distribution has it."""
    return jax.scipy.stats.norm.cdf(values, NYUD_MEAN, NYUD_STD)

  def limits(self, values):
    """1st and 99th percentile of a map's depth; (0, 1) if it has none."""
    valid = values[np.isfinite(values) & (values > 0)]
    if not valid.size:
      return 0.0, 1.0
    low, high = np.percentile(valid, (1, 99))
    return float(low), float(max(high, low * 1.01))

  def spread_limit(self, limits):
    """A tenth of the farthest depth."""
    return limits[1] / 10

  def picture(self, values, limits=None):
    """Colours from yellow (near) to dark blue (far)."""
    plane = values[..., 0] if values.ndim == 3 else values
    low, high = limits or self.limits(plane)
    # 0 or less is unlabelled in a label, but possible in a prediction.
    labelled = np.isfinite(plane) & ((plane > 0) | (values.ndim == 2))
    return colors.hatch_unlabelled(labelled, colors.heat(-np.where(labelled, plane, high), (-high, -low)))

  def key(self, limits=None, present=None, unit=''):
    # `limits` leaves out the outermost 1%, which get the colours of the ends.
    low, high = 'near', 'far'
    if limits:
      low, high = f'< {limits[0]:.3g}', f'> {limits[1]:.3g} {unit or "(label units)"}'
    return legends.Scale(colors.ramp()[::-1], low, high)


def _relative(depth: jax.Array) -> jax.Array:
  """Depth [B, H, W, 1] divided by the image's largest absolute depth."""
  return depth / jnp.maximum(jnp.abs(depth).max((1, 2, 3), keepdims=True), 1e-6)
