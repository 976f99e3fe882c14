"""Where the time of a train step goes, by part of the network, forward and backward.

  python -m benchmarks.profile --config=configs/pascal.py:method=prediction [--repeats=3] [--json=FILE]

Records a few steps with JAX's profiler. Each operation that the device ran counts for the part whose scope the compiler
noted for it (a fusion: the scope of its product, or else the most frequent of its scopes), so the parts are those of
the compiled step itself. On GPUs command buffers are off, since operations lose their names in them. 'rate' is the
part's FLOPs (work.py, executed) divided by its time; '-' where it has none.
"""

import collections
import os
import pathlib
import re
import tempfile

import jax

from benchmarks import common, timing, train_step
from dmtl_jax.models import counting

OPTIMISER, LOSSES, BETWEEN = 'optimiser and noise', 'losses', 'between parts'
CONTAINERS = re.compile(r'(while|call|conditional|tuple)[.\d]*$')  # their time is that of what they hold
PRODUCT = re.compile(r'(dot|dot_general|conv_general_dilated|convolution)$')


def part_of(scope: str, params: dict, tasks) -> tuple[str, str]:
  """('decoders/block', 'backward') of an operation's scope.

  Args:
    scope: 'jit(train_step)/transpose(jvp(DiffusionMTL))/decoders/semseg_block0/conv1/...'.
    params: the network's parameters; names of the scope that lead into them are the path of a module.
  """
  direction = 'backward' if 'transpose(' in scope else 'forward'
  path = []
  node = params
  for name in re.split(r'[/()]', scope):
    known = next((n for n in (name, name.lower()) if isinstance(node, dict) and n in node), None)
    if known:
      path.append(known)
      node = node[known]
  if path:
    return counting.part_name(path, [task.name for task in tasks]), direction
  if 'jvp(' not in scope:
    return OPTIMISER, direction
  return (LOSSES if re.search(r'jvp\(\)', scope) else BETWEEN), direction


def scopes(hlo: str) -> dict[str, str]:
  """{operation: scope} of the text of a compiled program."""
  scopes = {}
  calls = {}
  inside = collections.defaultdict(list)  # scopes of the operations of a computation
  computation = ''
  for line in hlo.splitlines():
    if header := re.match(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$', line):
      computation = header[1]
    elif operation := re.match(r'\s+(?:ROOT )?%?([\w.-]+) = ', line):
      scope = re.search(r'op_name="([^"]*)"', line)
      if scope:
        scopes[operation[1]] = scope[1]
        inside[computation].append(scope[1])
      if called := re.search(r'calls=%?([\w.-]+)', line):
        calls[operation[1]] = called[1]
  for operation, called in calls.items():
    products = [scope for scope in inside[called] if PRODUCT.search(scope)]
    candidates = products or inside[called]
    if candidates and (products or operation not in scopes):
      scopes[operation] = collections.Counter(candidates).most_common(1)[0][0]
  return scopes


def operations(folder: str):
  """Yields (operation, seconds) of everything that ran on devices in a recorded trace."""
  for path in pathlib.Path(folder).rglob('*.xplane.pb'):
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith('/device:')]
    for plane in devices or planes:
      for line in plane.lines:
        for event in line.events:
          operation = dict(event.stats).get('hlo_op')
          if operation and not CONTAINERS.match(operation):
            yield operation, event.duration_ns / 1e9


def benchmark(config, flags) -> dict:
  """{'seconds': of a step, 'parts': {part: {'forward', 'backward': seconds, '... flops'}}}, and `common.describe`."""
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_gpu_enable_command_buffer='
  job = train_step.build(config)
  timing.say('compiling')
  state, batch = job.on_device()
  compiled, _ = timing.compile_step(job.training.update, (state, batch, train_step.FIRST))
  step = train_step.Stepper(compiled, state, batch)
  timing.say('timing')
  seconds = timing.spread(timing.measure({'jax': step}, flags.repeats, warmup=1)['jax'])
  timing.say('recording')
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      step(flags.repeats)
    spent = list(operations(folder))
  scope_of = scopes(compiled.as_text())
  parts = collections.defaultdict(collections.Counter)
  for operation, duration in spent:
    part, direction = part_of(scope_of.get(operation, ''), job.state.params, job.tasks)
    parts[part][direction] += duration / flags.repeats
  for scope, flops in job.flops():
    part, direction = part_of(scope, job.state.params, job.tasks)
    parts[part][f'{direction} flops'] += flops
  return common.describe(config, job.tasks, config.train.batch, job.pairs, 'train step') | {
    'seconds': seconds,
    'parts': {part: dict(values) for part, values in parts.items()},
  }


def as_text(result: dict) -> str:
  """The result for a person; the parts that take longest first."""
  parts = result['parts']
  times = {part: values.get('forward', 0) + values.get('backward', 0) for part, values in parts.items()}
  total = sum(times.values())
  width = max(map(len, parts))
  lines = [
    common.title(result),
    f'step {common.time_text(result["seconds"]["median"])}; {common.time_text(total)} of operations:',
    f'{"":<{width}}  {"share":>6}  {"forward":>10}  {"rate":>8}  {"backward":>10}  {"rate":>8}',
  ]
  for part in sorted(times, key=times.get, reverse=True):
    cells = [f'{part:<{width}}  {100 * times[part] / total:5.1f}%']
    for direction in ('forward', 'backward'):
      seconds, flops = parts[part].get(direction, 0), parts[part].get(f'{direction} flops', 0)
      rate = common.si(flops / seconds) if seconds and flops else '-'
      cells.append(f'{common.time_text(seconds):>10}  {rate:>8}')
    lines.append('  '.join(cells))
  return '\n'.join(lines)


if __name__ == '__main__':
  common.run(benchmark, __doc__, as_text)
