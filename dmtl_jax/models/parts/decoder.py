"""Per-task decoders f_dec^t and heads f_pred^t (docs/paper.md, Model 2)."""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.encoder import Residual
from dmtl_jax.models.parts.layers import Dtype, Head, remat_if
from dmtl_jax.tasks import Task


class Decoded(NamedTuple):
  """Initial features {task: F_init [B, h, w, C]} and predictions {task: P_init [B, h, w, C_t] float32}."""

  features: dict[str, jax.Array]
  predictions: dict[str, jax.Array]


class Decoders(nn.Module):
  """One decoder and one head per task.

  Attributes:
    blocks: residual blocks per task; 2 before the diffusion, 6 in the MTL baseline.
    remat: recompute each block's activations for the gradient instead of keeping them.
  """

  tasks: tuple[Task, ...]
  channels: int
  blocks: int
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, features: jax.Array | dict[str, jax.Array], train: bool) -> Decoded:
    """Decodes F_backbone [B, h, w, any], or one map per task."""
    block = remat_if(self.remat, Residual)
    decoded = Decoded({}, {})
    for task in self.tasks:
      x = features[task.name] if isinstance(features, dict) else features
      for i in range(self.blocks):
        x = block(self.channels, dtype=self.dtype, name=f'{task.name}_block{i}')(x, train)
      decoded.features[task.name] = x
      decoded.predictions[task.name] = Head(task.channels, name=f'{task.name}_head')(x)
    return decoded
