"""`--mode=summary --memory --for=NAME`: a config's programs compiled for an accelerator that need not be here."""

from collections import Counter
import math
import re
import time

import jax
import jax.numpy as jnp

from dmtl_jax.basics import accelerators, sharding, target
from dmtl_jax.inference.steps import compiled_predict_step
from dmtl_jax.models import build_model, counting
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.tasks import Task
from dmtl_jax.training import cost, setup

SHOWN = 6  # of the largest arrays
# An instruction of a compiled program: its result's type and sizes, what it does, and where in our code it is from.
INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(')
OP_NAME = re.compile(r'op_name="([^"]*)"')
VIEWS = ('parameter', 'get-tuple-element', 'bitcast', 'constant', 'tuple')  # take no memory of their own


def plan(config, tasks: tuple[Task, ...], name: str) -> dict:
  """Compiles the training step and inference.

  Args:
    name: of `accelerators.ACCELERATORS`.

  Returns:
    {'for', 'devices', 'memory' (bytes of one), 'train', 'inference': see `compiled`, 'advice': lines}.

  Raises:
    UserError: nothing here compiles for it, or a batch that its devices cannot share.
  """
  chosen, devices = accelerators.find(name), accelerators.devices(name)
  with target.compiling_for(chosen.platform, devices):
    train = compiled(*training_step(config, tasks), config.dtype, chosen)
    inference = compiled(*predict_step(config, tasks), config.dtype, chosen)
    advice = [] if train['fits'] else remedies(config, tasks, train, chosen)
  kind = f'{len(devices)} x {devices[0].device_kind}'
  told = {'for': name, 'devices': kind, 'memory': chosen.memory, 'train': train, 'inference': inference}
  return told | {'advice': advice}


def training_step(config, tasks) -> tuple:
  """The jitted step, and abstract arguments."""
  training = setup.build_without_data(config, tasks)
  batch = cost.abstract_batch(config.train.batch, tuple(config.data.size), tasks, training.mesh)
  return training.update, (setup.abstract_state(training), batch, 1)


def predict_step(config, tasks) -> tuple:
  """As `training_step`, of inference with config.eval.batch images."""
  mesh, count, size = sharding.make_mesh(), config.eval.batch, tuple(config.data.size)
  sharding.check_batch('config.eval.batch', count, mesh)
  model = build_model(config, tasks)
  variables = variable_shapes(model, size)
  everywhere, split = sharding.replicated(mesh), sharding.by_image(mesh)
  args = (
    sharding.abstract(variables, jax.tree.map(lambda _: everywhere, variables)),
    jax.ShapeDtypeStruct((count, *size, 3), jnp.float32, sharding=split),
    jax.ShapeDtypeStruct((count,), jnp.int32, sharding=split),
  )
  return compiled_predict_step(model, mesh, config.seed, config.eval.diffusion_steps), args


def compiled(function, args, dtype: str, chosen: accelerators.Accelerator) -> dict:
  """Compiles a jitted function for the target, and says what it costs.

  Args:
    dtype: config.dtype, whose products set the least time.

  Returns:
    {'fits', 'bytes' a device or None, 'arguments', 'temporaries' or None, 'flops' of all products, 'traffic' in bytes
    or None (where the compiler does not count), 'seconds': the least that a device can do it in, 'compile_seconds',
    'largest': lines, 'error': the compiler's own words or ''}.
  """
  began, error, program = time.perf_counter(), '', None
  traced = function.trace(*args)
  # What each device does of it; a scan's body as often as it runs.
  flops = 2.0 * sum(count for _, count in counting.multiply_adds(counting.used(traced.jaxpr.jaxpr), '')) / chosen.count
  options = accelerators.GPU_OPTIONS if chosen.platform == 'gpu' else None
  try:
    program = traced.lower().compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as raised:
    error = str(raised).partition('\n')[0]
    if 'RESOURCE_EXHAUSTED' not in error:
      raise
  told = {'fits': False, 'bytes': None, 'arguments': None, 'temporaries': None, 'traffic': None, 'largest': []}
  if program:
    stats = program.memory_analysis()
    told['bytes'] = cost.planned_bytes(program)
    told['arguments'], told['temporaries'] = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    told['fits'] = told['bytes'] <= chosen.memory
    told['traffic'] = (program.cost_analysis() or {}).get('bytes accessed')
    told['largest'] = largest(program.as_text())
  peak = chosen.single if dtype == 'float32' else chosen.half
  seconds = max(flops / peak, (told['traffic'] or 0) / chosen.bandwidth)
  spent = {'flops': flops, 'seconds': seconds, 'compile_seconds': time.perf_counter() - began, 'error': error}
  return told | spent


def largest(text: str) -> list[str]:
  """The largest arrays that the instructions of a compiled program write: 'SIZE TYPE[SHAPE] xCOUNT: WHERE'."""
  inner = set(re.findall(r'(?:calls|to_apply)=%?([\w.-]+)', text))  # of fusions: they stay inside
  found, where, skipped = Counter(), {}, False
  for line in text.split('\n'):
    if line.endswith('{') and not line.startswith(' '):
      skipped = line.removeprefix('ENTRY ').split(' ')[0].lstrip('%') in inner
    match = None if skipped else INSTRUCTION.match(line)
    if match and match[3] not in VIEWS:
      bits = int((re.findall(r'\d+', match[1]) or [8])[0])  # pred has no number, and takes a byte
      key = (math.prod(map(int, match[2].split(','))) * bits // 8, f'{match[1]}[{match[2]}]')
      found[key] += 1
      name = OP_NAME.search(line)
      where.setdefault(key, '/'.join(name[1].split('/')[-3:]) if name else match[3])
  order = sorted(found, key=lambda key: -key[0])[:SHOWN]
  return [f'{size(key[0])} {key[1]} x{found[key]}: {where[key]}' for key in order]


def remedies(config, tasks, train: dict, chosen) -> list[str]:
  """What makes a training step fit that does not: `remat` compiled, the rest estimated."""
  lines, changed = [], config.copy_and_resolve_references()
  if not config.train.remat:
    changed.train.remat = True
    again = compiled(*training_step(changed, tasks), changed.dtype, chosen)
    lines.append(f'--config.train.remat=True: {"fits" if again["fits"] else "does not fit"}, {memory_of(again)}')
  if train['bytes'] is None:
    return [*lines, '--config.train.accumulate, or a smaller batch: less, how much the compiler does not say']
  # Activations go with the images that a device has at a time; the state and a gradient of its size do not.
  fixed, each = 4 / 3 * train['arguments'], config.train.batch // chosen.count
  guesses = {n: fixed + max(train['bytes'] - fixed, 0) / n for n in range(2, each + 1) if each % n == 0}
  fitting = [n for n, guess in guesses.items() if guess <= chosen.memory]
  if fitting:
    n = fitting[0]
    batch = f'--config.train.accumulate={n}, or --config.train.batch={config.train.batch // n}'
    lines.append(f'{batch}: about {size(guesses[n])} (estimate)')
  if chosen.count > config.train.fsdp:
    rest = train['bytes'] - fixed * (1 - 1 / chosen.count)
    lines.append(f'--config.train.fsdp={chosen.count}: about {size(rest)} (estimate)')
  return lines


def size(count: float) -> str:
  """Bytes as '5.10 GiB' or '12 MiB'."""
  return f'{count / 2**30:.2f} GiB' if count > 2**27 else f'{count / 2**20:.3g} MiB'


def memory_of(told: dict) -> str:
  """'5.10 GiB a device: 1.53 GiB arguments, 3.57 GiB temporaries', or what the compiler said."""
  if told['bytes'] is None:
    return told['error']
  return f'{size(told["bytes"])} a device: {size(told["arguments"])} arguments, {size(told["temporaries"])} temporaries'


def as_text(told: dict, config) -> str:
  """`plan`'s result in lines."""
  lines = [f'for {told["devices"]} ({told["for"]}, {size(told["memory"])} each), compiled without one:']
  for part, batch in (('train', config.train.batch), ('inference', config.eval.batch)):
    of = told[part]
    fits = 'fits' if of['fits'] else 'does not fit'
    lines.append(f'{"training step" if part == "train" else part}, {batch} images: {fits}, {memory_of(of)}')
    traffic = f', {of["traffic"] / 1e9:.3g} GB of memory traffic' if of['traffic'] else ''
    lines.append(
      f'  {of["flops"] / 1e12:.3g} TFLOP{traffic} a device: {of["seconds"]:.3g} s at the very least; '
      f'compiled in {of["compile_seconds"]:.0f} s'
    )
    lines += ['  largest arrays (which share memory where they can):'] if of['largest'] else []
    lines += [f'    {line}' for line in of['largest']]
  lines += ['what would make the training step fit:'] if told['advice'] else []
  return '\n'.join(lines + [f'  {line}' for line in told['advice']])
