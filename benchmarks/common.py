"""What the benchmarks of the train step and of inference share: flags, the result, its table."""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks import apart, timing
from dmtl_jax.basics import compilation, memory
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import check

CONFIG = 'configs/pascal.py:method=prediction'


def run(benchmark, doc: str, to_text):
  """Runs benchmark(config, flags) -> result as a command: prints the result as text, writes it as JSON."""
  config = config_flags.DEFINE_config_file('config', CONFIG, 'Config file, configs/NAME.py[:key=value,...].')
  flags.DEFINE_integer('repeats', 10, 'How often each contestant is timed.', lower_bound=1)
  flags.DEFINE_string('json', None, 'File to write the result to.')
  flags.DEFINE_enum('torch', None, ['eager', 'compiled'], 'Time a PyTorch re-statement in turns with it.')

  def main(_):
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # a GPU is shared with PyTorch's process
    compilation.use_cache()
    memory.keep_freed()
    compilation.collect_rarely()
    try:
      check.check(config.value.to_dict(), '--config')
      result = benchmark(config.value, flags.FLAGS)
    except UserError as error:
      sys.exit(f'Error: {error}')
    print(to_text(result))
    if flags.FLAGS.json:
      write_json(pathlib.Path(flags.FLAGS.json), result)

  sys.modules['__main__'].__doc__ = doc
  app.run(main)


def describe(config, tasks, batch: int, pairs: int | None, what: str) -> dict:
  """The head of a result: what was measured and on what."""
  return {
    'what': what,
    'method': config.method,
    'backbone': config.model.backbone,
    'size': list(config.data.size),
    'batch': batch,
    'tasks': len(tasks),
    'labels': config.data.labels,
    'pairs': pairs,
    'dtype': config.dtype,
    'device': timing.device(),
  }


def measure(head: dict, step, args, make_call, torch: tuple[str, tuple], flops: dict[str, float], flags) -> dict:
  """Compiles a step, times it, in turns with PyTorch if asked to, and adds the numbers to a result's head.

  Args:
    step, args: a jax.jit function and its arguments, which may be donated.
    make_call: makes of the compiled step the call that `timing.measure` times.
    torch: name of a class of torch_step and its arguments, see `apart.start`.
    flops: 'needed' and 'executed', see work.py.
  """
  other = apart.start(*torch, head['dtype'], flags.torch) if flags.torch else None
  timing.say('compiling')
  compiled, compile_seconds = timing.compile_step(step, args)
  calls = {'jax': make_call(compiled)}
  if other:
    timing.say('waiting for PyTorch')
    other.wait()
    calls[f'torch {flags.torch}'] = other
  timing.say(f'timing {", ".join(calls)}')
  seconds = timing.measure(calls, flags.repeats)
  memory = timing.memory(compiled)  # before the products below, which take some too
  if other and other.peak:
    memory['torch'] = other.peak
  timing.say('matrix peak')
  peak = timing.matrix_peak(head['dtype'])
  return head | {
    'speed': compare(seconds, head['batch'], flops, peak, head['device']['count']),
    'flops': flops,
    'peak': peak,
    'memory': memory,
    'compile': compile_seconds,
  }


def compare(seconds: dict, batch: int, flops: dict, peak: float, devices: int) -> dict:
  """Numbers of every timed contestant, from {contestant: seconds [repeats]}; 'jax' comes first.

  Returns:
    {contestant: {'seconds', 'images_per_second'}}. 'jax' also has 'achieved' (the lesser of needed and executed FLOPs
    per second: neither waste nor saved work counts) and 'share_of_peak' of all devices. The others have 'ratio', their
    time over ours in the same turn. Times and ratios are as `timing.spread` gives them.
  """
  result = {}
  for name, times in seconds.items():
    median = timing.spread(times)['median']
    result[name] = {'seconds': timing.spread(times), 'images_per_second': batch / median}
    if name == 'jax':
      achieved = min(flops['needed'], flops['executed']) / median
      result[name] |= {'achieved': achieved, 'share_of_peak': achieved / (peak * devices)}
    else:
      result[name]['ratio'] = timing.spread(times / seconds['jax'])
  return result


def title(result: dict) -> str:
  """What was measured, in a line."""
  height, width = result['size']
  parts = [f'{result["what"]}: {result["method"]}', result['backbone'], f'{height}x{width}', f'batch {result["batch"]}']
  if result['pairs']:
    parts.append(f'labels {result["labels"]}, {result["pairs"]} of {result["batch"] * result["tasks"]} pairs')
  return ', '.join([*parts, result['dtype']])


def as_text(result: dict) -> str:
  """The result for a person."""
  device = result['device']
  rows = [
    ('device', f'{device["count"]} x {device["kind"]} ({device["platform"]}, {device["threads"]} threads)'),
    *(row for name, speed in result['speed'].items() for row in _speed_rows(name, speed, result['dtype'])),
    ('work', _listed({name: f'{si(n)}FLOP' for name, n in result['flops'].items()})),
    ('matrix peak', f'{si(result["peak"])}FLOP/s in {result["dtype"]}'),
    ('compile', _listed({name: f'{seconds:.1f} s' for name, seconds in result['compile'].items()})),
    ('memory', _listed({name: f'{si(n)}B' for name, n in result['memory'].items()})),
  ]
  width = max(len(name) for name, _ in rows)
  return '\n'.join([title(result), *(f'  {name:<{width}}  {text}' for name, text in rows)])


def _listed(texts: dict[str, str]) -> str:
  return ', '.join(f'{name} {text}' for name, text in texts.items())


def _speed_rows(name: str, speed: dict, dtype: str) -> list[tuple[str, str]]:
  median, low, high = (time_text(speed['seconds'][q]) for q in ('median', 'low', 'high'))
  line = f'{median} ({low} to {high}), {speed["images_per_second"]:.3g} images/s'
  if 'ratio' in speed:
    ratio = speed['ratio']
    return [(name, f'{line}; {ratio["median"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f}) times ours')]
  share = f'{100 * speed["share_of_peak"]:.0f}% of the {dtype} matrix peak'
  return [(name, line), ('achieved', f'{si(speed["achieved"])}FLOP/s, {share}')]


def time_text(seconds: float) -> str:
  """'12.3 ms'."""
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1000 * seconds:.1f} ms'


def si(value: float) -> str:
  """'12.3 G': three digits and a prefix."""
  for prefix, scale in (('P', 1e15), ('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if value >= scale:
      return f'{value / scale:.3g} {prefix}'
  return f'{value:.3g} '
