"""The MTL baseline and single-task networks (docs/paper.md, Model)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.decoder import Decoders
from dmtl_jax.models.parts.encoder import Backbone
from dmtl_jax.models.parts.layers import Dtype
from dmtl_jax.models.parts.output import Output
from dmtl_jax.tasks import Task


class MTLBaseline(nn.Module):
  """Shared encoder and, for each task, six residual blocks and a 1x1 head."""

  tasks: tuple[Task, ...]
  backbone: str = 'resnet18'
  width: int = 64
  channels: int = 512
  decoder_blocks: int = 6
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False, **_) -> Output:
    """Normalised images [B, H, W, 3] to final maps only; `extra` holds F_backbone as 'features'.

    Takes and ignores pairs and noise.
    """
    features = Backbone(self.backbone, self.width, self.channels, self.dtype, self.remat, name='backbone')(
      images, train
    )
    decoders = Decoders(self.tasks, self.channels, self.decoder_blocks, self.dtype, self.remat, name='decoders')
    _, final = decoders(features, train)
    return Output(final=final, extra={'features': features})


class SingleTask(nn.Module):
  """One separate MTL baseline a task, trained side by side; nothing is shared."""

  tasks: tuple[Task, ...]
  backbone: str = 'resnet18'
  width: int = 64
  channels: int = 512
  decoder_blocks: int = 6
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False, **_) -> Output:
    """As `MTLBaseline`."""
    final = {}
    for task in self.tasks:
      net = MTLBaseline(
        (task,), self.backbone, self.width, self.channels, self.decoder_blocks, self.dtype, self.remat, name=task.name
      )
      final |= net(images, train=train).final
    return Output(final=final)
