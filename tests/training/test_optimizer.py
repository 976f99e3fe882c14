"""Optimisers by name, and the stages of the train step that update the state or leave it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.configs.fields import FIELDS
from dmtl_jax.runs.state import TrainState
from dmtl_jax.training.optimizer import learning_rate, norms, optimizer, OPTIMIZERS
from dmtl_jax.training.step import finite, RunningState, TrainStep
from tests.tiny import tiny_config

SCHEDULE = optax.linear_schedule(1e-2, 1e-3, 10)
THEIRS = {  # optax's own, but for clipping and the L2 of torch
  'adam': optax.chain(optax.clip_by_global_norm(3.0), optax.add_decayed_weights(0.1), optax.adam(SCHEDULE)),
  'adamw': optax.chain(optax.clip_by_global_norm(3.0), optax.adamw(SCHEDULE, weight_decay=0.1)),
  'sgd': optax.chain(optax.clip_by_global_norm(3.0), optax.add_decayed_weights(0.1), optax.sgd(SCHEDULE, momentum=0.9)),
}


def draw(seed: int, scale: float = 1.0) -> dict:
  rng = np.random.default_rng(seed)
  return {name: scale * rng.standard_normal(n).astype(np.float32) for name, n in (('kernel', (4, 5)), ('bias', 5))}


def optim(name: str = 'adam', **fields):
  config = tiny_config('method=prediction').optim
  config.update(name=name, clip=3.0, l2=0.1, **fields)
  return config


def step_of(**fields):
  """A step without a network: guard and update."""
  return TrainStep(None, None, optimizer(optim(), SCHEDULE), np.ones(0), 0.5, pair_count=0, groups=1, **fields)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_each_name_is_optaxs_optimizer_with_and_without_clipping(name):
  def run(tx):
    params = draw(0)
    state = tx.init(params)
    for grads in gradients:
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      yield updates

  gradients = [draw(step + 1, scale=0.1 if step % 2 else 1.0) for step in range(6)]
  assert [optax.tree.norm(grads) > 3 for grads in gradients] == [True, False] * 3
  for ours, theirs in zip(run(optimizer(optim(name), SCHEDULE)), run(THEIRS[name])):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), ours, theirs)


def test_the_structure_of_adams_state_in_checkpoints():
  state = optimizer(optim(), SCHEDULE).init(draw(0))
  names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
  moments = [f"[2].{moment}['{name}']" for moment in ('mu', 'nu') for name in ('bias', 'kernel')]
  assert names == ['[2].count', *moments, '[3].count']


def test_the_learning_rate_of_each_schedule():
  rates = {}
  for name in FIELDS['optim']['schedule'].choices:
    rate = learning_rate(optim(lr=1.0, schedule=name), 40, 10)
    rates[name] = [round(float(rate(step)), 4) for step in (0, 9, 10, 39)]
  assert rates == {'poly': [1, 1, 0.7719, 0.2872], 'cosine': [1, 0.8802, 0.8536, 0.0015], 'constant': [1, 1, 1, 1]}
  warm = learning_rate(optim(lr=1.0, schedule='constant', warmup=4), 40, 10)
  assert [float(warm(step)) for step in (0, 2, 4)] == [0, 0.5, 1]


@pytest.mark.parametrize('skips', [False, True])
def test_updated_and_skipped_states(skips):
  step = step_of(skips=skips)
  state = TrainState(jnp.int32(4), draw(0), {'mean': jnp.zeros(3)}, step.tx.init(draw(0)))
  new = step.update(state, draw(1), RunningState({'mean': jnp.ones(3)}, None))
  updates, _ = step.tx.update(draw(1), state.opt_state, state.params)
  jax.tree.map(np.testing.assert_array_equal, new.params, optax.apply_updates(state.params, updates))
  assert (new.step, new.opt_state[2].count, new.opt_state[3].count) == (5, 1, 1)
  assert new.batch_stats['mean'].all()
  skipped = step.skip_update(new, None)
  assert skipped.step == 5 + skips
  jax.tree.map(np.testing.assert_array_equal, skipped.replace(step=new.step), new)


@pytest.mark.parametrize('broken', [np.nan, np.inf, -np.inf])
def test_one_number_makes_a_tree_not_finite(broken):
  tree = draw(0)
  assert finite(tree)
  tree['bias'][3] = broken
  assert not finite(tree)


def test_the_update_takes_the_norm_from_the_guard():
  """It saves a pass over all gradients."""
  step = step_of()
  params = [jnp.ones((3, 5))] * 2
  state = TrainState(jnp.int32(0), params, {}, step.tx.init(params))

  def jaxpr(norms):
    return str(jax.make_jaxpr(step.update)(state, params, RunningState({}, None), norms))

  assert 'reduce_sum' in jaxpr(None)
  assert 'reduce_sum' not in jaxpr(norms(params))
