"""Legends: what colours mean, in swatches, scales and balls; and pictures with their legends below."""

import bisect
from collections.abc import Callable, Sequence
import dataclasses
import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmtl_jax.draw.colors import INK, PAPER, ramp, SOFT

# Where the colours of uncertainty come from: dark is sure.
SURE = cv2.COLORMAP_INFERNO


@dataclasses.dataclass(frozen=True)
class Swatches:
  """Names with their colours, uint8 RGB."""

  entries: Sequence[tuple[str, Sequence[int]]]

  def draw(self, width: int, scale: float = 1) -> np.ndarray:
    """uint8 [h, width, 3] on white, line after line like text; letters at scale 1 suit a picture of 640 pixels."""
    line, swatch, gap = round(20 * scale), round(13 * scale), round(5 * scale)
    places, x, y = [], 0, 0
    for name, color in self.entries:
      name, letters = fitted(name, width - swatch - gap, 13 * scale, 13 * scale)
      wide = swatch + gap + int(np.ceil(letters.getlength(name)))
      if x and x + wide > width:
        x, y = 0, y + line
      places.append((x, y, name, letters, tuple(map(int, color))))
      x += wide + 2 * gap
    sheet = Image.new('RGB', (width, y + line), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, y, name, letters, color in places:
      top = y + round((line - swatch) / 2)
      pen.rounded_rectangle((x, top, x + swatch - 1, top + swatch - 1), 3 * scale, color)
      pen.text((x + swatch + gap, y + line // 2), name, INK, letters, anchor='lm')
    return np.asarray(sheet)


@dataclasses.dataclass(frozen=True)
class Scale:
  """Colours [256, 3] uint8 with words for their ends."""

  colors: np.ndarray
  low: str
  high: str

  def draw(self, width: int, scale: float = 1) -> np.ndarray:
    """A bar with the words below its ends, as those of `Swatches`."""
    thick, top = round(10 * scale), round(2 * scale)
    sheet = Image.new('RGB', (width, round(32 * scale)), PAPER)
    sheet.paste(Image.fromarray(self.colors[None]).resize((width, thick)), (0, top))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((0, top, width - 1, top + thick - 1), outline=(196, 200, 208))
    for text, x, anchor in ((self.low, 0, 'lt'), (self.high, width - 1, 'rt')):
      pen.text((x, round(15 * scale)), text, SOFT, font(13 * scale), anchor=anchor)
    return np.asarray(sheet)


Key = Swatches | Scale


def uncertainty(unit: str, high: float, beyond: bool) -> Scale:
  """The colours of uncertainty, from 0 to `high` of a unit; `beyond`: some of it is larger, and looks like `high`."""
  return Scale(ramp(SURE), '0', ('> ' if beyond else '') + f'{high:.2g}{unit}')


def captioned(picture: np.ndarray, key: Callable[..., np.ndarray]) -> np.ndarray:
  """A picture with key(width=, scale=) below it, lettered to be read where the whole is seen at once."""
  scale = min(max(max(picture.shape[:2]) / 640, 1.0), 4.0)
  width = max(picture.shape[1], round(200 * scale))
  below = key(width=width - round(16 * scale), scale=scale)
  gap = round(8 * scale)
  sheet = np.full((len(picture) + len(below) + 2 * gap, width, 3), 255, np.uint8)
  sheet[: len(picture), : picture.shape[1]] = picture
  sheet[len(picture) + gap : -gap, gap : gap + below.shape[1]] = below
  return sheet


@functools.cache
def font(size: float):
  """The font of all pictures; it comes with Pillow."""
  return ImageFont.load_default(size)


def fitted(text: str, width: float, points: float, least: float = 10):
  """The text and its font, smaller down to `least` or cut, so that it is at most `width` pixels wide."""
  while points > least and font(points).getlength(text) > width:
    points -= 1
  letters = font(points)
  if len(text) > 1 and letters.getlength(text) > width:  # by halving: a name may be as long as a book
    too_long = lambda length: letters.getlength(text[:length] + '\u2026') > width
    text = text[: bisect.bisect(range(1, len(text)), False, key=too_long)] + '\u2026'
  return text, letters


def balls(width: int, scale: float) -> np.ndarray:
  """Normals as two balls, of z > 0 and of z < 0, with x to the right and y up."""
  px = lambda n: round(n * scale)
  size, text = px(56), font(12 * scale)
  at = (np.arange(size) + 0.5) / size * 2 - 1
  x, y = np.meshgrid(at, -at)
  z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
  inside = np.clip((1 - np.hypot(x, y)) * size / 2 + 0.5, 0, 1)[..., None]  # the share of the pixel, for a smooth rim
  sheet = Image.new('RGB', (width, size + px(34)), PAPER)
  pen = ImageDraw.Draw(sheet)
  for center, sign in ((px(40), 1), (px(120), -1)):
    ball = np.stack([x, y, sign * z], -1)
    ball = ball / np.maximum(np.linalg.norm(ball, axis=-1, keepdims=True), 1e-9)
    picture = inside * (ball + 1) * 127.5 + (1 - inside) * 255
    sheet.paste(Image.fromarray(np.round(picture).astype(np.uint8)), (center - size // 2, px(15)))
    pen.text((center, px(6)), 'y', SOFT, text, anchor='mm')
    pen.text((center + size // 2 + px(7), px(15) + size // 2), 'x', SOFT, text, anchor='mm')
    pen.text((center, size + px(19)), 'z > 0' if sign > 0 else 'z < 0', SOFT, text, anchor='mt')
  return np.asarray(sheet)
