"""Image encoder f_enc: ResNet-18 or -50 and the fusion of its stages (docs/paper.md, Model 1)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.layers import batch_norm, Conv, Dtype, remat_if, resize
from dmtl_jax.models.parts.pooling import max_pool

STAGES = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


class Residual(nn.Module):
  """A residual block: two 3x3 convolutions (ResNet-18), or 1x1, 3x3 and 1x1 (bottleneck, ResNet-50), and a shortcut.

  Attributes:
    channels: of the inner maps; the output of a bottleneck has four times as many.
    stride: of the first 3x3 convolution, as in torchvision's V1.5.
  """

  channels: int
  stride: int = 1
  bottleneck: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    strided = (self.channels, 3, self.stride)
    if self.bottleneck:
      convolutions = [(self.channels, 1, 1), strided, (4 * self.channels, 1, 1)]
    else:
      convolutions = [strided, (self.channels, 3, 1)]
    y = x
    for i, (channels, size, stride) in enumerate(convolutions, 1):
      y = nn.relu(y) if i > 1 else y
      y = Conv(channels, size, stride, use_bias=False, dtype=self.dtype, name=f'conv{i}')(y)
      y = batch_norm(train, dtype=self.dtype, name=f'bn{i}')(y)
    if self.stride != 1 or x.shape[-1] != y.shape[-1]:
      x = Conv(y.shape[-1], 1, self.stride, use_bias=False, dtype=self.dtype, name='downsample_conv')(x)
      x = batch_norm(train, dtype=self.dtype, name='downsample_bn')(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet without its classifier.

  Attributes:
    depth: 'resnet18' or 'resnet50'.
    width: channels of the stem; 64 is the published network.
    remat: recompute each block's activations for the gradient instead of keeping them.
  """

  depth: str = 'resnet18'
  width: int = 64
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
    """Normalised images [B, H, W, 3] to the four stage maps at strides 4, 8, 16 and 32."""
    block = remat_if(self.remat, Residual)
    bottleneck = self.depth == 'resnet50'
    x = Conv(self.width, 7, stride=2, use_bias=False, dtype=self.dtype, name='conv1')(images.astype(self.dtype))
    x = nn.relu(batch_norm(train, dtype=self.dtype, name='bn1')(x))
    x = max_pool(x)
    stages = []
    for i, blocks in enumerate(STAGES[self.depth]):
      for j in range(blocks):
        stride = 2 if i > 0 and j == 0 else 1
        x = block(self.width * 2**i, stride, bottleneck, self.dtype, name=f'layer{i + 1}_{j}')(x, train)
      stages.append(x)
    return stages


class Backbone(nn.Module):
  """ResNet and the fusion of its stages: images [B, H, W, 3] to F_backbone [B, H/8, W/8, channels]."""

  depth: str
  width: int
  channels: int
  dtype: Dtype = jnp.float32
  remat: bool = False

  def setup(self):
    self.encoder = ResNet(self.depth, self.width, self.dtype, self.remat)
    self.reduce = Conv(self.channels, 3, dtype=self.dtype)

  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    return self.fuse(self.stages(images, train))

  def stages(self, images: jax.Array, train: bool) -> list[jax.Array]:
    """The encoder's four stage maps, see `ResNet`."""
    return self.encoder(images, train)

  def fuse(self, stages: list[jax.Array]) -> jax.Array:
    """The four stage maps to F_backbone."""
    size = (stages[0].shape[1] // 2, stages[0].shape[2] // 2)
    return self.reduce(jnp.concatenate([resize(stage, size) for stage in stages], axis=-1))
