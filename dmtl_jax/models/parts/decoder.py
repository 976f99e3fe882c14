"""Per-task decoders f_dec^t and heads f_pred^t (docs/paper.md, Model 2)."""

import operator
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target
from dmtl_jax.models.parts.encoder import Residual
from dmtl_jax.models.parts.layers import Dtype, Head, recompute, remat_if, stack_trees
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
    if target.platform() == 'tpu' and len(self.tasks) > 1 and not self.is_initializing():
      maps = self._decode_in_loop(features, train)
    else:
      maps = self._decode(features, train)
    decoded = Decoded(dict(zip((task.name for task in self.tasks), maps)), {})
    for task in self.tasks:
      x = decoded.features[task.name]
      decoded.predictions[task.name] = Head(task.channels, name=f'{task.name}_head')(x)
    return decoded

  def _names(self, task: Task) -> list[str]:
    return [f'{task.name}_block{i}' for i in range(self.blocks)]

  def _decode(self, features, train: bool) -> list[jax.Array]:
    """F_init of each task."""
    block = remat_if(self.remat, Residual)
    decoded = []
    for task in self.tasks:
      x = features[task.name] if isinstance(features, dict) else features
      for name in self._names(task):
        x = block(self.channels, dtype=self.dtype, name=name)(x, train)
      decoded.append(x)
    return decoded

  def _decode_in_loop(self, features, train: bool) -> list[jax.Array]:
    """`_decode` as a loop over the tasks' stacked variables: a TPU's compiler takes seconds for each convolution."""
    block = Residual(self.channels, dtype=self.dtype, parent=None)
    shared = None if isinstance(features, dict) else features
    own = None if shared is not None else jnp.stack([features[task.name] for task in self.tasks])

    def blocks_of(collection: str, task: Task):
      return [self.get_variable(collection, name) for name in self._names(task)]

    def decode(variables, x):
      updates = []
      for params, stats in zip(*variables):
        x, update = block.apply({'params': params, 'batch_stats': stats}, x, train, mutable=['batch_stats'])
        updates.append(update['batch_stats'])
      return x, updates

    def decode_next(_, inputs):
      variables, own = inputs
      return None, recompute(decode, keep_products=not self.remat)(variables, shared if own is None else own)

    by_task = [(blocks_of('params', task), blocks_of('batch_stats', task)) for task in self.tasks]
    _, (maps, updates) = jax.lax.scan(decode_next, None, (stack_trees(by_task), own))
    if self.is_mutable_collection('batch_stats'):
      for t, task in enumerate(self.tasks):
        for name, update in zip(self._names(task), updates):
          self.put_variable('batch_stats', name, jax.tree.map(operator.itemgetter(t), update))
    return list(maps)
