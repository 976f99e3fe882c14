"""Layers with one set of weights per task, applied to maps of (image, task) pairs.

They are called with the maps and the task index [N] of each. `is_dense` promises the layout of `pairs.DensePairs`
(N = T * B, task by task), where the maps of each task go through one ordinary convolution.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import target
from dmtl_jax.models.parts import winograd
from dmtl_jax.models.parts.layers import add_bias, convolve, Dtype, kernel_init, product, project


def _kernel_init(relu: bool):
  """As `layers.kernel_init`, for each task; before a ReLU He's, which keeps the scale of maps."""
  return nn.initializers.variance_scaling(2.0 if relu else 1 / 3, 'fan_in', 'uniform', batch_axis=(0,))


@jax.custom_vjp
def gather_by_task(weights: jax.Array, task: jax.Array) -> jax.Array:
  """Weights [T, ...] of all tasks to those of each map's task [N, ...].

  The gradient multiplies with one-hot tasks instead of scattering, as JAX would: together with the same in
  `Semseg.pixel_loss` a step on CPU takes a tenth less.
  """
  return weights[task]


def _gather_forward(weights, task):
  return gather_by_task(weights, task), (jnp.empty((len(weights), 0)), task)


def _gather_backward(saved, grad):
  like, task = saved
  one_hot = jax.nn.one_hot(task, len(like), dtype=grad.dtype)
  return jnp.einsum('nt,n...->t...', one_hot, grad, precision='highest'), None


gather_by_task.defvjp(_gather_forward, _gather_backward)


class TaskConv(nn.Module):
  """k x k convolution with weights per task, then a ReLU if `relu`: [N, h, w, C_in] to [N, h, w, features]."""

  tasks: int
  features: int
  kernel_size: int
  relu: bool = False
  is_dense: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array) -> jax.Array:
    k = self.kernel_size
    shape = (self.tasks, k, k, x.shape[-1], self.features)
    kernel = self.param('kernel', _kernel_init(self.relu), shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.tasks, self.features))
    x = x.astype(self.dtype)
    if self.is_dense:
      out = add_bias(_conv_tasks(x.reshape(self.tasks, -1, *x.shape[1:]), kernel), bias[:, None, None, None])
      out = out.reshape(-1, *out.shape[2:])
    else:
      out = add_bias(_conv_each(x, gather_by_task(kernel, task)), gather_by_task(bias, task)[:, None, None])
    return nn.relu(out) if self.relu else out


def _conv_tasks(x, kernel):
  """Convolves the maps of each task with its kernel: [T, n, h, w, C] with [T, k, k, C, D] to [T, n, h, w, D]."""
  if target.platform() == 'tpu':  # a loop, since a TPU's compiler takes seconds for each convolution
    return jax.lax.map(lambda each: convolve(*each), (x, kernel))
  return jnp.stack([convolve(*each) for each in zip(x, kernel)])


def _conv_each(x, kernel):
  """Convolves each map with its own kernel: [N, h, w, C] with [N, k, k, C, D] to [N, h, w, D]."""
  is_winograd = winograd.is_faster((1, *x.shape[1:]), kernel.shape[1:], x.dtype)
  # A grouped convolution on TPUs: a seventh of the memory traffic of patches, but slower on CPUs and no faster on GPUs.
  if is_winograd or (target.platform() == 'tpu' and kernel.shape[1] > 1):
    return jax.vmap(convolve)(x[:, None], kernel)[:, 0]
  return _patch_product(x, kernel, target.platform())


@functools.partial(jax.checkpoint, static_argnums=2)
def _patch_product(x, kernel, platform: str):
  """`_conv_each` as a batched matrix product over patches: a grouped convolution is 5 times slower on CPU.

  A checkpoint, because patches are k * k times the size of the map: the gradient makes them again. `platform`, that of
  `target`, makes JAX trace it anew for another one, since `product` depends on it.
  """
  n, k, _, channels, features = kernel.shape
  patches = _patches(x, k).reshape(n, -1, k * k * channels)
  return product(patches, kernel.reshape(n, -1, features)).reshape(*x.shape[:3], features)


def _patches(x, k: int):
  """The k x k neighbourhood of every pixel: [N, h, w, C] to [N, h, w, k * k * C]."""
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(k) for j in range(k)], axis=-1)


class Slots:
  """Predictions of tasks with different C_t in one array [..., sum of C_t].

  Task t owns the channels `channel_slice(t)` (its slot). A pair's map is 0 outside its own task's slot, so that one
  convolution serves maps of any task.
  """

  def __init__(self, channels: tuple[int, ...]):
    self.channels = channels
    self.offsets = np.concatenate([[0], np.cumsum(channels)])
    self.total = int(self.offsets[-1])

  def channel_slice(self, t: int) -> slice:
    return slice(int(self.offsets[t]), int(self.offsets[t + 1]))

  def mask(self, task: jax.Array) -> jax.Array:
    """Which channels belong to task [N]: [N, 1, 1, total] bool."""
    owner = np.repeat(np.arange(len(self.channels)), self.channels)
    return (jnp.asarray(owner) == task[:, None])[:, None, None]

  def place(self, maps: list[jax.Array]) -> list[jax.Array]:
    """T maps [..., C_t] to T maps [..., total]."""
    placed = []
    for t, x in enumerate(maps):
      own = self.channel_slice(t)
      placed.append(jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((own.start, self.total - own.stop),)))
    return placed

  def split(self, maps: list[jax.Array]) -> list[jax.Array]:
    """T maps [..., total] to T maps [..., C_t]: the inverse of `place`."""
    return [x[..., self.channel_slice(t)] for t, x in enumerate(maps)]


class SlotEmbed(nn.Module):
  """3x3 convolution C_t -> features with weights per task: slots [N, h, w, total] to [N, h, w, features]."""

  channels: tuple[int, ...]
  features: int
  is_dense: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array) -> jax.Array:
    slots = Slots(self.channels)
    kernel = self.param('kernel', self._init, (3, 3, slots.total, self.features)).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (len(self.channels), self.features))
    x = x.astype(self.dtype)
    if not self.is_dense:
      # Zeros outside the slot select the task's kernel.
      return add_bias(convolve(x, kernel), gather_by_task(bias, task)[:, None, None])
    outputs = []
    for t, maps in enumerate(slots.split(list(x.reshape(len(self.channels), -1, *x.shape[1:])))):
      outputs.append(add_bias(convolve(maps, kernel[:, :, slots.channel_slice(t)]), bias[t]))
    return jnp.concatenate(outputs)

  def _init(self, key, shape):
    # The fan-in counts the task's own channels, not all slots.
    fan_in = 9 * np.repeat(self.channels, self.channels)[:, None]
    return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(fan_in)


class SlotHead(nn.Module):
  """1x1 convolution C -> C_t with weights per task: [N, h, w, C] of any dtype to slots [N, h, w, total] float32."""

  channels: tuple[int, ...]
  is_dense: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array) -> jax.Array:
    slots = Slots(self.channels)
    kernel = self.param('kernel', kernel_init, (x.shape[-1], slots.total))
    bias = self.param('bias', nn.initializers.zeros, (slots.total,))
    if not self.is_dense:
      return jnp.where(slots.mask(task), project(x, kernel) + bias, 0)
    predictions = []
    blocks = x.reshape(len(self.channels), -1, *x.shape[1:])
    for t in range(len(self.channels)):
      own = slots.channel_slice(t)
      predictions.append(project(blocks[t], kernel[:, own]) + bias[own])
    return jnp.concatenate(slots.place(predictions))
