"""Layers shared by the networks: convolutions with torch's padding, linear layers, resizing."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import target
from dmtl_jax.models.parts import winograd

Dtype = Any

# torch's default for convolutions and linear layers (uniform, variance 1 / (3 fan_in)), as in the
# paper: the denoiser has no norms, and He's larger weights start with maps of size 1e3.
kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """x + bias in x's dtype, added in float32, so that the bias's gradient is summed in float32."""
  return (x + bias.astype(jnp.float32)).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution with zero padding: x [B, h, w, C] and kernel [k, k, C, D], k odd, to [B, h, w, D]."""
  if winograd.is_faster(x.shape, kernel.shape, x.dtype):
    return winograd.winograd_conv(x, kernel)
  if _is_narrow(x.shape, kernel.shape) and target.platform() == 'cpu':
    return narrow_conv(x, kernel)
  return _conv_on_cpu(x, kernel) if target.platform() == 'cpu' else _conv(x, kernel, kernel.shape[0] // 2)


def _conv(x, kernel, pad: int, stride: int = 1, dilation: int = 1, groups: int = 1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=[(pad, pad)] * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


@jax.custom_vjp
def _conv_on_cpu(x, kernel):
  """`_conv` with gradients in the layout NHWC, HWIO.

  XLA for CPUs is fast only in this layout. It converts other layouts, but not inside loops, where the gradients
  that JAX derives took up to a hundred times as long.
  """
  return _conv(x, kernel, kernel.shape[0] // 2)


def _conv_on_cpu_forward(x, kernel):
  return _conv_on_cpu(x, kernel), (x, kernel)


def _conv_on_cpu_backward(saved, grad):
  x, kernel = saved
  pad = kernel.shape[0] // 2
  grad_x = _conv(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), pad)
  grad_kernel = _conv(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3), pad)  # sums over the batch
  return grad_x, grad_kernel.transpose(1, 2, 0, 3)


_conv_on_cpu.defvjp(_conv_on_cpu_forward, _conv_on_cpu_backward)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Matrix product x [..., C] @ kernel [C, D], or one per map: x [N, L, C] @ kernel [N, C, D]."""
  if target.platform() != 'cpu':
    return x @ kernel
  rows = x.reshape(-1, x.shape[-1]) if kernel.ndim == 2 else x
  return _product_on_cpu(rows, kernel).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _product_on_cpu(x, kernel):
  """`x @ kernel` with the kernel's gradient as a plain product, which XLA gives to YNNPACK.

  Of the gradient that JAX derives, XLA makes a product along the last axes of both, at a third to a fifth of the speed.
  """
  return x @ kernel


def _product_forward(x, kernel):
  return x @ kernel, (x, kernel)


def _product_backward(saved, grad):
  x, kernel = saved
  is_narrower = grad.shape[-1] < x.shape[-1]
  grad_kernel = _transpose(_product_of_transposed(grad, x)) if is_narrower else _product_of_transposed(x, grad)
  return grad @ _transpose(kernel), grad_kernel


_product_on_cpu.defvjp(_product_forward, _product_backward)


def _product_of_transposed(x, y):
  """x^T @ y as a product that YNNPACK takes: the barriers keep XLA from making transpositions a part of it."""
  return jax.lax.optimization_barrier(jax.lax.optimization_barrier(_transpose(x)) @ y)


def _transpose(x):
  """The transpose of each matrix [..., n, m]."""
  return jnp.swapaxes(x, -1, -2)


def _is_narrow(shape: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
  """Whether `narrow_conv` can do x of `shape` [B, h, w, C] with a kernel [k, k, C, D], and is faster on CPUs."""
  is_small = max(kernel[2:]) <= 8 and kernel[2] * kernel[3] <= 36
  return kernel[:2] == (3, 3) and is_small and shape[1] % 2 == shape[2] % 2 == 0


@jax.jit
def narrow_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3 convolution of few channels: x [B, h, w, C], h and w even, and kernel [3, 3, C, D] to [B, h, w, D].

  As a convolution of blocks of 2x2 pixels: three in four of its products are with zeros, and still it takes half the
  time on CPUs for four channels, and three quarters for six, since XLA's convolution of so few runs at a seventh of its
  usual speed. Jitted as `stem_conv` is.
  """
  batch, height, width, channels = x.shape
  along = _TAPS.astype(kernel.dtype)
  taps = jnp.einsum('siab,tjcd,stxy->ijacxbdy', along, along, kernel)
  blocks = _conv_on_cpu(_blocks(x), taps.reshape(3, 3, 4 * channels, 4 * kernel.shape[-1]))
  out = kernel.shape[-1]
  return blocks.reshape(batch, height // 2, width // 2, 2, 2, out).swapaxes(2, 3).reshape(batch, height, width, out)


def _taps() -> np.ndarray:
  """[tap, block, pixel before, pixel after] float32, along an axis: 1 where the tap reads that pixel of the block."""
  tap, block, before, after = np.indices((3, 3, 2, 2))
  return (tap - 1 == 2 * (block - 1) + before - after).astype(np.float32)


_TAPS = _taps()


def _blocks(x: jax.Array) -> jax.Array:
  """[B, h, w, C], h and w even, to blocks of 2x2 pixels [B, h/2, w/2, 4 C]."""
  batch, height, width, channels = x.shape
  blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
  return blocks.reshape(batch, height // 2, width // 2, 4 * channels)


@jax.jit
def stem_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """7x7 convolution with stride 2, padded by 3: x [B, h, w, C], C small, to [B, ceil(h/2), ceil(w/2), D].

  Jitted so that `counting` knows it by name and counts the convolution as defined.
  """
  return _stem_conv(x, kernel)


@jax.custom_vjp
def _stem_conv(x, kernel):
  """As a 4x4 convolution with stride 1 of blocks of 2x2 pixels: on CPUs a seventh of the time for three channels."""
  height, width, channels = x.shape[1:]
  rows, columns = -(-height // 2), -(-width // 2)
  padded = jnp.pad(x, ((0, 0), (4, 2 * rows + 2 - height), (4, 2 * columns + 2 - width), (0, 0)))
  taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2)
  return _conv(_blocks(padded), taps.reshape(4, 4, -1, taps.shape[-1]), pad=0)


def _stem_conv_forward(x, kernel):
  return _stem_conv(x, kernel), (x, kernel)


def _stem_conv_backward(saved, grad):
  return jax.vjp(lambda x, kernel: _conv(x, kernel, pad=3, stride=2), *saved)[1](grad)


_stem_conv.defvjp(_stem_conv_forward, _stem_conv_backward)


class Conv(nn.Module):
  """k x k convolution padded as torch does: by dilation * (k // 2) on all sides, also with a stride."""

  features: int
  size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', kernel_init, shape).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.stride == self.dilation == self.groups == 1:
      x = convolve(x, kernel)
    elif (self.size, self.stride, self.dilation, self.groups) == (7, 2, 1, 1) and target.platform() == 'cpu':
      x = stem_conv(x, kernel)
    else:
      pad = self.dilation * (self.size // 2)
      x = _conv(x, kernel, pad, stride=self.stride, dilation=self.dilation, groups=self.groups)
    return add_bias(x, self.param('bias', nn.initializers.zeros, (self.features,))) if self.use_bias else x


class Dense(nn.Module):
  """Linear layer over the last axis."""

  features: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', kernel_init, (x.shape[-1], self.features))
    x = product(x.astype(self.dtype), kernel.astype(self.dtype))
    return add_bias(x, self.param('bias', nn.initializers.zeros, (self.features,))) if self.use_bias else x


@jax.checkpoint
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The last product of a network, in float32: x [..., C] of any dtype and kernel [C, D] float32 to [..., D].

  bfloat16 has less than three digits: too few for depths and for small differences of logits.
  Without `highest`, GPUs and TPUs round the inputs of a float32 product; for so few outputs it costs little.
  A checkpoint, so that the gradient keeps x in its own dtype and not a copy in float32.
  """
  return jnp.dot(x.astype(jnp.float32), kernel, precision='highest')


class Head(nn.Module):
  """1x1 convolution to a task's map, from any dtype to float32, see `project`."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', kernel_init, (1, 1, x.shape[-1], self.features))
    return project(x, kernel[0, 0]) + self.param('bias', nn.initializers.zeros, (self.features,))


def batch_norm(train: bool, *, dtype: Dtype, name: str | None = None):
  """Batch norm over the global batch; running statistics with torch's momentum 0.1."""
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def layer_norm(dtype: Dtype, name: str | None = None):
  """Layer norm over channels with torch's epsilon."""
  return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Bilinear resize of [..., H, W, C] to `size`: half-pixel centres, no antialias, same dtype."""
  shape = (*x.shape[:-3], *size, x.shape[-1])
  if shape == x.shape:
    return x
  if target.platform() == 'cpu':
    return resize_on_cpu(x, size)
  return jax.image.resize(x, shape, 'bilinear', antialias=False)


@functools.partial(jax.jit, static_argnums=1)
def resize_on_cpu(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """`resize` by two products, so that the gradient sums over the columns first, along which it lies in memory.

  Jitted so that `counting` knows it by name and leaves it out.
  """
  rows, columns = (_bilinear(*lengths) for lengths in zip(x.shape[-3:-1], size))
  stretched = jnp.einsum('...hwc,ih->...icw', x, rows.astype(x.dtype))
  return jnp.swapaxes(stretched @ columns.T.astype(x.dtype), -1, -2)


def _bilinear(before: int, after: int) -> np.ndarray:
  """Weights [after, before] float32 that resize an axis; beyond its ends the last value goes on."""
  centres = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
  return np.maximum(1 - np.abs(centres[:, None] - np.arange(before)), 0).astype(np.float32)


def remat_if(remat: bool, block: type[nn.Module]) -> type[nn.Module]:
  """`block`, called as (x, train), or if `remat` one that recomputes its activations for the gradient."""
  return nn.remat(block, static_argnums=(2,)) if remat else block


def recompute(run, keep_products: bool = True):
  """`run`, the body of a loop, with a gradient that computes it again, except its products and sums if `keep_products`.

  Otherwise JAX keeps every value that the gradient reads, some of them in float32. Outside of loops XLA fuses most of
  these away; what a loop keeps is written to memory.
  """
  policy = _is_product_or_sum if keep_products else None
  return jax.checkpoint(run, policy=policy, prevent_cse=False)


def _is_product_or_sum(primitive, *_, **__) -> bool:
  return primitive.name in ('conv_general_dilated', 'dot_general', 'reduce_sum')


def stack_trees(trees: list):
  """Trees of arrays of equal shapes to one tree of arrays with a leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
