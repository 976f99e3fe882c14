"""MTI-Net: multi-scale multi-modal distillation (Vandenhende, Georgoulis, Van Gool, ECCV 2020).

Structure of the paper and its public code on the four stages of a ResNet (strides 4 to 32). The
DiffusionMTL paper does not say how it put MTI-Net on ResNet-18. Here everything is as published except the
feature aggregation: each task's four maps are concatenated at stride 4 and fused by one 3x3 convolution
to C, as in the DiffusionMTL encoder. With ResNet-18, 512x512 images and PASCAL's tasks this gives 289 M
parameters and 572 GMAC (paper: 281 M, 589). The published 1x1 convolution of 960 channels would give
272 M and 286 GMAC: half the paper's cost.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models import losses
from dmtl_jax.models.base import Forward, Network, Output, register
from dmtl_jax.models.parts.decoder import Decoders
from dmtl_jax.models.parts.encoder import Residual
from dmtl_jax.models.parts.layers import batch_norm, Conv, Dense, Dtype, Head, remat_if, resize


class FeaturePropagation(nn.Module):
  """Mixes all tasks' features of one scale for the next finer scale."""

  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, features: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
    """{task: [B, h, w, C]} to the same shapes."""
    block = remat_if(self.remat, Residual)
    stacked = jnp.stack(list(features.values()), axis=-2)
    tasks, channels = stacked.shape[-2:]
    shared = joined = stacked.reshape(*stacked.shape[:-2], tasks * channels)
    for i in range(2):
      shared = block(tasks * channels // 4, dtype=self.dtype, name=f'mix{i}')(shared, train)
    shared = Conv(tasks * channels, 1, dtype=self.dtype, name='expand')(shared)
    attention = nn.softmax(shared.reshape(stacked.shape), axis=-2)
    attended = (attention * stacked).reshape(joined.shape)
    reduced = block(channels, dtype=self.dtype, name='reduce')(attended, train)
    gates = {name: SqueezeExcitation(dtype=self.dtype, name=f'{name}_gate') for name in features}
    return {name: x + gates[name](reduced) for name, x in features.items()}


class SqueezeExcitation(nn.Module):
  """Weights the channels of [B, h, w, C] by a gate computed from their means."""

  reduction: int = 16
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    gate = nn.relu(Dense(max(channels // self.reduction, 1), dtype=self.dtype, name='squeeze')(x.mean((1, 2))))
    return x * nn.sigmoid(Dense(channels, dtype=self.dtype, name='excite')(gate))[:, None, None]


class Distillation(nn.Module):
  """Adds to each task's features those of the other tasks, through one spatial attention per pair of tasks."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, features: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{task: [B, h, w, C]} to the same shapes."""
    out = dict(features)
    for source, x in features.items():
      others = [name for name in features if name != source]
      for target, message in zip(others, self._messages(source, x, len(others))):
        out[target] = out[target] + message
    return out

  def _messages(self, source: str, x, count: int) -> list[jax.Array]:
    """Messages of a task to `count` others, computed by one 3x3 convolution."""
    if not count:
      return []
    both = Conv(2 * count * x.shape[-1], 3, use_bias=False, dtype=self.dtype, name=f'{source}_messages')(x)
    content, attention = jnp.split(both, 2, axis=-1)
    return jnp.split(content * nn.sigmoid(attention), count, axis=-1)


class Aggregation(nn.Module):
  """Fuses a task's maps of all scales to its final map."""

  outputs: int
  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: list[jax.Array], train: bool) -> jax.Array:
    """Maps [B, h_i, w_i, C_i] to [B, h_0, w_0, outputs] float32."""
    x = jnp.concatenate([resize(each, maps[0].shape[1:3]) for each in maps], axis=-1)
    x = Conv(self.channels, 3, dtype=self.dtype, name='fuse')(x)
    x = nn.relu(batch_norm(train, dtype=self.dtype, name='bn')(x))
    return Head(self.outputs, name='head')(x)


class MTINet(Network):
  """MTI-Net, see module. Final and initial maps have stride 4.

  `Output.initial` are the initial predictions of the finest scale; `Output.extra['scales']` holds those of the
  coarser scales, fine to coarse.
  """

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to maps."""
    stages = self._encoder().stages(images, train)
    features = []
    predictions = []
    propagated = None
    for i in reversed(range(len(stages))):
      x = {task.name: self._with_coarser(stages[i], propagated, task.name) for task in self.tasks}
      fields = self._layer_fields() | dict(channels=stages[i].shape[-1])
      initial = Decoders(tasks=self.tasks, blocks=2, **fields, name=f'initial{i}')(x, train)
      features.insert(0, Distillation(self.dtype, name=f'distillation{i}')(initial.features))
      predictions.insert(0, initial.predictions)
      if i > 0:
        propagated = FeaturePropagation(self.dtype, self.remat, name=f'propagation{i}')(initial.features, train)
    final = {}
    for task in self.tasks:
      head = Aggregation(task.channels, self.channels, self.dtype, name=f'{task.name}_aggregation')
      final[task.name] = head([scale[task.name] for scale in features], train)
    return Output(final=final, initial=predictions[0], extra={'scales': predictions[1:]})

  def _with_coarser(self, stage, propagated, name):
    """A stage's map, concatenated with the task's features propagated from the next coarser scale, if any."""
    if propagated is None:
      return stage
    return jnp.concatenate([stage, resize(propagated[name], stage.shape[1:3])], axis=-1)


def deep_supervision(run: Forward) -> jax.Array:
  """Losses on the coarser scales' initial predictions, each with weight 1 like the finest's (paper, section 3.4)."""
  mask = run.batch['label_mask']
  scales = [losses.map_losses(run.tasks, maps, run.batch['labels'], mask) for maps in run.output.extra['scales']]
  return sum(losses.combine(scale, mask, run.weights) for scale in scales)


register(
  'mti_net', MTINet, 'MTI-Net', row=5, color='#35a7c9', loss=deep_supervision, initial_loss=1.0,
  cost='281 M, 589 GMAC; it does not say how it put MTI-Net on ResNet-18 (models/mti_net.py)',
)  # fmt: skip
