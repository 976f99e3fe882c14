"""`--mode=summary --memory --for=NAME`: compiles a config's programs for an accelerator that need not be here."""

from collections import Counter
import re
import time

import jax
import jax.numpy as jnp

from dmtl_jax.basics import accelerators, collectives, hlo, sharding, target, traffic
from dmtl_jax.inference.forward import jit_predict_fn
from dmtl_jax.models import build_model, counting
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.tasks import Task
from dmtl_jax.training import cost, setup

SHOWN = 6  # number of the largest arrays to list
OP_NAME = re.compile(r'op_name="([^"]*)"')  # of an instruction of a compiled program: its place in our code


def plan(config, tasks: tuple[Task, ...], name: str) -> dict:
  """Compiles the training step and inference for an accelerator.

  Args:
    name: of `accelerators.ACCELERATORS`.

  Returns:
    {'for', 'devices', 'memory' (bytes per device), 'train', 'inference': see `measure`, 'advice': lines}.

  Raises:
    UserError: nothing here compiles for it, or the batch cannot be split over its devices.
  """
  accelerator = accelerators.find(name)
  devices = accelerators.devices(name)
  with target.compiling_for(accelerator.platform, devices):
    train = measure(trace_training(config, tasks), config.dtype, accelerator)
    inference = measure(trace_inference(config, tasks), config.dtype, accelerator)
    advice = [] if train['fits'] else remedies(config, tasks, train, accelerator)
  kind = f'{len(devices)} x {devices[0].device_kind}'
  programs = {'train': train, 'inference': inference, 'advice': advice}
  return {'for': name, 'devices': kind, 'memory': accelerator.memory} | programs


def trace_training(config, tasks) -> jax.stages.Traced:
  """Traces the training step with abstract arguments."""
  training = setup.build_without_data(config, tasks)
  batch = cost.abstract_batch(config.train.batch, tuple(config.data.size), tasks, training.mesh)
  return training.update.trace(setup.abstract_state(training), batch, 1)


def trace_inference(config, tasks) -> jax.stages.Traced:
  """Traces inference on config.eval.batch images with abstract arguments."""
  mesh = sharding.make_mesh()
  count = config.eval.batch
  size = tuple(config.data.size)
  sharding.check_batch('config.eval.batch', count, mesh)
  model = build_model(config, tasks)
  variables = variable_shapes(model, size)
  everywhere = sharding.replicated(mesh)
  split = sharding.by_image(mesh)
  return jit_predict_fn(model, mesh, config.seed, config.eval.diffusion_steps).trace(
    sharding.abstract(variables, jax.tree.map(lambda _: everywhere, variables)),
    jax.ShapeDtypeStruct((count, *size, 3), jnp.float32, sharding=split),
    jax.ShapeDtypeStruct((count,), jnp.int32, sharding=split),
  )


def measure(traced: jax.stages.Traced, dtype: str, accelerator: accelerators.Accelerator) -> dict:
  """Compiles a program for the accelerator, and measures what it costs.

  Args:
    dtype: config.dtype, whose products set the least time.

  Returns:
    {'fits', 'bytes' per device or None, 'arguments', 'temporaries' or None, 'flops' of all products, 'traffic' in bytes
    (see `traffic.count`) or None, 'seconds': a lower bound for a device, 'collectives': {kind: {'count',
    'bytes' sent by a device}}, 'exchange_seconds': a lower bound for them, 'compile_seconds', 'largest': lines,
    'error': the compiler's message or ''}.
  """
  began = time.perf_counter()
  error = ''
  compiled = None
  # Per device; counting the body of a scan as often as it runs.
  macs = sum(count for _, count in counting.multiply_adds(counting.used(traced.jaxpr.jaxpr), ''))
  flops = 2.0 * macs / accelerator.count
  options = accelerators.GPU_OPTIONS if accelerator.platform == 'gpu' else None
  try:
    compiled = traced.lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as raised:
    error = str(raised).partition('\n')[0]
    if 'RESOURCE_EXHAUSTED' not in error:
      raise
  result = {'fits': False, 'bytes': None, 'arguments': None, 'temporaries': None, 'traffic': None, 'largest': []}
  found: dict[str, collectives.Exchange] = {}
  if compiled:
    text = compiled.as_text()
    stats = compiled.memory_analysis()
    result['bytes'] = cost.planned_bytes(compiled)
    result['arguments'] = stats.argument_size_in_bytes
    result['temporaries'] = stats.temp_size_in_bytes
    result['fits'] = result['bytes'] <= accelerator.memory
    result['traffic'] = traffic.count(text)
    result['largest'] = find_largest(text)
    found = collectives.find(text, accelerator.count)
  peak = accelerator.single if dtype == 'float32' else accelerator.half
  seconds = max(flops / peak, (result['traffic'] or 0) / accelerator.bandwidth)
  sent = sum(each.bytes for each in found.values())
  exchange = {
    'collectives': {kind: each._asdict() for kind, each in found.items()},
    'exchange_seconds': sent / accelerator.interconnect if accelerator.interconnect else 0.0,
  }
  spent = {'flops': flops, 'seconds': seconds, 'compile_seconds': time.perf_counter() - began}
  return result | spent | exchange | {'error': error}


