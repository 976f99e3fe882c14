"""What training changes, and a checkpoint holds."""

from typing import Any

from flax import struct
import jax


class TrainState(struct.PyTreeNode):
  """Everything a step updates.

  Attributes:
    step: scalar int32, updates done.
    params, batch_stats: the model's variables, float32.
    opt_state: optax state.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict:
    return {'params': self.params, 'batch_stats': self.batch_stats}
