"""Devices: one mesh axis `data` over which batches are split; the same code for 1 CPU and a pod."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dmtl_jax.errors import UserError


def make_mesh(batch: int) -> Mesh:
  """A mesh of all devices of all hosts.

  Raises:
    UserError: where the global batch cannot be split evenly.
  """
  count = jax.device_count()
  if batch < 1 or batch % count:
    raise UserError(
        f'a batch of {batch} images cannot be split over {count} devices; '
        f'set config.train.batch and config.eval.batch to multiples of {count}'
    )
  return jax.make_mesh((count,), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def by_image(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec('data'))


def put_batch(batch: dict, mesh: Mesh) -> dict:
  """This host's part of a batch (numpy) to global arrays, split by image."""
  sharding = by_image(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def local_rows(x: jax.Array) -> np.ndarray:
  """The rows of a global array split by image that this host holds, in order."""
  shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])
