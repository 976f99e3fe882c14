"""XTC: cross-task consistency in joint pairwise spaces (Li, Liu, Bilen, CVPR 2022).

The MTL baseline and, for training only, a mapping network m(., s -> t) that maps the prediction of
task s and the label of task t to a space of the pair (s, t), where they should agree. One network
serves all pairs: task-specific first layer, shared convolutions, each followed by a FiLM with
parameters per pair. The DiffusionMTL paper's XTC* is this on the paper's own baseline.

Layers and widths (C/8, C/4, C/2, C, C) are those of the public code. Its batch norm only ever sees
one image, so it is an instance norm here.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models.base import Forward, Output, register
from dmtl_jax.models.losses import embedding_distance
from dmtl_jax.models.mtl_baseline import MTLBaseline
from dmtl_jax.models.parts import views
from dmtl_jax.models.parts.layers import Conv, Dtype, resize
from dmtl_jax.models.parts.pooling import max_pool_2x2
from dmtl_jax.models.parts.task_layers import SlotEmbed, Slots

STAGE_CONVS = (2, 2, 3, 3, 3)  # convolutions between two poolings
FEATURE_WEIGHT = 0.5  # of the regularisation by backbone features in the public code


class FiLM(nn.Module):
  """Instance norm, then scale and shift with parameters per pair of tasks."""

  pairs: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, pair: jax.Array) -> jax.Array:
    """Modulates maps [N, h, w, C] of the pairs [N] int32."""
    x = nn.InstanceNorm(dtype=self.dtype, name='norm')(x)
    shape = (self.pairs, x.shape[-1])
    gamma = self.param('gamma', nn.initializers.ones, shape)[pair][:, None, None]
    beta = self.param('beta', nn.initializers.zeros, shape)[pair][:, None, None]
    return x * gamma.astype(x.dtype) + beta.astype(x.dtype)


class MappingNetwork(nn.Module):
  """Maps of any task, in slots at image size, to [N, H/32, W/32, channels]."""

  task_channels: tuple[int, ...]
  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: jax.Array, task: jax.Array, pair: jax.Array) -> jax.Array:
    """See `XTC.map_pair`."""
    tasks = len(self.task_channels)
    widths = [max(self.channels // n, 1) for n in (8, 4, 2, 1, 1)]
    x = SlotEmbed(self.task_channels, widths[0], dtype=self.dtype, name='embed')(maps, task)
    x = nn.relu(nn.InstanceNorm(dtype=self.dtype, name='embed_norm')(x))
    for i, (width, convs) in enumerate(zip(widths, STAGE_CONVS)):
      for j in range(convs):
        x = Conv(width, 3, dtype=self.dtype, name=f'conv{i}_{j}')(x)
        x = nn.relu(FiLM(tasks * (tasks - 1), self.dtype, name=f'film{i}_{j}')(x, pair))
      x = max_pool_2x2(x)
    return x


class XTC(MTLBaseline):
  """MTL baseline with the mapping network; inference runs only the baseline.

  Attributes:
    cross_task_weight: weight of `cross_task_consistency`.
    flip_view: whether the second view of an image is flipped with probability 0.5.
  """

  cross_task_weight: float = 2.0  # the public code's on NYUD; 1 on Cityscapes, which does not anneal it either
  flip_view: bool = False  # the public code's second view is a crop on NYUD; on Cityscapes half of them are flipped too

  def setup(self):
    self.baseline = MTLBaseline(**self._shared(), decoder_blocks=self.decoder_blocks)
    self.mapping = MappingNetwork(tuple(task.channels for task in self.tasks), self.channels, self.dtype)

  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to final maps; `extra` holds F_backbone as 'features'."""
    if self.is_initializing():
      maps = jnp.zeros((1, 32, 32, sum(task.channels for task in self.tasks)))
      self.mapping(maps, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    return self.baseline(images, train=train)

  def map_pair(self, maps: jax.Array, task: jax.Array, pair: jax.Array, *, train: bool = True) -> jax.Array:
    """Maps predictions or labels to the space of a pair of tasks.

    Args:
      maps: [N, H, W, sum of C_t], 0 outside the slot of each map's task (`task_layers.Slots`).
      task: [N] int32, task of each map.
      pair: [N] int32, s * (T - 1) + (t if t < s else t - 1) for the pair (s, t), s != t.
      train: ignored, both modes are the same.

    Returns:
      [N, H/32, W/32, channels].
    """
    return self.mapping(maps, task, pair)

  def check(self):
    if len(self.tasks) < 2:
      raise UserError('config.method: xtc compares tasks and the data has one; use mtl_baseline')

  def part(self, path):
    """'film' for parameters per pair, which have their own rate in the public code (config.optim.part_lr)."""
    return 'film' if path[-1] in ('gamma', 'beta') else ''


def cross_task_consistency(run: Forward) -> jax.Array:
  """Loss of unlabelled tasks' predictions that disagree with a labelled task's label in the space of their pair.

  As in the public code, both are those of a second view of the image, flipped or not (config.model.flip_view).
  For source s and target t, with the mapping network m and F_backbone f (no gradient):
  d(m(P_s), m(Y_t)) + 0.5 (d(m(P_s), f) + d(m(Y_t), f)), d one minus the cosine over channels, mean over pixels;
  summed over pairs, averaged over images, times config.model.cross_task_weight. Sources are the tasks without a
  label, or all others where every task has one. An image with several labels draws one target per step, weighted by
  the number of its labels, so that every label setting costs as much as that of one label.
  """
  tasks = run.tasks
  mask = run.batch['label_mask']
  count = mask.shape[1]
  key_view, key_target, key_encode = jax.random.split(run.key, 3)
  view = views.draw_crops(key_view, len(mask), run.model.flip_view)
  output, _ = run.apply(view.image(run.batch['image']))
  labels = {task.name: view.label(task, run.batch['labels'][task.name]) for task in tasks}
  has_label = mask & jnp.stack([task.valid(labels[task.name]).any((1, 2)) for task in tasks], axis=1)
  target = jax.random.categorical(key_target, jnp.where(has_label, 0.0, -1e9))
  label = encode_labels(tasks, labels, has_label, target)
  predictions = encode_predictions(tasks, output.final, label.shape[1:3], key_encode)
  slots = Slots(tuple(task.channels for task in tasks))
  features = jax.lax.stop_gradient(output.extra['features'])

  @jax.checkpoint
  def source_loss(offset, predictions):
    source = (target + 1 + offset) % count
    pair = source * (count - 1) + target - (target > source)
    prediction = jnp.where(slots.mask(source), predictions, 0)
    mapped, _ = run.apply(
      jnp.concatenate([prediction, label]),
      jnp.concatenate([source, target]),
      jnp.concatenate([pair, pair]),
      method='map_pair',
    )
    mapped_prediction, mapped_label = jnp.split(mapped.astype(jnp.float32), 2)
    loss = pair_distance(mapped_prediction, mapped_label, features)
    is_source = ~_at_task(mask, source) | mask.all(1)
    return jnp.where(_at_task(has_label, target) & is_source, loss, 0)

  total = jax.lax.map(lambda offset: source_loss(offset, predictions), jnp.arange(count - 1)).sum(0)
  return run.model.cross_task_weight * (total * has_label.sum(1)).mean()


def _at_task(mask: jax.Array, task: jax.Array) -> jax.Array:
  """Values [B] of mask [B, T] at each image's task [B]."""
  return jnp.take_along_axis(mask, task[:, None], axis=1)[:, 0]


def pair_distance(a: jax.Array, b: jax.Array, features: jax.Array) -> jax.Array:
  """Distance [B] of mapped maps [B, h, w, C] float32 to each other plus, weighted, their distances to F_backbone."""
  features = resize(features.astype(jnp.float32), a.shape[1:3])
  to_features = embedding_distance(a, features) + embedding_distance(b, features)
  return embedding_distance(a, b) + FEATURE_WEIGHT * to_features


def encode_labels(tasks, labels: dict, has_label: jax.Array, target: jax.Array) -> jax.Array:
  """Labels of each image's target task [B] in slots [B, H, W, sum of C_t]; 0 elsewhere and where unlabelled."""
  slots = []
  for t, task in enumerate(tasks):
    label = labels[task.name]
    is_target = (has_label[:, t] & (target == t))[:, None, None, None]
    slots.append(jnp.where(is_target & task.valid(label)[..., None], task.encode_label(label), 0))
  return jnp.concatenate(slots, axis=-1)


def encode_predictions(tasks, final: dict, size: tuple[int, int], key: jax.Array) -> jax.Array:
  """Predictions of all tasks, resized to `size`, in slots [B, *size, sum of C_t] float32, encoded like labels."""
  encoded = []
  for t, task in enumerate(tasks):
    maps = resize(final[task.name].astype(jnp.float32), size)
    encoded.append(task.encode_prediction(maps, jax.random.fold_in(key, t)))
  return jnp.concatenate(encoded, axis=-1)


register(
  'xtc', XTC, 'XTC', row=4, color='#cc79a7', loss=cross_task_consistency, baseline=True,
  cost='173 M, including mapping networks for training only; 608 GMAC',
)  # fmt: skip
