"""The (image, task) pairs that are denoised: the labelled ones in training, all in inference.

Pairs are N maps in one batch axis. Two layouts share every function here:

- sparse (`Pairs`): the labelled pairs of a batch, at a static count, so that one compiled
  step serves every batch and its cost grows with the labels rather than with B x T;
- dense (`None`): all pairs, task by task: N = T * B, pair t * B + b.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class Pairs:
  """Labelled pairs of a batch whose B images form G groups of neighbours.

  A group is what one device holds: pairs name images within their group, so that
  no map leaves its device. One device: G = 1.

  Attributes:
    image: [G, P] int32, index of the image in its group of B / G.
    task: [G, P] int32, index of the task.
    valid: [G, P] bool; False for the pairs that fill up the static count.
  """

  image: jax.Array
  task: jax.Array
  valid: jax.Array

  @property
  def flat_task(self) -> jax.Array:
    """Task index [N] of every pair, N = G * P."""
    return self.task.reshape(-1)


def select(label_mask: jax.Array, count: int, groups: int = 1) -> Pairs:
  """The labelled pairs of label_mask [B, T] bool, `count` a group, image by image.

  Args:
    count: static P; at least the number of labels any group can hold (pairs beyond it
      would be dropped), e.g. B / G times the most labels an image has.
  """
  mask = label_mask.reshape(groups, -1)
  tasks = label_mask.shape[1]
  flat = jax.vmap(lambda m: jnp.nonzero(m, size=count, fill_value=0)[0])(mask)
  valid = jnp.arange(count)[None] < mask.sum(1, keepdims=True)
  return Pairs((flat // tasks).astype(jnp.int32), (flat % tasks).astype(jnp.int32), valid)


def take_images(x: jax.Array, tasks: int, pairs: Pairs | None) -> jax.Array:
  """Maps of images [B, ...] to maps of pairs [N, ...]."""
  if pairs is None:
    return jnp.tile(x, (tasks,) + (1,) * (x.ndim - 1))
  groups = x.reshape(pairs.image.shape[0], -1, *x.shape[1:])
  taken = jax.vmap(lambda maps, i: maps[i])(groups, pairs.image)
  return taken.reshape(-1, *x.shape[1:])


def take_tasks(maps: list[jax.Array], pairs: Pairs | None) -> jax.Array:
  """T maps [B, ...] of one shape to maps of pairs [N, ...]."""
  if pairs is None:
    return jnp.concatenate(maps)
  x = jnp.stack(maps, axis=1)
  groups = x.reshape(pairs.image.shape[0], -1, *x.shape[1:])
  taken = jax.vmap(lambda maps, i, t: maps[i, t])(groups, pairs.image, pairs.task)
  return taken.reshape(-1, *x.shape[2:])


def put(x: jax.Array, batch: int, tasks: int, pairs: Pairs | None) -> list[jax.Array]:
  """Maps of pairs [N, ...] back to T maps [batch, ...], 0 where a pair is missing."""
  if pairs is None:
    return list(x.reshape(tasks, batch, *x.shape[1:]))
  groups, count = pairs.image.shape
  x = x.reshape(groups, count, *x.shape[1:])
  # Pairs that only fill up the count are sent out of bounds, where scatter drops them.
  image = jnp.where(pairs.valid, pairs.image, batch // groups)
  empty = jnp.zeros((batch // groups, tasks, *x.shape[2:]), x.dtype)
  full = jax.vmap(lambda x, i, t: empty.at[i, t].set(x, mode='drop'))(x, image, pairs.task)
  full = full.reshape(batch, tasks, *x.shape[2:])
  return [full[:, t] for t in range(tasks)]


def image_index(batch: int, tasks: int, pairs: Pairs | None) -> jax.Array:
  """Position [N] of each pair's image in the batch."""
  if pairs is None:
    return jnp.tile(jnp.arange(batch), tasks)
  groups = pairs.image.shape[0]
  return (pairs.image + jnp.arange(groups)[:, None] * (batch // groups)).reshape(-1)


def task_index(batch: int, tasks: int, pairs: Pairs | None) -> jax.Array:
  """Task [N] of each pair."""
  return jnp.asarray(np.repeat(np.arange(tasks), batch)) if pairs is None else pairs.flat_task


def in_chunks(run, batch: int, pairs: Pairs | None, *arrays):
  """run(*arrays) in chunks of one pair an image, without those that hold no valid pair.

  The static count is that of the image with the most labels; where images differ, most of the last
  chunks are empty, and their work is skipped.

  Args:
    run: from arrays [n, ...] of pairs to a pytree of arrays [n, ...].
    batch: B.

  Returns:
    What run gives, [N, ...]; 0 for the pairs of a skipped chunk.
  """
  groups, count = (1, batch) if pairs is None else pairs.image.shape
  size = batch // groups
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

  _, out = jax.lax.scan(chunk, None, (split(pairs.valid.reshape(-1)), jax.tree.map(split, arrays)))
  return jax.tree.map(join, out)
