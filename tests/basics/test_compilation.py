"""XLA's options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.basics import compilation, target


@pytest.fixture(autouse=True)
def fresh():
  compilation._are_known.cache_clear()
  yield
  compilation._are_known.cache_clear()


def test_the_training_step_s_options_compile_here():
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  product = jax.jit(lambda x: x @ x.T, compiler_options=compilation.train_options())(x)
  np.testing.assert_array_equal(product, x @ x.T)


def test_options_that_xla_does_not_have_are_left_out(monkeypatch):
  monkeypatch.setattr(compilation, 'PRODUCTS_BY_LIBRARY', {'xla_cpu_no_such_option': '1'})
  assert compilation.train_options() is None
  jax.jit(jnp.sin, compiler_options=compilation.train_options())(0.0)


def test_other_platforms_have_none():
  with target.compiling_for('gpu'):
    assert compilation.train_options() is None
