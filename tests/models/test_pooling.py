"""Max pooling against Flax's, which is XLA's."""

from flax import linen as nn
import jax
import numpy as np
import pytest

from dmtl_jax.models.parts.pooling import max_pool, max_pool_2x2

PLAIN = {
  max_pool: lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)]),
  max_pool_2x2: lambda x: nn.max_pool(x, (2, 2), strides=(2, 2), padding='SAME'),
}


@pytest.mark.parametrize('pool', PLAIN)
@pytest.mark.parametrize('size', [(8, 12), (13, 11), (1, 2)])
def test_values_and_gradients_are_those_of_xla_also_among_equal_values(pool, size):
  rng = np.random.default_rng(0)
  x = rng.integers(-2, 3, (2, *size, 3)).astype(np.float32)  # of five values, so that many windows hold a tie
  pooled, pull = jax.vjp(pool, x)
  expected, expected_pull = jax.vjp(PLAIN[pool], x)
  np.testing.assert_array_equal(pooled, expected)
  grad = rng.integers(1, 9, pooled.shape).astype(np.float32)  # whole numbers: sums do not depend on the order
  np.testing.assert_array_equal(*pull(grad), *expected_pull(grad))
