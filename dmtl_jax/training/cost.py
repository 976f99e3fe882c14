"""Cost of training: memory of the compiled train step, and W/cost.json.

W/cost.json: 'parameters' and 'gmac' of the network (see `counting`), 'train_memory_bytes' per device (first
the compiler's plan, at the end the measured peak; null if unknown), 'devices' and the 'batch' they share.
"""

import pathlib

import jax
import jax.numpy as jnp

from dmtl_jax.basics import atomic, files, sharding


def abstract_batch(count: int, size: tuple[int, int], tasks, mesh, weighted: bool = False) -> dict:
  """Shapes, dtypes and shardings of a batch of `count` images, to compile a step with.

  Args:
    weighted: whether labels have weights (`setup.label_weights`).
  """
  height, width = size
  by_image = sharding.by_image(mesh)

  def shaped(shape, dtype):
    return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=by_image)

  labels = {task.name: task.blank(height, width) for task in tasks}
  weights = {'label_weights': shaped((len(tasks),), jnp.float32)} if weighted else {}
  return {
    'image': shaped((height, width, 3), jnp.float32),
    'labels': {name: shaped(label.shape, label.dtype) for name, label in labels.items()},
    'label_mask': shaped((len(tasks),), bool),
  } | weights


def planned_bytes(compiled) -> int | None:
  """Peak memory per device that the compiler planned for a program; None if the compiler does not report it.

  It counts arguments, results that do not reuse an argument's memory, and temporaries.
  """
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
  """Replaces the planned memory in W/cost.json by the peak of this host's devices, if they report it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [each['peak_bytes_in_use'] for each in stats if 'peak_bytes_in_use' in each]
  if peaks:
    content = files.read_json(_path(workdir), 'delete it')
    atomic.write_json(_path(workdir), content | {'train_memory_bytes': max(peaks)})


def _path(workdir) -> pathlib.Path:
  return pathlib.Path(workdir) / 'cost.json'
