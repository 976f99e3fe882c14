"""The standard streams of a command: whatever is wrong with them, its work goes on."""

import contextlib
import io
import os
import sys


class _Forgiving(io.FileIO):
  """A file that drops what cannot be written to it: the disk is full, or whoever read it is gone."""

  def write(self, data, /) -> int:
    try:
      return super().write(data) or len(data)  # None: it does not block, and takes nothing now
    except OSError:
      return len(data)


def secure():
  """Makes the standard streams safe to write to: no error, and none when Python ends, whatever they lead to.

  A stream that the caller closed leads nowhere from now on; left closed, the next file that is opened would take its
  number, and get what libraries print. Characters that the locale lacks are written as escapes.
  """
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    stream = getattr(sys, name)
    if stream is None:
      null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
      os.set_inheritable(null, True)
      setattr(sys, name, _text(null, 'w' if number else 'r', encoding='utf-8'))
    elif number and stream is getattr(sys, f'__{name}__'):  # not what a notebook or a test put there
      with contextlib.suppress(OSError):
        stream.flush()
      how = {key: getattr(stream, key) for key in ('encoding', 'line_buffering', 'write_through')}
      setattr(sys, name, _text(number, 'w', **how))


def _text(number: int, mode: str, **how) -> io.TextIOWrapper:
  raw = _Forgiving(number, mode, closefd=False)
  buffered = io.BufferedWriter(raw) if mode == 'w' else io.BufferedReader(raw)
  return io.TextIOWrapper(buffered, errors='backslashreplace', **how)
