"""Surface normals."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.normals import Normals as NormalsMetric
from dmtl_jax.tasks.base import float32, near, Task

# Lengths of vectors that count as labelled. Stored in 8 bits, unit vectors are 1 +- 0.01 long. Resizing and lossy
# compression shorten them: the mean of two that are 90 degrees apart is 0.71 long, of two 120 degrees apart 0.5. Grey,
# which many files hold where there is no normal, is 0.01 long, and white 1.73.
UNIT = (0.5, 1.5)


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

  def flip_values(self, values):
    return values * np.array([-1, 1, 1], np.float32)

  def from_file(self, values):
    """Unit vectors, or unsigned whole numbers with -1..1 spread over their range.

    Black, 0, 0, 0 and what is not finite are unlabelled; so is a vector that is not about as long as one (`UNIT`).
    """
    vectors, length = _decode(values)
    unit = _is_unit(length)
    if values.dtype.kind == 'f' and _lies_in_0_to_1(vectors, length):
      raise ValueError(
        'holds (xyz + 1) / 2, numbers from 0 to 1; store xyz, from -1 to 1 (2 v - 1), and 0, 0, 0 where unlabelled'
      )
    far = (length > 0) & ~unit
    if far.sum() > unit.sum() and _is_varied(vectors[far[..., 0]]):
      raise ValueError(
        f'most of its vectors are far from unit length ({np.median(length[far]):.2g} is the median of these); '
        'store unit vectors, and 0, 0, 0 where unlabelled'
      )
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=unit, casting='unsafe')

  def file_warnings(self, values):
    """Invalid vectors; and vectors away from the camera, if most are: of a visible surface hardly any can be."""
    vectors, length = _decode(values)
    unit = _is_unit(length)
    away = int((unit[..., 0] & (vectors[..., 2] < 0)).sum())
    return {
      'are vectors far from unit length, which count as unlabelled': int(((length > 0) & ~unit).sum()),
      'point away from the camera; z must be towards it, so turn these vectors round': away * (2 * away > unit.sum()),
    }

  def activate(self, logits):
    return self.soft_prediction(logits)

  def pixel_loss(self, logits, label, valid):
    return jnp.abs(normalize(logits) - label).sum(-1)

  def soft_prediction(self, logits):
    return normalize(logits.astype(jnp.float32))

  def consistency(self, logits, target):
    """One minus the cosine."""
    return near(1 - (self.soft_prediction(logits) * normalize(target)).sum(-1))

  def encode_label(self, label):
    return (label + 1) / 2

  def encode_prediction(self, logits, key):
    return (normalize(logits) + 1) / 2

  def mean(self, draws):
    """As long as the draws, so that interpolation weighs neighbours alike."""
    draws = draws.astype(jnp.float32)
    length = jnp.linalg.norm(draws, axis=-1, keepdims=True).mean(0)
    return length * normalize(normalize(draws).mean(0))

  def sample_spread(self, draws):
    draws = draws.astype(jnp.float32)
    vectors, center = normalize(draws), normalize(self.mean(draws))
    # By both sine and cosine: the arc cosine alone is blind to small angles.
    sine = jnp.linalg.norm(jnp.cross(vectors, jnp.broadcast_to(center, vectors.shape)), axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (vectors * center).sum(-1, keepdims=True))
    return jnp.degrees(jnp.sqrt((angle**2).mean(0)))

  def pixel_error(self, prediction, label):
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

  def encode_file(self, values):
    return '.npy', values.astype(np.float16)


def _decode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The array of a label file as vectors [H, W, 3] float32, zero where there is none, and their lengths [H, W, 1]."""
  if values.ndim != 3 or values.shape[2] != 3:
    raise ValueError(f'has shape {values.shape}; normals have three channels')
  if values.dtype.kind == 'u':
    unlabelled = (values == 0).all(-1, keepdims=True)
    values = np.where(unlabelled, 0, values * (np.float32(2) / np.iinfo(values.dtype).max) - 1)
  vectors = float32(values)
  vectors = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0)
  return vectors, np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)  # a square may not fit float32


def _is_unit(length: np.ndarray) -> np.ndarray:
  return (length >= UNIT[0]) & (length <= UNIT[1])


def _lies_in_0_to_1(vectors: np.ndarray, length: np.ndarray) -> bool:
  """Whether vectors are stored as (xyz + 1) / 2: nothing is negative, and undone, they are of unit length at last."""
  if not vectors.size or vectors.min() < 0 or vectors.max() > 1:
    return False
  undone = np.linalg.norm(2 * vectors - 1, axis=-1)
  stored = (length[..., 0] > 0) & (undone > 0.1)  # neither black nor grey
  error = lambda lengths: np.median(np.abs(lengths[stored] - 1))
  return bool(stored.any()) and error(undone) < 0.05 < error(length[..., 0])


def _is_varied(vectors: np.ndarray) -> bool:
  """Whether vectors [N, 3] are more than one colour that stands for *no normal*."""
  low, high = np.percentile(vectors.astype(np.float64), (5, 95), axis=0)
  return bool((high - low).max() > 0.1)


def normalize(vectors: jax.Array) -> jax.Array:
  """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
  squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
