"""Image encoder f_enc: ResNet-18 or -50 and the fusion of its stages (docs/paper.md, Model 1)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.layers import batch_norm, conv, Dtype, remat_if, resize

STAGES = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut (ResNet-18)."""

  channels: int
  stride: int = 1
  dtype: Dtype = jnp.float32
  expansion = 1

  @nn.compact
  def __call__(self, x, train: bool):
    y = conv(self.channels, 3, stride=self.stride, bias=False, dtype=self.dtype, name='conv1')(x)
    y = nn.relu(batch_norm(train, dtype=self.dtype, name='bn1')(y))
    y = conv(self.channels, 3, bias=False, dtype=self.dtype, name='conv2')(y)
    y = batch_norm(train, dtype=self.dtype, name='bn2')(y)
    return nn.relu(_shortcut(x, y.shape[-1], self.stride, train, self.dtype) + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 (strided, as torchvision's V1.5), 1x1 convolutions with a shortcut (ResNet-50)."""

  channels: int
  stride: int = 1
  dtype: Dtype = jnp.float32
  expansion = 4

  @nn.compact
  def __call__(self, x, train: bool):
    y = conv(self.channels, 1, bias=False, dtype=self.dtype, name='conv1')(x)
    y = nn.relu(batch_norm(train, dtype=self.dtype, name='bn1')(y))
    y = conv(self.channels, 3, stride=self.stride, bias=False, dtype=self.dtype, name='conv2')(y)
    y = nn.relu(batch_norm(train, dtype=self.dtype, name='bn2')(y))
    y = conv(self.expansion * self.channels, 1, bias=False, dtype=self.dtype, name='conv3')(y)
    y = batch_norm(train, dtype=self.dtype, name='bn3')(y)
    return nn.relu(_shortcut(x, y.shape[-1], self.stride, train, self.dtype) + y)


def _shortcut(x, channels: int, stride: int, train: bool, dtype: Dtype):
  """Identity, or a strided 1x1 projection where the block changes the shape."""
  if stride == 1 and x.shape[-1] == channels:
    return x
  x = conv(channels, 1, stride=stride, bias=False, dtype=dtype, name='downsample_conv')(x)
  return batch_norm(train, dtype=dtype, name='downsample_bn')(x)


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
    block = remat_if(self.remat, BasicBlock if self.depth == 'resnet18' else Bottleneck)
    x = conv(self.width, 7, stride=2, bias=False, dtype=self.dtype, name='conv1')(images.astype(self.dtype))
    x = nn.relu(batch_norm(train, dtype=self.dtype, name='bn1')(x))
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
    stages = []
    for i, blocks in enumerate(STAGES[self.depth]):
      for j in range(blocks):
        stride = 2 if i > 0 and j == 0 else 1
        x = block(self.width * 2**i, stride, self.dtype, name=f'layer{i + 1}_{j}')(x, train)
      stages.append(x)
    return stages


class Backbone(nn.Module):
  """Encoder and fusion: images [B, H, W, 3] to F_backbone [B, H/8, W/8, channels]."""

  depth: str
  width: int
  channels: int
  dtype: Dtype = jnp.float32
  remat: bool = False

  def setup(self):
    self.encoder = ResNet(self.depth, self.width, self.dtype, self.remat)
    self.reduce = conv(self.channels, 3, dtype=self.dtype)

  def __call__(self, images: jax.Array, train: bool) -> jax.Array:
    return self.fuse(self.stages(images, train))

  def stages(self, images: jax.Array, train: bool) -> list[jax.Array]:
    """The encoder's four stage maps, see `ResNet`."""
    return self.encoder(images, train)

  def fuse(self, stages: list[jax.Array]) -> jax.Array:
    """F_backbone of the four stage maps."""
    size = (stages[0].shape[1] // 2, stages[0].shape[2] // 2)
    return self.reduce(jnp.concatenate([resize(stage, size) for stage in stages], axis=-1))
