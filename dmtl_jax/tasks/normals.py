"""Surface normals."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.normals import Normals as NormalsMetric
from dmtl_jax.tasks.base import keep_near, Task, to_float32

# Vectors of these lengths count as labelled. In 8 bits, unit vectors have length 1 +- 0.01. Resizing and lossy
# compression shorten them: the mean of two vectors 90 degrees apart has length 0.71, of two 120 degrees apart 0.5.
# Grey, which many files store where there is no normal, has length 0.01, and white 1.73.
MIN_LENGTH, MAX_LENGTH = 0.5, 1.5


class Normals(Task):
  """Labels are unit vectors in camera space, zero unlabelled; L1 loss after normalisation; mean angle."""

  kind = 'normals'
  title = 'Normals'
  metric = 'mErr'
  metric_class = NormalsMetric
  lower_metrics = frozenset(('mErr', 'median', 'RMSE'))
  label_channels = 3
  raw_channels = 3
  max_spread = 45.0
  spread_unit = '\u00b0 between draws'  # root mean square angle to the mean direction

  def flip_values(self, values):
    return values * np.array([-1, 1, 1], np.float32)

  def from_file(self, values):
    """Floats are unit vectors; unsigned integers map their range to -1..1.

    0, 0, 0, numbers that are not finite and vectors not of about unit length (`MIN_LENGTH`) are unlabelled.
    """
    vectors, length = _decode(values)
    is_unit = _is_unit(length)
    if values.dtype.kind == 'f' and _is_shifted(vectors, length):
      raise ValueError(
        'holds (xyz + 1) / 2, numbers from 0 to 1; store xyz, from -1 to 1 (2 v - 1), and 0, 0, 0 where unlabelled'
      )
    far = (length > 0) & ~is_unit
    if far.sum() > is_unit.sum() and _is_varied(vectors[far[..., 0]]):
      raise ValueError(
        f'most of its vectors are far from unit length (the median of these is {np.median(length[far]):.2g}); '
        'store unit vectors, and 0, 0, 0 where unlabelled'
      )
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=is_unit, casting='unsafe')

  def to_file(self, label):
    """8 bits a channel, at most 0.4 degrees off."""
    return '.png', np.where(self.valid(label)[..., None], np.round((label + 1) * 127.5), 0).astype(np.uint8)

  def file_warnings(self, values, **_):
    """Counts vectors of wrong length, and those away from the camera (hardly any is real) if they are the majority."""
    vectors, length = _decode(values)
    is_unit = _is_unit(length)
    away = int((is_unit[..., 0] & (vectors[..., 2] < 0)).sum())
    return {
      'are vectors far from unit length, which count as unlabelled': int(((length > 0) & ~is_unit).sum()),
      'point away from the camera; z must point towards it, so negate these vectors': away * (2 * away > is_unit.sum()),
    }

  def activate(self, logits):
    """As `soft_prediction`; the channels are added by name as in `pixel_loss`."""
    logits = logits.astype(jnp.float32)
    x, y, z = (logits[..., i] for i in range(3))
    return logits * _inverse_length(x * x + y * y + z * z)[..., None]

  def pixel_loss(self, logits, label, valid):
    """The three channels are added by name: XLA on CPUs takes twice the time for reductions over so few."""
    x, y, z = (logits[..., i] for i in range(3))
    scale = _inverse_length(x * x + y * y + z * z)
    return sum(jnp.abs(values * scale - label[..., i]) for i, values in enumerate((x, y, z)))

  def soft_prediction(self, logits):
    return normalize(logits.astype(jnp.float32))

  def consistency(self, logits, target):
    """One minus the cosine of the angle."""
    return keep_near(1 - (self.soft_prediction(logits) * normalize(target)).sum(-1))

  def encode_label(self, label):
    return self.to_unit(label)

  def encode_prediction(self, logits, key):
    return self.to_unit(normalize(logits))

  def to_unit(self, values):
    return (values + 1) / 2

  def reconstruction_error(self, logits, target):
    """One minus the cosine of the angle."""
    return 1 - (normalize(logits) * target).sum(-1)

  def mean(self, draws):
    """The mean direction, with the draws' mean length: interpolation weighs by length."""
    draws = draws.astype(jnp.float32)
    length = jnp.linalg.norm(draws, axis=-1, keepdims=True).mean(0)
    return length * normalize(normalize(draws).mean(0))

  def sample_spread(self, draws):
    draws = draws.astype(jnp.float32)
    vectors = normalize(draws)
    center = normalize(self.mean(draws))
    # arctan2 of sine and cosine, because the arc cosine loses small angles to rounding.
    sine = jnp.linalg.norm(jnp.cross(vectors, jnp.broadcast_to(center, vectors.shape)), axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (vectors * center).sum(-1, keepdims=True))
    return jnp.degrees(jnp.sqrt((angle**2).mean(0)))

  def pixel_error(self, prediction, label):
    """Angle in degrees."""
    return np.degrees(np.arccos(np.clip((prediction * label).sum(-1), -1, 1)))

  def picture(self, values, limits=None):
    """Colours (xyz + 1) / 2."""
    is_zero = cv2.inRange(values, (0, 0, 0), (0, 0, 0)) > 0  # a tenth of the time of NumPy's `any`
    picture = cv2.convertScaleAbs(np.maximum(values, -1), alpha=127.5, beta=127.5)
    return colors.hatch_unlabelled(~is_zero, picture)

  def key(self, limits=None, present=None, unit=''):
    return legends.Swatches([('right', (255, 128, 128)), ('up', (128, 255, 128)), ('towards us', (128, 128, 255))])

  def legend(self, width, limits=None, present=None, scale=1, unit=''):
    return legends.draw_normals_key(width, scale)

  def resize_prediction(self, values, size):
    values = super().resize_prediction(values, size)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)

  def encode_file(self, values):
    return '.npy', values.astype(np.float16)


