"""The (image, task) pairs that are denoised: the labelled ones in training, all in inference.

Pairs are N maps in one batch axis, in one of two layouts with the same methods:

- `SparsePairs`: the labelled pairs of a batch, at a static count, so that one compiled
  step serves every batch and its cost grows with the labels rather than with B x T;
- `DensePairs`: all pairs, task by task: N = T * B, pair t * B + b.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class DensePairs:
  """All pairs of `batch` images and `tasks` tasks.

  Attributes:
    task: None, by which layers with weights per task know that each task's maps lie side by side.
  """

  batch: int = struct.field(pytree_node=False)
  tasks: int = struct.field(pytree_node=False)

  task = None

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

  def map_chunks(self, run, *arrays):
    """run(*arrays), of arrays [N, ...] of pairs; skips what work it can."""
    return run(*arrays)


@struct.dataclass
class SparsePairs:
  """Labelled pairs of a batch whose B images form G groups of neighbours; for its methods see `DensePairs`.

  A group is what one device holds: pairs name images within their group, so that
  no map leaves its device. One device: G = 1.

  Attributes:
    image: [G, P] int32, index of the image in its group of B / G.
    group_task: [G, P] int32, index of the task.
    valid: [G, P] bool; False for the pairs that fill up the static count.
  """

  image: jax.Array
  group_task: jax.Array
  valid: jax.Array
  batch: int = struct.field(pytree_node=False)
  tasks: int = struct.field(pytree_node=False)

  @property
  def task(self) -> jax.Array:
    return self.group_task.reshape(-1)

  @property
  def count(self) -> int:
    return self.image.size

  @property
  def image_index(self) -> jax.Array:
    groups = self.image.shape[0]
    return (self.image + jnp.arange(groups)[:, None] * (self.batch // groups)).reshape(-1)

  @property
  def task_index(self) -> jax.Array:
    return self.task

  def gather_images(self, x: jax.Array) -> jax.Array:
    return self._join(jax.vmap(lambda maps, i: maps[i])(self._split(x), self.image))

  def gather_tasks(self, maps: list[jax.Array]) -> jax.Array:
    x = self._split(jnp.stack(maps, axis=1))
    return self._join(jax.vmap(lambda maps, i, t: maps[i, t])(x, self.image, self.group_task))

  def scatter(self, x: jax.Array) -> list[jax.Array]:
    x, size = self._split(x), self.batch // self.image.shape[0]
    # Pairs that only fill up the count are sent out of bounds, where scatter drops them.
    image = jnp.where(self.valid, self.image, size)
    empty = jnp.zeros((size, self.tasks, *x.shape[2:]), x.dtype)
    full = self._join(jax.vmap(lambda x, i, t: empty.at[i, t].set(x, mode='drop'))(x, image, self.group_task))
    return [full[:, t] for t in range(self.tasks)]

  def map_chunks(self, run, *arrays):
    """As `DensePairs.map_chunks`, but in chunks of one pair per image, without those that hold no valid pair.

    The static count is that of the image with the most labels; where images differ, most of the last
    chunks are empty, and their work is skipped: what run gives is 0 there.
    """
    groups, count = self.image.shape
    size = self.batch // groups
    if count <= size or count % size:
      return run(*arrays)
    chunks = count // size

    def split(x):
      x = x.reshape(groups, chunks, size, *x.shape[1:])
      return jnp.swapaxes(x, 0, 1).reshape(chunks, groups * size, *x.shape[3:])

    def join(x):
      x = x.reshape(chunks, groups, size, *x.shape[2:])
      return jnp.swapaxes(x, 0, 1).reshape(groups * count, *x.shape[3:])

    def chunk(_, inputs):
      valid, arrays = inputs
      empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, *arrays))
      return None, jax.lax.cond(valid.any(), run, lambda *_: empty, *arrays)

    _, out = jax.lax.scan(chunk, None, (split(self.valid.reshape(-1)), jax.tree.map(split, arrays)))
    return jax.tree.map(join, out)

  def _split(self, x):
    """[B or N, ...] to [G, ..., ...]."""
    return x.reshape(self.image.shape[0], -1, *x.shape[1:])

  def _join(self, x):
    return x.reshape(-1, *x.shape[2:])


Pairs = DensePairs | SparsePairs


def select(label_mask: jax.Array, count: int, groups: int = 1) -> SparsePairs:
  """The labelled pairs of label_mask [B, T] bool, `count` a group, image by image.

  Args:
    count: static P; at least the number of labels any group can hold (pairs beyond it
      would be dropped), e.g. B / G times the most labels an image has.
  """
  mask = label_mask.reshape(groups, -1)
  batch, tasks = label_mask.shape
  flat = jax.vmap(lambda m: jnp.nonzero(m, size=count, fill_value=0)[0])(mask)
  valid = jnp.arange(count)[None] < mask.sum(1, keepdims=True)
  return SparsePairs((flat // tasks).astype(jnp.int32), (flat % tasks).astype(jnp.int32), valid, batch, tasks)
