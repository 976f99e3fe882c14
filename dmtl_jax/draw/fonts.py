"""Text in pictures: letters of any script, as far as a font on this machine has them, cut to a width."""

import bisect
from collections.abc import Iterator
import functools
from typing import Protocol
import unicodedata

import cv2
import numpy as np
from PIL import features, Image, ImageDraw, ImageFont

from dmtl_jax.basics.progress import say

# Looked for on this machine when neither Pillow's font nor OpenCV's has a character: first those of many scripts
# (Linux, macOS, Windows), then those of Chinese, Japanese and Korean.
SYSTEM_FONTS = (
  *('DejaVuSans.ttf', 'NotoSans-Regular.ttf', 'FreeSans.ttf', 'Arial Unicode.ttf', 'Arial.ttf', 'arial.ttf'),
  *(
    'NotoSansCJK-Regular.ttc',
    'DroidSansFallbackFull.ttf',
    'wqy-microhei.ttc',
    'msyh.ttc',
    'YuGothM.ttc',
    'malgun.ttf',
  ),
)
ABSENT = '\U0010ffff'  # a character that no font has
PROBE = 16  # pixels: the size at which glyphs are compared


class Letters(Protocol):
  """A font at one size in pixels."""

  @property
  def size(self) -> float: ...

  def has(self, character: str) -> bool:
    """Whether the character is drawn as itself: neither as a box, nor out of place or order."""
    ...

  def getlength(self, text: str) -> float:
    """The width of a text in pixels."""
    ...

  def draw(self, sheet: Image.Image, place: tuple[float, float], text: str, color, centered: bool = False):
    """Draws a text whose middle line is at `place` (x, y), to the right of it or centred on it."""
    ...


@functools.lru_cache(64)  # sizes follow those of pictures
def font(size: float):
  """The font of most pictures, which comes with Pillow: English letters, digits and signs."""
  return ImageFont.load_default(size)


class _Pillow:
  """A font file, or with name '' Pillow's own font; the order of scripts written from right to left is libraqm's."""

  def __init__(self, name: str, size: float):
    self.size = size
    self._name = name
    self._font = ImageFont.truetype(name, size) if name else font(size)

  def has(self, character: str) -> bool:
    return _has_glyph(self._name, character) and (not _is_complex(character) or bool(features.check('raqm')))

  def getlength(self, text: str) -> float:
    return self._font.getlength(text)

  def draw(self, sheet: Image.Image, place: tuple[float, float], text: str, color, centered: bool = False):
    ImageDraw.Draw(sheet).text(place, text, color, self._font, anchor='mm' if centered else 'lm')


@functools.cache
def _has_glyph(name: str, character: str) -> bool:
  # Not by libraqm, which draws a circle under a sign that attaches to a letter.
  letters = ImageFont.truetype(name, PROBE, layout_engine=ImageFont.Layout.BASIC) if name else font(PROBE)
  glyph, box = (np.asarray(letters.getmask(text)) for text in (character, ABSENT))
  return character.isspace() or not np.array_equal(glyph, box)


class _OpenCv:
  """The font inside OpenCV 5: Latin, Greek, Cyrillic, Chinese, Japanese and Korean."""

  def __init__(self, size: float):
    self.size = size
    self._face = cv2.FontFace('sans')

  def has(self, character: str) -> bool:
    return not _is_complex(character) and _opencv_has_glyph(character)

  def getlength(self, text: str) -> float:
    x, _, width, _ = cv2.getTextSize((2**20, 1), text, (0, 0), self._face, round(self.size), 400)
    return x + width

  def draw(self, sheet: Image.Image, place: tuple[float, float], text: str, color, centered: bool = False):
    mask = self.mask(text)
    left = place[0] - mask.shape[1] / 2 if centered else place[0]
    corner = round(left), round(place[1] - mask.shape[0] / 2)
    sheet.paste(color, (*corner, corner[0] + mask.shape[1], corner[1] + mask.shape[0]), Image.fromarray(mask))

  def mask(self, text: str) -> np.ndarray:
    """The share of each pixel that letters cover, uint8 [2 size, width]; the middle line is that of Pillow's font."""
    size = round(self.size)
    width = int(self.getlength(text)) + 1
    mask = np.zeros((2 * size, width + size), np.uint8)  # beyond its right edge letters would start a new line
    cv2.putText(mask, text, (0, round(1.35 * size)), 255, self._face, size, 400)
    return mask[:, :width]


