"""Surface normals."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.normals import Normals as NormalsMetric
from dmtl_jax.tasks.base import float32, near, Task


class Normals(Task):
  """Labels are unit vectors in the camera's space, zero unlabelled; L1 after normalisation; mean angle."""

  kind = 'normals'
  title = 'Normals'
  metric = 'mErr'
  scored_by = NormalsMetric
  lower = frozenset(('mErr', 'median', 'RMSE'))
  label_channels = 3
  raw_channels = 3
  spread_most = 45.0
  spread_unit = '\u00b0 between draws'  # root mean square angle to the mean direction

  def mirrored(self, values):
    return values * np.array([-1, 1, 1], np.float32)

  def from_file(self, values, ignore=0, scale=1.0):
    """Vectors of any length, or unsigned whole numbers with -1..1 spread over their range; black is unlabelled."""
    if values.ndim != 3 or values.shape[2] != 3:
      raise ValueError(f'has shape {values.shape}; normals have three channels')
    if values.dtype.kind == 'u':
      unlabelled = (values == 0).all(-1, keepdims=True)
      values = np.where(unlabelled, 0, values * (np.float32(2) / np.iinfo(values.dtype).max) - 1)
    values = float32(values)
    values = np.where(np.isfinite(values).all(-1, keepdims=True), values, 0)
    length = np.linalg.norm(values.astype(np.float64), axis=-1, keepdims=True)  # a square may not fit float32
    return np.divide(values, length, out=np.zeros_like(values), where=length > 1e-6, casting='unsafe')

  def activate(self, logits):
    return self.soft(logits)

  def error(self, logits, label, valid):
    return jnp.abs(normalize(logits) - label).sum(-1)

  def soft(self, logits):
    return normalize(logits.astype(jnp.float32))

  def consistency(self, logits, target):
    """One minus the cosine."""
    return near(1 - (self.soft(logits) * normalize(target)).sum(-1))

  def encode_label(self, label):
    return (label + 1) / 2

  def encode_prediction(self, logits, key):
    return (normalize(logits) + 1) / 2

  def mean(self, draws):
    """As long as the draws, so that interpolation weighs neighbours alike."""
    draws = draws.astype(jnp.float32)
    length = jnp.linalg.norm(draws, axis=-1, keepdims=True).mean(0)
    return length * normalize(normalize(draws).mean(0))

  def spread(self, draws):
    draws = draws.astype(jnp.float32)
    vectors, center = normalize(draws), normalize(self.mean(draws))
    # By both sine and cosine: the arc cosine alone is blind to small angles.
    sine = jnp.linalg.norm(jnp.cross(vectors, jnp.broadcast_to(center, vectors.shape)), axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (vectors * center).sum(-1, keepdims=True))
    return jnp.degrees(jnp.sqrt((angle**2).mean(0)))

  def mistake(self, prediction, label):
    """Degrees."""
    return np.degrees(np.arccos(np.clip((prediction * label).sum(-1), -1, 1)))

  def picture(self, values, limits=None):
    """(xyz + 1) / 2."""
    return colors.hatch_unless((values != 0).any(-1), np.round((np.clip(values, -1, 1) + 1) * 127.5))

  def key(self, limits=None, present=None):
    return legends.Swatches([('right', (255, 128, 128)), ('up', (128, 255, 128)), ('towards us', (128, 128, 255))])

  def legend(self, width, limits=None, present=None, scale=1):
    return legends.balls(width, scale)

  def resized(self, values, size):
    values = super().resized(values, size)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)

  def stored(self, values):
    return '.npy', values.astype(np.float16)


def normalize(vectors: jax.Array) -> jax.Array:
  """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
  squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
