"""Multi-Task Conditioning f_cond: all tasks' initial maps in one map of tokens (docs/paper.md, Model 4)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.layers import Conv, Dtype, ReducedConv


class Conditioning(nn.Module):
  """T initial maps [B, h, w, C_t or C] to F_cond's tokens [B, h/4 * w/4, channels].

  Attributes:
    per_task: True (the paper): a 3x3 convolution per task, then one over their concatenation.
      False (the released Feature Diffusion): one 3x3 convolution over the concatenated maps.
  """

  channels: int
  per_task: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: dict[str, jax.Array]) -> jax.Array:
    if self.per_task:
      maps = {name: Conv(self.channels, 3, dtype=self.dtype, name=f'{name}_embed')(x) for name, x in maps.items()}
    fused = ReducedConv(self.channels, self.dtype, name='fuse')(jnp.concatenate(list(maps.values()), axis=-1))
    return fused.reshape(fused.shape[0], -1, self.channels)
