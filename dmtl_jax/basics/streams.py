"""Standard streams that never stop a command, whatever is wrong with them."""

import contextlib
import io
import os
import sys


class _Forgiving(io.FileIO):
  """A file that drops data it cannot write, since the disk is full or the reader is gone."""

  def write(self, data, /) -> int:
    try:
      return super().write(data) or len(data)  # None: a non-blocking file that is full
    except OSError:
      return len(data)


def secure():
  """Makes the standard streams safe to write to, without errors even when Python exits.

  A stream that the caller closed is replaced by the null device; otherwise the next file to be opened would get its
  number, and the output of libraries. Characters that the locale does not have are written as escapes.
  """
  for number, name in enumerate(('stdin', 'stdout', 'stderr')):
    stream = getattr(sys, name)
    if stream is None:
      null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
      os.set_inheritable(null, True)
      setattr(sys, name, _text(null, 'w' if number else 'r', encoding='utf-8'))
    elif number and stream is getattr(sys, f'__{name}__'):  # unless a notebook or a test has replaced it
      with contextlib.suppress(OSError):
        stream.flush()
      options = {key: getattr(stream, key) for key in ('encoding', 'line_buffering', 'write_through')}
      setattr(sys, name, _text(number, 'w', **options))


def _text(number: int, mode: str, **options) -> io.TextIOWrapper:
  raw = _Forgiving(number, mode, closefd=False)
  buffered = io.BufferedWriter(raw) if mode == 'w' else io.BufferedReader(raw)
  return io.TextIOWrapper(buffered, errors='backslashreplace', **options)
