"""The train step, in stages: gradients of (micro-)batches, guard, update."""

import dataclasses
import functools
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import optax

from dmtl_jax.models import find, Forward
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.runs.state import MIN_SCALE, TrainState
from dmtl_jax.tasks import Task, values_by_task
from dmtl_jax.training import optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
  """The function (state, batch, number) -> (state, scalars); jit it with the state donated.

  Its inputs are a TrainState, a Batch (see data/pipeline.py) and the number of the step to be made, from 1. The
  scalars: 'loss/total', 'loss/final/TASK' and 'loss/initial/TASK' (sums over this batch's labelled images) with
  'count/TASK' labelled images, 'grad_norm', and 'is_finite': the update was made. Of a float16 network also
  'loss_scale', by which the loss was multiplied, and 'overflow': the update was not made, since the gradient of the
  loss so scaled was not finite.

  Attributes:
    tx: see `optimizer.optimizer`.
    pair_count: labelled pairs a group of images can hold at most (of those in one micro-batch).
    groups: devices that split the batch.
  """

  model: Any
  tx: optax.GradientTransformationExtraArgs
  config: Any
  tasks: tuple[Task, ...]
  pair_count: int
  groups: int
  __name__ = 'train_step'  # in profiles

  def __call__(self, state: TrainState, batch: dict, number) -> tuple[TrainState, dict]:
    key = jax.random.fold_in(jax.random.key(self.config.seed), state.step)
    batch = batch | {'position': jnp.arange(batch['image'].shape[0])}
    compute = self.gradients if self.config.train.accumulate == 1 else self.accumulated
    grads, (batch_stats, scale), scalars = compute(state.params, (state.batch_stats, state.scale), batch, key)
    norms = optimizer.norms(grads, self.model)
    scalars['grad_norm'] = optax.tree.norm(norms)
    counts = finite((scalars['loss/total'], batch_stats)) & (state.step + 1 == number)
    scalars['is_finite'] = counts & jnp.isfinite(scalars['grad_norm'])
    if state.scale is not None:
      scalars['loss_scale'] = state.scale.scale
      scalars['overflow'] = counts & ~scalars['is_finite'] & (state.scale.scale > MIN_SCALE)
    # Not a choice between two states after the update (`where`): that takes four times the time, and memory for both.
    after = (state, grads, batch_stats, scale, scalars.get('overflow', False), norms)
    return jax.lax.cond(scalars['is_finite'], self.update, self.skip_update, *after), scalars

  def gradients(self, params, moving: tuple, batch: dict, key: jax.Array, number=0) -> tuple[Any, tuple, dict]:
    """Gradient, what moves with it, and scalars of the batch, or of micro-batch `number` of it.

    Args:
      moving: batch statistics, and the scale of the loss or None.
    """
    batch_stats, scale = moving
    mask, tasks = batch['label_mask'], self.tasks
    weights = task_weights(self.config, tasks)
    pairs = pairs_lib.select(mask, self.pair_count, self.groups)
    inputs = model_inputs(self.model, batch['image'], key, len(tasks), pairs, batch['position'])

    def loss_fn(params):
      variables = {'params': params, 'batch_stats': batch_stats}
      apply = functools.partial(self.model.apply, variables, train=True, mutable=['batch_stats'])
      output, updated = apply(batch['image'], **inputs)
      run = Forward(apply, batch, output, tasks, weights, jax.random.fold_in(key, number), self.config)
      loss, parts = find(self.config.method).total_loss(run)
      return loss, (parts, updated['batch_stats'])

    if scale is None:
      (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    else:
      scale, _, (loss, (parts, batch_stats)), grads = scale.value_and_grad(loss_fn, has_aux=True)(params)
    return grads, (batch_stats, scale), {'loss/total': loss} | _sums(tasks, parts, mask)

  def accumulated(self, params, moving: tuple, batch: dict, key: jax.Array) -> tuple[Any, tuple, dict]:
    """As `gradients`, but config.train.accumulate micro-batches go through the network, one after the other.

    The mean of their gradients is that of the batch's mean loss, but that batch norm takes its statistics from each
    micro-batch, and updates the running ones that many times.
    """
    count = self.config.train.accumulate

    def add(carry, micro):
      moving, total = carry
      grads, moving, scalars = self.gradients(params, moving, micro[0], key, micro[1])
      return (moving, jax.tree.map(jnp.add, total, grads)), scalars

    start = (moving, jax.tree.map(jnp.zeros_like, params))
    parts = (micro_batches(batch, count, self.groups), jnp.arange(count))
    (moving, total), scalars = jax.lax.scan(add, start, parts)
    scalars = {name: values.sum(0) for name, values in scalars.items()}
    scalars['loss/total'] = scalars['loss/total'] / count
    return jax.tree.map(lambda g: g / count, total), moving, scalars

  def update(self, state: TrainState, grads, batch_stats, scale=None, overflow=False, norms=None) -> TrainState:
    """The state after a good step."""
    del overflow
    updates, opt_state = self.tx.update(grads, state.opt_state, state.params, grad_norms=norms)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state, scale)

  def skip_update(self, state: TrainState, grads, batch_stats, scale=None, overflow=False, norms=None) -> TrainState:
    """The state after a step that is not finite: the same, but for what config.train.nan_policy says.

    'skip': `state.step` goes on. 'stop': it does not either, so that all later steps are refused as well, by their
    number, and the state waits as it was before the bad step. An overflow is skipped always: float16 is so trained.
    """
    del grads, batch_stats, norms
    goes_on = overflow | (self.config.train.nan_policy == 'skip')
    choose = lambda new, old: jnp.where(goes_on, new, old)
    return state.replace(step=choose(state.step + 1, state.step), scale=jax.tree.map(choose, scale, state.scale))


def task_weights(config, tasks: tuple[Task, ...]) -> jax.Array:
  """Loss weights [T] of config.loss_weights: of the task's name, or else of its kind, or else 1."""
  weights = values_by_task(config.loss_weights, tasks)
  return jnp.array([weights.get(task.name, 1.0) for task in tasks])


def finite(tree) -> jax.Array:
  """Whether no array of a tree holds a NaN or an infinity: a scalar bool."""
  flat, _ = ravel_pytree(tree)
  return jnp.isfinite(flat).all()


def micro_batches(batch: dict, count: int, groups: int) -> dict:
  """Arrays [B, ...] to [count, B / count, ...]; each device's images stay on it, some in each part."""

  def parts(x):
    x = x.reshape(groups, count, -1, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(count, -1, *x.shape[3:])

  return jax.tree.map(parts, batch)


def _sums(tasks, parts: dict, mask) -> dict:
  """Over the images of a batch: labelled ones, and losses."""
  sums = {}
  for t, task in enumerate(tasks):
    sums[f'count/{task.name}'] = mask[:, t].sum()
    for part, values in parts.items():
      sums[f'loss/{part}/{task.name}'] = values[:, t].sum()
  return sums
