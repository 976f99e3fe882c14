"""The training state: what a step updates and a checkpoint holds."""

from typing import Any

from flax import struct
from flax.training.dynamic_scale import DynamicScale
import jax
import jax.numpy as jnp

MIN_SCALE = 1.0  # of a float16 network's loss


class TrainState(struct.PyTreeNode):
  """Everything that a step updates.

  Attributes:
    step: scalar int32, number of updates.
    params, batch_stats: the model's variables, float32.
    opt_state: optax state.
    scale: the factor on the loss of a float16 network, see `initial_loss_scale`; None for other dtypes.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  scale: DynamicScale | None = None

  @property
  def variables(self) -> dict:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def initial_loss_scale() -> DynamicScale:
  """The initial loss scale of a float16 network, whose gradients would be 0 below 6e-8 and infinite above 65504.

  An infinite gradient halves the scale (to at least `MIN_SCALE`), 2000 finite ones in a row double it.
  """
  return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2**16), minimum_scale=MIN_SCALE)  # pyrefly: ignore[bad-argument-type]
