"""Legends of names that are long, or many."""

import numpy as np
import pytest

from dmtl_jax.draw import legends


class Letters:
  """A font of letters one pixel wide."""

  calls = 0

  def getlength(self, text: str) -> int:
    self.calls += 1
    return len(text)


@pytest.mark.parametrize('text, width, expected', [
  ('abcdef', 6, 'abcdef'),
  ('abcdef', 5, 'abcd\u2026'),
  ('abcdef', 2, 'a\u2026'),
  ('abcdef', 0, '\u2026'),
  ('x' * 100_000, 200, 'x' * 199 + '\u2026'),
])  # fmt: skip
def test_a_name_is_cut_as_late_as_fits_with_few_measurements(text, width, expected, monkeypatch):
  letters = Letters()
  monkeypatch.setattr(legends, 'font', lambda points: letters)
  assert legends.fit_text(text, width, 13)[0] == expected
  assert letters.calls < 30


@pytest.mark.parametrize('text', ['car', 'a very long name of a class ' * 3, 'W' * 40])
@pytest.mark.parametrize('width', [60, 160, 320])
def test_text_fits_in_legible_letters(text, width):
  fitted, letters = legends.fit_text(text, width, 16)
  assert letters.getlength(fitted) <= width
  assert letters.size >= 10
  assert fitted == text or len(fitted) > 3


def test_a_legend_of_long_and_many_names_has_its_width():
  entries = [('x' * 5000, (1, 2, 3)), *((f'class {n}', (n, n, n)) for n in range(256))]
  picture = legends.Swatches(entries).draw(200)
  assert picture.shape[1] == 200
  assert picture.dtype == np.uint8
