"""Losses that belong to one method, added to `losses.total_loss` in the train step.

Each is a function

  loss(apply, batch, output, tasks, weights, key, config) -> scalar float32

  apply: (images or other inputs, **kwargs) -> (result, updated variables); `model.apply` with
    this step's variables, train=True and mutable batch statistics, whose update is not kept.
  batch: image [B, H, W, 3], labels {task: [B, H, W, K]}, label_mask [B, T] bool.
  output: the model's Output for batch['image'].
  tasks: T tasks; weights: [T] task weights.
  key: the step's key.

What a hidden label holds never matters, NaN included; an image without a label contributes 0.
"""

import jax
import jax.numpy as jnp

from dmtl_jax.models import losses
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.tasks import Task
from dmtl_jax.tasks.normals import normalize

CROSS_TASK_WEIGHT = 2.0  # public code of XTC, which does not anneal it
FEATURE_WEIGHT = 0.5  # of the regularisation by backbone features, same source
MAX_ZOOM = 1.5  # MTPSL's largest crop factor on NYUD and Cityscapes


# --- mti_net ---


def deep_supervision(apply, batch, output, tasks, weights, key, config) -> jax.Array:
  """MTI-Net's losses on the initial predictions of all scales, each with weight 1 (its paper, section 3.4).

  Those of the finest scale are `output.initial`, which `total_loss` has with its own weight already.
  """
  del apply, key, config
  mask = batch['label_mask']
  of = lambda maps: losses.combine(losses.map_losses(tasks, maps, batch['labels'], mask), mask, weights)
  return (1 - losses.INITIAL_WEIGHT) * of(output.initial) + sum(of(maps) for maps in output.extra['scales'])


# --- ss ---


def augmentation_consistency(apply, batch, output, tasks, weights, key, config) -> jax.Array:
  """Predictions of unlabelled tasks must follow the image under augmentation (MTPSL's SS baseline).

  A second view of each image (zoomed crop, flip, brightness and contrast) is predicted; the first
  view's prediction, transformed alike and without gradient, is its target. The distance of two
  predictions is squared on probabilities and unit normals and absolute on depth, mean over pixels,
  times the task's weight. MTPSL names the baseline but not the distance or its weight.
  """
  del config
  mask = batch['label_mask']
  view = draw_view(key, mask.shape[0])
  student, _ = apply(view_image(view, batch['image']))
  unlabelled = ~mask & mask.any(1, keepdims=True)
  columns = []
  for task in tasks:
    target = view_prediction(view, task, task.soft(jax.lax.stop_gradient(output.final[task.name])))
    error = task.soft(student.final[task.name]) - target
    error = jnp.abs(error) if task.relative_to_view else error**2
    columns.append(error.sum(-1).mean((1, 2)))
  return (jnp.where(unlabelled, jnp.stack(columns, axis=1), 0) * weights).sum(1).mean()


def draw_view(key: jax.Array, batch: int) -> dict[str, jax.Array]:
  """A second view: zoom in 1..1.5, flip, contrast and brightness [batch], corner [batch, 2] in 0..1."""
  zoom, corner, flip, contrast, brightness = jax.random.split(key, 5)
  return {
    'zoom': jax.random.uniform(zoom, (batch,), minval=1, maxval=MAX_ZOOM),
    'corner': jax.random.uniform(corner, (batch, 2)),
    'flip': jax.random.bernoulli(flip, shape=(batch,)),
    'contrast': jax.random.uniform(contrast, (batch,), minval=0.6, maxval=1.4),
    'brightness': jax.random.uniform(brightness, (batch,), minval=-0.4, maxval=0.4),
  }


def view_maps(view: dict, maps: jax.Array) -> jax.Array:
  """Maps [B, h, w, C] cropped, zoomed (bilinear) and flipped as the view says."""
  size = jnp.array(maps.shape[1:3])

  def one(x, zoom, corner, flip):
    translation = -corner * size * (zoom - 1)
    zoomed = jax.image.scale_and_translate(
      x, x.shape, (0, 1), jnp.stack([zoom, zoom]), translation, 'linear', antialias=False
    )
    return jnp.where(flip, zoomed[:, ::-1], zoomed)

  return jax.vmap(one)(maps, view['zoom'], view['corner'], view['flip'])


