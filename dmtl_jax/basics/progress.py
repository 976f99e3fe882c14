"""Progress of a long job: share done, rate and time left."""

import sys
import time

from absl import logging

silent = False  # True on all hosts but the first (see `cli`)


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
    self.told = -float('inf')  # when
    self.renews = sys.stderr.isatty() or 'ipykernel' in sys.modules
    self.length = 0  # of the line that is to be written over

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._show(final=True)

  def update(self, count: int = 1, note: str = ''):
    """Counts `count` more units as done; `note` (a loss, a file name) is shown behind them."""
    self.done += count
    self.note = note or self.note
    if time.monotonic() - self.told > (0.2 if self.renews else 10):
      self._show()

  def rate(self) -> float:
    """Units per second of this run."""
    return (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)

  def _show(self, final=False):
    self.told = time.monotonic()
    if silent:
      return
    rate = self.rate()
    left = duration((self.total - self.done) / rate) if rate > 0 else '?'
    tail = f'in {duration(self.told - self.began)}' if final else f'{left} left'
    per = f'{rate:.1f} {self.unit}/s' if rate >= 1 or rate == 0 else f'{1 / rate:.1f} s/{self.unit}'
    line = f'{self.what} {self.done}/{self.total} ({100 * self.done / max(self.total, 1):.0f}%), {per}, {tail}'
    line += f' | {self.note}' if self.note else ''
    if self.renews:
      line, length = line[:200].ljust(self.length), len(line[:200])
      print(f'\r{line}', end='\n' if final else '', file=sys.stderr, flush=True)
      self.length = length
    else:
      print(line, file=sys.stderr, flush=True)


def say(text: str):
  """A line for the person at the terminal; of several hosts, the first speaks for all."""
  logging.info('%s', text)
  if not silent:
    print(text, flush=True)
