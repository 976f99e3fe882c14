"""What ends a job early: Ctrl-C, SIGTERM (which schedulers send) and disk errors."""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import errno
import os
import signal
import sys
import threading

from dmtl_jax.basics.errors import print_error, UserError

DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip

RUN_IS_WHOLE = 'what was saved is whole, and the run goes on from its last checkpoint'
NOTICE = 'Ctrl-C: saves and stops as soon as the step or compilation under way ends; Ctrl-C again quits immediately'
COMPILING = 'compiling'  # name of threads that compile
PATIENCE = 3  # seconds after which a second Ctrl-C ends the process even if Python has not handled it


class Stopped(BaseException):  # like KeyboardInterrupt: `except Exception` in a reader must not take it for damage
  """Ctrl-C or SIGTERM came while `StopSignal.interruptible`, or SIGTERM while `report_interruption`."""


@contextlib.contextmanager
def report_interruption(kept: Callable[[], str], where: object = '') -> Iterator[None]:
  """Turns whatever ends a job's work early into a UserError of one sentence.

  Args:
    kept: says what the job leaves, old or new; ends the sentence.
    where: the place that is written to, for errors that do not name it.

  Raises:
    UserError: for Ctrl-C, SIGTERM (unless the caller handles it), or a disk that is full, read-only or gone.
  """
  import jax  # not above: the command line imports this module before it sets JAX's environment variables

  # With several processes JAX handles SIGTERM itself, which `getsignal` does not show.
  is_unhandled = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not jax.distributed.is_initialized()
  handles_sigterm = is_unhandled and _in_main_thread()
  if handles_sigterm:
    signal.signal(signal.SIGTERM, _stop)
  try:
    yield
  except KeyboardInterrupt:
    raise UserError(f'stopped by Ctrl-C; {kept()}') from None
  except Stopped:
    if not handles_sigterm:
      raise
    raise UserError(f'stopped by SIGTERM; {kept()}') from None
  except OSError as error:
    if error.errno not in DISK_ERRORS:
      raise
    place = error.filename2 or error.filename or where
    raise UserError(
      f'{place}: {os.strerror(error.errno)}; fix that and run the same command again: {kept()}'
    ) from error
  finally:
    if handles_sigterm:
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
  """Ignores Ctrl-C and SIGTERM in this block, which must be short."""
  signals = (signal.SIGINT, signal.SIGTERM) if _in_main_thread() else ()
  before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def exit_while_compiling(status: int):
  """Makes the process end with this exit status even while a thread is compiling.

  Python's own exit would take apart what XLA is using in that thread.
  """
  if _is_compiling():
    atexit.register(_exit_if_compiling, status)  # registered last, so it runs before JAX's own


def _is_compiling() -> bool:
  return any(thread.name == COMPILING for thread in threading.enumerate())


def _exit_if_compiling(status: int):
  if _is_compiling():
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError, ValueError):  # full or closed
        stream.flush()
    os._exit(status)


def _stop(*_):
  raise Stopped


def _in_main_thread() -> bool:
  return threading.current_thread() is threading.main_thread()


class StopSignal:
  """Remembers Ctrl-C and SIGTERM in a `with` block, so that training can save and leave between two steps.

  The second Ctrl-C raises KeyboardInterrupt; if Python cannot, since XLA is compiling, it ends the process.
  With several hosts, one or all may get a signal: Ctrl-C is passed on as SIGTERM, which JAX catches, and all hosts stop
  at the same step.

  Attributes:
    asked: what asked this host to stop, 'Ctrl-C' or 'SIGTERM' (with several hosts only JAX sees that); '' until then.
  """

  def __enter__(self):
    import jax

    self.asked = ''
    self._is_interruptible = False
    self._presses = 0
    self._is_single = jax.process_count() == 1
    self._interrupted = threading.Event()
    numbers = [signal.SIGTERM] if self._is_single else []
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # ignored in commands that a shell runs in the background
      numbers.append(signal.SIGINT)
    self._before = {number: signal.signal(number, self._ask) for number in numbers if _in_main_thread()}
    if self._before:
      read, self._write = os.pipe()
      os.set_blocking(self._write, False)
      self._answering = threading.Thread(target=self._answer, args=(read,), daemon=True)
      self._answering.start()
      self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    return self

  def __exit__(self, *error):
    if self._before:
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._write)
      self._answering.join()
      for number, handler in self._before.items():
        signal.signal(number, handler)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; must be called at every step."""
    from jax.experimental import multihost_utils

    return bool(self.asked) if self._is_single else multihost_utils.reached_preemption_sync_point(step)

  def cause(self) -> str:
    """What asked some host to stop, 'Ctrl-C' or 'SIGTERM'; all hosts must call it."""
    from dmtl_jax.basics import sharding

    return 'Ctrl-C' if 'Ctrl-C' in sharding.gather(self.asked) else 'SIGTERM'

  @contextlib.contextmanager
  def interruptible(self):
    """Lets signals raise Stopped in a `with` block of long work that can be repeated; only on a single host."""
    self._is_interruptible = self._is_single
    try:
      if self._is_interruptible and self.asked:
        raise Stopped
      yield
    finally:
      self._is_interruptible = False

  def _ask(self, number, _):
    if number == signal.SIGINT:
      self._presses += 1
      if self._presses > 1:
        self._interrupted.set()
        raise KeyboardInterrupt
    self.asked = self.asked or ('Ctrl-C' if number == signal.SIGINT else 'SIGTERM')
    if self._is_interruptible:
      raise Stopped
    if not self._is_single:
      os.kill(os.getpid(), signal.SIGTERM)

  def _answer(self, read: int):
    """Answers Ctrl-C from a thread, since Python runs `_ask` only after XLA has compiled, which takes minutes."""
    presses = 0
    with open(read, 'rb', buffering=0) as pipe:
      while received := pipe.read(1):
        presses += received[0] == signal.SIGINT
        if received[0] != signal.SIGINT:
          continue
        if presses == 1:
          with contextlib.suppress(OSError, ValueError):  # a closed stderr must not end this thread
            print(f'\n{NOTICE}', file=sys.stderr, flush=True)
        elif not self._interrupted.wait(PATIENCE):
          print_error(UserError(f'stopped by Ctrl-C; {RUN_IS_WHOLE}'))
          os._exit(1)
