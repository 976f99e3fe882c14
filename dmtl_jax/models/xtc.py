"""XTC: cross-task consistency in joint pairwise spaces (Li, Liu, Bilen, CVPR 2022).

The MTL baseline and, for training only, a mapping network m(., s -> t) that takes the prediction of
task s and the label of task t to a space of the pair (s, t), where they should agree. One network
serves all pairs: task-specific first layer, shared convolutions, each followed by a FiLM whose
parameters belong to the pair. The DiffusionMTL paper's XTC* is this on its own baseline.

Layers and widths (C/8, C/4, C/2, C, C) are those of the public code. Its batch norm only ever sees
one image, so it is a norm of each image here. The loss is `auxiliary.cross_task_consistency`.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.baselines import MTLBaseline
from dmtl_jax.models.parts.layers import conv, Dtype
from dmtl_jax.models.parts.output import Output
from dmtl_jax.models.parts.task_layers import SlotEmbed
from dmtl_jax.tasks import Task

STAGE_CONVS = (2, 2, 3, 3, 3)  # convolutions between two poolings


class FiLM(nn.Module):
  """Norm of each image and channel, scale and shift; then scale and shift of the map's pair of tasks."""

  pairs: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, pair: jax.Array) -> jax.Array:
    """Maps [N, h, w, C] with their pairs [N] int32."""
    x = nn.InstanceNorm(dtype=self.dtype, name='norm')(x)
    shape = (self.pairs, x.shape[-1])
    gamma = self.param('gamma', nn.initializers.ones, shape)[pair][:, None, None]
    beta = self.param('beta', nn.initializers.zeros, shape)[pair][:, None, None]
    return x * gamma.astype(x.dtype) + beta.astype(x.dtype)


class MappingNetwork(nn.Module):
  """Maps of any task, at image size in slots, to [N, H/32, W/32, channels]."""

  task_channels: tuple[int, ...]
  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: jax.Array, task: jax.Array, pair: jax.Array) -> jax.Array:
    """See `XTC.map_pair`."""
    tasks = len(self.task_channels)
    widths = [max(self.channels // n, 1) for n in (8, 4, 2, 1, 1)]
    x = SlotEmbed(self.task_channels, widths[0], self.dtype, name='embed')(maps, task)
    x = nn.relu(nn.InstanceNorm(dtype=self.dtype, name='embed_norm')(x))
    for i, (width, convs) in enumerate(zip(widths, STAGE_CONVS)):
      for j in range(convs):
        x = conv(width, 3, dtype=self.dtype, name=f'conv{i}_{j}')(x)
        x = nn.relu(FiLM(tasks * (tasks - 1), self.dtype, name=f'film{i}_{j}')(x, pair))
      x = nn.max_pool(x, (2, 2), (2, 2), 'SAME')
    return x


class XTC(nn.Module):
  """MTL baseline with the mapping network; inference runs the baseline alone."""

  tasks: tuple[Task, ...]
  backbone: str = 'resnet18'
  width: int = 64
  channels: int = 512
  decoder_blocks: int = 6
  dtype: Dtype = jnp.float32
  remat: bool = False

  def setup(self):
    self.baseline = MTLBaseline(
      self.tasks, self.backbone, self.width, self.channels, self.decoder_blocks, self.dtype, self.remat
    )
    self.mapping = MappingNetwork(tuple(task.channels for task in self.tasks), self.channels, self.dtype)

  def __call__(self, images: jax.Array, *, train: bool = False, **_) -> Output:
    """As `MTLBaseline`."""
    if self.is_initializing():
      maps = jnp.zeros((1, 32, 32, sum(task.channels for task in self.tasks)))
      self.mapping(maps, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    return self.baseline(images, train=train)

  def map_pair(self, maps: jax.Array, task: jax.Array, pair: jax.Array, *, train: bool = True) -> jax.Array:
    """Maps predictions or labels to the space of a pair of tasks; the same in training and inference.

    Args:
      maps: [N, H, W, sum of C_t], 0 outside the slot of each map's own task (`task_layers.Slots`).
      task: [N] int32, the map's task.
      pair: [N] int32, s * (T - 1) + (t if t < s else t - 1) for the pair (s, t), s != t.

    Returns:
      [N, H/32, W/32, channels].
    """
    return self.mapping(maps, task, pair)