def _decode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Converts the array of a label file to vectors [H, W, 3] float32, 0 if unlabelled, and their lengths [H, W, 1]."""
  if values.ndim != 3 or values.shape[2] != 3:
    raise ValueError(f'has shape {values.shape}; normals have three channels')
  if values.dtype.kind == 'u':
    unlabelled = (values == 0).all(-1, keepdims=True)
    values = np.where(unlabelled, 0, values * (np.float32(2) / np.iinfo(values.dtype).max) - 1)
  vectors = to_float32(values)
  vectors = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0)
  return vectors, np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)  # squares may overflow float32


def _is_unit(length: np.ndarray) -> np.ndarray:
  return (length >= MIN_LENGTH) & (length <= MAX_LENGTH)


def _is_shifted(vectors: np.ndarray, length: np.ndarray) -> bool:
  """Whether vectors are stored as (xyz + 1) / 2: none is negative, and only the decoded ones have unit length."""
  if not vectors.size or vectors.min() < 0 or vectors.max() > 1:
    return False
  decoded = np.linalg.norm(2 * vectors - 1, axis=-1)
  labelled = (length[..., 0] > 0) & (decoded > 0.1)  # neither black nor grey
  errors = [np.median(np.abs(lengths[labelled] - 1)) for lengths in (decoded, length[..., 0]) if labelled.any()]
  return bool(errors) and errors[0] < 0.05 < errors[1]


def _is_varied(vectors: np.ndarray) -> bool:
  """Whether vectors [N, 3] are more than a single colour that stands for *no normal*."""
  low, high = np.percentile(vectors.astype(np.float64), (5, 95), axis=0)
  return bool((high - low).max() > 0.1)


def normalize(vectors: jax.Array) -> jax.Array:
  """Scales to unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
  return vectors * _inverse_length(jnp.sum(vectors**2, axis=-1, keepdims=True))


def _inverse_length(squared: jax.Array) -> jax.Array:
  return jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
