"""The (image, task) pairs to denoise: the labelled ones in training, all of them at inference.

The maps of N pairs share one batch axis, in one of two layouts with the same methods:

- `SparsePairs`: the labelled pairs of a batch, padded to a static count, so that one compiled
  step serves every batch and its cost grows with the labels rather than with B x T;
- `DensePairs`: all pairs, task by task: N = T * B, pair t * B + b.
"""

from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class DensePairs:
  """All pairs of `batch` images and `tasks` tasks.

  Attributes:
    is_dense: whether the maps of a task lie side by side, see `task_layers`.
  """

  batch: int = struct.field(pytree_node=False)
  tasks: int = struct.field(pytree_node=False)

  is_dense: ClassVar[bool] = True

  @property
  def count(self) -> int:
    """N."""
    return self.batch * self.tasks

  @property
  def image_index(self) -> jax.Array:
    """Position [N] of each pair's image in the batch."""
    return jnp.tile(jnp.arange(self.batch), self.tasks)

  @property
  def task_index(self) -> jax.Array:
    """Task [N] of each pair."""
    return jnp.asarray(np.repeat(np.arange(self.tasks), self.batch))

  def gather_images(self, x: jax.Array) -> jax.Array:
    """Maps of images [B, ...] to maps of pairs [N, ...]."""
    return jnp.tile(x, (self.tasks,) + (1,) * (x.ndim - 1))

  def gather_tasks(self, maps: list[jax.Array]) -> jax.Array:
    """T maps [B, ...] of one shape to maps of pairs [N, ...]."""
    return jnp.concatenate(maps)

  def scatter(self, x: jax.Array) -> list[jax.Array]:
    """Maps of pairs [N, ...] back to T maps [B, ...], 0 where a pair is missing."""
    return list(x.reshape(self.tasks, self.batch, *x.shape[1:]))

  def map_chunks(self, run, **inputs):
    """Returns run(**inputs) for arrays [N, ...] of pairs; `SparsePairs` skips chunks without a valid pair."""
    return run(**inputs)


@struct.dataclass
class SparsePairs:
  """Labelled pairs of a batch whose B images form G groups of neighbours; for its methods see `DensePairs`.

  A group is what one device holds: pairs name images within their group, so that
  no map leaves its device. One device: G = 1.

  Attributes:
    image: [G, P] int32, index of the image in its group of B / G.
    task: [G, P] int32, index of the task.
    valid: [G, P] bool; False for the padding up to the static count.
  """

  image: jax.Array
  task: jax.Array
  valid: jax.Array
  batch: int = struct.field(pytree_node=False)
  tasks: int = struct.field(pytree_node=False)

  is_dense: ClassVar[bool] = False

  @property
  def count(self) -> int:
    return self.image.size

  @property
  def image_index(self) -> jax.Array:
    groups = self.image.shape[0]
    return (self.image + jnp.arange(groups)[:, None] * (self.batch // groups)).reshape(-1)

  @property
  def task_index(self) -> jax.Array:
    return self.task.reshape(-1)

  def gather_images(self, x: jax.Array) -> jax.Array:
    return self._join(jax.vmap(lambda maps, i: maps[i])(self._split(x), self.image))

  def gather_tasks(self, maps: list[jax.Array]) -> jax.Array:
    x = self._split(jnp.stack(maps, axis=1))
    return self._join(jax.vmap(lambda maps, i, t: maps[i, t])(x, self.image, self.task))

  def scatter(self, x: jax.Array) -> list[jax.Array]:
    x = self._split(x)
    size = self.batch // self.image.shape[0]
    # Padding is sent out of bounds, where the scatter drops it.
    image = jnp.where(self.valid, self.image, size)
    empty = jnp.zeros((size, self.tasks, *x.shape[2:]), x.dtype)
    full = self._join(jax.vmap(lambda x, i, t: empty.at[i, t].set(x, mode='drop'))(x, image, self.task))
    return [full[:, t] for t in range(self.tasks)]

  def map_chunks(self, run, **inputs):
    """As `DensePairs.map_chunks`, but one chunk of a pair per image at a time; 0 for chunks without a valid pair.

    The static count is that of the image with the most labels. Where images differ, most of the last chunks hold
    only padding, and are skipped.
    """
    groups, count = self.image.shape
    size = self.batch // groups
    if count <= size or count % size:
      return run(**inputs)
    chunks = count // size

    def split(x):
      x = x.reshape(groups, chunks, size, *x.shape[1:])
      return jnp.swapaxes(x, 0, 1).reshape(chunks, groups * size, *x.shape[3:])

    def join(x):
      x = x.reshape(chunks, groups, size, *x.shape[2:])
      return jnp.swapaxes(x, 0, 1).reshape(groups * count, *x.shape[3:])

    def run_valid(_, chunk):
      valid, inputs = chunk
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, **inputs))
      return None, jax.lax.cond(valid.any(), lambda: run(**inputs), lambda: zeros)

    _, outputs = jax.lax.scan(run_valid, None, (split(self.valid.reshape(-1)), jax.tree.map(split, inputs)))
    return jax.tree.map(join, outputs)

  def _split(self, x):
    """[B or N, ...] to [G, ..., ...]."""
    return x.reshape(self.image.shape[0], -1, *x.shape[1:])

  def _join(self, x):
    return x.reshape(-1, *x.shape[2:])


Pairs = DensePairs | SparsePairs


def select(label_mask: jax.Array, count: int, groups: int = 1) -> SparsePairs:
  """The labelled pairs of label_mask [B, T] bool, `count` per group, image by image.

  Args:
    count: static P; at least the number of labels any group can hold, e.g. B / G times
      the most labels an image has. Pairs beyond it are dropped.
  """
  mask = label_mask.reshape(groups, -1)
  batch, tasks = label_mask.shape
  flat = jax.vmap(lambda m: jnp.nonzero(m, size=count, fill_value=0)[0])(mask)
  valid = jnp.arange(count)[None] < mask.sum(1, keepdims=True)
  image = (flat // tasks).astype(jnp.int32)
  task = (flat % tasks).astype(jnp.int32)
  return SparsePairs(image, task, valid, batch, tasks)
