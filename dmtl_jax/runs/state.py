"""What training changes, and a checkpoint holds."""

from typing import Any

from flax import struct
from flax.training.dynamic_scale import DynamicScale
import jax
import jax.numpy as jnp

LEAST_SCALE = 1.0  # of a float16 network's loss


class TrainState(struct.PyTreeNode):
  """Everything a step updates.

  Attributes:
    step: scalar int32, updates done.
    params, batch_stats: the model's variables, float32.
    opt_state: optax state.
    scale: what the loss of a float16 network is multiplied by, see `loss_scale`; None for other dtypes.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  scale: DynamicScale | None = None

  @property
  def variables(self) -> dict:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def loss_scale() -> DynamicScale:
  """The first scale of a float16 network's loss: gradients below 6e-8 would be 0, and above 65504 infinite.

  An infinite one halves it (to no less than `LEAST_SCALE`), 2000 finite ones in a row double it.
  """
  return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2**16), minimum_scale=LEAST_SCALE)  # pyrefly: ignore[bad-argument-type]
