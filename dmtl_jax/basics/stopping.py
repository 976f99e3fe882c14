"""What ends a job early: Ctrl-C, SIGTERM, by which schedulers do, and a disk that fails."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import os
import signal
import threading

from dmtl_jax.basics.errors import UserError

DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip


class Stopped(BaseException):  # as KeyboardInterrupt: no reader's `except Exception` may take it for a broken file
  """SIGTERM came while `StopSignal.at_once`, or `told`."""


@contextlib.contextmanager
def told(kept: Callable[[], str], where: object = '') -> Iterator[None]:
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
  """Remembers SIGTERM while it is open, so that training can save and leave between two steps.

  Of several hosts one or all may get the signal; there JAX catches it, and all stop at one step.
  """

  def __enter__(self):
    import jax

    self.asked, self._at_once, self._alone = False, False, jax.process_count() == 1
    if self._alone:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return self

  def __exit__(self, *error):
    if self._alone:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; to be asked at every step."""
    from jax.experimental import multihost_utils

    return self.asked if self._alone else multihost_utils.reached_preemption_sync_point(step)

  @contextlib.contextmanager
  def at_once(self):
    """While open, the signal raises Stopped: for work that is long and can be done again. On one host only."""
    self._at_once = True
    try:
      if self.asked:
        raise Stopped
      yield
    finally:
      self._at_once = False

  def _ask(self, *_):
    self.asked = True
    if self._at_once:
      raise Stopped
