"""What ends a job early: Ctrl-C, SIGTERM, by which schedulers do, and a disk that fails."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import os
import signal
import sys
import threading

from dmtl_jax.basics.errors import print_error, UserError

DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip

WHOLE = 'what was saved is whole, and the run goes on from its last checkpoint'
NOTICE = 'Ctrl-C: stops and saves after this step (compiling has to end first); Ctrl-C again quits at once'
PATIENCE = 3  # seconds until a second Ctrl-C that Python does not get ends the process


class Stopped(BaseException):  # as KeyboardInterrupt: no reader's `except Exception` may take it for a broken file
  """Ctrl-C or SIGTERM came while `StopSignal.interruptible`, or SIGTERM while `report_interruption`."""


@contextlib.contextmanager
def report_interruption(kept: Callable[[], str], where: object = '') -> Iterator[None]:
  """Around a job's work: what ends it early is told in a sentence.

  Args:
    kept: says what is there then, old or new; ends the sentence.
    where: the place that is written to, where an error does not name it.

  Raises:
    UserError: for Ctrl-C, SIGTERM (unless the caller has a handler of it), or a disk that is full, read-only or gone.
  """
  import jax  # not above: the command line needs this module, and sets JAX's variables before it is imported

  # Of several processes JAX handles it, which Python does not know.
  free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not jax.distributed.is_initialized()
  alone = free and _in_main_thread()
  if alone:
    signal.signal(signal.SIGTERM, _stop)
  try:
    yield
  except KeyboardInterrupt:
    raise UserError(f'stopped by Ctrl-C; {kept()}') from None
  except Stopped:
    if not alone:
      raise
    raise UserError(f'stopped by SIGTERM; {kept()}') from None
  except OSError as error:
    if error.errno not in DISK:
      raise
    place = error.filename2 or error.filename or where
    raise UserError(
      f'{place}: {os.strerror(error.errno)}; mend that and run the same command again: {kept()}'
    ) from error
  finally:
    if alone:
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
  """Neither Ctrl-C nor SIGTERM ends this block, which must be short: they are forgotten."""
  signals = (signal.SIGINT, signal.SIGTERM) if _in_main_thread() else ()
  before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _stop(*_):
  raise Stopped


def _in_main_thread() -> bool:
  return threading.current_thread() is threading.main_thread()


class StopSignal:
  """Remembers Ctrl-C and SIGTERM while it is open, so that training can save and leave between two steps.

  The second Ctrl-C raises KeyboardInterrupt. Where Python has no say, because XLA compiles, it ends the process.
  Of several hosts one or all may get a signal: JAX catches SIGTERM, as which Ctrl-C is passed on; all stop at one step.

  Attributes:
    asked: what asked this host to stop, 'Ctrl-C' or 'SIGTERM' (of several hosts JAX alone knows of that); '' before.
  """

  def __enter__(self):
    import jax

    self.asked, self._interruptible, self._presses = '', False, 0
    self._alone, self._interrupted = jax.process_count() == 1, threading.Event()
    numbers = [signal.SIGTERM] if self._alone else []
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as of a command that a shell runs in the background
      numbers.append(signal.SIGINT)
    self._before = {number: signal.signal(number, self._ask) for number in numbers if _in_main_thread()}
    if self._before:
      read, self._write = os.pipe()
      os.set_blocking(self._write, False)
      self._speaker = threading.Thread(target=self._speak, args=(read,), daemon=True)
      self._speaker.start()
      self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    return self

  def __exit__(self, *error):
    if self._before:
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._write)
      self._speaker.join()
      for number, handler in self._before.items():
        signal.signal(number, handler)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; to be asked at every step."""
    from jax.experimental import multihost_utils

    return bool(self.asked) if self._alone else multihost_utils.reached_preemption_sync_point(step)

  def cause(self) -> str:
    """What asked some host to stop, 'Ctrl-C' or 'SIGTERM'; all hosts must call it."""
    from dmtl_jax.basics import sharding

    return 'Ctrl-C' if 'Ctrl-C' in sharding.gather(self.asked) else 'SIGTERM'

  @contextlib.contextmanager
  def interruptible(self):
    """While open, a signal raises Stopped: for work that is long and can be done again. On one host only."""
    self._interruptible = self._alone
    try:
      if self._interruptible and self.asked:
        raise Stopped
      yield
    finally:
      self._interruptible = False

  def _ask(self, number, _):
    if number == signal.SIGINT:
      self._presses += 1
      if self._presses > 1:
        self._interrupted.set()
        raise KeyboardInterrupt
    self.asked = self.asked or ('Ctrl-C' if number == signal.SIGINT else 'SIGTERM')
    if self._interruptible:
      raise Stopped
    if not self._alone:
      os.kill(os.getpid(), signal.SIGTERM)

  def _speak(self, read: int):
    """Answers Ctrl-C: in a thread, as Python runs `_ask` only once XLA has compiled, which takes minutes."""
    presses = 0
    with open(read, 'rb', buffering=0) as pipe:
      while received := pipe.read(1):
        presses += received[0] == signal.SIGINT
        if received[0] != signal.SIGINT:
          continue
        if presses == 1:
          print(f'\n{NOTICE}', file=sys.stderr, flush=True)
        elif not self._interrupted.wait(PATIENCE):
          print_error(UserError(f'stopped by Ctrl-C; {WHOLE}'))
          os._exit(1)
