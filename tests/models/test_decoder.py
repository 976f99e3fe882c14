"""The decoders' loop over tasks, which is traced for TPUs, against one task after the other."""

import jax
import numpy as np
import pytest

from dmtl_jax.basics import target
from dmtl_jax.models.parts.decoder import Decoders
from tests.tiny import TASKS


@pytest.mark.parametrize('remat, train, is_shared', [(False, True, True), (True, True, False), (False, False, True)])
def test_a_loop_over_tasks(remat, train, is_shared):
  """Features and predictions, and the running statistics of every task, which only training updates."""
  decoders = Decoders(TASKS[:3], channels=4, blocks=2, remat=remat)
  rng = np.random.default_rng(0)
  maps = {task.name: rng.standard_normal((2, 3, 5, 4)).astype(np.float32) for task in TASKS[:3]}
  features = maps['semseg'] if is_shared else maps
  shapes = jax.eval_shape(lambda: decoders.init(jax.random.key(0), features, train))
  variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)

  def run(platform, loops):
    with target.compiling_for(platform):
      traced = jax.jit(lambda v: decoders.apply(v, features, train, mutable=['batch_stats'] if train else False)).trace(
        variables
      )
      lengths = [equation.params['length'] for equation in traced.jaxpr.eqns if equation.primitive.name == 'scan']
      assert lengths == loops
      return traced.lower().compile()(variables)

  loop, plain = run('tpu', [3]), run('cpu', [])
  assert jax.tree.structure(loop) == jax.tree.structure(plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), loop, plain)