def view_image(view: dict, images: jax.Array) -> jax.Array:
  """Images [B, H, W, 3] in the second view."""
  column = lambda name: view[name][:, None, None, None]
  return view_maps(view, images) * column('contrast') + column('brightness')


def view_prediction(view: dict, task: Task, maps: jax.Array) -> jax.Array:
  """Predictions (of `predict`) in the second view; a flip mirrors normals, a zoom brings depth nearer."""
  maps = view_maps(view, maps)
  flipped = jnp.where(view['flip'][:, None, None, None], task.mirrored(maps), maps)
  return task.nearer(flipped, view['zoom'][:, None, None, None])


# --- xtc ---


def cross_task_consistency(apply, batch, output, tasks, weights, key, config) -> jax.Array:
  """XTC: an unlabelled task's prediction and a labelled task's label agree in the space of their pair.

  For source s and target t, with the mapping network m and F_backbone f (no gradient):
  d(m(P_s), m(Y_t)) + 0.5 (d(m(P_s), f) + d(m(Y_t), f)), d one minus the cosine over channels, mean over
  pixels; summed over pairs, mean over images, times 2. Sources are the tasks without a label, or
  all others where every task has one. An image with several labels draws one target a step
  (its loss counts as many times), which keeps the cost of every setting that of one label.
  """
  del weights, config
  mask, labels = batch['label_mask'], batch['labels']
  count = mask.shape[1]
  seen = mask & jnp.stack([task.valid(labels[task.name]).any((1, 2)) for task in tasks], axis=1)
  key_target, key_source = jax.random.split(key)
  target = jax.random.categorical(key_target, jnp.where(seen, 0.0, -1e9))
  label = chosen_label(tasks, labels, seen, target)
  features = jax.lax.stop_gradient(output.extra['features'])
  of = lambda which, task: jnp.take_along_axis(which, task[:, None], axis=1)[:, 0]
  distance = lambda a, b: (1 - (normalize(a) * normalize(b)).sum(-1)).mean((1, 2))

  @jax.checkpoint
  def of_source(offset, final):
    source = (target + 1 + offset) % count
    pair = source * (count - 1) + target - (target > source)
    draw = jax.random.fold_in(key_source, offset)
    prediction = chosen_prediction(tasks, final, source, label.shape[1:3], draw)
    both = (jnp.concatenate(x) for x in ((prediction, label), (source, target), (pair, pair)))
    mapped, _ = apply(*both, method='map_pair')
    a, b = jnp.split(mapped.astype(jnp.float32), 2)
    f = resize(features.astype(jnp.float32), a.shape[1:3])
    loss = distance(a, b) + FEATURE_WEIGHT * (distance(a, f) + distance(b, f))
    return jnp.where(of(seen, target) & (~of(mask, source) | mask.all(1)), loss, 0)

  total = jax.lax.map(lambda offset: of_source(offset, output.final), jnp.arange(count - 1)).sum(0)
  return CROSS_TASK_WEIGHT * (total * seen.sum(1)).mean()


def chosen_label(tasks, labels: dict, seen: jax.Array, target: jax.Array) -> jax.Array:
  """The label of each image's target [B] in slots [B, H, W, sum of C_t]; 0 elsewhere and where unlabelled."""
  slots = []
  for t, task in enumerate(tasks):
    shown, label = (seen[:, t] & (target == t))[:, None, None, None], labels[task.name]
    slots.append(jnp.where(shown & task.valid(label)[..., None], task.encode_label(label), 0))
  return jnp.concatenate(slots, axis=-1)


def chosen_prediction(tasks, final: dict, source: jax.Array, size: tuple[int, int], key: jax.Array):
  """The prediction of each image's source [B], at `size`, in slots, encoded like a label."""
  slots = []
  for t, task in enumerate(tasks):
    maps = resize(final[task.name].astype(jnp.float32), size)
    encoded = task.encode_prediction(maps, jax.random.fold_in(key, t))
    slots.append(jnp.where((source == t)[:, None, None, None], encoded, 0))
  return jnp.concatenate(slots, axis=-1)


LOSSES = {
  'ss': augmentation_consistency,
  'xtc': cross_task_consistency,
  'mti_net': deep_supervision,
}
