"""What a long job shows."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import sys
import termios

import pytest

from dmtl_jax.basics import progress as progress_lib
from dmtl_jax.basics.progress import Progress, say


def seen(text: str) -> list[str]:
  """Lines on a screen on which a carriage return goes back and writes over what is there."""
  lines = []
  for line in text.split('\n'):
    shown = ''
    for part in line.split('\r'):
      shown = part + shown[len(part) :]
    lines.append(shown.rstrip())
  return lines


def test_a_notebook_shows_one_line_that_renews_itself(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'ipykernel', None)
  with Progress('training', 3, 'step') as progress:
    progress.update(1, 'with a long note on the loss, of which nothing may be left')
    shown = seen(capsys.readouterr().err)
    progress.last_shown = -1e9  # long ago
    progress.update(2, 'short')
  assert len(shown) == 1
  assert shown[0].startswith('training 1/3 (33%) | ')
  assert shown[0].endswith('may be left')
  first, end = seen('\r' + shown[0] + capsys.readouterr().err)
  assert first.startswith('training 3/3 (100%), ')
  assert first.endswith('| short')
  assert not end


def test_a_log_has_lines(capsys):
  with Progress('training', 2, 'step') as progress:
    progress.update()
    progress.update()  # within ten seconds
  lines = capsys.readouterr().err.splitlines()
  assert [line.split(' (')[0] for line in lines] == ['training 1/2', 'training 2/2']


@contextlib.contextmanager
def terminal(monkeypatch):
  """A terminal as the standard error: functions that set its columns and that read what is new on it."""
  master, slave = pty.openpty()

  def resize(columns: int):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))

  def read() -> str:
    parts = []
    while select.select([master], [], [], 0.05)[0]:  # what was written comes in pieces on a busy machine
      parts.append(os.read(master, 10_000))
    return b''.join(parts).decode()

  resize(80)
  with open(slave, 'w', encoding='utf-8') as stderr:
    monkeypatch.setattr(sys, 'stderr', stderr)
    yield resize, read
  os.close(master)


def columns(text: str) -> int:
  """Of a text of Latin letters and Chinese characters."""
  return sum(1 + ('\u4e00' <= character <= '\u9fff') for character in text)


@pytest.mark.parametrize('note', ['x' * 300, '\u5b57' * 300, 'a name\nof two lines \x1b[2J' * 9])
def test_the_line_fits_the_terminal_also_after_that_was_resized(monkeypatch, note):
  with terminal(monkeypatch) as (resize, read), Progress('training', 1000, 'step') as progress:
    for width in (80, 50, 120):
      resize(width)
      progress.last_shown = -1e9  # long ago
      progress.update(1, note)
      line = read()
      assert line[0] == '\r'
      assert not set('\n\x1b') & set(line)
      assert width - 3 < columns(line[1:]) < width  # in its last column a terminal would begin a new line
    progress._show(final=True)
    assert read().count('\n') == 1


def test_one_line_takes_the_place_of_another_job_s(monkeypatch):
  with terminal(monkeypatch) as (_, read), Progress('training', 4, 'step') as outer:
    outer.update(1, 'x' * 60)
    with outer.paused(), Progress('evaluating', 1, 'img') as inner:
      inner.update()
    first, end, *_ = seen(read().replace('\r\n', '\n'))
  assert first.startswith('evaluating 1/1 (100%)')
  assert 'x' not in first
  assert not end


def test_compiling_and_evaluations_do_not_count_for_the_rate(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_lib.time, 'monotonic', lambda: now[0])
  with Progress('training', 100, 'step', start=10) as progress:
    now[0] += 60  # until the first batch is there
    progress.update()
    assert progress.rate() == 0
    for _ in range(10):
      now[0] += 2
      progress.update()
      with progress.paused():
        now[0] += 100
    assert progress.rate() == 0.5
    now[0] += 2
    progress.update()
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == 'training 11/100 (11%)'
  assert lines[-1] == 'training 22/100 (22%), 2.0 s/step, in 18 min 02 s'
  assert lines[-2] == 'training 22/100 (22%), 2.0 s/step, 2 min 36 s left'


class Gone:
  """A stream whose reader is gone."""

  def write(self, text):
    raise BrokenPipeError

  flush = isatty = lambda self: False


def test_no_job_ends_because_nobody_listens(monkeypatch):
  for name in ('stdout', 'stderr'):
    monkeypatch.setattr(sys, name, Gone())
  with Progress('training', 2) as progress:
    progress.update()
  say('a line')
