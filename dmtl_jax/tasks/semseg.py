"""Semantic segmentation: a class for every pixel."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.segmentation import Segmentation
from dmtl_jax.tasks.base import IGNORE, SURE, Task


class Semseg(Task):
  """Labels are class ids, 255 unlabelled; cross-entropy; mIoU."""

  kind = 'semseg'
  title = 'Segmentation'
  metric = 'mIoU'
  scored_by = Segmentation
  label_dtype = np.uint8
  unlabelled = IGNORE
  raw_channels = None
  guides_crops = True
  spread_most = 1.0
  spread_unit = ' entropy'  # of the mean class distribution, 0 (one sure class) to 1 (all alike)

  def from_file(self, values, ignore=IGNORE, scale=1.0):
    del scale
    values = self._plane(values)
    if values.dtype == bool:
      values = values.astype(np.uint8)
    if values.dtype.kind not in 'ui':
      raise ValueError(f'holds {values.dtype} numbers; class ids are whole numbers')
    values = values.astype(np.int64)  # an int8 could not hold 255
    label = np.where((values == ignore) | (values == IGNORE), IGNORE, values)
    count = max(self.channels, 2)
    wrong = (label != IGNORE) & ((label < 0) | (label >= count))
    if wrong.any():
      ids = f'ids 0 to {count - 1} and {ignore} for unlabelled'
      raise ValueError(f'holds class id {label[wrong][0]}; {self.name} has {ids}')
    return label.astype(np.uint8)

  def activate(self, logits):
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

  def error(self, logits, label, valid):
    # A product with one-hot classes, which XLA fuses: the gradient of looking them up is a scatter, slow on CPUs.
    target = jnp.where(valid, label[..., 0], 0)
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(target, self.channels))

  def soft(self, logits):
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

  def encode_label(self, label):
    return jax.nn.one_hot(label[..., 0], self.channels)

  def encode_prediction(self, logits, key):
    """Classes are drawn (Gumbel softmax, straight through)."""
    soft = jax.nn.softmax(logits + jax.random.gumbel(key, logits.shape), axis=-1)
    hard = jax.nn.one_hot(soft.argmax(-1), self.channels)
    return soft + jax.lax.stop_gradient(hard - soft)

  def consistency(self, logits, target):
    """Negative log-likelihood of the target's class where that is sure."""
    error = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), target.argmax(-1))
    return jnp.where(target.max(-1) > SURE, error, 0)

  def mean(self, draws):
    return log_mean(jax.nn.log_softmax(draws.astype(jnp.float32)))

  def spread(self, draws):
    log = jax.nn.log_softmax(self.mean(draws))
    return -(jnp.exp(log) * log).sum(-1, keepdims=True) / np.log(log.shape[-1])

  def doubt(self, logits):
    return self.spread(logits[None])[..., 0]

  def mistake(self, prediction, label):
    return (prediction != label[..., 0]).astype(np.float32)

  def picture(self, values, limits=None):
    plane = values.reshape(values.shape[:2])
    return colors.hatch_unless(plane != IGNORE, colors.palette()[plane])

  def key(self, limits=None, present=None):
    ids = range(len(self.classes)) if present is None else present
    return legends.Swatches([(self.classes[i], colors.palette()[i]) for i in ids])

  def resized(self, values, size):
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

  def stored(self, values):
    return '.png', values


def log_mean(log: jax.Array) -> jax.Array:
  """Logarithm of the mean over the first axis, of logarithms."""
  return jax.nn.logsumexp(log, axis=0) - np.log(len(log))
