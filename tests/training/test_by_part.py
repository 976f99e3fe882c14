"""Clipping and learning rates of a network's parts."""

from conftest import tiny_config
import jax
import numpy as np
import optax
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.tasks import make_task
from dmtl_jax.training import optimizer

TWO = (make_task('depth', 'depth'), make_task('normals', 'normals'))


def network(method: str, **optim):
  config = tiny_config(f'method={method}')
  config.optim.update(optim)
  return build_model(config, TWO), config


def test_each_single_task_network_is_clipped_by_itself():
  """One gradient of length 50 and one of length 2, against a clip of 10: 10 and 2; together all are one factor."""
  grads = {'depth': {'a': np.float32([30, 0]), 'b': np.float32([40])}, 'normals': {'a': np.float32([0, 2])}}
  lengths = lambda method: {
    name: float(optax.tree.norm(x)) for name, x in update(optimizer.clip(10.0, network(method)[0]), grads).items()
  }
  assert lengths('single_task') == pytest.approx({'depth': 10, 'normals': 2}, rel=1e-5)
  factor = 10 / (50**2 + 2**2) ** 0.5
  assert lengths('mtl_baseline') == pytest.approx({'depth': 50 * factor, 'normals': 2 * factor}, rel=1e-5)


def update(tx, grads):
  return tx.update(grads, tx.init(grads), grads)[0]


def test_a_part_learns_at_its_own_rate():
  """Of Adam's first step, which is as long as the rate."""
  model, config = network('xtc', lr=1e-3, l2=0.0, part_lr=dict(film=1e-5))
  film, conv = {'gamma': np.ones((2, 4), np.float32), 'beta': np.ones((2, 4), np.float32)}, {'kernel': np.ones((3, 3))}
  params = {'mapping': {'film0_0': film, 'conv0_0': conv}, 'baseline': {'backbone': {'bn1': {'scale': np.ones(2)}}}}
  tx = optimizer.optimizer(config.optim, optax.constant_schedule(config.optim.lr), model)
  updates, _ = tx.update(params, tx.init(params), params)
  for path, step in jax.tree_util.tree_leaves_with_path(updates):
    rate = 1e-5 if path[-1].key in ('gamma', 'beta') else 1e-3
    np.testing.assert_allclose(step, -rate, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_without_rates_of_parts_the_state_is_that_of_before():
  model, config = network('xtc')
  params = {'mapping': np.ones(3, np.float32)}
  with_model, without = (optimizer.optimizer(config.optim, optax.constant_schedule(1.0), m) for m in (model, None))
  assert jax.tree.structure(with_model.init(params)) == jax.tree.structure(without.init(params))


def test_an_unknown_part_is_named():
  params = {'denoiser': np.ones(3, np.float32), 'backbone': np.ones(3, np.float32)}
  for method, message in (
    ('prediction', "no part 'film'; this network has the parts denoiser"),
    ('ss', 'has no parts'),
  ):
    model, config = network(method, part_lr=dict(film=1e-3))
    with pytest.raises(UserError, match=message):
      update(optimizer.rates(config.optim, model)[0], params)


def test_kernels_of_the_denoiser_learn_at_rates_by_their_fan_in():
  shapes = dict(dense=(40, 3), conv=(3, 3, 5, 2), stacked=(6, 3, 3, 5, 2), narrow=(8, 3))
  factors = dict(dense=20 / 40, conv=20 / 45, stacked=20 / 45, narrow=1.0)
  rng = np.random.default_rng(0)
  layer = lambda shape: {'kernel': rng.random(shape, np.float32), 'bias': rng.random(shape[-1], np.float32)}
  parts = ('backbone', 'denoiser', 'conditioning', 'head')
  grads = {part: {name: layer(shape) for name, shape in shapes.items()} for part in parts}
  expected, found = (
    update(optax.chain(optax.identity(), *optimizer.rates(config.optim, model)), grads)
    for model, config in (network('feature'), network('feature', denoiser_fan_in=20))
  )
  for part in parts:
    for name, factor in factors.items():
      factor = 1.0 if part == 'backbone' else factor
      np.testing.assert_allclose(found[part][name]['kernel'], factor * expected[part][name]['kernel'], rtol=1e-6)
      np.testing.assert_array_equal(found[part][name]['bias'], expected[part][name]['bias'])
