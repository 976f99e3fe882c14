"""One mesh over all devices of all hosts; the same code runs on one CPU and on a pod.

The mesh has two axes. Batches are split by image over both. The devices along 'fsdp' share one copy of
parameters and optimiser state (`split`); along 'data' each has its own copy.
"""

import math
import pickle

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from dmtl_jax.basics import target
from dmtl_jax.basics.errors import UserError

SMALL = 2**12  # elements; smaller arrays stay whole, since splitting them saves nothing and costs a message


def make_mesh(fsdp: int = 1) -> Mesh:
  """A mesh of all devices of all hosts, or of those of `target.compiling_for`.

  The devices of a host are neighbours, so that it holds neighbouring images.

  Args:
    fsdp: number of devices that share one copy of the state (config.train.fsdp).

  Raises:
    UserError: `fsdp` does not divide the number of devices.
  """
  devices = sorted(target.devices(), key=lambda device: (device.process_index, device.id))
  if fsdp < 1 or len(devices) % fsdp:
    raise UserError(f'config.train.fsdp={fsdp} does not divide the {len(devices)} devices; set it to a divisor')
  return Mesh(np.array(devices).reshape(-1, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)


def check_batch(field: str, batch: int, mesh: Mesh, parts: int = 1):
  """Raises UserError if a batch cannot be split evenly over the devices, and into `parts` micro-batches on each."""
  if batch < 1 or parts < 1 or batch % (mesh.size * parts):
    raise UserError(
      f'a batch of {batch} images cannot be split over {mesh.size} devices'
      + (f' in {parts} micro-batches each' if parts != 1 else '')
      + f'; set {field} to a multiple of {mesh.size * max(parts, 1)}'
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def by_image(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays that are split along their first axis."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def split(mesh: Mesh, tree):
  """Shardings of a state: each array is split over 'fsdp' along its largest divisible axis, or whole without one."""
  return jax.tree.map(lambda x: NamedSharding(mesh, _spec(x.shape, mesh.shape['fsdp'])), tree)


def _spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
  axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
  if parts == 1 or not axes or math.prod(shape) < SMALL:
    return PartitionSpec()
  axis = max(axes, key=lambda axis: shape[axis])
  return PartitionSpec(*[None] * axis, 'fsdp')


def abstract(tree, shardings):
  """Shapes, dtypes and shardings, to compile for or to restore into."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def put_batch(batch: dict, mesh: Mesh) -> dict:
  """Puts this host's part of a batch (numpy) into global arrays, split by image."""
  sharding = by_image(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def local_rows(x: jax.Array) -> np.ndarray:
  """The rows of a global array split by image that this host holds, in order."""
  shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def replicate(tree, mesh: Mesh):
  """Puts the whole of each array on every device; all hosts must call it."""
  if all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
    return tree
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def gather(value) -> list:
  """The picklable values of all hosts, in order and exact to the bit; all hosts must call it."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  rows = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - len(data))))
  return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def on_first_host(function, *args):
  """Calls a function only on host 0; all hosts raise its UserError or OSError, so that none waits for another.

  Returns:
    Its result on host 0, None on the others.
  """
  result = error = None
  if jax.process_index() == 0:
    try:
      result = function(*args)
    except (UserError, OSError) as raised:
      error = raised
  if error := gather(error)[0]:
    raise error
  return result
