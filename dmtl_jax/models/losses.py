"""Losses of each task and their combination over partial labels (docs/paper.md, Losses).

Losses are one value per image; pixels without a label, and images without a labelled pixel,
contribute exactly 0 to value and gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.models.parts.layers import resize
from dmtl_jax.tasks import Task

INITIAL_LOSS = 0.5  # weight of the losses on initial maps (released code; the paper states no weight)


def task_loss(task: Task, logits: jax.Array, label: jax.Array) -> jax.Array:
  """Loss [B] float32 of raw maps [B, H, W, C_t] against labels [B, H, W, K]."""
  valid = task.valid(label)
  error = task.pixel_loss(logits.astype(jnp.float32), label, valid)
  count = valid.sum((1, 2))
  return jnp.where(valid, error, 0).sum((1, 2)) / jnp.maximum(count, 1)


def map_losses(tasks: tuple[Task, ...], maps: dict, labels: dict, label_mask: jax.Array) -> jax.Array:
  """Losses [B, T] of one set of maps; exactly 0 where label_mask [B, T] is False.

  Args:
    maps: {task: raw maps [B, h, w, C_t]} at any size; resized to the labels' size.
    labels: {task: [B, H, W, K]}; values of hidden labels, NaN included, have no influence.
  """
  columns = []
  for t, task in enumerate(tasks):
    shown = label_mask[:, t][:, None, None, None]
    label = jnp.where(shown, labels[task.name], jnp.asarray(task.unlabelled, task.label_dtype))
    logits = resize(maps[task.name].astype(jnp.float32), label.shape[1:3])
    columns.append(task_loss(task, logits, label))
  return jnp.stack(columns, axis=1)


def combine(
  losses: jax.Array,
  label_mask: jax.Array,
  weights: np.ndarray,
  balance: bool = True,
  label_weights: jax.Array | None = None,
) -> jax.Array:
  """Mean over images of T / (labelled tasks of the image) * sum_t w_t L[b, t].

  The factor is the released code's. For a network of one task it is 1, so several such networks trained side by side
  leave it out: an image's labels for other tasks must not matter to them.

  Args:
    losses: [B, T], 0 where label_mask is False.
    label_mask: [B, T] bool.
    weights: [T] task weights.
    balance: whether to apply the factor.
    label_weights: [B, T] from 0 to 1, of each label; None: 1. Losses are multiplied by it, and in the factor a label
      counts by its weight. So a weight of 0 has the effect of a missing label.
  """
  counts = label_mask
  if label_weights is not None:
    losses = losses * label_weights
    counts = label_mask * label_weights
  by_image = (losses * weights).sum(1)
  if balance:
    by_image = by_image * losses.shape[1] / jnp.maximum(counts.sum(1), 1)
  return by_image.mean()


def total_loss(
  tasks: tuple[Task, ...],
  output,
  labels: dict,
  label_mask: jax.Array,
  weights: np.ndarray,
  initial_loss: float = INITIAL_LOSS,
  balance: bool = True,
  label_weights: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Total of the tasks' losses on final and initial maps; for the other arguments see `map_losses` and `combine`.

  Args:
    output: `models.Output`.
    initial_loss: weight of the losses on initial maps.

  Returns:
    Scalar loss, and unweighted losses {'final': [B, T], 'initial': [B, T]}
    (no 'initial' for methods without initial maps).
  """
  parts = {'final': map_losses(tasks, output.final, labels, label_mask)}
  combined = parts['final']
  if output.initial:
    parts['initial'] = map_losses(tasks, output.initial, labels, label_mask)
    combined = combined + initial_loss * parts['initial']
  return combine(combined, label_mask, weights, balance, label_weights), parts
