"""Legends: swatches, scales and the colours of normals; pictures with their legends below."""

from collections.abc import Callable, Sequence
import dataclasses

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dmtl_jax.draw.colors import INK, PAPER, ramp, SOFT
from dmtl_jax.draw.fonts import fit_text, font

UNCERTAINTY = cv2.COLORMAP_INFERNO  # dark is certain


@dataclasses.dataclass(frozen=True)
class Swatches:
  """Names with their colours, uint8 RGB."""

  entries: Sequence[tuple[str, Sequence[int]]]

  def draw(self, width: int, scale: float = 1) -> np.ndarray:
    """Draws uint8 [h, width, 3] on white, wrapped like text; letters at scale 1 suit a picture of 640 pixels."""
    line = round(20 * scale)
    swatch = round(13 * scale)
    gap = round(5 * scale)
    entries = []  # with their positions
    x = y = 0
    for name, color in self.entries:
      name, letters = fit_text(name, width - swatch - gap, 13 * scale, 13 * scale)
      entry_width = swatch + gap + int(np.ceil(letters.getlength(name)))
      if x and x + entry_width > width:
        x = 0
        y += line
      entries.append((x, y, name, letters, tuple(map(int, color))))
      x += entry_width + 2 * gap
    sheet = Image.new('RGB', (width, y + line), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, y, name, letters, color in entries:
      top = y + round((line - swatch) / 2)
      pen.rounded_rectangle((x, top, x + swatch - 1, top + swatch - 1), 3 * scale, color)
      letters.draw(sheet, (x + swatch + gap, y + line // 2), name, INK)
    return np.asarray(sheet)


@dataclasses.dataclass(frozen=True)
class Scale:
  """A colour scale [256, 3] uint8 with text at both ends."""

  colors: np.ndarray
  low: str
  high: str

  def draw(self, width: int, scale: float = 1) -> np.ndarray:
    """Draws a bar with the text below its ends; arguments and result as for `Swatches`."""
    height = round(10 * scale)
    top = round(2 * scale)
    sheet = Image.new('RGB', (width, round(32 * scale)), PAPER)
    sheet.paste(Image.fromarray(self.colors[None]).resize((width, height)), (0, top))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((0, top, width - 1, top + height - 1), outline=(196, 200, 208))
    for text, x, anchor in ((self.low, 0, 'lt'), (self.high, width - 1, 'rt')):
      pen.text((x, round(15 * scale)), text, SOFT, font(13 * scale), anchor=anchor)
    return np.asarray(sheet)


Key = Swatches | Scale


def uncertainty_scale(unit: str, high: float, beyond: bool) -> Scale:
  """The colour scale of uncertainty from 0 to `high`; `beyond` says whether some values are larger than `high`."""
  return Scale(ramp(UNCERTAINTY), '0', ('> ' if beyond else '') + f'{high:.2g}{unit}')


def add_legend(picture: np.ndarray, key: Callable[..., np.ndarray]) -> np.ndarray:
  """Puts key(width=, scale=) below a picture, with letters that are legible when the whole picture is in view."""
  scale = min(max(max(picture.shape[:2]) / 640, 1.0), 4.0)
  width = max(picture.shape[1], round(200 * scale))
  legend = key(width=width - round(16 * scale), scale=scale)
  gap = round(8 * scale)
  sheet = np.full((len(picture) + len(legend) + 2 * gap, width, 3), 255, np.uint8)
  sheet[: len(picture), : picture.shape[1]] = picture
  sheet[len(picture) + gap : -gap, gap : gap + legend.shape[1]] = legend
  return sheet


def draw_normals_key(width: int, scale: float) -> np.ndarray:
  """Draws the colours of normals as two spheres, for z > 0 and z < 0, with x to the right and y up."""

  def px(length: int) -> int:
    return round(length * scale)

  size = px(56)
  text = font(12 * scale)
  centers = (np.arange(size) + 0.5) / size * 2 - 1
  x, y = np.meshgrid(centers, -centers)
  z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
  inside = np.clip((1 - np.hypot(x, y)) * size / 2 + 0.5, 0, 1)[..., None]  # coverage of the pixel, for a smooth edge
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
