"""InvPT: inverted pyramid multi-task transformer (Ye and Xu, ECCV 2022).

Structure and widths of the paper and its public code: three stages of width e, e/2, e/4 with
e = C + C/8, attention over the tokens of all tasks, attention messages between stages, maps
summed at twice the last stage's resolution. The DiffusionMTL paper does not say how it put InvPT on
ResNet-18. Here F_backbone, resized to stride 16, feeds the preliminary decoders; stages 2 and 3 add the
encoder's maps of stride 8 and 4. Preliminary decoders have four residual blocks per task: with the two
convolutions published for ViT, parameters would fall 45% short of the paper's 141 M. With ResNet-18,
512x512 images and PASCAL's tasks this gives 147 M parameters (5% more than the paper's) and 1268 GMAC
(7% more than 1182); the last 3x3 convolution at stride 2 takes 978 of them.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.base import Network, Output, register
from dmtl_jax.models.parts.denoiser import Mlp
from dmtl_jax.models.parts.layers import batch_norm, Conv, Dense, Dtype, Head, layer_norm, resize
from dmtl_jax.tasks import Task

STAGES = 3
HEADS = 2


class UpEmbed(nn.Module):
  """[B, h, w, any] to [B, 2h, 2w, channels]: bilinear, then two dilated 3x3 convolutions."""

  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    x = resize(x, (2 * x.shape[1], 2 * x.shape[2]))
    for i in range(2):
      x = Conv(self.channels, 3, dilation=2, use_bias=False, dtype=self.dtype, name=f'conv{i}')(x)
      x = nn.relu(batch_norm(train, dtype=self.dtype, name=f'bn{i}')(x))
    return x


class Attended(NamedTuple):
  """Maps [B, T, h, w, C] and attention scores before the softmax [B, heads, T, h', w', L], for the next stage."""

  maps: jax.Array
  scores: jax.Array


class MessageAttention(nn.Module):
  """Self-attention over the tokens of all tasks, on reduced maps, with the previous stage's scores.

  Attributes:
    names: of the tasks, in order.
    pool: keys and values are averages over pool x pool; queries have stride 2.
  """

  names: tuple[str, ...]
  pool: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, previous_scores: jax.Array | None, train: bool) -> Attended:
    """Attends.

    Args:
      x: [B, T, h, w, C].
      previous_scores: [B, heads, T, h', w', L] of the previous stage over the same L keys, or None.

    Returns:
      Maps [B, T, h/2, w/2, C] and scores [B, heads, T, h/2, w/2, L].
    """
    batch, tasks, _, _, channels = x.shape
    queries = jnp.stack([self._strided(x[:, t], name, train) for t, name in enumerate(self.names)], axis=1)
    size = queries.shape[2:4]
    pooled = nn.avg_pool(x, (self.pool, self.pool), (self.pool, self.pool), 'SAME', count_include_pad=False)
    q = self._project(queries, 'q')
    k = self._project(pooled, 'k')
    v = self._project(pooled, 'v')
    scores = jnp.einsum('bqhc,bkhc->bhqk', q, k) * channels**-0.5
    if previous_scores is not None:
      message = resize(previous_scores, size).reshape(scores.shape)
      both = jnp.concatenate([scores, message], axis=1)
      scores = jnp.moveaxis(Dense(HEADS, dtype=self.dtype, name='fuse')(jnp.moveaxis(both, 1, -1)), -1, 1)
    out = jnp.einsum('bhqk,bkhc->bqhc', nn.softmax(scores), v).reshape(batch, tasks, *size, channels)
    maps = Dense(channels, dtype=self.dtype, name='proj')(out)
    return Attended(maps, scores.reshape(batch, HEADS, tasks, *size, -1))

  def _strided(self, x, name, train):
    channels = x.shape[-1]
    x = Conv(channels, 3, stride=2, groups=channels, use_bias=False, dtype=self.dtype, name=f'{name}_q_conv')(x)
    return batch_norm(train, dtype=self.dtype, name=f'{name}_q_bn')(x)

  def _project(self, maps, name):
    """Projects maps [B, T, h, w, C] to tokens [B, T * h * w, heads, C / heads]."""
    channels = maps.shape[-1]
    projected = Dense(channels, dtype=self.dtype, name=name)(maps)
    return projected.reshape(len(maps), -1, HEADS, channels // HEADS)


class Stage(nn.Module):
  """One stage: doubles the resolution (except the first), then one transformer block over all tasks."""

  names: tuple[str, ...]
  index: int
  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: list[jax.Array], skip, previous_scores, train: bool) -> Attended:
    """Maps [B, h, w, any] of the tasks, the encoder's map and the previous stage's scores (None in the first stage).

    Returns:
      Maps [B, T, 2h, 2w, channels] (h, w in the first stage) and this stage's scores.
    """
    if skip is not None:
      maps = [UpEmbed(self.channels, self.dtype, name=f'{n}_up')(x, train) for n, x in zip(self.names, maps)]
      skip = Conv(self.channels, 3, dtype=self.dtype, name='skip')(skip)
      maps = [x + resize(skip, x.shape[1:3]) for x in maps]
    x = jnp.stack(maps, axis=1)
    attention = MessageAttention(self.names, 2 ** (self.index + 1), self.dtype, name='attention')
    attended = attention(layer_norm(self.dtype, 'norm_attention')(x), previous_scores, train)
    x = x + resize(attended.maps, x.shape[2:4])
    return Attended(x + Mlp(self.dtype, name='mlp')(layer_norm(self.dtype, 'norm_mlp')(x)), attended.scores)


class InvPT(Network):
  """InvPT, see module. `Output.initial` are the preliminary predictions at stride 16; final maps have stride 2."""

  decoder_blocks: int = 4

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to maps."""
    backbone = self._encoder()
    stages = backbone.stages(images, train)
    fused = resize(backbone.fuse(stages), stages[2].shape[1:3])
    decoded = self._decoders(self.decoder_blocks)(fused, train)

    width = 8 * round(9 * self.channels / 64)  # 576 at C = 512; a quarter of it still has two heads
    maps = []
    for task in self.tasks:
      prediction = decoded.predictions[task.name].astype(self.dtype)
      joined = jnp.concatenate([decoded.features[task.name], prediction], axis=-1)
      maps.append(Conv(width, 1, dtype=self.dtype, name=f'{task.name}_mix')(joined))
    names = tuple(task.name for task in self.tasks)
    size = tuple(2**STAGES * n for n in fused.shape[1:3])
    scores = None
    summed = [0] * len(names)
    for i in range(STAGES):
      stage = Stage(names, i, width // 2**i, self.dtype, name=f'stage{i}')
      attended = stage(maps, None if i == 0 else stages[2 - i], scores, train)
      scores = attended.scores
      maps = [attended.maps[:, t] for t in range(len(names))]
      for t, scaled in enumerate(self._to_width(maps, width, i)):
        summed[t] = summed[t] + resize(scaled, size)
    final = {task.name: self._head(task, x, train) for task, x in zip(self.tasks, summed)}
    return Output(final=final, initial=decoded.predictions)

  def _to_width(self, maps: list[jax.Array], width: int, i: int) -> list[jax.Array]:
    """A stage's maps, normalised over the channels of all tasks together, widened to the first stage's width."""
    joined = layer_norm(self.dtype, f'norm{i}')(jnp.concatenate(maps, axis=-1))
    maps = jnp.split(joined, len(maps), axis=-1)
    if i == 0:
      return maps
    convs = [Conv(width, 1, dtype=self.dtype, name=f'{task.name}_widen{i}') for task in self.tasks]
    return [conv(x) for conv, x in zip(convs, maps)]

  def _head(self, task: Task, x, train: bool):
    x = Conv(x.shape[-1], 3, dtype=self.dtype, name=f'{task.name}_final_conv')(x)
    x = nn.relu(batch_norm(train, dtype=self.dtype, name=f'{task.name}_final_bn')(x))
    return Head(task.channels, name=f'{task.name}_final_head')(x)


register(
  'invpt', InvPT, 'InvPT', row=6, color='#8f9a2e', initial_loss=1.0,
  cost='141 M, 1182 GMAC; it does not say how it put InvPT on ResNet-18 (models/invpt.py)',
)  # fmt: skip
