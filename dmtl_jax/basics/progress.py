"""Progress of a long job: share done, rate and time left."""

from collections.abc import Iterator
import contextlib
import os
import sys
import time
import unicodedata

from absl import logging

from dmtl_jax.basics.errors import sanitize

silent = False  # True on all hosts but the first (see `cli`)
NOTEBOOK = 200  # columns
_shown = 0  # columns of the line that is to be written over, by whichever Progress comes next


def duration(seconds: float) -> str:
  """Seconds as a person says them: '42 s', '3 min 05 s', '2 h 10 min'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


class Progress:
  """A line that renews itself on a terminal and in a notebook, and a line now and then in a log.

  Args:
    what: what is done, e.g. 'training'.
    total: number of units in all.
    unit: name of one unit, e.g. 'img'.
    start: units done by an earlier run (they do not count for the rate).
  """

  def __init__(self, what: str, total: int, unit: str = 'it', start: int = 0):
    self.what, self.total, self.unit = what, total, unit
    self.done, self.start = start, start
    self.note = ''
    self.began = time.monotonic()
    self._clock = self.began  # as `began`, later by what does not count for the rate
    self._first: int | None = None  # units done when that clock started: the first update, which waits for its data
    self.told = -float('inf')  # when
    self.renews = sys.stderr.isatty() or 'ipykernel' in sys.modules

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._show(final=True)

  def update(self, count: int = 1, note: str = ''):
    """Counts `count` more units as done; `note` (a loss, a file name) is shown behind them."""
    self.done += count
    self.note = note or self.note
    if count and self._first is None:
      self._clock, self._first = time.monotonic(), self.done
    if time.monotonic() - self.told > (0.2 if self.renews else 10):
      self._show()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """The time of this block does not count for the rate: something is compiled or evaluated."""
    began = time.monotonic()
    try:
      yield
    finally:
      self._clock += time.monotonic() - began

  def rate(self) -> float:
    """Units per second of this run, after the first update and without pauses; 0 where nothing is known yet."""
    done = self.done - (self.start if self._first is None else self._first)
    return done / max(time.monotonic() - self._clock, 1e-9)

  def _show(self, final=False):
    self.told = time.monotonic()
    if silent:
      return
    seconds, rate = self.told - self.began, self.rate()
    if final and not rate:  # all in one update
      rate = (self.done - self.start) / max(seconds, 1e-9)
    parts = [f'{self.what} {self.done}/{self.total} ({100 * self.done / max(self.total, 1):.0f}%)']
    if rate > 0:
      parts.append(f'{rate:.1f} {self.unit}/s' if rate >= 1 else f'{1 / rate:.1f} s/{self.unit}')
      parts += [] if final else [f'{duration((self.total - self.done) / rate)} left']
    line = ', '.join([*parts, f'in {duration(seconds)}'] if final else parts)
    line = sanitize(line + (f' | {self.note}' if self.note else ''), 1000)
    with contextlib.suppress(OSError, ValueError):  # full, closed, or its reader is gone: no reason to end a job
      if self.renews:
        _renew(line, final)
      else:
        print(line, file=sys.stderr, flush=True)


def _renew(line: str, final: bool):
  """Writes over the line on the screen, in as many columns as it has now."""
  global _shown
  try:
    most = os.get_terminal_size(sys.stderr.fileno()).columns - 1  # in the last one a terminal would begin a new line
  except (OSError, ValueError):  # a notebook
    most = NOTEBOOK
  line, columns = cut(line, most if most > 0 else NOTEBOOK)  # a terminal of an unknown size has 0
  print(f'\r{line}{" " * (min(_shown, most) - columns)}', end='\n' if final else '', file=sys.stderr, flush=True)
  _shown = 0 if final else columns


def cut(text: str, most: int) -> tuple[str, int]:
  """The beginning of a text that fits into `most` columns, and how many it takes: a Chinese character takes two."""
  columns = 0
  for place, character in enumerate(text):
    wide = 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in 'WF')
    if columns + wide > most:
      return text[:place], columns
    columns += wide
  return text, columns


def say(text: str):
  """A line for the person at the terminal; of several hosts, the first speaks for all."""
  logging.info('%s', text)
  if not silent:
    with contextlib.suppress(OSError, ValueError):  # as above
      print(text, flush=True)
