"""Convolutions whose result is needed only at the size at which attention runs.

`reduce` by 4 averages the middle 2x2 pixels of each block of 4x4. A k x k convolution followed by it is therefore one
product of windows of (k + 1) x (k + 1) pixels, every 4 pixels, with the mean of the kernel at those four positions.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target
from dmtl_jax.models.parts.layers import add_bias, convolve, Dtype, kernel_init, product, resize

BLOCK = 4  # the stride at which a convolution and its reduction are one product


class ConvWeights(NamedTuple):
  """Kernel [k, k, C, D] and bias [D], float32."""

  kernel: jax.Array
  bias: jax.Array


class ConvParams(nn.Module):
  """The parameters of a k x k `layers.Conv` with bias, for functions that do not apply it by itself."""

  features: int
  size: int

  @nn.compact
  def __call__(self, channels: int) -> ConvWeights:
    kernel = self.param('kernel', kernel_init, (self.size, self.size, channels, self.features))
    return ConvWeights(kernel, self.param('bias', nn.initializers.zeros, (self.features,)))


class ReducedConv(nn.Module):
  """`reduce` of a 3x3 convolution: [B, h, w, C_in] to [B, h/stride, w/stride, features]."""

  features: int
  stride: int = BLOCK
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, before: Sequence[ConvWeights] = ()) -> jax.Array:
    """Convolves and reduces.

    Args:
      x: maps.
      before: 3x3 convolutions, each of its own channels of x, one after the other; if there are any, what is convolved
        is their results side by side. Only where it `composes`.
    """
    channels = sum(len(each.bias) for each in before) or x.shape[-1]
    kernel = self.param('kernel', kernel_init, (3, 3, channels, self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if before:
      biases = jnp.concatenate([each.bias for each in before])
      reduced = reduced_convs(x, kernel, *(each.kernel for each in before), platform=target.platform())
      return add_bias(reduced, bias + jnp.dot(biases, kernel.sum((0, 1)), precision='highest'))
    if not is_tiled(x.shape, self.stride):
      return add_bias(reduce(convolve(x, kernel.astype(self.dtype)), self.stride), bias)
    return add_bias(reduced_conv(x, kernel, platform=target.platform()), bias)


def reduce(maps: jax.Array, stride: int) -> jax.Array:
  """Maps [N, h, w, C] to the size at which attention runs, [N, h/stride, w/stride, C] (bilinear, no antialias)."""
  return resize(maps, (max(maps.shape[1] // stride, 1), max(maps.shape[2] // stride, 1)))


def is_tiled(shape: tuple[int, ...], stride: int) -> bool:
  """Whether `reduce` of maps [N, h, w, C] averages the middle of blocks, and blocks tile the maps."""
  return stride == BLOCK and shape[1] % BLOCK == 0 and shape[2] % BLOCK == 0


def composes(shape: tuple[int, ...], stride: int, channels: Sequence[int], features: int) -> bool:
  """Whether `reduced_convs` applies to maps [N, h, w, C], and takes less work for one of them than its definition.

  Args:
    channels: C_t of each first convolution.
    features: of the first convolutions and of the second.
  """
  pixels, count, total = shape[1] * shape[2], len(channels), sum(channels)
  once = 81 * count * max(channels) * features + pixels * 36 / BLOCK**2 * total
  twice = pixels * (9 * total + count * features)
  return is_tiled(shape, stride) and once < twice


@functools.partial(jax.jit, static_argnames='platform')
def reduced_conv(x: jax.Array, kernel: jax.Array, *, platform: str) -> jax.Array:
  """`reduce` of the convolution of x [B, h, w, C] with a kernel [k, k, C, D], k 3 or 5, where `is_tiled`.

  For k = 3 that takes a ninth of the work. Jitted so that `counting` knows it by name and counts the convolution as
  defined; `platform`, that of `target`, makes jit trace it anew for another one, since `product` depends on it.
  """
  size = kernel.shape[0]
  shifted = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)]
  mean = (sum(shifted) / len(shifted)).astype(x.dtype)
  windows = _windows(_windows(x, 1, size + 1), 3, size + 1).swapaxes(2, 3)  # [B, h/4, w/4, k + 1, k + 1, C]
  return product(windows.reshape(*windows.shape[:3], -1), mean.reshape(-1, mean.shape[-1]))


def _windows(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Makes of an axis of n pixels n/4 windows of `size` pixels, 4 or 6, around each block of 4; 0 beyond the ends."""
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  if size > BLOCK:
    x = jnp.pad(x, [(0, 0)] * axis + [(1, BLOCK - 1)] + [(0, 0)] * len(after))
  blocks = x.reshape(*before, -1, BLOCK, *after)
  if size == BLOCK:
    return blocks
  count = blocks.shape[axis] - 1
  own, following = (jax.lax.slice_in_dim(blocks, i, i + count, axis=axis) for i in (0, 1))
  return jnp.concatenate([own, jax.lax.slice_in_dim(following, 0, size - BLOCK, axis=axis + 1)], axis=axis + 1)


@functools.partial(jax.jit, static_argnames='platform')
def reduced_convs(x: jax.Array, kernel: jax.Array, *before: jax.Array, platform: str) -> jax.Array:
  """`reduced_conv` of what other convolutions make of x, see `ReducedConv`; without their biases.

  Both are linear, so one kernel of 5x5 does the work of two of 3x3. Where they pad does not matter: the middle of a
  block depends on nothing that the second convolution would pad. So nothing is as large as the maps between the two,
  which for PASCAL have 2560 channels where x has 34: planned for a TPU v5e, 3.6 of 39.6 GB of a step's memory traffic.
  Jitted as `reduced_conv` is.
  """
  count, features = len(before), kernel.shape[-1]
  channels = [each.shape[2] for each in before]
  first = jnp.stack([jnp.pad(each, ((0, 0), (0, 0), (0, max(channels) - each.shape[2]), (0, 0))) for each in before])
  second = kernel.reshape(3, 3, count, -1, features)
  products = jnp.einsum('tuvcm,ijtmd->ijuvtcd', first, second)
  shifted = [jnp.pad(products[i, j], ((i, 2 - i), (j, 2 - j), *[(0, 0)] * 3)) for i in range(3) for j in range(3)]
  composed = sum(shifted)  # [5, 5, T, max C_t, D]
  combined = jnp.concatenate([composed[:, :, t, :c] for t, c in enumerate(channels)], axis=2)
  return reduced_conv(x, combined, platform=platform)
