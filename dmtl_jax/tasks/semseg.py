"""Semantic segmentation: a class per pixel."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmtl_jax.basics import target as target_lib
from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.segmentation import Segmentation
from dmtl_jax.tasks.base import IGNORE, SURE, Task


class Semseg(Task):
  """Labels are class ids, 255 unlabelled; cross-entropy; mIoU."""

  kind = 'semseg'
  title = 'Segmentation'
  metric = 'mIoU'
  metric_class = Segmentation
  label_dtype = np.uint8
  unlabelled = IGNORE
  raw_channels = None
  guides_crops = True
  max_spread = 1.0
  spread_unit = ' entropy'  # of the mean class distribution, from 0 (one certain class) to 1 (uniform)

  @property
  def file_fields(self):
    return ('ignore',) if self.channels > 2 else ('ignore', 'positive')

  def from_file(self, values, ignore=None, positive=None, annotated=None):
    """Integers are class ids.

    Args:
      ignore: stored value that means unlabelled, besides 255.
      positive: with two classes, stored value of class 1 instead of 1; 255 then does not mean unlabelled.
      annotated: ids of the classes that were annotated in this label, if they are listed; any other value is none of
        them.
    """
    values = self._plane(values)
    if values.dtype == np.uint8 and values.size > 256:  # what is done and refused depends only on the values that occur
      values = np.ascontiguousarray(values)
      occurring = np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256])).astype(np.uint8)
      table = np.zeros(256, np.uint8)
      table[occurring] = self.from_file(occurring[None], ignore, positive, annotated)[0, :, 0]
      return cv2.LUT(values, table).reshape(values.shape)
    if values.dtype == bool:  # True is class 1, whatever "positive" is
      values = values * np.int64(1 if positive is None else positive)
    if values.dtype.kind not in 'ui':
      raise ValueError(f'holds {values.dtype} numbers; class ids are integers')
    values = values.astype(np.int64)  # an int8 could not hold 255
    unlabelled = np.isin(values, [mark for mark in (IGNORE, ignore) if mark is not None and mark != positive])
    ids = values if positive is None else np.select([values == 0, values == positive], [0, 1], -1)
    count = max(self.channels, 2)
    wrong = ~unlabelled & ((ids < 0) | (ids >= count))
    if annotated:
      ids = np.where(np.isin(ids, annotated), ids, self._id_outside(annotated))
    elif wrong.any():
      raise ValueError(self._describe_wrong_ids(np.unique(values[wrong]), ignore, positive))
    if count == 2 and IGNORE not in (ignore, positive):
      self._check_not_0_and_255(values, unlabelled)
    return np.where(unlabelled, IGNORE, ids).astype(np.uint8)

  def to_file(self, label, ignore=None, positive=None):
    values = label[..., 0].astype(np.uint16)
    stored = values if positive is None else np.where(values == 1, positive, values)
    stored = np.where(values == IGNORE, IGNORE if ignore is None else ignore, stored)
    return '.png', stored.astype(np.uint8 if stored.max(initial=0) < 256 else np.uint16)

  def _id_outside(self, annotated: tuple[int, ...]) -> int:
    """The id of a pixel that is none of the annotated classes: that of the last class, if only one is left."""
    if annotated in self.annotated:
      return len(self.classes) + self.annotated.index(annotated)
    return next((id for id in range(len(self.classes)) if id not in annotated), IGNORE)

  def file_warnings(self, values, ignore=None, annotated=None, **_):
    """Counts pixels of a partly annotated label that hold the id of another class, which may be a mistake."""
    if annotated not in self.annotated:
      return {}
    others = set(range(len(self.classes))) - {*annotated, ignore}
    text = 'are drawn as a class that annotated.json does not list for their image, and are read as none of the listed'
    return {text: int(np.isin(values, list(others)).sum())}

  def _describe_wrong_ids(self, wrong: np.ndarray, ignore: int | None, positive: int | None) -> str:
    """The error message for stored values that are not class ids of the task."""
    last = max(self.channels, 2) - 1
    valid = f'ids 0 to {last}' if positive is None else f'0 and {positive} ("positive")'
    unlabelled = IGNORE if ignore is None and positive != IGNORE else ignore
    text = f'holds class id {wrong[0]}; {self.name} has {valid}'
    text += '' if unlabelled is None else f' and {unlabelled} for unlabelled'
    if last == 1 and positive is None and len(wrong) == 1 and wrong[0] > 1:
      text += f'; set "positive": {wrong[0]} in dataset.json if it means {self._class_1}'
    return text

  def _check_not_0_and_255(self, values: np.ndarray, unlabelled: np.ndarray):
    """Refuses a mask stored as 0 and 255: read as class 0 and unlabelled, it would make every network perfect."""
    if (values == IGNORE).any() and (values == 0).any() and ((values == 0) | unlabelled).all():
      raise ValueError(
        f'holds only 0 and 255, and 255 is unlabelled; store 1 for {self._class_1}, or set "positive": 255 in '
        'dataset.json if 255 means it, or "ignore": 255 if 255 does mean unlabelled'
      )

  @property
  def _class_1(self) -> str:
    return self.classes[1] if self.classes else self.kind

  def activate(self, logits):
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

  def pixel_loss(self, logits, label, valid):
    """Cross-entropy; where only a set of possible classes is known, that of their union, -log of its probability.

    With `class_weights` it is multiplied by the weight of the pixel's class, or by 1 where that is not known.
    """
    target = jnp.where(valid, label[..., 0], 0)
    if self.annotated:
      error = self._union_loss(logits, jnp.asarray(self.possible_classes)[target])
    else:
      error = cross_entropy(logits, target)
    if self.class_weights:
      error *= jnp.asarray([*self.class_weights, *[1.0] * len(self.annotated)], jnp.float32)[target]
    return error

  def _union_loss(self, logits: jax.Array, possible: jax.Array) -> jax.Array:
    """-log of the probability of the `possible` classes [..., C] bool, neither none nor all: [...].

    As log(1 + odds of the others), which keeps losses near 0 exact where a difference of two logarithms would not.
    """
    inside = jax.nn.logsumexp(jnp.where(possible, logits, -jnp.inf), axis=-1)
    outside = jax.nn.logsumexp(jnp.where(possible, -jnp.inf, logits), axis=-1)
    return jax.nn.softplus(outside - inside)

  def soft_prediction(self, logits):
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

  def encode_label(self, label):
    """One-hot classes; where only a set of possible classes is known, equal shares of each; 0 where unlabelled."""
    if not self.annotated:
      return jax.nn.one_hot(label[..., 0], self.channels)
    possible = self.possible_classes
    shares = (possible / possible.sum(-1, keepdims=True)).astype(np.float32)
    return jnp.matmul(jax.nn.one_hot(label[..., 0], len(shares)), shares, precision='highest')

  def encode_prediction(self, logits, key):
    """Samples classes by the straight-through Gumbel softmax."""
    soft = jax.nn.softmax(logits + jax.random.gumbel(key, logits.shape), axis=-1)
    hard = jax.nn.one_hot(soft.argmax(-1), self.channels)
    return soft + jax.lax.stop_gradient(hard - soft)

  def reconstruction_error(self, logits, target):
    """Cross-entropy of each class on its own, summed."""
    return optax.sigmoid_binary_cross_entropy(logits, target).sum(-1)

  def consistency(self, logits, target):
    """Negative log-likelihood of the target's class where its probability exceeds `SURE`."""
    error = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), target.argmax(-1))
    return jnp.where(target.max(-1) > SURE, error, 0)

  def mean(self, draws):
    return log_mean(jax.nn.log_softmax(draws.astype(jnp.float32)))

  def sample_spread(self, draws):
    log = jax.nn.log_softmax(self.mean(draws))
    return -(jnp.exp(log) * log).sum(-1, keepdims=True) / np.log(log.shape[-1])

  def self_uncertainty(self, logits):
    return self.sample_spread(logits[None])[..., 0]

  def pixel_error(self, prediction, label):
    """1 where the prediction is known to be wrong, else 0."""
    if not self.annotated:
      return (prediction != label[..., 0]).astype(np.float32)
    known = np.where(self.valid(label), label[..., 0], 0)
    return (~self.possible_classes[known, prediction]).astype(np.float32)

  def picture(self, values, limits=None):
    """Colours classes; pixels that are none of some classes have a colour of their own, striped with white."""
    plane = values.reshape(values.shape[:2])
    picture = colors.palette().take(plane, 0)  # a quarter of the time of [plane]
    if self.annotated:
      picture = colors.stripe(plane >= len(self.classes), picture)
    return colors.hatch_unlabelled(plane != IGNORE, picture)

  def key(self, limits=None, present=None, unit=''):
    ids = range(len(self.classes)) if present is None else present
    return legends.Swatches([(self.id_names[i], colors.palette()[i]) for i in ids])

  def resize_prediction(self, values, size):
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

  def encode_file(self, values):
    return '.png', values


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Cross-entropy [B, H, W] of maps [B, H, W, C] against class ids [B, H, W].

  On CPUs of channels before columns, the order in which resizing leaves a map in memory: sums over channels are up to
  four times as fast there.
  """
  axis = -1
  if target_lib.platform() == 'cpu':
    logits, axis = jnp.swapaxes(logits, -1, -2), -2
  # XLA fuses a product with one-hot classes; the gradient of indexing is a scatter, which is slow on CPUs.
  return optax.softmax_cross_entropy(logits, jax.nn.one_hot(target, logits.shape[axis], axis=axis), axis=axis)


def log_mean(log: jax.Array) -> jax.Array:
  """Logarithm of the mean over the first axis, from logarithms."""
  return jax.nn.logsumexp(log, axis=0) - np.log(len(log))
