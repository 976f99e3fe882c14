"""Layers with one set of weights per task, applied to maps of (image, task) pairs.

`task` is the task index [N] of every map, or None for the dense layout of
`pairs.py` (N = T * B, task by task), where each task's maps are one ordinary convolution.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.models.parts import winograd
from dmtl_jax.models.parts.layers import add_bias, convolve, Dtype, kernel_init, project


def _kernel_init(relu: bool):
  """As `layers.kernel_init`, a task at a time; before a ReLU He's, which keeps the scale of maps."""
  return nn.initializers.variance_scaling(2.0 if relu else 1 / 3, 'fan_in', 'uniform', batch_axis=(0,))


@jax.custom_vjp
def gather_by_task(weights: jax.Array, task: jax.Array) -> jax.Array:
  """The weights [N, ...] of each map's task, of those [T, ...] of all tasks.

  Their gradient is a product with the tasks in one-hot form, not the scatter that JAX makes of it: with that of the
  classes' losses (`Semseg.pixel_loss`) a CPU's step takes a tenth less.
  """
  return weights[task]


def _of_task_gradient(saved, grad):
  like, task = saved
  one_hot = jax.nn.one_hot(task, len(like), dtype=grad.dtype)
  return jnp.einsum('nt,n...->t...', one_hot, grad, precision='highest'), None


gather_by_task.defvjp(
  lambda weights, task: (gather_by_task(weights, task), (jnp.empty((len(weights), 0)), task)), _of_task_gradient
)


class TaskConv(nn.Module):
  """k x k convolution [N, h, w, C_in] to [N, h, w, features] with weights of each map's task, then maybe a ReLU."""

  tasks: int
  features: int
  kernel_size: int
  relu: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array | None) -> jax.Array:
    k = self.kernel_size
    shape = (self.tasks, k, k, x.shape[-1], self.features)
    kernel = self.param('kernel', _kernel_init(self.relu), shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.tasks, self.features))
    x = x.astype(self.dtype)
    if task is None:
      blocks = x.reshape(self.tasks, -1, *x.shape[1:])
      out = jnp.concatenate([add_bias(convolve(blocks[t], kernel[t]), bias[t]) for t in range(self.tasks)])
    else:
      out = add_bias(_conv_each(x, gather_by_task(kernel, task)), gather_by_task(bias, task)[:, None, None])
    return nn.relu(out) if self.relu else out


def _conv_each(x, kernel):
  """One kernel a map: [N, h, w, C] with [N, k, k, C, D] to [N, h, w, D]."""
  if winograd.pays((1, *x.shape[1:]), kernel.shape[1:], x.dtype):
    return jax.vmap(winograd.winograd_conv)(x[:, None], kernel)[:, 0]
  return _patch_product(x, kernel)


@jax.checkpoint
def _patch_product(x, kernel):
  """As `_conv_each`, a batched matrix product over patches: a grouped convolution is 5 times slower on CPU.

  Patches are k * k times the map, so they are made again for the gradient.
  """
  n, k, _, channels, features = kernel.shape
  return jnp.einsum('nhwc,ncd->nhwd', _patches(x, k), kernel.reshape(n, k * k * channels, features))


def _patches(x, k: int):
  """The k x k neighbourhood of every pixel: [N, h, w, C] to [N, h, w, k * k * C]."""
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(k) for j in range(k)], axis=-1)


class Slots:
  """Predictions of tasks with different C_t in one array [..., sum of C_t].

  Task t owns channels offset_t .. offset_t + C_t (its slot); a pair's map is 0 outside
  its own task's slot, so that one convolution serves maps of any task.
  """

  def __init__(self, channels: tuple[int, ...]):
    self.channels = channels
    self.offsets = np.concatenate([[0], np.cumsum(channels)])
    self.total = int(self.offsets[-1])

  def of(self, t: int) -> slice:
    return slice(int(self.offsets[t]), int(self.offsets[t + 1]))

  def mask(self, task: jax.Array) -> jax.Array:
    """Which channels belong to task [N]: [N, 1, 1, total] bool."""
    owner = np.repeat(np.arange(len(self.channels)), self.channels)
    return (jnp.asarray(owner) == task[:, None])[:, None, None]

  def place(self, maps: list[jax.Array]) -> list[jax.Array]:
    """T maps [..., C_t] to T maps [..., total]."""
    pads = [((0, 0),) * (m.ndim - 1) + ((self.of(t).start, self.total - self.of(t).stop),) for t, m in enumerate(maps)]
    return [jnp.pad(m, pad) for m, pad in zip(maps, pads)]

  def split(self, maps: list[jax.Array]) -> list[jax.Array]:
    """T maps [..., total] to T maps [..., C_t]: the inverse of `place`."""
    return [m[..., self.of(t)] for t, m in enumerate(maps)]


class SlotEmbed(nn.Module):
  """Per-task 3x3 convolution C_t -> features of maps in slots [N, h, w, total]."""

  channels: tuple[int, ...]
  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array | None) -> jax.Array:
    slots = Slots(self.channels)
    kernel = self.param('kernel', self._init, (3, 3, slots.total, self.features)).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (len(self.channels), self.features))
    x = x.astype(self.dtype)
    if task is not None:
      # Zeros outside the slot select the task's kernel.
      return add_bias(convolve(x, kernel), gather_by_task(bias, task)[:, None, None])
    blocks = slots.split(list(x.reshape(len(self.channels), -1, *x.shape[1:])))
    return jnp.concatenate([add_bias(convolve(m, kernel[:, :, slots.of(t)]), bias[t]) for t, m in enumerate(blocks)])

  def _init(self, key, shape):
    # Fan-in is that of the task's own channels, not of all slots.
    fan_in = 9 * np.repeat(self.channels, self.channels)[:, None]
    return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(fan_in)


class SlotHead(nn.Module):
  """Per-task 1x1 convolution to C_t channels: [N, h, w, C] of any dtype to slots [N, h, w, total] float32."""

  channels: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array, task: jax.Array | None) -> jax.Array:
    slots = Slots(self.channels)
    kernel = self.param('kernel', kernel_init, (x.shape[-1], slots.total))
    bias = self.param('bias', nn.initializers.zeros, (slots.total,))
    if task is not None:
      return jnp.where(slots.mask(task), project(x, kernel) + bias, 0)
    blocks = x.reshape(len(self.channels), -1, *x.shape[1:])
    own = [project(blocks[t], kernel[:, slots.of(t)]) + bias[slots.of(t)] for t in range(len(self.channels))]
    return jnp.concatenate(slots.place(own))
