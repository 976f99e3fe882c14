"""Measuring: calls by the clock, the device's matrix peak and its memory."""

from collections.abc import Callable
import contextlib
import math
import os
import platform
import sys
import time

import jax
import numpy as np

from dmtl_jax.basics import memory as memory_lib
from dmtl_jax.training.cost import planned_bytes

BEGAN = time.perf_counter()
REPEAT = 0.2  # seconds that a repeat lasts at least: short calls are repeated within it


def say(text: str):
  """A line on what takes long, on stderr, so that stdout holds only the result."""
  print(f'[{time.perf_counter() - BEGAN:6.1f} s] {text}', file=sys.stderr, flush=True)


def measure(calls: dict[str, Callable[[int], None]], repeats: int, warmup: int = 2) -> dict[str, np.ndarray]:
  """Seconds per call [repeats] of each contestant, taken in turns, so that a busy machine is busy for all.

  A turn begins with a call that is not timed: after a pause of seconds a virtual machine may have given freed memory
  back to its host, and a step on CPUs that takes and returns gigabytes took a third longer.

  Args:
    calls: name: function that runs n calls one after the other and returns when the device is done.
  """
  counts = {}
  for name, call in calls.items():
    call(warmup)
    counts[name] = min(max(math.ceil(REPEAT / _seconds(call, 1)), 1), 100)
  times = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      call(1)
      times[name].append(_seconds(call, counts[name]) / counts[name])
  return {name: np.array(seconds) for name, seconds in times.items()}


def _seconds(call, count: int) -> float:
  began = time.perf_counter()
  call(count)
  return time.perf_counter() - began


def spread(seconds) -> dict[str, float]:
  """{'median', 'low', 'high'}: the median and the quartiles."""
  low, median, high = np.percentile(seconds, [25, 50, 75])
  return {'median': median, 'low': low, 'high': high}


def compile_step(step, args):
  """Compiles a jax.jit function, or reads it from the cache; returns (compiled, {'trace', 'compile'} in seconds)."""
  began = time.perf_counter()
  lowered = step.lower(*args)
  traced = time.perf_counter()
  compiled = lowered.compile()
  seconds = {'trace': traced - began, 'compile': time.perf_counter() - traced}
  memory_lib.set_fragments_aside()  # as training does
  return compiled, seconds


def matrix_peak(dtype: str) -> float:
  """FLOP/s of the fastest of a few large square matrix products on one device.

  In float32 at JAX's default precision, which is TF32 on NVIDIA GPUs: what the network gets too.
  """
  sizes, count = ((1024, 1536), 1) if jax.default_backend() == 'cpu' else ((4096, 8192, 16384), 10)

  @jax.jit
  def multiply(a, b):
    return jax.lax.fori_loop(0, count, lambda _, x: (x @ b).astype(a.dtype), a)

  best = 0.0
  for size in sizes:
    # Random numbers: a GPU multiplies zeros faster than anything it meets in training.
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) / size**0.5 for i in (0, 1))
    call = {'matmul': lambda n, a=a, b=b: [jax.block_until_ready(multiply(a, b)) for _ in range(n)]}
    seconds = measure(call, 3, warmup=1)['matmul'].min()
    best = max(best, 2 * count * size**3 / seconds)
  return best


def memory(compiled) -> dict[str, float]:
  """Peak bytes of one device: 'planned' by the compiled program and, where the device says, 'measured'."""
  stats = jax.local_devices()[0].memory_stats()
  return {'planned': planned_bytes(compiled)} | ({'measured': stats['peak_bytes_in_use']} if stats else {})


def device() -> dict:
  """What this runs on: {'platform', 'kind', 'count', 'threads', 'jax'}."""
  devices = jax.devices()
  return {
    'platform': devices[0].platform,
    'kind': devices[0].device_kind if devices[0].platform != 'cpu' else _processor(),
    'count': len(devices),
    'threads': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    'jax': jax.__version__,
  }


def _processor() -> str:
  with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
    for line in file:
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()
