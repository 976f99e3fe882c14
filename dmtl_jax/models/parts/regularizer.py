"""JTR's regularising network: an autoencoder of all tasks' maps, like SegNet (Nishi et al., CVPR 2024)."""

import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.models.parts.layers import Conv, Dtype

ENCODER_CONVS = (2, 2, 3, 3, 3)  # convolutions of each level before its pooling
DECODER_CONVS = (2, 2, 3, 3, 3)  # and after its unpooling
STRIDE = 2 ** len(ENCODER_CONVS)


class Autoencoded(NamedTuple):
  """Embedding [B, H/32, W/32, channels], and raw reconstructed maps [B, H, W, C] float32."""

  embedding: jax.Array
  maps: jax.Array


class ConvNormReLU(nn.Module):
  """3x3 convolution, instance norm, ReLU.

  The authors' batch norm only ever sees one image, so it is an instance norm, before which a bias has no effect.
  """

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Conv(self.features, 3, use_bias=False, dtype=self.dtype, name='conv')(x)
    return nn.relu(nn.InstanceNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(x))


class Regularizer(nn.Module):
  """Autoencoder of maps [B, H, W, C].

  Five levels of C/8, C/4, C/2, C and C channels for C = `channels`: the authors' 64 to 512 for 512. Pooling remembers
  the place of each maximum, to which unpooling returns the value. Sizes that 32 does not divide are padded with zeros
  at the bottom and right.
  """

  channels: int
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> Autoencoded:
    height, width, outputs = x.shape[1:]
    block = nn.remat(ConvNormReLU) if self.remat else ConvNormReLU
    widths = [max(self.channels // n, 1) for n in (8, 4, 2, 1, 1)]
    x = jnp.pad(x, ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0)))
    places = []
    for i, convs in enumerate(ENCODER_CONVS):
      for j in range(convs):
        x = block(widths[i], self.dtype, name=f'encoder{i}_{j}')(x)
      x, place = pool(x)
      places.append(place)
    embedding = x
    for i in reversed(range(len(places))):
      x = unpool(x, places[i])
      for j in range(DECODER_CONVS[i]):
        x = block(widths[max(i - 1, 0)], self.dtype, name=f'decoder{i}_{j}')(x)
    x = Conv(widths[0], 3, dtype=self.dtype, name='output0')(x)
    x = Conv(outputs, 1, dtype=self.dtype, name='output1')(x)
    return Autoencoded(embedding, x[:, :height, :width].astype(jnp.float32))


def pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maxima [B, h/2, w/2, C] of the 2x2 blocks of [B, h, w, C], and their places, one-hot [B, h/2, w/2, C, 4]."""
  batch, height, width, channels = x.shape
  blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
  blocks = blocks.reshape(*blocks.shape[:4], 4)
  place = jax.nn.one_hot(blocks.argmax(-1), 4, dtype=x.dtype)
  return (blocks * place).sum(-1), place


def unpool(x: jax.Array, place: jax.Array) -> jax.Array:
  """Puts [B, h/2, w/2, C] at the places that `pool` found, zeros elsewhere: [B, h, w, C]."""
  blocks = (x[..., None] * place).reshape(*x.shape, 2, 2).transpose(0, 1, 4, 2, 5, 3)
  return blocks.reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3])


def init_params(params: dict, key: jax.Array) -> dict:
  """The authors' initial weights: kernels Xavier normal."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  sizes = [leaf.size if path[-1].key == 'kernel' else 0 for path, leaf in leaves]
  draws = jax.random.normal(key, (sum(sizes),))  # one draw, since each takes a second to compile
  drawn = []
  for (_, leaf), own in zip(leaves, jnp.split(draws, np.cumsum(sizes)[:-1])):
    fans = math.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])
    drawn.append(own.reshape(leaf.shape) * (2 / fans) ** 0.5 if own.size else leaf)
  return jax.tree.unflatten(treedef, drawn)
