"""The denoiser starting as the identity: X_0 is X_init plus noise, in the same network, and all of it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model, losses
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts.diffusion import Schedule
from tests.tiny import random_labels, random_variables, SIZE, TASKS, tiny_config

KEY = jax.random.key(3)
FEW = TASKS[1:4:2]  # to compile in less time
pytestmark = pytest.mark.usefixtures('short_encoder')


@functools.cache
def built(arg: str):
  """The model, its layers' own random variables (from numpy), and its initial ones."""
  config = tiny_config(arg)
  config.model.initial_weights = 'identity'
  model = build_model(config, FEW)
  random = jax.tree_util.tree_map_with_path(untrained, random_variables(model))
  return model, random, random | {'params': jax.jit(model.init_params)(random['params'], KEY)}


def untrained(path, x):
  """Sets norms and biases, random like other layers, to do nothing."""
  value = {'scale': 1, 'var': 1, 'mean': 0, 'bias': 0}.get(path[-1].key)
  return np.float32(x) if value is None else np.full(x.shape, value, np.float32)


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).standard_normal((2, *SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize('more', ['', ',condition=concat', ',diffusion_steps=3', ',preset=released'])
def test_prediction_returns_its_input_with_and_without_noise(more, images):
  model, _, variables = built(f'method=prediction{more}')
  inputs = model_inputs(model, images, KEY, len(FEW))
  apply = jax.jit(lambda noise: model.apply(variables, images, **(inputs | {'noise': noise})))
  noisy, quiet = apply(inputs['noise']), apply(jnp.zeros_like(inputs['noise']))
  scale = 1 if 'released' in more else np.sqrt(Schedule(model.diffusion_steps).alpha_bar[-1])
  for task in FEW:
    size = np.abs(quiet.initial[task.name]).max()
    if 'released' not in more:  # draws from the posterior between its steps
      np.testing.assert_allclose(quiet.final[task.name], quiet.initial[task.name], atol=1e-5 * size)
      np.testing.assert_allclose(noisy.final[task.name], noisy.trajectory[task.name][0] / scale, atol=1e-5 * size)
    else:
      np.testing.assert_allclose(quiet.trajectory[task.name][1], quiet.trajectory[task.name][0], atol=1e-2 * size)


def test_feature_returns_the_initial_heads_maps(images):
  model, _, variables = built('method=feature')
  inputs = model_inputs(model, images, KEY, len(FEW))
  inputs['noise'] = jnp.zeros_like(inputs['noise'])  # a ReLU would cut it
  output = jax.jit(lambda: model.apply(variables, images, **inputs))()
  for task in FEW:
    np.testing.assert_allclose(output.final[task.name], output.initial[task.name], atol=1e-4)


@pytest.mark.parametrize('method', ['prediction', 'feature', 'no_condition'])
def test_the_network_is_the_same_and_the_rest_untouched(method):
  _, random, ours = built(f'method={method}')
  assert jax.tree.structure(ours) == jax.tree.structure(random)
  jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(), ours, random)
  jax.tree.map(np.testing.assert_array_equal, ours['params']['backbone'], random['params']['backbone'])
  jax.tree.map(np.testing.assert_array_equal, ours['params']['decoders'], random['params']['decoders'])


@pytest.mark.parametrize('method', ['prediction', 'feature'])
def test_everything_learns_from_the_second_step_on(method, images):
  """In the first step, layers that are 0 hide those before them, as in every residual network that starts at 0."""
  model, _, variables = built(f'method={method}')
  inputs = model_inputs(model, images, KEY, len(FEW))
  labels, mask = random_labels(np.random.default_rng(1), 2), jnp.ones((2, len(FEW)), bool)

  @jax.jit
  def gradient(params):
    def loss(params):
      apply = {'params': params, 'batch_stats': variables['batch_stats']}
      output, _ = model.apply(apply, images, train=True, mutable=['batch_stats'], **inputs)
      return losses.total_loss(FEW, output, labels, mask, jnp.ones(len(FEW)))[0]

    return jax.grad(loss)(params)

  def move(param, grad):
    return np.asarray(param) - np.float32(1e-3) * np.sign(grad)

  params = jax.tree.map(move, variables['params'], jax.device_get(gradient(variables['params'])))
  for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(gradient(params))):
    assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


def test_a_network_that_is_too_narrow_raises():
  config = tiny_config('method=prediction')
  config.model.update(initial_weights='identity', channels=13)
  with pytest.raises(UserError, match='at least 14'):
    build_model(config, TASKS)
