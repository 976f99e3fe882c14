"""PyTorch's contestant of `--torch`, in a process of its own.

So each framework has its own threads, memory and start, and PyTorch gets ready while we compile.
"""

import importlib.util
import multiprocessing
import time

import jax

from benchmarks import timing
from dmtl_jax.basics import memory
from dmtl_jax.basics.errors import UserError


class Apart:
  """A contestant of `timing.measure` that another process runs; that process ends with this one.

  Args:
    serve: picklable; serve(pipe, *args) sends '' through the pipe when it is ready, or why it failed, then an answer
      for each count that it receives: the most bytes of the device taken so far, or None.
  """

  peak = None

  def __init__(self, serve, *args):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    self._process.start()
    theirs.close()

  def wait(self):
    """Returns when the contestant can be called; raises UserError where it failed."""
    if failure := self._answer():
      raise UserError(f'--torch: {failure}')

  def _answer(self):
    try:
      return self._pipe.recv()
    except EOFError as error:
      self._process.join()
      raise ChildProcessError(f'a contestant ended with status {self._process.exitcode}') from error

  def __call__(self, count: int):
    self._pipe.send(count)
    self.peak = self._answer()


def start(name: str, args: tuple, dtype: str, kind: str) -> Apart:
  """Starts a contestant: the class `name` of torch_step, called with `args` and how to compute ('eager', 'compiled').

  Raises UserError where PyTorch is not installed.
  """
  if importlib.util.find_spec('torch') is None:
    raise UserError('--torch: PyTorch is not installed; pip install torch')
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  return Apart(_serve, name, args, dtype, kind == 'compiled', device, timing.device()['threads'])


def _serve(pipe, name: str, args: tuple, dtype: str, compiled: bool, device: str, threads: int):
  memory.keep_freed()
  from benchmarks import torch_step

  began = time.perf_counter()
  try:
    contestant = getattr(torch_step, name)(*args, dtype, compiled, torch_step.use(device, threads))
    contestant(1)
  except Exception as error:  # torch.compile fails in many ways
    pipe.send((str(error).strip() or type(error).__name__).splitlines()[0])
    return
  timing.say(f'PyTorch {torch_step.VERSION}: first call {time.perf_counter() - began:.1f} s')
  pipe.send('')
  while True:
    try:
      count = pipe.recv()
    except EOFError:  # the other process is done
      return
    contestant(count)
    pipe.send(torch_step.peak(device))
