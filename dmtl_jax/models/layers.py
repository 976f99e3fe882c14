"""Layers shared by the networks: convolutions with torch's padding, resizing, residual block."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

Dtype = Any

# torch's default for convolutions and linear layers (uniform, variance 1 / (3 fan_in)), which the
# paper trains from: without norms in the denoiser, He's larger weights start with maps of size 1e3.
kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    dtype: Dtype,
    name: str | None = None,
):
  """k x k convolution padded by dilation * (k // 2) on all sides, also where strided (as torch pads)."""
  return nn.Conv(
      features,
      (kernel, kernel),
      strides=(stride, stride),
      padding=[(dilation * (kernel // 2),) * 2] * 2,
      kernel_dilation=(dilation, dilation),
      feature_group_count=groups,
      use_bias=bias,
      dtype=dtype,
      kernel_init=kernel_init,
      name=name,
  )


def batch_norm(train: bool, *, dtype: Dtype, name: str | None = None):
  """Batch norm over the global batch; running statistics with torch's momentum 0.1."""
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Bilinear resize of [..., H, W, C] to `size`: half-pixel centres, no antialias, same dtype."""
  shape = (*x.shape[:-3], *size, x.shape[-1])
  if shape == x.shape:
    return x
  return jax.image.resize(x, shape, 'bilinear', antialias=False)


class ResidualBlock(nn.Module):
  """Basic residual block at constant width (PAPER.md, Model 2): [B, h, w, C] to the same shape."""

  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    y = conv(self.channels, 3, bias=False, dtype=self.dtype, name='conv1')(x)
    y = nn.relu(batch_norm(train, dtype=self.dtype, name='bn1')(y))
    y = conv(self.channels, 3, bias=False, dtype=self.dtype, name='conv2')(y)
    y = batch_norm(train, dtype=self.dtype, name='bn2')(y)
    return nn.relu(x + y)


def remat_if(remat: bool, block: type[nn.Module]) -> type[nn.Module]:
  """A block called as (x, train): the same, or one that recomputes its inside for the gradient."""
  return nn.remat(block, static_argnums=(2,)) if remat else block
