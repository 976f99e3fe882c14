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
  """By XLA, not by Winograd."""
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def patches(x):
  """Zero-padded 3x3 neighbourhoods [B, H, W, C, 3, 3] of x [B, H, W, C], in float64."""
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_transforms_filter_four_outputs_of_three_taps_with_six_products():
  inputs, taps = np.random.default_rng(0).standard_normal((2, 6))[0], np.array([0.3, -1.2, 0.7])
  products = (winograd.KERNEL @ taps) * (winograd.INPUTS @ inputs)
  assert products.shape == (6,)
  np.testing.assert_allclose(winograd.OUTPUTS @ products, np.correlate(inputs, taps), atol=1e-12)


@pytest.mark.parametrize('shape, features', [((2, 8, 5, 3), 4), ((1, 4, 1, 2), 3), ((3, 12, 16, 64), 32)])
def test_values_and_gradients_are_the_convolutions(shape, features):
  """In float64, place by place, so that the error is of float32's size and no more."""
  x, kernel, weight = drawn(*shape), drawn(3, 3, shape[-1], features, seed=1), drawn(*shape[:3], features, seed=2)
  out, pullback = jax.vjp(winograd.winograd_conv, x, kernel)
  for_x, for_kernel = pullback(weight)
  close = lambda ours, exact: np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
  close(out, np.einsum('bhwcij,ijcd->bhwd', patches(x), kernel))
  close(for_kernel, np.einsum('bhwcij,bhwd->ijcd', patches(x), weight))
  close(for_x, np.einsum('bhwdij,ijcd->bhwc', patches(weight), kernel[::-1, ::-1]))


def test_rounding_errors_are_near_those_of_the_plain_sum():
  x, kernel = drawn(1, 16, 16, 256), drawn(3, 3, 256, 64, seed=1)
  exact = np.einsum('bhwcij,ijcd->bhwd', patches(x), kernel, optimize=True)
  error = lambda out: np.sqrt(np.square(out - exact).mean() / np.square(exact).mean())
  assert error(winograd.winograd_conv(x, kernel)) < 4 * error(plain(x, kernel)) < 4e-6


def test_half_the_multiplications_forward_and_backward():
  x, kernel = drawn(2, 8, 8, 16), drawn(3, 3, 16, 32)
  both = lambda conv: lambda x, kernel: jax.grad(lambda *a: jnp.square(conv(*a)).sum(), (0, 1))(x, kernel)
  for way in (lambda conv: conv, both):
    assert work.executed(way(winograd.winograd_conv), x, kernel) == work.executed(way(plain), x, kernel) / 2


def test_it_is_used_where_it_pays():
  large, kernel = (2, 16, 16, 64), (3, 3, 64, 64)
  assert winograd.pays(large, kernel, jnp.float32)
  assert not winograd.pays(large, kernel, jnp.bfloat16)
  assert not winograd.pays(large, (1, 1, 64, 64), jnp.float32)
  assert not winograd.pays((2, 18, 16, 64), kernel, jnp.float32)  # no multiple of 4
  assert not winograd.pays((2, 16, 16, 8), (3, 3, 8, 64), jnp.float32)
  assert not winograd.pays((1, 4, 4, 512), (3, 3, 512, 512), jnp.float32)
  names = lambda: str(jax.make_jaxpr(lambda *a: convolve(*a))(jnp.zeros(large), jnp.zeros(kernel)))
  assert 'winograd_conv' in names()
  with target.compiling_for('gpu'):
    assert 'winograd_conv' not in names() and 'conv_general_dilated' in names()


def test_kernels_of_pairs(monkeypatch):
  """TaskConv with a kernel a pair, values and gradients: by Winograd, and as it is where that does not pay."""
  layer, task = TaskConv(3, 64, 3), jnp.array([2, 0, 2, 1])
  x, weight = drawn(4, 8, 12, 64), drawn(4, 8, 12, 64, seed=1)
  params = layer.init(jax.random.key(0), x, task)

  def run():
    loss = lambda params, x: (layer.apply(params, x, task) * weight).sum()
    return layer.apply(params, x, task), jax.grad(loss, (0, 1))(params, x)

  assert 'winograd_conv' in str(jax.make_jaxpr(lambda p, x: layer.apply(p, x, task))(params, x))
  fast = run()
  monkeypatch.setattr(winograd, 'pays', lambda *_: False)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), fast, run())
