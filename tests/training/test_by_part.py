"""Clipping and learning rates of a network's parts."""

import jax
import numpy as np
import optax
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.tasks import make_task
from dmtl_jax.training import optimizer
from tests.tiny import tiny_config

TWO = (make_task('depth', 'depth'), make_task('normals', 'normals'))


def network(method: str, **optim):
  config = tiny_config(f'method={method}')
  config.optim.update(optim)
  return build_model(config, TWO), config


def test_each_single_task_network_is_clipped_separately():
  """One gradient of length 50 and one of length 2, with a clip of 10: 10 and 2; other networks have one factor."""

  def clipped_lengths(method):
    grads = {'depth': {'a': np.float32([30, 0]), 'b': np.float32([40])}, 'normals': {'a': np.float32([0, 2])}}
    clipped = update(optimizer.clip(10.0, network(method)[0]), grads)
    return {name: float(optax.tree.norm(x)) for name, x in clipped.items()}

  assert clipped_lengths('single_task') == pytest.approx({'depth': 10, 'normals': 2}, rel=1e-5)
  factor = 10 / (50**2 + 2**2) ** 0.5
  assert clipped_lengths('mtl_baseline') == pytest.approx({'depth': 50 * factor, 'normals': 2 * factor}, rel=1e-5)


def update(tx, grads):
  return tx.update(grads, tx.init(grads), grads)[0]


def test_a_part_learns_at_its_own_rate():
  """Adam's first step is as long as the rate."""
  model, config = network('xtc', lr=1e-3, l2=0.0, part_lr=dict(film=1e-5))
  film = {'gamma': np.ones((2, 4), np.float32), 'beta': np.ones((2, 4), np.float32)}
  params = {'mapping': {'film0_0': film, 'conv0_0': {'kernel': np.ones((3, 3))}}, 'baseline': {'scale': np.ones(2)}}
  tx = optimizer.optimizer(config.optim, optax.constant_schedule(config.optim.lr), model)
  updates, _ = tx.update(params, tx.init(params), params)
  for path, step in jax.tree_util.tree_leaves_with_path(updates):
    rate = 1e-5 if path[-1].key in ('gamma', 'beta') else 1e-3
    np.testing.assert_allclose(step, -rate, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize('method, message', [
    ('prediction', "no part 'film'; this network has the parts denoiser"), ('ss', 'has no parts'),
])  # fmt: skip
def test_an_unknown_part_is_named(method, message):
  params = {'denoiser': np.ones(3, np.float32), 'backbone': np.ones(3, np.float32)}
  model, config = network(method, part_lr=dict(film=1e-3))
  with pytest.raises(UserError, match=message):
    update(optimizer.rates(config.optim, model)[0], params)


def test_kernels_of_the_denoiser_learn_at_rates_by_their_fan_in():
  shapes = dict(dense=(40, 3), conv=(3, 3, 5, 2), stacked=(6, 3, 3, 5, 2), narrow=(8, 3))
  factors = dict(dense=20 / 40, conv=20 / 45, stacked=20 / 45, narrow=1.0)
  layers = {
    name: {'kernel': np.ones(shape, np.float32), 'bias': np.ones(3, np.float32)} for name, shape in shapes.items()
  }
  model, config = network('feature', denoiser_fan_in=20)
  grads = dict.fromkeys(('backbone', 'denoiser', 'conditioning', 'head'), layers)
  updates = update(optimizer.rates(config.optim, model)[0], grads)
  for part in grads:
    for name, factor in factors.items():
      np.testing.assert_allclose(updates[part][name]['kernel'], 1.0 if part == 'backbone' else factor, rtol=1e-6)
      np.testing.assert_array_equal(updates[part][name]['bias'], 1)
