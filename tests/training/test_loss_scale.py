"""Training in float16: the loss is scaled so that gradients fit, and steps with an overflowing gradient are skipped."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.jobs import train
from dmtl_jax.models import build_model, Network, Output
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.state import initial_loss_scale, TrainState
from dmtl_jax.training import bad_numbers
from dmtl_jax.training.setup import train_step
from tests.tiny import random_labels, random_variables, TASKS, tiny_config

TWO = (TASKS[0], TASKS[5])
SIZE = (32, 32)


class Linear(Network):
  """One layer, without batch norm: quick to compile."""

  @nn.compact
  def __call__(self, images, *, train=False):
    calls = self.variable('batch_stats', 'calls', jnp.zeros, ())
    calls.value += 1
    out = nn.Dense(TWO[0].channels + 1, dtype=self.dtype)(images[:, ::8, ::8].astype(self.dtype))
    return Output({TWO[0].name: out[..., 1:], TWO[1].name: out[..., :1]})


def batch_of(count: int = 4) -> dict:
  rng = np.random.default_rng(0)
  labels = random_labels(rng, count, SIZE)
  return {
    'image': rng.standard_normal((count, *SIZE, 3)).astype(np.float32),
    'labels': {task.name: labels[task.name] for task in TWO},
    'label_mask': np.eye(2, dtype=bool)[np.arange(count) % 2],
  }


def linear(dtype=jnp.float16, tx=optax.adam(0.1), **fields):
  """The compiled step (state, batch, number), and a state to start from."""
  config = tiny_config('method=mtl_baseline')
  config.train.update(fields)
  model = Linear(TWO, dtype=dtype)
  variables = model.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
  scale = initial_loss_scale() if dtype == jnp.float16 else None
  state = TrainState(jnp.int32(0), variables['params'], {'calls': jnp.zeros(())}, tx.init(variables['params']), scale)
  return jax.jit(train_step(config, model, tx, 0, 1)), state


def scaled(state, scale: float):
  return state.replace(scale=state.scale.replace(scale=jnp.float32(scale)))


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_steps_train_as_in_float32():
  losses = {jnp.float16: [], jnp.float32: []}
  for dtype, values in losses.items():
    step, state = linear(dtype)
    for number in range(1, 9):
      state, scalars = step(state, batch_of(), number)
      assert scalars['is_finite']
      values.append(float(scalars['loss/total']))
    if dtype == jnp.float16:
      assert (scalars['loss_scale'], state.scale.fin_steps, scalars['overflow']) == (2**16, 8, False)
  np.testing.assert_allclose(losses[jnp.float16], losses[jnp.float32], rtol=0.01)
  assert losses[jnp.float16][-1] < losses[jnp.float16][0]


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('policy', ['stop', 'skip'])
def test_an_overflow_halves_the_scale_and_skips_the_step(accumulate, policy):
  step, state = linear(accumulate=accumulate, nan_policy=policy)
  start = scaled(state, 2.0**40)
  after, scalars = step(start, batch_of(), 1)
  assert scalars['overflow']
  assert not scalars['is_finite']
  assert np.isfinite(scalars['loss/total'])
  assert (after.step, after.scale.scale, after.scale.fin_steps) == (1, 2.0 ** (40 - accumulate), 0)
  same(after.replace(step=start.step, scale=start.scale), start)
  pending = bad_numbers.PendingSteps(TWO)
  pending.add(1, scalars, [0], {})
  assert pending.fetch() == []  # so that nan_policy=stop does not stop
  assert pending.total_skipped() == 1
  config = tiny_config('method=mtl_baseline')
  config.train.nan_policy = policy
  assert train.log_values(pending, float, config, 1) == {'loss_scale': 2.0**40, 'skipped': 1, 'lr': -1}
  for number in range(2, 40):
    after, scalars = step(after, batch_of(), number)
  assert scalars['is_finite']
  assert after.step == 39


def test_a_loss_that_is_not_finite_is_no_overflow():
  step, state = linear()
  batch = batch_of()

  def run(state, number, factor=1.0):
    after, scalars = step(state, batch | {'image': batch['image'] * np.float32(factor)}, number)
    assert not scalars['is_finite']
    assert not scalars['overflow']
    return after

  same(run(state, 1, factor=np.nan), state)  # it waits
  later = run(scaled(state, 2.0**40), 2)  # by its number, an earlier step was skipped
  assert later.scale.scale == 2.0**40
  run(scaled(state, 1.0), 1, factor=6e4)  # the scale cannot decrease


def test_small_gradients_are_those_of_float32_and_would_be_zero_without_the_scale(short_encoder):
  config = tiny_config('method=prediction,diffusion_steps=1')
  config.model.update(width=4, channels=8)
  config.loss_weights = {task.name: 1e-4 for task in TWO}
  tx = optax.sgd(1.0)
  moved = {}
  for config.dtype, scales in (('float32', [None]), ('float16', [2.0**16, 1.0])):
    model = build_model(config, TWO)
    variables = random_variables(model, SIZE)
    state = TrainState(jnp.int32(0), variables['params'], variables['batch_stats'], tx.init(variables['params']))
    step = jax.jit(train_step(config, model, tx, 4, 1))
    for scale in scales:
      start = scaled(state.replace(scale=initial_loss_scale()), scale) if scale else state
      after, scalars = step(start, batch_of(), 1)
      assert scalars['is_finite']
      difference = jax.tree.map(np.subtract, jax.device_get(after.params), state.params)
      moved[scale] = np.concatenate([np.ravel(x) for x in jax.tree.leaves(difference)])
  exact = moved[None]
  error = {scale: np.linalg.norm(moved[scale] - exact) / np.linalg.norm(exact) for scale in (2.0**16, 1.0)}
  assert error[2.0**16] < 0.01
  assert error[1.0] > 0.1


def save(state, workdir):
  checkpoints = Checkpoints(workdir)
  checkpoints.save(state, {'next_index': 0}, {'config': {}, 'evaluated': 0, 'best': {}, 'window': {}})
  checkpoints.close()


def test_a_resumed_run_has_the_same_bits(tmp_path):
  step, state = linear()
  state = scaled(state, 2.0**30)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  for number in range(1, 31):
    state, _ = step(state, batch_of(), number)
    if number == 10:
      save(state, tmp_path)
  again = Checkpoints(tmp_path).restore(10, abstract)
  assert again.scale.scale < 2.0**30
  for number in range(11, 31):
    again, _ = step(again, batch_of(), number)
  same(again, state)


@pytest.mark.parametrize('before, now', [(jnp.float32, jnp.float16), (jnp.float16, jnp.float32)])
def test_a_run_resumes_in_another_dtype(before, now, tmp_path):
  step, state = linear(before)
  state, _ = step(state, batch_of(), 1)
  save(state, tmp_path)
  step, other = linear(now)
  restored = Checkpoints(tmp_path).restore(1, other)
  same(restored.replace(scale=None), state.replace(scale=None))
  assert (restored.scale is None) == (now == jnp.float32)
  assert step(restored, batch_of(), 2)[1]['is_finite']
