"""Gradient accumulation and rematerialisation do not change the gradient of a batch."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.models import build_model, inputs, Network, Output
from dmtl_jax.models.parts import encoder
from dmtl_jax.models.parts.task_layers import Slots
from dmtl_jax.runs.state import TrainState
from dmtl_jax.training.setup import train_step
from tests.tiny import random_labels, random_variables, SIZE, TASKS, tiny_config

BATCH = 8
KEY = jax.random.key(1)
TWO = (TASKS[0], TASKS[5])


class Noisy(Network):
  """A linear map plus each pair's noise, without batch norm: a batch may be cut anywhere."""

  diffuses = True
  slots = Slots(tuple(task.channels for task in TASKS))

  @nn.compact
  def __call__(self, images, *, pairs, noise, train=False):
    calls = self.variable('batch_stats', 'calls', jnp.zeros, ())
    calls.value += 1
    x = nn.Dense(self.slots.total)(images[:, ::8, ::8])
    x = pairs.gather_images(x) + self.param('scale', nn.initializers.ones, ()) * noise[0]
    maps = self.slots.split(pairs.scatter(x))
    return Output({task.name: m for task, m in zip(TASKS, maps)})

  def noise_shape(self, pairs, size, diffusion_steps=None):
    return 1, pairs.count, size[0] // 8, size[1] // 8, self.slots.total


def batch_of(count: int) -> dict:
  rng = np.random.default_rng(0)
  mask = rng.random((count, len(TASKS))) < 0.5
  mask[:, 0] |= ~mask.any(1)
  return {
    'image': rng.standard_normal((count, *SIZE, 3)).astype(np.float32),
    'labels': random_labels(rng, count),
    'label_mask': mask,
  }


def next_step(train_step):
  return jax.jit(lambda state, batch: train_step(state, batch, state.step + 1))


def step_of(model, config, tx, groups: int):
  count = BATCH // config.train.accumulate // groups * len(TASKS)
  return next_step(train_step(config, model, tx, count, groups))


def noisy_config(accumulate: int):
  config = tiny_config('method=no_diffusion')
  config.train.accumulate = accumulate
  return config


@pytest.mark.parametrize('accumulate, groups', [(2, 1), (4, 2)])
def test_micro_batches_make_the_gradient_and_losses_of_the_batch(accumulate, groups):
  model = Noisy(TASKS)
  tx = optax.sgd(1.0)
  batch = batch_of(BATCH)
  variables = model.init(KEY, batch['image'], **inputs.model_inputs(model, batch['image'], KEY, len(TASKS)))
  state = TrainState(jnp.int32(3), variables['params'], {'calls': jnp.zeros(())}, tx.init(variables['params']))
  whole, scalars = step_of(model, noisy_config(1), tx, 1)(state, batch)
  cut, cut_scalars = step_of(model, noisy_config(accumulate), tx, groups)(state, batch)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), cut.params, whole.params)
  assert set(scalars) == set(cut_scalars)
  for name, value in scalars.items():
    np.testing.assert_allclose(cut_scalars[name], value, rtol=1e-5, err_msg=name)
  assert (whole.batch_stats['calls'], cut.batch_stats['calls'], cut.step) == (1, accumulate, 4)


def small(method: str, **train):
  """A network, a state to start from and a batch of four, small enough to compile in seconds."""
  config = tiny_config(f'method={method},diffusion_steps=1')
  config.model.update(width=4, channels=8)
  config.train.update(train)
  model, tx = build_model(config, TWO), optax.sgd(1.0)
  variables = random_variables(model, (32, 32))
  state = TrainState(jnp.int32(0), variables['params'], variables['batch_stats'], tx.init(variables['params']))
  batch = batch_of(4)
  batch = {
    'image': batch['image'][:, :32, :32],
    'labels': {task.name: batch['labels'][task.name][:, :32, :32] for task in TWO},
    'label_mask': np.eye(2, dtype=bool)[[0, 1, 1, 0]],
  }
  step = next_step(train_step(config, model, tx, 4 // config.train.accumulate, 1))
  return step, state, batch


def relative(a, b) -> float:
  """Distance of two trees over the length of the second; in numpy, which compiles nothing."""
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (a, b))
  return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def moved(state, start):
  return jax.tree.map(np.subtract, jax.device_get(state.params), start.params)


def test_batch_norm_takes_its_statistics_from_each_micro_batch(short_encoder):
  """Against the two halves of the batch, one after the other, their gradients averaged by hand."""
  step, start, batch = small('mtl_baseline', accumulate=2)
  cut, _ = step(start, batch)
  half, _, _ = small('mtl_baseline')
  first, _ = half(start, jax.tree.map(lambda x: x[:2], batch))
  second, _ = half(start.replace(batch_stats=first.batch_stats), jax.tree.map(lambda x: x[2:], batch))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, moved(first, start), moved(second, start))
  assert relative(moved(cut, start), mean) < 1e-4
  assert relative(cut.batch_stats, second.batch_stats) < 1e-5
  assert relative(second.batch_stats, first.batch_stats) > 1e-3


@pytest.mark.parametrize('method', ['prediction', 'mti_net', 'invpt', 'xtc', 'jtr', 'task_prototype', 'single_task'])
def test_remat_keeps_every_name(method, monkeypatch):
  monkeypatch.setitem(encoder.STAGES, 'resnet18', (1, 1, 1))  # invpt's need
  config = tiny_config(f'method={method}')

  def shapes(remat):
    config.train.remat = remat
    return inputs.variable_shapes(build_model(config, TWO), (64, 64))

  assert shapes(True) == shapes(False)


def test_remat_changes_no_loss_and_no_gradient(short_encoder):
  def run(remat):
    step, start, batch = small('prediction', remat=remat)
    state, scalars = step(start, batch)
    return moved(state, start), scalars['loss/total']

  gradient, loss = run(False)
  remat_gradient, remat_loss = run(True)
  np.testing.assert_allclose(remat_loss, loss, rtol=1e-6)
  assert relative(remat_gradient, gradient) < 1e-4
