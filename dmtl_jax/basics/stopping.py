"""SIGTERM, by which schedulers end a job: training saves and leaves."""

import contextlib
import signal

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
  """SIGTERM came while `StopSignal.at_once`."""


class StopSignal:
  """Remembers SIGTERM while it is open, so that training can save and leave between two steps.

  Of several hosts one or all may get the signal; there JAX catches it, and all stop at one step.
  """

  def __enter__(self):
    self.asked, self._at_once, self._alone = False, False, jax.process_count() == 1
    if self._alone:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return self

  def __exit__(self, *error):
    if self._alone:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; to be asked at every step."""
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