@functools.cache
def _opencv_has_glyph(character: str) -> bool:
  letters = _OpenCv(PROBE)
  glyph = letters.mask(character)
  return character == '?' or not np.array_equal(glyph, letters.mask('?'))


def _is_complex(character: str) -> bool:
  """Whether it is written from right to left, or attaches to its neighbours."""
  return unicodedata.bidirectional(character) in ('R', 'AL', 'AN') or unicodedata.category(character).startswith('M')


def fit_text(text: str, width: float, points: float, min_points: float = 10) -> tuple[str, Letters]:
  """The text and its font, shrunk down to `min_points` or cut so that it is at most `width` pixels wide.

  Characters that no font has become those they consist of (e for é) or their number (U+6728).
  """
  text, name = _choose(unicodedata.normalize('NFC', text))
  while points > min_points and _open(name, points).getlength(text) > width:
    points -= 1
  letters = _open(name, points)
  ellipsis = '\u2026' if letters.has('\u2026') else ''

  def is_too_long(length: int) -> bool:
    return letters.getlength(text[:length] + ellipsis) > width

  if len(text) > 1 and letters.getlength(text) > width:  # bisection, as a name may have any length
    text = text[: bisect.bisect(range(1, len(text)), False, key=is_too_long)] + ellipsis
  return text, letters


@functools.lru_cache(1000)
def _choose(text: str) -> tuple[str, str]:
  """The text, in which characters without a font are replaced, and the name of the font that has the most of it."""
  characters = set(text)
  best = '', characters
  for name in _names(characters):
    letters = _open(name, PROBE)
    missing = {character for character in characters if not letters.has(character)}
    if not missing:
      return text, name
    if len(missing) < len(best[1]) and letters.has('U'):  # some fonts of Chinese have nothing else
      best = name, missing
  name, missing = best
  spelled = {character: _spell(character, _open(name, PROBE)) for character in missing}
  _report_missing(*min(spelled.items()))
  return ''.join(spelled.get(character, character) for character in text), name


def _names(characters: set[str]) -> Iterator[str]:
  """Names of the fonts on this machine, first the ones to prefer."""
  yield ''
  if hasattr(cv2, 'FontFace'):  # OpenCV 5
    yield 'OpenCV'
  scripts = sorted({unicodedata.name(character, 'none').split()[0].title() for character in characters})
  for name in (*SYSTEM_FONTS, *(f'NotoSans{script}-Regular.ttf' for script in scripts)):
    if _is_installed(name):
      yield name


@functools.cache
def _is_installed(name: str) -> bool:
  try:
    ImageFont.truetype(name, PROBE)
  except OSError:
    return False
  return True


@functools.lru_cache(64)
def _open(name: str, size: float) -> Letters:
  return _OpenCv(size) if name == 'OpenCV' else _Pillow(name, size)


def _spell(character: str, letters: Letters) -> str:
  for simpler in (unicodedata.normalize('NFKD', character), character.casefold()):
    simpler = ''.join(part for part in simpler if not unicodedata.combining(part))
    if simpler and all(map(letters.has, simpler)):
      return simpler
  return f'U+{ord(character):04X}'


_reported: list[str] = []


def _report_missing(character: str, shown: str):
  """Reports the first character without a font; later ones go unreported."""
  if not _reported:
    _reported.append(character)
    say(f'no font here has {character}: pictures show {shown}; install a font of its script (Noto has all)')
