"""Winograd convolutions against sums in float64 and against XLA's convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import work
from dmtl_jax.basics import target
from dmtl_jax.models.parts import winograd
from dmtl_jax.models.parts.layers import convolve
from dmtl_jax.models.parts.task_layers import TaskConv


def plain(x, kernel):
  """XLA's convolution."""
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def patches(x):
  """Zero-padded 3x3 neighbourhoods [B, H, W, C, 3, 3] of x [B, H, W, C], in float64."""
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))


def draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_transforms_filter_four_outputs_of_three_taps_with_six_products():
  inputs = np.random.default_rng(0).standard_normal(6)
  taps = np.array([0.3, -1.2, 0.7])
  products = (winograd.MATRICES.kernel @ taps) * (winograd.MATRICES.inputs @ inputs)
  assert products.shape == (6,)
  np.testing.assert_allclose(winograd.MATRICES.outputs @ products, np.correlate(inputs, taps), atol=1e-12)


def assert_close(ours, exact):
  np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize('shape, features', [((2, 8, 5, 3), 4), ((1, 4, 1, 2), 3), ((3, 12, 16, 64), 32)])
def test_values_and_gradients_are_the_convolutions(shape, features):
  """Against sums in float64: the error is float32's."""
  x = draw(*shape)
  kernel = draw(3, 3, shape[-1], features, seed=1)
  weight = draw(*shape[:3], features, seed=2)
  out, pullback = jax.vjp(winograd.winograd_conv, x, kernel)
  grad_x, grad_kernel = pullback(weight)
  assert_close(out, np.einsum('bhwcij,ijcd->bhwd', patches(x), kernel))
  assert_close(grad_kernel, np.einsum('bhwcij,bhwd->ijcd', patches(x), weight))
  assert_close(grad_x, np.einsum('bhwdij,ijcd->bhwc', patches(weight), kernel[::-1, ::-1]))


def test_half_the_multiplications_forward_and_backward():
  def executed(conv):
    def gradients(x, kernel):
      return jax.grad(lambda x, kernel: jnp.square(conv(x, kernel)).sum(), (0, 1))(x, kernel)

    x = draw(2, 8, 8, 16)
    kernel = draw(3, 3, 16, 32)
    return np.array([work.executed(conv, x, kernel), work.executed(gradients, x, kernel)])

  np.testing.assert_array_equal(executed(winograd.winograd_conv), executed(plain) / 2)


@pytest.mark.parametrize('shape, kernel, dtype, is_faster', [
    ((2, 16, 16, 64), (3, 3, 64, 64), jnp.float32, True),
    ((2, 16, 16, 64), (3, 3, 64, 64), jnp.bfloat16, False),
    ((2, 16, 16, 64), (1, 1, 64, 64), jnp.float32, False),
    ((2, 18, 16, 64), (3, 3, 64, 64), jnp.float32, False),  # height is no multiple of 4
    ((2, 16, 16, 8), (3, 3, 8, 64), jnp.float32, False),
    ((1, 4, 4, 512), (3, 3, 512, 512), jnp.float32, False),
])  # fmt: skip
def test_it_is_used_where_it_is_faster(shape, kernel, dtype, is_faster):
  def program():
    return str(jax.make_jaxpr(lambda x, kernel: convolve(x, kernel))(jnp.zeros(shape, dtype), jnp.zeros(kernel, dtype)))

  assert ('winograd_conv' in program()) == is_faster
  with target.compiling_for('gpu'):
    assert 'winograd_conv' not in program()


def test_task_convolution_is_the_same_with_and_without_winograd(monkeypatch):
  layer = TaskConv(tasks=3, features=64, kernel_size=3)
  task = jnp.array([2, 0, 2, 1])
  x = draw(4, 8, 12, 64)
  weight = draw(4, 8, 12, 64, seed=1)
  params = layer.init(jax.random.key(0), x, task)

  def value_and_gradients():
    out, pullback = jax.vjp(lambda params, x: layer.apply(params, x, task), params, x)
    return out, pullback(weight)

  assert 'winograd_conv' in str(jax.make_jaxpr(lambda p, x: layer.apply(p, x, task))(params, x))
  fast = value_and_gradients()
  monkeypatch.setattr(winograd, 'is_faster', lambda *_: False)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), fast, value_and_gradients()
  )
