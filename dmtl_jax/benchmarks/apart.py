"""PyTorch's contestants of `--against=torch`, each in a process of its own.

So each framework has threads, memory and a start of its own, and PyTorch gets ready while we compile.
"""

import importlib.util
import multiprocessing
import time

import jax

from dmtl_jax.basics.errors import UserError
from dmtl_jax.benchmarks import timing


class Apart:
  """A contestant of `timing.measure` that another process runs; it ends with this one.

  Args:
    serve: picklable; serve(pipe, *args) puts one answer into the pipe, then one for each count that it takes from it:
      the most bytes of the device that it took so far, or None.
  """

  peak = None

  def __init__(self, serve, *args):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    self._process.start()
    theirs.close()

  def answer(self):
    """The next answer; raises ChildProcessError where the process ended instead."""
    try:
      return self._pipe.recv()
    except EOFError as error:
      self._process.join()
      raise ChildProcessError(f'a contestant ended with status {self._process.exitcode}') from error

  def __call__(self, count: int):
    self._pipe.send(count)
    self.peak = self.answer()


def start(name: str, args: tuple, native: str, with_compiled: bool) -> dict[str, Apart]:
  """Starts contestants {name: contestant}, eager and compiled in `native`; they get ready meanwhile.

  Args:
    name, args: of a class of torch_step, and what it takes but for dtype, compiled and device.
    native: config.dtype.

  Raises:
    UserError: there is no PyTorch.
  """
  if importlib.util.find_spec('torch') is None:
    raise UserError('--against=torch: PyTorch is not installed; pip install torch')
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  shared = (name, args, device, timing.device()['threads'], native)
  kinds = ('eager', 'compiled') if with_compiled else ('eager',)
  return {f'torch {kind} {native}': Apart(_serve, *shared, kind == 'compiled') for kind in kinds}


def ready(started: dict[str, Apart]) -> tuple[dict[str, Apart], dict[str, str]]:
  """Waits until contestants can be called: those that can, and notes on all; raises UserError where eager ones fail."""
  found, notes = {}, {}
  for title, contestant in started.items():
    timing.say(f'waiting for {title}')
    notes[title], worked = contestant.answer()
    if worked:
      found[title] = contestant
    elif 'compiled' not in title:
      raise UserError(f'--against=torch: {notes[title]}')
  return found, notes


def _serve(pipe, name: str, args: tuple, device: str, threads: int, dtype: str, compiled: bool):
  """Runs a contestant: answers (note, whether it works), then its peak after each count of calls."""
  from dmtl_jax.benchmarks import torch_step

  began = time.perf_counter()
  try:
    contestant = getattr(torch_step, name)(*args, dtype, compiled, torch_step.use(device, threads))
    contestant(1)
  except Exception as error:  # torch.compile fails in many ways: said, and the others are still timed
    pipe.send((f'failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}', False))
    return
  pipe.send((f'first call {time.perf_counter() - began:.1f} s, PyTorch {torch_step.VERSION}', True))
  while True:
    try:
      count = pipe.recv()
    except EOFError:  # the other process is done
      return
    contestant(count)
    pipe.send(torch_step.peak(device))
