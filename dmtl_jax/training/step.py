"""The train step, in stages: gradients of (micro-)batches, guard, update."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

from flax.training.dynamic_scale import DynamicScale
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import optax

from dmtl_jax.models import Forward, Network
from dmtl_jax.models.base import Method
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.runs.state import MIN_SCALE, TrainState
from dmtl_jax.tasks import Task, values_by_task
from dmtl_jax.training import optimizer


class RunningState(NamedTuple):
  """What a pass updates besides the gradient; `loss_scale` is None unless the network is float16."""

  batch_stats: Any
  loss_scale: DynamicScale | None


class Gradients(NamedTuple):
  """Gradients of a batch, its updated batch statistics and loss scale, and scalars to log."""

  grads: Any
  running: RunningState
  scalars: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
  """The function (state, batch, number) -> (state, scalars); jit it with the state donated.

  It takes a TrainState, a batch as `setup.Training.on_devices` makes it, and the number of the step, from 1. The
  scalars: 'loss/total', 'loss/final/TASK' and 'loss/initial/TASK' (sums over this batch's labelled images) with
  'count/TASK' labelled images, 'grad_norm', and 'is_finite': whether the update was made. A float16 network adds
  'loss_scale', by which the loss was multiplied, and 'overflow': the update was skipped because the gradient of the
  scaled loss was not finite.

  Attributes:
    method: gives the loss.
    tx: see `optimizer.optimizer`.
    weights: loss weights [T].
    initial_loss: weight of the losses on initial maps.
    pair_count: most labelled pairs that a group of images can hold (within one micro-batch).
    groups: devices that split the batch.
    accumulate: micro-batches per batch.
    skips: whether training goes on after a step that is not finite (config.train.nan_policy).
    seed: of the noise.
  """

  model: Network
  method: Method
  tx: optax.GradientTransformationExtraArgs
  weights: np.ndarray
  initial_loss: float
  pair_count: int
  groups: int
  accumulate: int = 1
  skips: bool = False
  seed: int = 0
  __name__ = 'train_step'  # in profiles

  def __call__(self, state: TrainState, batch: dict, number) -> tuple[TrainState, dict]:
    key = jax.random.fold_in(jax.random.key(self.seed), state.step)
    batch = batch | {'position': jnp.arange(batch['image'].shape[0])}
    compute = self.gradients if self.accumulate == 1 else self.accumulated
    grads, running, scalars = compute(state.params, RunningState(state.batch_stats, state.scale), batch, key)
    norms = optimizer.norms(grads, self.model)
    scalars['grad_norm'] = optax.tree.norm(norms)
    counts = finite((scalars['loss/total'], running.batch_stats)) & (state.step + 1 == number)
    scalars['is_finite'] = counts & jnp.isfinite(scalars['grad_norm'])
    overflow = False
    if state.scale is not None:
      scalars['loss_scale'] = state.scale.scale
      overflow = counts & ~scalars['is_finite'] & (state.scale.scale > MIN_SCALE)
      scalars['overflow'] = overflow

    def update():
      return self.update(state, grads, running, norms)

    def skip_update():
      return self.skip_update(state, running.loss_scale, overflow)

    # Not a choice between two states after the update (`where`): that takes four times the time, and memory for both.
    return jax.lax.cond(scalars['is_finite'], update, skip_update), scalars

  def gradients(self, params, running: RunningState, batch: dict, key: jax.Array, number=0) -> Gradients:
    """Gradients of the batch, or of micro-batch `number` of it."""
    mask, tasks = batch['label_mask'], self.model.tasks
    pairs = pairs_lib.select(mask, self.pair_count, self.groups)
    own_key = jax.random.fold_in(key, number)
    inputs = model_inputs(self.model, batch['image'], key, len(tasks), pairs, batch['position'])
    inputs |= self.model.train_inputs(batch['image'], own_key)

    def loss_fn(params):
      variables = {'params': params, 'batch_stats': running.batch_stats}
      apply = functools.partial(self.model.apply, variables, train=True, mutable=['batch_stats'])
      output, updated = apply(batch['image'], **inputs)
      run = Forward(apply, batch, output, tasks, self.weights, own_key, self.model)
      loss, parts = self.method.total_loss(run, self.initial_loss)
      return loss, (parts, updated['batch_stats'])

    scale = running.loss_scale
    if scale is None:
      (loss, (parts, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    else:
      scale, _, (loss, (parts, batch_stats)), grads = scale.value_and_grad(loss_fn, has_aux=True)(params)
    return Gradients(grads, RunningState(batch_stats, scale), {'loss/total': loss} | _sums(tasks, parts, mask))

  def accumulated(self, params, running: RunningState, batch: dict, key: jax.Array) -> Gradients:
    """As `gradients`, with the micro-batches going through the network one after the other.

    The mean of their gradients is the gradient of the batch's mean loss, except that batch norm takes its statistics
    from each micro-batch, and updates the running statistics that many times.
    """

    def add(carry, micro):
      running, total = carry
      part, number = micro
      grads, running, scalars = self.gradients(params, running, part, key, number)
      return (running, jax.tree.map(jnp.add, total, grads)), scalars

    start = (running, jax.tree.map(jnp.zeros_like, params))
    parts = (micro_batches(batch, self.accumulate, self.groups), jnp.arange(self.accumulate))
    (running, total), scalars = jax.lax.scan(add, start, parts)
    scalars = {name: values.sum(0) for name, values in scalars.items()}
    scalars['loss/total'] = scalars['loss/total'] / self.accumulate
    return Gradients(jax.tree.map(lambda g: g / self.accumulate, total), running, scalars)

  def update(self, state: TrainState, grads, running: RunningState, norms=None) -> TrainState:
    """The state after a finite step; `norms` of the gradients where they are known already."""
    updates, opt_state = self.tx.update(grads, state.opt_state, state.params, grad_norms=norms)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, running.batch_stats, opt_state, running.loss_scale)

  def skip_update(self, state: TrainState, loss_scale: DynamicScale | None, overflow=False) -> TrainState:
    """The state after a step that is not finite: unchanged, but for `step` and the loss scale.

    Both go on after an overflow, which is how float16 is trained, and if the step `skips`. Else neither does: every
    later step is refused by its number, and the state waits as it was before the bad step.
    """
    goes_on = overflow | self.skips

    def choose(new, old):
      return jnp.where(goes_on, new, old)

    return state.replace(step=choose(state.step + 1, state.step), scale=jax.tree.map(choose, loss_scale, state.scale))


def task_weights(loss_weights: Mapping[str, float], tasks: tuple[Task, ...]) -> np.ndarray:
  """Loss weights [T] float32 by config.loss_weights: that of the task's name, or else of its kind, or else 1."""
  weights = values_by_task(loss_weights, tasks)
  return np.array([weights.get(task.name, 1.0) for task in tasks], np.float32)


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
