"""Cost of training: memory of the compiled train step, and W/cost.json.

W/cost.json: 'parameters' and 'gmac' of the network (see `counting`), 'train_memory_bytes' per device (first
the compiler's plan, at the end the measured peak; null if unknown), 'devices' and the 'batch' they share.
"""

import pathlib

import jax
import jax.numpy as jnp

from dmtl_jax.basics import atomic, files, sharding
from dmtl_jax.models import counting


def compile_step(update, state, config, tasks, mesh):
  """Compiles the train step for batches of the config's shape; run the result instead of `update`.

  Args:
    update: the jitted (state, batch, step) -> (state, scalars).
    state: real or abstract, with shardings.
  """
  return update.lower(state, abstract_batch(config, tasks, mesh), 1).compile()


def abstract_batch(config, tasks, mesh) -> dict:
  """Shapes, dtypes and shardings of a batch, to compile a step with."""
  height, width = config.data.size
  by_image = sharding.by_image(mesh)

  def shaped(shape, dtype):
    return jax.ShapeDtypeStruct((config.train.batch, *shape), dtype, sharding=by_image)

  labels = {task.name: task.blank(height, width) for task in tasks}
  return {
    'image': shaped((height, width, 3), jnp.float32),
    'labels': {name: shaped(label.shape, label.dtype) for name, label in labels.items()},
    'label_mask': shaped((len(tasks),), bool),
  }


def planned_bytes(compiled) -> int | None:
  """Peak memory per device that the compiler planned for a program; None if the compiler does not report it.

  It counts arguments, results that do not reuse an argument's memory, and temporaries.
  """
  plan = compiled.memory_analysis()
  if plan is None:
    return None
  results = plan.output_size_in_bytes - plan.alias_size_in_bytes
  return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def write(workdir, config, tasks, compiled):
  """Writes W/cost.json at the start of training."""
  counted = counting.summarize(config, tasks, tuple(config.data.size))
  devices = jax.devices()
  content = {
    'parameters': counted['parameters'],
    'gmac': counted['gmac'],
    'train_memory_bytes': planned_bytes(compiled),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'batch': config.train.batch,
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
