"""Training in bfloat16: activations alone are rounded, and the gradient stays that of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SIZE, TASKS, random_labels, random_variables, tiny_config

from dmtl_jax import losses
from dmtl_jax.models import build_model, encoder
from dmtl_jax.models import pairs as pairs_lib
from dmtl_jax.steps import model_inputs

TWO = (TASKS[0], TASKS[3])  # segmentation and normals
MASK = np.array([[True, False], [False, True], [True, False], [False, True]])


@pytest.fixture(scope='module')
def steps():
  """{dtype: (losses [B, T] of the final maps, gradient)} at one state."""
  short = pytest.MonkeyPatch()
  short.setitem(encoder.STAGES, 'resnet18', (1, 1, 1, 1))  # one block a stage, to compile in less time
  images = np.random.default_rng(0).standard_normal((4, *SIZE, 3)).astype(np.float32)
  labels = random_labels(np.random.default_rng(1), 4)
  pairs, result = pairs_lib.select(MASK, 4), {}
  for dtype in ('float32', 'bfloat16'):
    config = tiny_config('method=prediction')
    config.dtype, config.model.depth = dtype, 1
    model = build_model(config, TWO)
    variables = random_variables(model)
    inputs = model_inputs(model, images, jax.random.key(1), 2, pairs)

    @jax.jit
    def step(params):
      def loss(params):
        variables_ = {'params': params, 'batch_stats': variables['batch_stats']}  # noqa: B023
        output, updated = model.apply(variables_, images, **inputs, train=True, mutable=['batch_stats'])  # noqa: B023
        total, parts = losses.total_loss(TWO, output, labels, MASK, jnp.ones(2))
        return total, (parts['final'], updated)

      return jax.grad(loss, has_aux=True)(params)

    result[dtype] = step(variables['params'])
  short.undo()
  return result


def test_losses_agree(steps):
  """Each pair's loss within 2%, half of bfloat16's error after the few dozen layers in a row that a pair passes."""
  (_, (exact, _)), (_, (rounded, _)) = steps['float32'], steps['bfloat16']
  assert (np.asarray(exact) > 0).tolist() == MASK.tolist()
  np.testing.assert_allclose(rounded, exact, rtol=0.02)
  assert np.abs(np.asarray(rounded) - exact).max() > 1e-6  # it is not float32 that was computed


def test_the_gradient_points_the_same_way(steps):
  """Random labels are the hard case: what such a gradient is, is what is left of noise (measured: 0.97)."""
  flat = {dtype: np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)]) for dtype, (grads, _) in steps.items()}
  exact, rounded = flat['float32'], flat['bfloat16']
  cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
  assert cosine > 0.95
  assert np.linalg.norm(rounded) == pytest.approx(np.linalg.norm(exact), rel=0.05)


def test_parameters_and_statistics_stay_float32(steps):
  grads, (per_pair, updated) = steps['bfloat16']
  assert {x.dtype for x in jax.tree.leaves((grads, per_pair, updated))} == {jnp.dtype('float32')}