def find_largest(text: str) -> list[str]:
  """The largest arrays that the instructions of a compiled program write: 'SIZE TYPE[SHAPE] xCOUNT: WHERE'."""
  counts = Counter()
  places = {}
  for each in hlo.Program(text).running():
    if each.kind not in hlo.STILL | hlo.CALLS:
      name = OP_NAME.search(each.line)
      for array in hlo.arrays(each.type)[len(each.operands) if each.kind in hlo.WITH_OPERANDS else 0 :]:
        key = (hlo.array_bytes(array), array.partition('{')[0])
        counts[key] += 1
        places.setdefault(key, '/'.join(name[1].split('/')[-3:]) if name else each.kind)
  keys = sorted(counts, key=lambda key: -key[0])[:SHOWN]
  return [f'{size(key[0])} {key[1]} x{counts[key]}: {places[key]}' for key in keys]


def remedies(config, tasks, train: dict, accelerator) -> list[str]:
  """Settings that could make a training step fit: `remat` is compiled, the others are estimated."""
  lines = []
  if not config.train.remat:
    changed = config.copy_and_resolve_references()
    changed.train.remat = True
    again = measure(trace_training(changed, tasks), changed.dtype, accelerator)
    lines.append(f'--config.train.remat=True: {"fits" if again["fits"] else "does not fit"}, {memory_of(again)}')
  if train['bytes'] is None:
    return [*lines, '--config.train.accumulate, or a smaller batch: less, how much the compiler does not say']
  # Activations grow with the images that a device has at a time; the state and a gradient of its size do not.
  fixed = 4 / 3 * train['arguments']
  images = config.train.batch // accelerator.count
  guesses = {n: fixed + max(train['bytes'] - fixed, 0) / n for n in range(2, images + 1) if images % n == 0}
  fitting = [n for n, guess in guesses.items() if guess <= accelerator.memory]
  if fitting:
    n = fitting[0]
    batch = f'--config.train.accumulate={n}, or --config.train.batch={config.train.batch // n}'
    lines.append(f'{batch}: about {size(guesses[n])} (estimate)')
  if accelerator.count > config.train.fsdp:
    rest = train['bytes'] - fixed * (1 - 1 / accelerator.count)
    lines.append(f'--config.train.fsdp={accelerator.count}: about {size(rest)} (estimate)')
  return lines


def size(count: float) -> str:
  """Bytes as '5.10 GiB' or '12 MiB'."""
  return f'{count / 2**30:.2f} GiB' if count > 2**27 else f'{count / 2**20:.3g} MiB'


def memory_of(result: dict) -> str:
  """'5.10 GiB a device: 1.53 GiB arguments, 3.57 GiB temporaries', or the compiler's error."""
  if result['bytes'] is None:
    return result['error']
  parts = f'{size(result["arguments"])} arguments, {size(result["temporaries"])} temporaries'
  return f'{size(result["bytes"])} a device: {parts}'


def exchange_lines(result: dict) -> list[str]:
  """What the devices exchange, the time that takes, and the efficiency that leaves, in two lines; none for one device.

  Efficiency is the least time of one device's own work by that of work and exchange: one after the other, and at once.
  """
  if not result['exchange_seconds']:
    return []
  kinds = [f'{each["count"]} {kind} {size(each["bytes"])}' for kind, each in result['collectives'].items()]
  work, exchange = (result[name] for name in ('seconds', 'exchange_seconds'))
  return [
    f'  a device sends {", ".join(kinds)}: {exchange:.3g} s at the very least',
    f'  efficiency of many devices: {work / (work + exchange):.0%} if work waits for it, '
    f'{work / max(work, exchange):.0%} if it does not',
  ]


def as_text(planned: dict, config) -> str:
  """The result of `plan` as lines of text."""
  lines = [f'for {planned["devices"]} ({planned["for"]}, {size(planned["memory"])} each), compiled without one:']
  for part, batch in (('train', config.train.batch), ('inference', config.eval.batch)):
    result = planned[part]
    fits = 'fits' if result['fits'] else 'does not fit'
    lines.append(f'{"training step" if part == "train" else part}, {batch} images: {fits}, {memory_of(result)}')
    traffic = f', {result["traffic"] / 1e9:.3g} GB of memory traffic' if result['traffic'] else ''
    lines.append(
      f'  {result["flops"] / 1e12:.3g} TFLOP{traffic} a device: {result["seconds"]:.3g} s at the very least; '
      f'compiled in {result["compile_seconds"]:.0f} s'
    )
    lines += exchange_lines(result)
    lines += ['  largest arrays (which share memory where they can):'] if result['largest'] else []
    lines += [f'    {line}' for line in result['largest']]
  lines += ['what would make the training step fit:'] if planned['advice'] else []
  return '\n'.join(lines + [f'  {line}' for line in planned['advice']])
