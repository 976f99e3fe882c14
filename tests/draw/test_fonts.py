"""Text in pictures: any script, and cut to a width."""

import cv2
import numpy as np
from PIL import features, Image
import pytest

from dmtl_jax.draw import fonts

needs_opencv5 = pytest.mark.skipif(not hasattr(cv2, 'FontFace'), reason='OpenCV 4 has no fonts of other scripts')


class Letters:
  """A font of letters one pixel wide."""

  calls = 0

  def has(self, character: str) -> bool:
    return True

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
  monkeypatch.setattr(fonts, '_open', lambda name, points: letters)
  assert fonts.fit_text(text, width, 13)[0] == expected
  assert letters.calls < 30


@pytest.mark.parametrize('text', ['car', 'a very long name of a class ' * 3, 'W' * 40])
@pytest.mark.parametrize('width', [60, 160, 320])
def test_text_fits_in_legible_letters(text, width):
  fitted, letters = fonts.fit_text(text, width, 16)
  assert letters.getlength(fitted) <= width
  assert letters.size >= 10
  assert fitted == text or len(fitted) > 3


# --- Any script ------------------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch):
  """Leaves only some fonts, and forgets what was reported and chosen."""

  def leave(*names):
    fonts._choose.cache_clear()
    monkeypatch.setattr(fonts, '_reported', [])
    monkeypatch.setattr(fonts, '_names', lambda characters: iter(names))

  yield leave
  fonts._choose.cache_clear()


def drawn(text):
  """What `fit_text` makes of a text, drawn into a picture of its own: the ink's share of each pixel, cut to the ink."""
  text, letters = fonts.fit_text(text, 1000, 24)
  sheet = Image.new('L', (1000, 60), 0)
  letters.draw(sheet, (20, 30), text, 255)
  ink = np.asarray(sheet) / 255
  rows, columns = np.nonzero(ink > 0.2)
  return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def same(one, other):
  return one.shape == other.shape and np.abs(one - other).mean() < 0.02


@needs_opencv5
@pytest.mark.parametrize('text', ['café', 'Straße', 'дерево', '木', '한국어', 'ñandú', 'Ελλάδα'])
def test_letters_of_other_scripts_are_neither_boxes_nor_alike(text):
  assert fonts.fit_text(text, 1000, 24)[0] == text
  letters = sorted(set(text))
  inks = [drawn(letter) for letter in (*letters, '?')]
  assert not any(same(a, b) for i, a in enumerate(inks) for b in inks[:i])


@needs_opencv5
@pytest.mark.parametrize('text', ['дерево', '木', 'WWWiii й'])
def test_opencvs_letters_have_the_size_and_place_that_are_measured(text, only):
  only('OpenCV')
  text, letters = fonts.fit_text(text, 1000, 24)
  sheet = Image.new('L', (1000, 60), 0)
  letters.draw(sheet, (500, 30), text, 255, centered=True)
  rows, columns = np.nonzero(np.asarray(sheet))
  assert letters.getlength(text) - 8 < columns.max() - columns.min() + 1 <= letters.getlength(text)
  assert abs((columns.max() + columns.min()) / 2 - 500) <= 2
  assert 15 <= rows.min() < 30 < rows.max() <= 45


@needs_opencv5
def test_opencvs_letters_stand_on_the_line_of_pillows(only):
  places = []
  for name in ('', 'OpenCV'):
    only(name)
    sheet = Image.new('L', (100, 60), 0)
    fonts.fit_text('H', 1000, 24)[1].draw(sheet, (20, 30), 'H', 255)
    places.append(np.nonzero(np.asarray(sheet) > 99)[0].max())
  assert abs(places[0] - places[1]) <= 1


def test_english_keeps_pillows_font():
  assert fonts.fit_text('car, 2.5 %', 1000, 13)[1].getlength('car') == fonts.font(13).getlength('car')


def test_right_to_left_begins_at_the_right():
  text, letters = fonts.fit_text('שלום', 1000, 24)
  if not letters.has('ש') or not features.check('raqm'):
    pytest.skip('no font of Hebrew, or Pillow without libraqm')
  assert text == 'שלום'
  word, first, last = drawn('שלום'), drawn('ש'), drawn('ם')
  assert same(word[-len(first) :, -first.shape[1] :], first)
  assert same(word[-len(last) :, : last.shape[1]], last)


def test_characters_that_no_font_has_are_spelled_and_reported_once(only, capsys):
  only('')
  for given, shown in (
    ('café', 'cafe'),
    ('cafe\u0301', 'cafe'),
    ('Straße', 'Strasse'),
    ('木 tree', 'U+6728 tree'),
    ('\U0001f600', 'U+1F600'),
  ):
    assert fonts.fit_text(given, 1000, 13)[0] == shown
  assert capsys.readouterr().out == (
    'no font here has é: pictures show e; install a font of its script (Noto has all)\n'
  )


def test_the_font_with_the_most_of_a_text_is_chosen(only, monkeypatch):
  class Some:
    size = 13

    def __init__(self, name):
      self.name = name

    def has(self, character):
      return character in self.name

    def getlength(self, text):
      return len(text)

  monkeypatch.setattr(fonts, '_open', lambda name, size: Some(name))
  only('U+ABC', 'U+ABCDE', 'ABCDEFG')  # the last could not write a number
  text, letters = fonts.fit_text('ABCDEFH', 99, 13)
  assert (text, letters.name) == ('ABCDEU+0046U+0048', 'U+ABCDE')
