"""The optimiser against optax's own parts, and steps that are refused."""

from conftest import tiny_config
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.training import optimizer as state_lib

SCHEDULE = optax.linear_schedule(1e-2, 1e-3, 10)


def drawn(seed: int, scale: float = 1.0) -> dict:
  rng = np.random.default_rng(seed)
  return {name: scale * rng.standard_normal(n).astype(np.float32) for name, n in (('kernel', (4, 5)), ('bias', 5))}


@pytest.fixture
def config():
  config = tiny_config('method=prediction')
  config.optim.clip, config.optim.l2 = 3.0, 0.1
  return config


def test_updates_are_those_of_optax_with_and_without_clipping(config):
  ours = state_lib.optimizer(config, SCHEDULE)
  theirs = optax.chain(
    optax.clip_by_global_norm(3.0),
    optax.add_decayed_weights(0.1),
    optax.scale_by_adam(),
    optax.scale_by_learning_rate(SCHEDULE),
  )
  params, reference = drawn(0), drawn(0)
  state, other = ours.init(params), theirs.init(reference)
  assert jax.tree.structure(state) == jax.tree.structure(other)  # checkpoints of both can be read
  norms = []
  for step in range(6):
    grads = drawn(step + 1, scale=0.1 if step % 2 else 1.0)
    norms.append(float(optax.tree.norm(grads)))
    updates, state = ours.update(grads, state, params, good=jnp.array(True))
    expected, other = theirs.update(grads, other, reference)
    params, reference = optax.apply_updates(params, updates), optax.apply_updates(reference, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), updates, expected)
  assert min(norms) < 3 < max(norms)


def test_a_refused_step_leaves_every_bit_of_the_state(config):
  tx = state_lib.optimizer(config, SCHEDULE)
  params = drawn(0)
  _, state = tx.update(drawn(1), tx.init(params), params, good=jnp.array(True))
  grads = drawn(2) | {'bias': np.full(5, np.nan, np.float32)}
  _, after = jax.jit(tx.update)(grads, state, params, good=jnp.array(False))
  jax.tree.map(np.testing.assert_array_equal, after, state)
