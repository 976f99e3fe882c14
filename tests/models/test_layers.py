"""Resizing, convolutions by task and attention against independent numpy and scipy."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special

from dmtl_jax.basics import target
from dmtl_jax.models.parts.denoiser import attend, Conditioning, CrossAttentionBlock
from dmtl_jax.models.parts.layers import Conv, convolve, Dense, Head, narrow_conv, product, resize, stem_conv
from dmtl_jax.models.parts.reduction import composes, ReducedConv
from dmtl_jax.models.parts.task_layers import gather_by_task, SlotEmbed, SlotHead, TaskConv


def resize_by_scipy(x, size):
  """Bilinear, half-pixel centres, edges clamped."""
  centres = [(np.arange(n) + 0.5) * old / n - 0.5 for n, old in zip(size, x.shape)]
  grid = np.meshgrid(*centres, indexing='ij')
  resized = [scipy.ndimage.map_coordinates(plane, grid, order=1, mode='nearest') for plane in np.moveaxis(x, -1, 0)]
  return np.stack(resized, axis=-1)


@pytest.mark.parametrize('size', [(16, 24), (2, 3), (8, 12), (5, 17), (4, 6)])
def test_resize(size):
  x = np.random.default_rng(0).standard_normal((8, 12, 3))
  np.testing.assert_allclose(jax.jit(resize, static_argnums=1)(x[None], size)[0], resize_by_scipy(x, size), atol=1e-5)


def conv_by_hand(x, kernel, stride=1):
  """Zero padding of k // 2 on every side, plain loops over the kernel."""
  k = kernel.shape[0]
  padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  out = 0
  height = (x.shape[0] + 2 * (k // 2) - k) // stride + 1
  width = (x.shape[1] + 2 * (k // 2) - k) // stride + 1
  for i in range(k):
    for j in range(k):
      rows = padded[i : i + stride * height : stride, j : j + stride * width : stride]
      out = out + rows[:height, :width] @ kernel[i, j]
  return out


@pytest.mark.parametrize('size', [1, 3, 5])
def test_gradients_of_a_convolution_in_a_loop(size):
  """CPUs have their own formulas for them; against numpy's sums over the kernel."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 6, 7, 3), np.float32)
  kernel = rng.standard_normal((size, size, 3, 4), np.float32)
  weight = rng.standard_normal((2, 6, 7, 4), np.float32)

  def loss(x, kernel):
    return jax.lax.map(lambda one: (convolve(one[0][None], kernel)[0] * one[1]).sum(), (x, weight)).sum()

  grad_x, grad_kernel = jax.jit(jax.grad(loss, (0, 1)))(x, kernel)
  for b in range(2):
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(grad_x[b], conv_by_hand(weight[b], flipped), rtol=1e-4, atol=1e-4)
  padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  for i, j in np.ndindex(size, size):
    expected = np.einsum('bhwc,bhwd->cd', padded[:, i : i + 6, j : j + 7], weight)
    np.testing.assert_allclose(grad_kernel[i, j], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(96, 64), (97, 131)])
def test_the_stem_is_a_7x7_convolution_of_stride_2(size):
  rng = np.random.default_rng(0)
  x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, *size, 3), (7, 7, 3, 5)))

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), [(3, 3)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  ours, pull = jax.vjp(stem_conv, x, kernel)
  expected, expected_pull = jax.vjp(plain, x, kernel)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
  grad = rng.standard_normal(ours.shape).astype(np.float32)
  for gradient, exact in zip(pull(grad), expected_pull(grad)):
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize('channels', [(1, 4), (4, 4), (6, 5)])
def test_a_narrow_convolution_is_a_convolution(channels):
  rng = np.random.default_rng(0)
  x, kernel = (rng.standard_normal(shape, np.float32) for shape in ((2, 8, 6, channels[0]), (3, 3, *channels)))
  weight = rng.standard_normal((2, 8, 6, channels[1]), np.float32)
  assert 'narrow_conv' in str(jax.make_jaxpr(convolve)(x, kernel))
  ours, pull = jax.vjp(narrow_conv, x, kernel)
  grad_x, grad_kernel = pull(weight)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  for b in range(2):
    np.testing.assert_allclose(ours[b], conv_by_hand(x[b], kernel), atol=1e-5)
    np.testing.assert_allclose(grad_x[b], conv_by_hand(weight[b], kernel[::-1, ::-1].swapaxes(2, 3)), atol=1e-5)
  for i, j in np.ndindex(3, 3):
    expected = np.einsum('bhwc,bhwd->cd', padded[:, i : i + 8, j : j + 6], weight)
    np.testing.assert_allclose(grad_kernel[i, j], expected, atol=1e-4)


def test_strided_convolution_pads_both_sides():
  x = np.random.default_rng(0).standard_normal((8, 10, 3)).astype(np.float32)
  layer = Conv(4, 3, stride=2, use_bias=False)
  params = jax.jit(layer.init)(jax.random.key(0), x[None])
  expected = conv_by_hand(x, np.asarray(params['params']['kernel']), stride=2)
  np.testing.assert_allclose(jax.jit(layer.apply)(params, x[None])[0], expected, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_gradient_of_a_tasks_weights_is_the_sum_over_its_maps(dtype):
  """One task has two maps, another none; against numpy's scattered sum."""
  rng = np.random.default_rng(3)
  task = np.array([3, 0, 3, 1])
  weights, grad = jnp.asarray(rng.standard_normal((2, 4, 2, 5)), dtype)
  gathered, pullback = jax.vjp(lambda w: gather_by_task(w, task), weights)
  np.testing.assert_array_equal(np.asarray(gathered, float), np.asarray(weights, float)[task])
  expected = np.zeros((4, 2, 5))
  np.add.at(expected, task, np.asarray(grad, float))
  [grad_weights] = pullback(grad)
  assert grad_weights.dtype == weights.dtype
  np.testing.assert_allclose(np.asarray(grad_weights, float), expected, rtol=1e-6 if dtype == 'float32' else 1e-2)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('is_dense', [False, True])
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_task_convolution_uses_each_maps_own_weights(kernel_size, is_dense, platform):
  x = np.random.default_rng(0).standard_normal((6, 5, 7, 4)).astype(np.float32)
  layer = TaskConv(tasks=3, features=2, kernel_size=kernel_size, is_dense=is_dense)
  task = np.array([0, 0, 1, 1, 2, 2])
  params = jax.jit(layer.init)(jax.random.key(0), x, task)
  params['params']['bias'] = jnp.arange(6.0).reshape(3, 2)
  kernel = np.asarray(params['params']['kernel'])
  expected = [conv_by_hand(x[n], kernel[t]) + np.arange(2) + 2 * t for n, t in enumerate(task)]
  with target.compiling_for(platform):
    ours = jax.jit(lambda params: layer.apply(params, x, task))(params)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


FIRST, SECOND = slice(0, 3), slice(3, 4)  # the slots of two tasks with 3 channels and 1
TWO = np.array([0, 1])


@pytest.mark.parametrize('is_dense', [False, True])
def test_embedding_slots_acts_like_separate_convolutions(is_dense):
  x = np.random.default_rng(0).standard_normal((2, 4, 5, 4)).astype(np.float32)
  x[0, ..., SECOND] = x[1, ..., FIRST] = 0
  layer = SlotEmbed((3, 1), 6, is_dense)
  params = jax.jit(layer.init)(jax.random.key(0), x, TWO)
  params['params']['bias'] = jnp.stack([jnp.ones(6), -jnp.ones(6)])
  kernel = np.asarray(params['params']['kernel'])
  first = conv_by_hand(x[0, ..., FIRST], kernel[:, :, FIRST]) + 1
  second = conv_by_hand(x[1, ..., SECOND], kernel[:, :, SECOND]) - 1
  np.testing.assert_allclose(jax.jit(layer.apply)(params, x, TWO), [first, second], atol=1e-5)


def apply_head(kernel, bias, x):
  return Head(4).apply({'params': {'kernel': kernel[None, None], 'bias': bias}}, x)


def apply_slot_head(kernel, bias, x, is_dense=False):
  return SlotHead((3, 1), is_dense).apply({'params': {'kernel': kernel, 'bias': bias}}, x, TWO)


@pytest.mark.parametrize('layer', [apply_head, apply_slot_head, functools.partial(apply_slot_head, is_dense=True)])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_last_layer_is_exact_whatever_the_dtype_of_its_features(dtype, layer):
  """Values and gradient against the product in float64 of rounded features and unrounded weights."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, 4, 5, 256)), dtype)
  kernel = rng.standard_normal((256, 4), np.float32)
  bias = rng.standard_normal(4, np.float32)
  features = np.asarray(x, np.float64)
  exact = features @ kernel + bias
  if layer is not apply_head:
    exact[0, ..., SECOND] = exact[1, ..., FIRST] = 0
  out, pullback = jax.vjp(lambda kernel: layer(kernel, bias, x), kernel)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
  [gradient] = pullback(out)
  exact = np.einsum('nhwc,nhwd->cd', features, exact)
  np.testing.assert_allclose(gradient, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize('heads', [1, 2])
@pytest.mark.parametrize('conditioned', [True, False])
def test_attention_block_against_numpy(heads, conditioned):
  rng = np.random.default_rng(0)
  q, kv = rng.standard_normal((2, 1, 6, 8)).astype(np.float32)
  block = CrossAttentionBlock(heads)
  params = jax.jit(block.init)(jax.random.key(0), q, kv if conditioned else None)
  params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params)
  p = jax.tree.map(np.asarray, params['params'])
  out, _ = jax.jit(block.apply)(params, q, kv if conditioned else None)

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p[name]['scale'] + p[name]['bias']

  def mlp(x, name):
    x = x @ p[name]['fc1']['kernel'] + p[name]['fc1']['bias']
    x = x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))
    return x @ p[name]['fc2']['kernel'] + p[name]['fc2']['bias']

  q, kv = q[0].astype(np.float64), kv[0].astype(np.float64)
  query = norm(q, 'norm_q')
  if conditioned:
    kv = kv + mlp(norm(kv, 'norm_mlp_kv'), 'mlp_kv')
    keys = norm(kv, 'norm_kv')
  else:
    keys = query
  queries, k_and_v = query @ p['attn']['q']['kernel'], keys @ p['attn']['kv']['kernel']
  mixed = []
  for h in range(heads):
    own = slice(h * 8 // heads, (h + 1) * 8 // heads)
    scores = queries[:, own] @ k_and_v[:, :8][:, own].T / np.sqrt(8 / heads)
    mixed.append(scipy.special.softmax(scores, axis=-1) @ k_and_v[:, 8:][:, own])
  q = q + np.concatenate(mixed, -1) @ p['attn']['proj']['kernel'] + p['attn']['proj']['bias']
  q = q + mlp(norm(q, 'norm_mlp'), 'mlp')
  np.testing.assert_allclose(out[0], q, atol=1e-5)


@pytest.mark.parametrize('size, stride', [((8, 12), 4), ((6, 8), 4), ((8, 12), 2), ((4, 6), 1)])
def test_reduced_convolution_is_a_convolution_and_a_resize(size, stride):
  """Values and gradients, also where 4x4 blocks do not tile the map (6x8), and of other strides."""
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (2, *size, 5))
  params = {'kernel': jax.random.normal(keys[1], (3, 3, 5, 7)), 'bias': jax.random.normal(keys[2], (7,))}
  small = (2, size[0] // stride, size[1] // stride, 7)
  weight = jax.random.normal(keys[3], small)

  def defined(x, params):
    return resize(nn.Conv(7, (3, 3), padding=1).apply({'params': params}, x), small[1:3])

  def fast(x, params):
    return ReducedConv(7, stride).apply({'params': params}, x)

  np.testing.assert_allclose(jax.jit(fast)(x, params), jax.jit(defined)(x, params), atol=1e-5)
  gradients = [jax.jit(jax.grad(lambda *a: (f(*a) * weight).sum(), (0, 1)))(x, params) for f in (fast, defined)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


@pytest.mark.parametrize('layer, inputs', [(ReducedConv(2), ()), (TaskConv(3, 2, kernel_size=3), (np.arange(2),))])
def test_layers_are_traced_anew_for_another_platform(layer, inputs):
  """The gradient of `product` has a barrier on CPUs."""
  x = np.ones((2, 8, 8, 3), np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x, *inputs)
  texts = []
  for platform in ('cpu', 'gpu', 'cpu'):
    with target.compiling_for(platform):
      texts.append(str(jax.make_jaxpr(jax.grad(lambda params: layer.apply(params, x, *inputs).sum()))(params)))
  assert ['optimization_barrier' in text for text in texts] == [True, False, True]


def test_a_reduced_convolution_of_convolutions():
  """Values and gradients of all weights, where the maps of two tasks are convolved, and together convolved again."""
  maps = {
    'a': jax.random.normal(jax.random.key(0), (2, 8, 12, 3)),
    'b': jax.random.normal(jax.random.key(1), (2, 8, 12, 1)),
  }
  conditioning = Conditioning(5)
  assert composes((2, 8, 12, 4), 4, (3, 1), 5)
  params = jax.jit(conditioning.init)(jax.random.key(2), maps)['params']
  params = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)  # biases too
  weight = jax.random.normal(jax.random.key(3), (2, 6, 5))

  def convolved(x, params):
    return nn.Conv(5, (3, 3), padding=1).apply({'params': params}, x)

  def defined(maps, params):
    embedded = jnp.concatenate([convolved(maps[name], params[f'{name}_embed']) for name in 'ab'], -1)
    return resize(convolved(embedded, params['fuse']), (2, 3)).reshape(2, 6, 5)

  def ours(maps, params):
    return conditioning.apply({'params': params}, maps)

  np.testing.assert_allclose(jax.jit(ours)(maps, params), jax.jit(defined)(maps, params), rtol=1e-4, atol=1e-4)
  gradients = [jax.jit(jax.grad(lambda *a: (f(*a) * weight).sum(), (0, 1)))(maps, params) for f in (ours, defined)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), *gradients)


def test_two_convolutions_are_one_only_where_that_is_less_work():
  pascal = (21, 7, 2, 3, 1)
  assert composes((6, 64, 64, 34), 4, pascal, 512)
  assert not composes((6, 8, 8, 34), 4, pascal, 512)  # the product of the kernels would be most of the work
  assert not composes((6, 66, 64, 34), 4, pascal, 512)  # blocks do not tile it
  assert not composes((6, 64, 64, 34), 1, pascal, 512)


@pytest.mark.parametrize('layer', [Conv(8, 3, dtype=jnp.bfloat16), Dense(8, dtype=jnp.bfloat16)])
def test_the_gradient_of_a_bias_is_summed_in_float32(layer):
  """A long sum of one sign stops growing in bfloat16, at a third of this one."""
  x = jnp.ones((4, 64, 64, 2))
  params = jax.tree.map(jnp.zeros_like, jax.jit(layer.init)(jax.random.key(0), x))
  gradient = jax.jit(jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum()))(params)
  np.testing.assert_allclose(gradient['params']['bias'], 4 * 64 * 64)


@pytest.mark.parametrize(
  'shapes', [((2, 5, 7), (7, 3)), ((2, 5, 3), (3, 7)), ((4, 6, 7), (4, 7, 3)), ((4, 6, 3), (4, 3, 7))]
)
def test_products_and_their_gradients(shapes):
  rng = np.random.default_rng(0)
  x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
  out, pull = jax.vjp(product, x, kernel)
  np.testing.assert_allclose(out, x @ kernel, rtol=1e-4, atol=1e-5)
  grad = rng.standard_normal(out.shape).astype(np.float32)
  grad_x, grad_kernel = pull(grad)
  np.testing.assert_allclose(grad_x, grad @ kernel.swapaxes(-1, -2), rtol=1e-4, atol=1e-5)
  each = x.swapaxes(-1, -2) @ grad
  np.testing.assert_allclose(grad_kernel, each if kernel.ndim == 3 else each.sum(0), rtol=1e-4, atol=1e-5)


def test_attention_and_its_gradients_are_those_of_jax():
  rng = np.random.default_rng(0)
  q, k, v = (rng.standard_normal((2, length, 3, 4)).astype(np.float32) for length in (5, 7, 7))
  out, pull = jax.vjp(attend, q, k, v)
  expected, expected_pull = jax.vjp(jax.nn.dot_product_attention, q, k, v)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  grad = rng.standard_normal(out.shape).astype(np.float32)
  for ours, theirs in zip(pull(grad), expected_pull(grad)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
