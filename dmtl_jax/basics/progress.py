"""Progress of a long job: share done, rate and time left."""

from collections.abc import Iterator
import contextlib
import os
import sys
import time
import unicodedata

from absl import logging

from dmtl_jax.basics.errors import name_addresses, sanitize

silent = False  # True on all hosts but the first (see `cli`)
NOTEBOOK_COLUMNS = 200
_columns_shown = 0  # of the line that any Progress overwrites next


def duration(seconds: float) -> str:
  """Seconds as '42 s', '3 min 05 s' or '2 h 10 min'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds} s'
  if seconds < 3600:
    return f'{seconds // 60} min {seconds % 60:02d} s'
  return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


class Progress:
  """Shows progress: one live line on a terminal and in a notebook, a line now and then in a log.

  Args:
    what: the work, e.g. 'training'.
    total: number of units.
    unit: name of one unit, e.g. 'img'.
    start: units done by an earlier run (they do not count for the rate).
  """

  def __init__(self, what: str, total: int, unit: str = 'it', start: int = 0):
    self.what = what
    self.total = total
    self.unit = unit
    self.done = self.start = start
    self.note = ''
    self.began = time.monotonic()
    self._rate_began = self.began  # reset by the first update, which waits for its data; moved on by pauses
    self._rate_start: int | None = None  # units done at that first update
    self.last_shown = -float('inf')
    self.is_live = sys.stderr.isatty() or 'ipykernel' in sys.modules

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._show(final=True)

  def update(self, count: int = 1, note: str = ''):
    """Counts `count` more units as done; `note` (a loss, a file name) is shown after them."""
    self.done += count
    self.note = note or self.note
    if count and self._rate_start is None:
      self._rate_began = time.monotonic()
      self._rate_start = self.done
    if time.monotonic() - self.last_shown > (0.2 if self.is_live else 10):
      self._show()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time of the block, spent on compiling or evaluating, from the rate."""
    began = time.monotonic()
    try:
      yield
    finally:
      self._rate_began += time.monotonic() - began

  def rate(self) -> float:
    """Units per second of this run after the first update, without pauses; 0 until there is a second update."""
    done = self.done - (self.start if self._rate_start is None else self._rate_start)
    return done / max(time.monotonic() - self._rate_began, 1e-9)

  def _show(self, final: bool = False):
    self.last_shown = time.monotonic()
    if silent:
      return
    seconds = self.last_shown - self.began
    rate = self.rate()
    if final and (
      not rate or seconds < 1 or self.done - (self._rate_start or 0) < 10
    ):  # too few to leave out the first
      rate = (self.done - self.start) / max(seconds, 1e-9)
    parts = [f'{self.what} {self.done}/{self.total} ({100 * self.done / max(self.total, 1):.0f}%)']
    if rate > 0:
      parts.append(f'{rate:.1f} {self.unit}/s' if rate >= 1 else f'{1 / rate:.1f} s/{self.unit}')
      parts += [] if final else [f'{duration((self.total - self.done) / rate)} left']
    line = ', '.join([*parts, f'in {duration(seconds)}'] if final else parts)
    line = sanitize(line + (f' | {self.note}' if self.note else ''), 1000)
    with contextlib.suppress(OSError, ValueError):  # a full or closed stderr is no reason to end a job
      if self.is_live:
        _overwrite(line, final)
      else:
        print(line, file=sys.stderr, flush=True)


def _overwrite(line: str, final: bool):
  """Overwrites the line on the screen, at the terminal's current width."""
  global _columns_shown
  try:
    width = os.get_terminal_size(sys.stderr.fileno()).columns - 1  # the last column would begin a new line
  except (OSError, ValueError):  # a notebook
    width = NOTEBOOK_COLUMNS
  line, columns = truncate(line, width if width > 0 else NOTEBOOK_COLUMNS)  # -1: a terminal of unknown size
  blanks = ' ' * (min(_columns_shown, width) - columns)
  print(f'\r{line}{blanks}', end='\n' if final else '', file=sys.stderr, flush=True)
  _columns_shown = 0 if final else columns


def truncate(text: str, width: int) -> tuple[str, int]:
  """The beginning of a text that fits into `width` columns, and how many it takes; a Chinese character takes two."""
  columns = 0
  for i, character in enumerate(text):
    needed = 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in 'WF')
    if columns + needed > width:
      return text[:i], columns
    columns += needed
  return text, columns


def say(text: str):
  """Prints and logs a line for the user; with several hosts, only the first prints."""
  text = name_addresses(text)
  logging.info('%s', text)
  if not silent:
    with contextlib.suppress(OSError, ValueError):  # as above
      print(text, flush=True)
