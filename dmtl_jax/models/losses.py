"""Losses of each task and their combination over partial labels (docs/paper.md, Losses).

Losses are one value per image; pixels without a label, and images without a labelled pixel,
contribute exactly 0 to value and gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import target
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.tasks import Task
from dmtl_jax.tasks.normals import normalize

INITIAL_LOSS = 0.5  # weight of the losses on initial maps (released code; the paper states no weight)


def task_loss(task: Task, logits: jax.Array, label: jax.Array) -> jax.Array:
  """Loss [B] float32 of raw maps [B, H, W, C_t] against labels [B, H, W, K]."""
  valid = task.valid(label)
  error = task.pixel_loss(logits.astype(jnp.float32), label, valid)
  count = valid.sum((1, 2))
  return jnp.where(valid, error, 0).sum((1, 2)) / jnp.maximum(count, 1)


def map_losses(tasks: tuple[Task, ...], maps: dict, labels: dict, label_mask: jax.Array) -> jax.Array:
  """Losses [B, T] of one set of maps; exactly 0 where label_mask [B, T] is False.

  They have gradients with respect to the maps only, and on CPUs none in forward mode.

  Args:
    maps: {task: raw maps [B, h, w, C_t]} at any size; resized to the labels' size.
    labels: {task: [B, H, W, K]}; values of hidden labels, NaN included, have no influence.
  """
  # With one device, images can go one after the other, so that those without a label cost nothing.
  by_image = target.platform() == 'cpu' and len(target.devices()) == 1
  compute = _losses_by_image if by_image else _losses
  columns = []
  for t, task in enumerate(tasks):
    # Already here: the gradient of one image's loss, which is not scaled yet, would be 0 in float16.
    logits = maps[task.name].astype(jnp.float32)
    columns.append(compute(task, logits, jax.lax.stop_gradient(labels[task.name]), label_mask[:, t]))
  return jnp.stack(columns, axis=1)


def _losses(task: Task, maps: jax.Array, label: jax.Array, shown: jax.Array) -> jax.Array:
  """Losses [B] of the maps [B, h, w, C_t] of a task; exactly 0 where `shown` [B] is False."""
  label = jnp.where(shown[:, None, None, None], label, jnp.asarray(task.unlabelled, task.label_dtype))
  return task_loss(task, resize(maps, label.shape[1:3]), label)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses_by_image(task: Task, maps: jax.Array, label: jax.Array, shown: jax.Array) -> jax.Array:
  """`_losses`, image by image, only of those `shown`; the gradient is computed together with the loss."""
  return _for_shown(functools.partial(_image_loss, task), maps, label, shown)


def _losses_by_image_forward(task, maps, label, shown):
  return _for_shown(jax.value_and_grad(functools.partial(_image_loss, task)), maps, label, shown)


def _losses_by_image_backward(_, image_grads, grad):
  return grad[:, None, None, None] * image_grads, None, None


_losses_by_image.defvjp(_losses_by_image_forward, _losses_by_image_backward)


def _image_loss(task: Task, maps: jax.Array, label: jax.Array) -> jax.Array:
  """The loss of one image's maps [h, w, C_t]."""
  return _losses(task, maps[None], label[None], jnp.ones(1, bool))[0]


def _for_shown(compute, maps: jax.Array, label: jax.Array, shown: jax.Array):
  """compute(maps, label) of each image that is `shown`, stacked; zeros for others."""

  def compute_if_shown(image):
    maps, label, shown = image
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, maps, label))
    return jax.lax.cond(shown, lambda: compute(maps, label), lambda: zeros)

  return jax.lax.map(compute_if_shown, (maps, label, shown))


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


def embedding_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """One minus the cosine over channels of embeddings [B, h, w, C], mean over places: [B]."""
  a, b = (normalize(x.astype(jnp.float32)) for x in (a, b))
  return (1 - (a * b).sum(-1)).mean((1, 2))
