"""Measuring: calls by the clock, compilation, the device's matrix peak and its memory."""

from collections.abc import Callable
import contextlib
import os
import platform
import sys
import tempfile
import time

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np

from dmtl_jax.training.cost import planned_bytes

BEGAN = time.perf_counter()
REPEAT = 0.2  # seconds a repeat lasts at least: short calls are repeated within it


def say(text: str):
  """A line on what takes long, on stderr: the table and JSON stay clean."""
  print(f'[{time.perf_counter() - BEGAN:6.1f} s] {text}', file=sys.stderr, flush=True)


def measure(calls: dict[str, Callable[[int], None]], repeats: int, warmup: int = 2) -> dict[str, np.ndarray]:
  """Seconds a call [repeats] of each contestant, all taking turns, so that a busy machine is busy for all.

  A turn begins with a call that is not timed: after a pause of seconds a virtual machine may have given freed memory
  back to its host, and a step on CPUs that takes and returns gigabytes took a third longer.

  Args:
    calls: name: function that runs n calls one after the other and returns when the device is done.
  """
  inner = {}
  for name, call in calls.items():
    call(warmup)
    inner[name] = int(min(max(np.ceil(REPEAT / _seconds(call, 1)), 1), 100))
  times = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      call(1)
      times[name].append(_seconds(call, inner[name]) / inner[name])
  return {name: np.array(seconds) for name, seconds in times.items()}


def _seconds(call, count: int) -> float:
  began = time.perf_counter()
  call(count)
  return time.perf_counter() - began


def spread(seconds) -> dict[str, float]:
  """{'median', 'low', 'high'}: the median and the quartiles."""
  low, median, high = np.percentile(seconds, [25, 50, 75])
  return {'median': median, 'low': low, 'high': high}


def compile_cold_and_cached(jitted, args, cold: bool = True):
  """Compiles once from nothing and once from a cache that holds the program.

  Args:
    jitted: a jax.jit function.
    cold: False: with the cache as it is, once.

  Returns:
    (compiled, {'trace', 'cold', 'cached'} in seconds); with cold=False {'trace', 'compile'}.
    'trace' (to StableHLO, from no trace at all) comes on top of either.
  """
  began = time.perf_counter()
  lowered = jitted.lower(*args)
  traced = time.perf_counter() - began
  if not cold:
    compiled, seconds = _compile(lowered)
    return compiled, {'trace': traced, 'compile': seconds}
  with tempfile.TemporaryDirectory() as folder, _cache(folder):
    _, first = _compile(lowered)
    jax.clear_caches()
    compiled, second = _compile(jitted.lower(*args))
  return compiled, {'trace': traced, 'cold': first, 'cached': second}


def _compile(lowered):
  began = time.perf_counter()
  compiled = lowered.compile()
  return compiled, time.perf_counter() - began


@contextlib.contextmanager
def _cache(folder: str):
  """The persistent compilation cache in `folder`, of every program."""
  names = {'jax_compilation_cache_dir': folder, 'jax_persistent_cache_min_compile_time_secs': 0}
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in names.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def matrix_peak(dtype: str) -> float:
  """FLOP/s of the fastest of a few large square matrix products on one device.

  In float32 at JAX's default precision, which is TF32 on NVIDIA GPUs: what the network gets too.
  """
  sizes, count = ((1024, 1536), 1) if jax.default_backend() == 'cpu' else ((4096, 8192, 16384), 10)
  best = 0.0
  for size in sizes:
    # Random numbers: a GPU multiplies zeros faster than anything it meets in training.
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) / size**0.5 for i in (0, 1))
    chain = jax.jit(lambda a, b: jax.lax.fori_loop(0, count, lambda _, x: (x @ b).astype(a.dtype), a))
    run = {'matmul': lambda n: [jax.block_until_ready(chain(a, b)) for _ in range(n)]}  # noqa: B023
    seconds = measure(run, 3, warmup=1)['matmul'].min()
    best = max(best, 2 * count * size**3 / seconds)
  return best


def memory(compiled) -> dict[str, float]:
  """Peak bytes of one device: as the compiled program plans it, and where the device tells, as it was.

  'planned' is arguments, results (those not in the place of an argument) and temporaries.
  """
  plan = compiled.memory_analysis()
  result = {
    'arguments': plan.argument_size_in_bytes,
    'temporary': plan.temp_size_in_bytes,
    'planned': planned_bytes(compiled),
  }
  stats = jax.local_devices()[0].memory_stats()
  return result | ({'measured': stats['peak_bytes_in_use']} if stats else {})


def device() -> dict:
  """What this runs on: {'platform', 'kind', 'count', 'threads', 'jax'}."""
  devices = jax.devices()
  kind = devices[0].device_kind if devices[0].platform != 'cpu' else _processor()
  threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return {
    'platform': devices[0].platform,
    'kind': kind,
    'count': len(devices),
    'threads': threads,
    'jax': jax.__version__,
  }


def _processor() -> str:
  with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
    for line in file:
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()
