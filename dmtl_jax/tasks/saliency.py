"""Saliency: the objects that stand out in an image."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.saliency import Saliency as SaliencyMetric
from dmtl_jax.tasks.base import IGNORE, Task
from dmtl_jax.tasks.semseg import Semseg


class Saliency(Semseg):
  """Labels are 0 and 1, 255 unlabelled; cross-entropy of two classes, balanced per image; maxF."""

  kind = 'saliency'
  title = 'Saliency'
  metric = 'maxF'
  metric_class = SaliencyMetric
  raw_channels = 2
  guides_crops = False
  binary = True
  max_spread = 0.5
  spread_unit = ' std'  # of the probability, at most 0.5
  overlay_alpha = 0.6  # of orange over an image, at probability 1
  end_colors = np.array([(0, 0, 0), colors.PAPER])  # colours of probability 0 and 1

  def activate(self, logits):
    """The softmax's probability of class 1, written as a sigmoid: a sixth of its time on CPUs."""
    logits = logits.astype(jnp.float32)
    return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])

  def pixel_loss(self, logits, label, valid):
    """Positive pixels are weighted by the share of negatives in the image's valid pixels, and vice versa."""
    positive = label[..., 0] == 1
    count = jnp.maximum(valid.sum((1, 2), keepdims=True), 1)
    negatives = 1 - (positive & valid).sum((1, 2), keepdims=True) / count
    return jnp.where(positive, negatives, 1 - negatives) * super().pixel_loss(logits, label, valid)

  def sample_spread(self, draws):
    return self.activate(draws).std(0)[..., None]

  def self_uncertainty(self, logits):
    return 0.5 - jnp.abs(self.activate(logits) - 0.5)

  def pixel_error(self, prediction, label):
    return Task.pixel_error(self, prediction, label)

  def picture(self, values, limits=None):
    plane = values.reshape(values.shape[:2])
    labelled = plane != IGNORE
    share = _share_of(np.where(labelled, plane, 0), limits)[..., None]
    low, high = self.end_colors
    return colors.hatch_unlabelled(labelled, np.round((1 - share) * low + share * high))

  def key(self, limits=None, present=None, unit=''):
    low, high = self.end_colors
    return self._scale(low, high, limits)

  def _scale(self, low, high, limits) -> legends.Scale:
    share = np.linspace(0, 1, 256)[:, None]
    end = f'probability {limits[1]:.2g}' if limits else 'probability 1'
    return legends.Scale(np.round((1 - share) * low + share * high).astype(np.uint8), '0', end)

  def spread_limit(self, limits):
    """Half of the range of the probability, as much as it can spread."""
    return limits[1] / 2 if limits else self.max_spread

  def overlay_prediction(self, image, values, limits=None):
    """Overlays orange, the more opaque the more probable."""
    orange = np.full_like(image, colors.ORANGE)
    return colors.overlay(image, orange, self.overlay_alpha * _share_of(values, limits)[..., None])

  def overlay_label(self, image, label, limits=None):
    return self.overlay_prediction(image, (label[..., 0] == 1).astype(np.float32))

  def overlay_legend(self, width, limits=None, present=None, scale=1, unit=''):
    grey = np.full(3, 235)
    orange = grey + self.overlay_alpha * (np.array(colors.ORANGE) - grey)
    return self._scale(grey, orange, limits).draw(width, scale)

  def resize_prediction(self, values, size):
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)

  def encode_file(self, values):
    return '.png', np.round(values * 65535).astype(np.uint16)


def _share_of(probability: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
  """Where a probability lies on a colour scale from 0 to the upper limit, or to 1."""
  return np.minimum(probability.astype(np.float32) / np.float32(limits[1] if limits else 1), 1)
