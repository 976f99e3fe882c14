"""The two compiled functions of a run: the train step and the prediction step."""

import functools

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import optax

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import find, Forward
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.runs.state import TrainState
from dmtl_jax.tasks import Task

POLICIES = ('stop', 'skip')  # of a step whose loss or gradient is not finite


def task_weights(config, tasks: tuple[Task, ...]) -> jax.Array:
  """Loss weights [T] of config.loss_weights, 1 where a task is not named."""
  return jnp.array([float(config.loss_weights.get(task.name, 1.0)) for task in tasks])


def make_train_step(model, tx, config, tasks: tuple[Task, ...], pair_count: int, groups: int):
  """The update function (state, batch, number) -> (state, scalars); jit it with the state donated.

  Where loss, gradient or batch statistics are not finite the step changes nothing. Under the policy
  (config.train.nan_policy) 'skip' only `state.step` goes on; under 'stop' it does not either, so that all
  later steps are refused as well, by their `number`, and the state waits as it was before the bad step.

  With config.train.accumulate = k the batch goes through the network in k micro-batches, one after the
  other, and the update is made of the mean of their gradients: the gradient of the batch's mean loss,
  but that batch norm takes its statistics from each micro-batch (and updates the running ones k times).

  Args:
    tx: see `state.optimizer`; of others, the state is not kept from a bad step.
    pair_count: labelled pairs a group of images can hold at most (of those in one micro-batch).
    groups: devices that split the batch.

  Returns:
    A function of a TrainState, a Batch (see data/pipeline.py) and the number of the step to be made, from 1.
    The scalars: 'loss/total', 'loss/final/TASK' and 'loss/initial/TASK' (sums over this batch's labelled
    images) with 'count/TASK' labelled images, 'grad_norm', and 'good': the update was made.

  Raises:
    UserError: another policy.
  """
  policy = config.train.nan_policy
  if policy not in POLICIES:
    raise UserError(f"config.train.nan_policy: '{policy}' is not {' or '.join(POLICIES)}")
  tx = optax.with_extra_args_support(tx)
  weights = task_weights(config, tasks)
  method = find(config.method)
  base_key = jax.random.key(config.seed)
  count = config.train.accumulate

  def gradients(params, batch_stats, batch, key, number):
    """Gradient, new batch statistics and scalars of micro-batch `number`."""
    mask = batch['label_mask']
    pairs = pairs_lib.select(mask, pair_count, groups)
    inputs = model_inputs(model, batch['image'], key, len(tasks), pairs, batch['position'])
    extra_key = jax.random.fold_in(key, number)

    def loss_fn(params):
      apply = functools.partial(
        model.apply, {'params': params, 'batch_stats': batch_stats}, train=True, mutable=['batch_stats']
      )
      output, updated = apply(batch['image'], **inputs)
      loss, parts = method.total_loss(Forward(apply, batch, output, tasks, weights, extra_key, config))
      return loss, (parts, updated['batch_stats'])

    (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return grads, batch_stats, loss, _sums(tasks, parts, mask)

  def accumulated(params, batch_stats, batch, key):
    """As `gradients`, of all micro-batches."""

    def add(carry, micro):
      batch_stats, total = carry
      grads, batch_stats, loss, sums = gradients(params, batch_stats, micro[0], key, micro[1])
      return (batch_stats, jax.tree.map(jnp.add, total, grads)), (loss, sums)

    start = (batch_stats, jax.tree.map(jnp.zeros_like, params))
    micro = (_micro_batches(batch, count, groups), jnp.arange(count))
    (batch_stats, total), (loss, sums) = jax.lax.scan(add, start, micro)
    grads = jax.tree.map(lambda g: g / count, total)
    return grads, batch_stats, loss.mean(), jax.tree.map(lambda x: x.sum(0), sums)

  def train_step(state: TrainState, batch: dict, number):
    key = jax.random.fold_in(base_key, state.step)
    batch = batch | {'position': jnp.arange(batch['image'].shape[0])}
    if count == 1:
      grads, batch_stats, loss, sums = gradients(state.params, state.batch_stats, batch, key, 0)
    else:
      grads, batch_stats, loss, sums = accumulated(state.params, state.batch_stats, batch, key)
    grad_norm = optax.tree.norm(grads)
    watched, _ = ravel_pytree((loss, grad_norm, batch_stats))
    good = jnp.isfinite(watched).all() & (state.step + 1 == number)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    updates, opt_state = tx.update(grads, state.opt_state, state.params, good=good)
    new = TrainState(
      step=state.step + 1 if policy == 'skip' else keep(state.step + 1, state.step),
      params=keep(optax.apply_updates(state.params, updates), state.params),
      batch_stats=keep(batch_stats, state.batch_stats),
      opt_state=opt_state,
    )
    return new, {'loss/total': loss, 'grad_norm': grad_norm, 'good': good} | sums

  return train_step


def _sums(tasks, parts: dict, mask) -> dict:
  """Over the images of a batch: labelled ones, and losses."""
  sums = {}
  for t, task in enumerate(tasks):
    sums[f'count/{task.name}'] = mask[:, t].sum()
    for part, values in parts.items():
      sums[f'loss/{part}/{task.name}'] = values[:, t].sum()
  return sums


def _micro_batches(batch: dict, count: int, groups: int) -> dict:
  """Arrays [B, ...] to [count, B / count, ...]; each device's images stay on it, some in each part."""

  def parts(x):
    x = x.reshape(groups, count, -1, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1).reshape(count, -1, *x.shape[3:])

  return jax.tree.map(parts, batch)
