"""What training costs: the memory of a compiled train step, and W/cost.json.

W/cost.json: 'parameters' and 'gmac' of the network (see summary.py), 'train_memory_bytes' of each device
(at the start what the compiler planned, in the end the peak where the device tells it; null where
neither is known), 'devices' and the 'batch' they share.
"""

import pathlib

import jax
import jax.numpy as jnp

from dmtl_jax.basics import atomic, files, sharding


def abstract_batch(count: int, size: tuple[int, int], tasks, mesh) -> dict:
  """Shapes, dtypes and shardings of a batch of `count` images, for a step to be compiled."""
  by_image = sharding.by_image(mesh)
  shaped = lambda shape, dtype: jax.ShapeDtypeStruct((count, *shape), dtype, sharding=by_image)
  blank = {task.name: task.blank(*size) for task in tasks}
  return {
    'image': shaped((*size, 3), jnp.float32),
    'labels': {name: shaped(label.shape, label.dtype) for name, label in blank.items()},
    'label_mask': shaped((len(tasks),), bool),
  }


def planned_bytes(compiled) -> int | None:
  """Memory of each device that a compiled program takes at most, as the compiler planned it: arguments,
  results that do not lie in an argument's place, and temporaries. None where the compiler does not say."""
  plan = compiled.memory_analysis()
  if plan is None:
    return None
  results = plan.output_size_in_bytes - plan.alias_size_in_bytes
  return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def write(workdir, counted: dict, batch: int, compiled):
  """Writes W/cost.json at the start of training.

  Args:
    counted: `counting.summarize` of the network.
    batch: images per step.
    compiled: the train step.
  """
  devices = jax.devices()
  content = {
    'parameters': counted['parameters'],
    'gmac': counted['gmac'],
    'train_memory_bytes': planned_bytes(compiled),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'batch': batch,
  }
  atomic.write_json(_path(workdir), content)


def write_peak(workdir):
  """Puts the peak of this host's devices into W/cost.json, where they tell it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [each['peak_bytes_in_use'] for each in stats if 'peak_bytes_in_use' in each]
  if peaks:
    content = files.read_json(_path(workdir), 'delete it')
    atomic.write_json(_path(workdir), content | {'train_memory_bytes': max(peaks)})


def _path(workdir) -> pathlib.Path:
  return pathlib.Path(workdir) / 'cost.json'
