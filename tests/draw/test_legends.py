"""Legends of names that are long, or many."""

import numpy as np

from dmtl_jax.draw import legends


class Letters:
  """A font of letters one pixel wide, that counts what it measures."""

  def __init__(self, measured: list):
    self.measured = measured

  def getlength(self, text: str) -> int:
    self.measured.append(len(text))
    return len(text)


def test_a_name_is_cut_as_late_as_fits(monkeypatch):
  monkeypatch.setattr(legends, 'font', lambda points: Letters([]))
  for text, width, expected in (
    ('abcdef', 6, 'abcdef'),
    ('abcdef', 5, 'abcd\u2026'),
    ('abcdef', 2, 'a\u2026'),
    ('abcdef', 0, '\u2026'),
  ):
    assert legends.fit_text(text, width, 13)[0] == expected


def test_a_long_name_is_measured_a_few_times(monkeypatch):
  measured = []
  monkeypatch.setattr(legends, 'font', lambda points: Letters(measured))
  text, _ = legends.fit_text('x' * 100_000, 200, 13)
  assert text == 'x' * 199 + '\u2026' and len(measured) < 30


def test_a_legend_of_long_and_many_names_has_its_width():
  entries = [('x' * 5000, (1, 2, 3)), *((f'class {n}', (n, n, n)) for n in range(256))]
  picture = legends.Swatches(entries).draw(200)
  assert picture.shape[1] == 200 and picture.dtype == np.uint8
