"""MTI-Net: multi-scale multi-modal distillation (Vandenhende, Georgoulis, Van Gool, ECCV 2020).

Structure of the paper and its public code on the four stages of a ResNet (strides 4 to 32). The
DiffusionMTL paper does not say how it put MTI-Net on ResNet-18; all is as published but for the
feature aggregation: there each task's four maps, at stride 4, are concatenated and fused as the
DiffusionMTL encoder fuses its stages, by one 3x3 convolution to C. At ResNet-18, 512x512 and PASCAL's
tasks that makes 289 M parameters and 572 GMAC (paper: 281 M, 589). The published 1x1 convolution of
960 channels would make 272 M and 286 GMAC: half the paper's cost.
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
  """All tasks' features of one scale, mixed and handed to the next finer scale."""

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
    gate = lambda name: SqueezeExcitation(dtype=self.dtype, name=f'{name}_gate')
    return {name: x + gate(name)(reduced) for name, x in features.items()}


class SqueezeExcitation(nn.Module):
  """Channels of [B, h, w, C] weighted by a gate computed from their means."""

  reduction: int = 16
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    gate = nn.relu(Dense(max(channels // self.reduction, 1), dtype=self.dtype, name='squeeze')(x.mean((1, 2))))
    return x * nn.sigmoid(Dense(channels, dtype=self.dtype, name='excite')(gate))[:, None, None]


class Distillation(nn.Module):
  """Each task's features plus those of the other tasks, through a spatial attention a pair of tasks."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, features: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{task: [B, h, w, C]} to the same shapes."""
    out = dict(features)
    for source, x in features.items():
      others = [name for name in features if name != source]
      for to, message in zip(others, self._messages(source, x, len(others))):
        out[to] = out[to] + message
    return out

  def _messages(self, source: str, x, count: int) -> list[jax.Array]:
    """What a task tells each of `count` others; their 3x3 convolutions are one."""
    if not count:
      return []
    both = Conv(2 * count * x.shape[-1], 3, use_bias=False, dtype=self.dtype, name=f'{source}_messages')(x)
    content, attention = jnp.split(both, 2, axis=-1)
    return jnp.split(content * nn.sigmoid(attention), count, axis=-1)


class Aggregation(nn.Module):
  """A task's maps of all scales to its final map."""

  outputs: int
  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: list[jax.Array], train: bool) -> jax.Array:
    """Maps [B, h_i, w_i, C_i] to [B, h_0, w_0, outputs] float32."""
    x = jnp.concatenate([resize(m, maps[0].shape[1:3]) for m in maps], axis=-1)
    x = Conv(self.channels, 3, dtype=self.dtype, name='fuse')(x)
    x = nn.relu(batch_norm(train, dtype=self.dtype, name='bn')(x))
    return Head(self.outputs, name='head')(x)


class MTINet(Network):
  """See module. `Output.initial` are the initial predictions of the finest scale.

  `Output.extra['scales']` holds those of the coarser scales, fine to coarse. Final and initial maps have stride 4.
  """

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to maps."""
    stages = self._encoder().stages(images, train)
    features, predictions, propagated = [], [], None
    for i in reversed(range(len(stages))):
      x = {task.name: self._with_coarser(stages[i], propagated, task.name) for task in self.tasks}
      initial = Decoders(self.tasks, stages[i].shape[-1], 2, self.dtype, self.remat, name=f'initial{i}')
      scale_features, scale_predictions = initial(x, train)
      features.insert(0, Distillation(self.dtype, name=f'distillation{i}')(scale_features))
      predictions.insert(0, scale_predictions)
      if i > 0:
        propagated = FeaturePropagation(self.dtype, self.remat, name=f'propagation{i}')(scale_features, train)
    final = {}
    for task in self.tasks:
      head = Aggregation(task.channels, self.channels, self.dtype, name=f'{task.name}_aggregation')
      final[task.name] = head([scale[task.name] for scale in features], train)
    return Output(final=final, initial=predictions[0], extra={'scales': predictions[1:]})

  def _with_coarser(self, stage, propagated, name):
    """A stage's map, joined by what the next coarser scale hands to this task."""
    if propagated is None:
      return stage
    return jnp.concatenate([stage, resize(propagated[name], stage.shape[1:3])], axis=-1)


def deep_supervision(run: Forward) -> jax.Array:
  """Losses on the initial predictions of the coarser scales, each with weight 1 as the finest (paper, section 3.4)."""
  labels, mask = run.batch['labels'], run.batch['label_mask']
  scales = (losses.map_losses(run.tasks, maps, labels, mask) for maps in run.output.extra['scales'])
  return sum(losses.combine(each, mask, run.weights) for each in scales)


register(
  'mti_net', MTINet, 'MTI-Net', row=5, color='#35a7c9', loss=deep_supervision, initial_loss=1.0,
  cost='281 M, 589 GMAC; it does not say how it put MTI-Net on ResNet-18 (models/mti_net.py)',
)  # fmt: skip
