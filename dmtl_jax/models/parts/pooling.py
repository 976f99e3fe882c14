"""Max pooling with a fast gradient on CPUs.

XLA's own gradient scatters there. Both functions take the maximum over columns, then rows; the gradient goes to the
same value among equals as XLA's, the first by rows and then columns.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target


def max_pool(x: jax.Array) -> jax.Array:
  """3x3 max pooling with stride 2, padded by 1 on all sides as in torch: [B, h, w, C] to [B, ceil(h/2), ceil(w/2), C].

  On CPUs this takes a fifteenth of the time of XLA's own, forward and backward.
  """
  if target.platform() != 'cpu':
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
  return _max_of_three(_max_of_three(x, axis=2), axis=1)


def max_pool_2x2(x: jax.Array) -> jax.Array:
  """2x2 max pooling with stride 2, blocks at the right and lower edge may be half: see `max_pool`.

  On CPUs this takes a fifth of the time of XLA's own, forward and backward.
  """
  if target.platform() != 'cpu':
    return nn.max_pool(x, (2, 2), strides=(2, 2), padding='SAME')
  return _maximum(*_pairs(_maximum(*_pairs(x, axis=2)), axis=1))


def _max_of_three(x: jax.Array, axis: int) -> jax.Array:
  """The maximum of every second value along an axis and its two neighbours."""
  centre, after = _pairs(x, axis)
  padding = [(0, 0)] * x.ndim
  padding[axis] = (1, 0)
  before = jnp.pad(jax.lax.slice_in_dim(after, 0, after.shape[axis] - 1, axis=axis), padding, constant_values=-jnp.inf)
  return _maximum(_maximum(before, centre), after)


def _pairs(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Every second value along an axis, and the one after each; -inf after the last of an odd number."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, x.shape[axis] % 2)
  x = jnp.pad(x, padding, constant_values=-jnp.inf)
  pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
  first, second = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
  return first, second


@jax.custom_vjp
def _maximum(first, second):
  """`jnp.maximum`, whose gradient goes to `first` where both are equal, instead of half to each."""
  return jnp.maximum(first, second)


def _maximum_forward(first, second):
  return _maximum(first, second), first >= second


def _maximum_backward(is_first, grad):
  return jnp.where(is_first, grad, 0), jnp.where(is_first, 0, grad)


_maximum.defvjp(_maximum_forward, _maximum_backward)
