"""Boundaries between regions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmtl_jax.draw import colors
from dmtl_jax.metrics import boundary as metrics
from dmtl_jax.metrics.boundary.pascal import PascalAndPlain
from dmtl_jax.tasks.base import SURE
from dmtl_jax.tasks.saliency import Saliency
from dmtl_jax.tasks.semseg import log_mean

POSITIVE = 0.95  # weight of boundary pixels; others weigh 0.05 (docs/paper.md, Losses)


class Boundary(Saliency):
  """Labels are 0 and 1, 255 unlabelled; weighted sigmoid cross-entropy; odsF."""

  kind = 'boundary'
  title = 'Boundary'
  metric = 'odsF'
  quick_metric = 'tolF'
  raw_channels = 1
  overlay_alpha = 1.0
  framed = True
  line_like = True
  end_colors = np.array([colors.PAPER, colors.INK])

  def pixel_loss(self, logits, label, valid):
    positive = label[..., 0] == 1
    weight = jnp.where(positive, POSITIVE, 1 - POSITIVE)
    return weight * optax.sigmoid_binary_cross_entropy(logits[..., 0], positive.astype(jnp.float32))

  def activate(self, logits):
    return self.soft_prediction(logits)[..., 0]

  def soft_prediction(self, logits):
    return jax.nn.sigmoid(logits.astype(jnp.float32))

  def encode_label(self, label):
    return label.astype(jnp.float32)

  def encode_prediction(self, logits, key):
    return jax.nn.sigmoid(logits)

  def consistency(self, logits, target):
    target = target[..., 0]
    error = optax.sigmoid_binary_cross_entropy(logits[..., 0].astype(jnp.float32), (target > 0.5).astype(jnp.float32))
    return jnp.where(jnp.maximum(target, 1 - target) > SURE, error, 0)

  def mean(self, draws):
    draws = draws.astype(jnp.float32)
    return log_mean(jax.nn.log_sigmoid(draws)) - log_mean(jax.nn.log_sigmoid(-draws))

  def scorer(self, protocol='plain', tolerance=0.0075, quick=False):
    if quick:
      return metrics.ToleranceF(self, tolerance)
    return (PascalAndPlain if protocol == 'pascal' else metrics.Boundary)(self, tolerance)
