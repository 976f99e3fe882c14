"""Per-task decoders f_dec^t and heads f_pred^t (docs/paper.md, Model 2)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts.encoder import Residual
from dmtl_jax.models.parts.layers import Dtype, Head, remat_if
from dmtl_jax.tasks import Task


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
  def __call__(self, features: jax.Array | dict[str, jax.Array], train: bool) -> tuple[dict, dict]:
    """F_backbone [B, h, w, any], or one a task, to {task: F_init [B, h, w, C]} and {task: P_init [.., C_t] float32}."""
    block = remat_if(self.remat, Residual)
    task_features, predictions = {}, {}
    for task in self.tasks:
      x = features[task.name] if isinstance(features, dict) else features
      for i in range(self.blocks):
        x = block(self.channels, dtype=self.dtype, name=f'{task.name}_block{i}')(x, train)
      task_features[task.name] = x
      predictions[task.name] = Head(task.channels, name=f'{task.name}_head')(x)
    return task_features, predictions
