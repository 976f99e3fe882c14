"""What a person sees of a long job."""

import sys

from dmtl_jax.basics.progress import Progress


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
    progress.told = 0.0  # long ago
    progress.update(2, 'short')
  assert len(shown) == 1 and shown[0].startswith('training 1/3 (33%), ') and shown[0].endswith('may be left')
  first, end = seen('\r' + shown[0] + capsys.readouterr().err)
  assert first.startswith('training 3/3 (100%), ') and first.endswith('| short') and not end


def test_a_log_has_lines(capsys):
  with Progress('training', 2, 'step') as progress:
    progress.update()
    progress.update()  # within ten seconds
  told = capsys.readouterr().err
  assert [line.split(' (')[0] for line in told.splitlines()] == ['training 1/2', 'training 2/2']
