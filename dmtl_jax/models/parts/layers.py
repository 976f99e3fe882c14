"""Layers shared by the networks: convolutions with torch's padding, linear layers, resizing."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target
from dmtl_jax.models.parts import winograd

Dtype = Any

BLOCK = 4  # the stride of tokens at which a convolution and its reduction are one product

# torch's default for convolutions and linear layers (uniform, variance 1 / (3 fan_in)), which the
# paper trains from: without norms in the denoiser, He's larger weights start with maps of size 1e3.
kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """x + bias in x's dtype, added in float32: the sum over all places that is the bias's gradient is float32 then."""
  return (x + bias.astype(jnp.float32)).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution with zeros around: x [B, h, w, C] and kernel [k, k, C, D], k odd, to [B, h, w, D]."""
  if winograd.pays(x.shape, kernel.shape, x.dtype):
    return winograd.winograd_conv(x, kernel)
  return _conv_on_cpu(x, kernel) if target.platform() == 'cpu' else _conv(x, kernel, kernel.shape[0] // 2)


def _conv(x, kernel, pad: int):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


# XLA for CPUs is fast at convolutions of this layout alone. It brings others to it, except within loops: there the
# gradients as JAX says them took up to a hundred times as long. So they are said in it.
_conv_on_cpu = jax.custom_vjp(lambda x, kernel: _conv(x, kernel, kernel.shape[0] // 2))


def _gradients_on_cpu(saved, grad):
  x, kernel = saved
  pad = kernel.shape[0] // 2
  of_x = _conv(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), pad)
  of_kernel = _conv(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3), pad)  # the batch is what is summed over
  return of_x, of_kernel.transpose(1, 2, 0, 3)


_conv_on_cpu.defvjp(lambda x, kernel: (_conv_on_cpu(x, kernel), (x, kernel)), _gradients_on_cpu)


class Conv(nn.Module):
  """k x k convolution padded by dilation * (k // 2) on all sides, also where strided (as torch pads)."""

  features: int
  size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, pad = self.size, self.dilation * (self.size // 2)
    kernel = self.param('kernel', kernel_init, (k, k, x.shape[-1] // self.groups, self.features))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.stride == self.dilation == self.groups == 1:
      x = convolve(x, kernel)
    else:
      x = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(self.stride, self.stride),
        padding=[(pad, pad)] * 2,
        rhs_dilation=(self.dilation, self.dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=self.groups,
      )
    return add_bias(x, self.param('bias', nn.initializers.zeros, (self.features,))) if self.use_bias else x


class Dense(nn.Module):
  """Linear layer over the last axis."""

  features: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', kernel_init, (x.shape[-1], self.features))
    x = x.astype(self.dtype) @ kernel.astype(self.dtype)
    return add_bias(x, self.param('bias', nn.initializers.zeros, (self.features,))) if self.use_bias else x


@jax.checkpoint
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The last product of a network: x [..., C] of any dtype and kernel [C, D] float32 to [..., D] float32.

  Rounded to bfloat16, a map has less than three digits: too few for depths and for small differences of logits.
  `highest`, because GPUs and TPUs round the inputs of a float32 product otherwise; so few outputs cost little.
  A checkpoint, so that the gradient keeps x as it was, not a copy in float32.
  """
  return jnp.dot(x.astype(jnp.float32), kernel, precision='highest')


class Head(nn.Module):
  """1x1 convolution to a task's map: float32 outputs of inputs of any dtype, see `project`."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', kernel_init, (1, 1, x.shape[-1], self.features))
    return project(x, kernel[0, 0]) + self.param('bias', nn.initializers.zeros, (self.features,))


def batch_norm(train: bool, *, dtype: Dtype, name: str | None = None):
  """Batch norm over the global batch; running statistics with torch's momentum 0.1."""
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Bilinear resize of [..., H, W, C] to `size`: half-pixel centres, no antialias, same dtype."""
  shape = (*x.shape[:-3], *size, x.shape[-1])
  if shape == x.shape:
    return x
  return jax.image.resize(x, shape, 'bilinear', antialias=False)


def reduce(maps: jax.Array, stride: int) -> jax.Array:
  """Maps [N, h, w, C] to the size at which attention runs, [N, h/stride, w/stride, C] (bilinear, no antialias)."""
  return resize(maps, (max(maps.shape[1] // stride, 1), max(maps.shape[2] // stride, 1)))


class ReducedConv(nn.Module):
  """A 3x3 convolution and `reduce` of its map: [B, h, w, C_in] to [B, h/stride, w/stride, features].

  With stride 4, where 4x4 blocks tile the map, at a ninth of the work: the reduction averages the middle
  2x2 of each block, and what those four outputs read is the block and no more. So a block's result is its
  product with the mean of the kernel laid at its four places.
  """

  features: int
  stride: int = BLOCK
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', kernel_init, (3, 3, x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if self.stride != BLOCK or x.shape[1] % BLOCK or x.shape[2] % BLOCK:
      return add_bias(reduce(convolve(x, kernel.astype(self.dtype)), self.stride), bias)
    return add_bias(reduced_conv(x, kernel), bias)


@jax.jit
def reduced_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """See `ReducedConv`; jitted for its name, by which the summary counts the convolution as defined."""
  batch, height, width, channels = x.shape
  places = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)]
  mean = (sum(places) / len(places)).astype(x.dtype)
  blocks = x.reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
  rows = jnp.swapaxes(blocks, 2, 3).reshape(batch, height // BLOCK, width // BLOCK, -1)
  return rows @ mean.reshape(-1, mean.shape[-1])


def remat_if(remat: bool, block: type[nn.Module]) -> type[nn.Module]:
  """A block called as (x, train): the same, or one that recomputes its inside for the gradient."""
  return nn.remat(block, static_argnums=(2,)) if remat else block
