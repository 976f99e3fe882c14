"""Pictures of predictions and labels: colours of each task, overlays, legends, panels.

Everything is numpy, OpenCV and Pillow; nothing opens a window.
"""

from collections.abc import Callable, Sequence
import functools
import os
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmtl_jax.tasks import IGNORE, Task

INK, SOFT, PAPER, ORANGE = (31, 36, 48), (110, 118, 132), (255, 255, 255), (255, 106, 0)
# The first classes: Okabe and Ito's colours for every kind of colour vision, on a dark background class.
FIRST = ('28324a', 'e69f00', '56b4e9', '009e73', 'f0e442', '0072b2', 'd55e00', 'cc79a7')
# What an eye without green cones sees of linear RGB (Machado et al. 2009, deuteranomaly, severity 1).
_DEUTAN = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])


# --- Colours ---------------------------------------------------------------------------------


@functools.cache
def palette() -> np.ndarray:
  """Colours [256, 3] uint8 of class ids 0..254, the same for every data set; 255 is grey.

  Each colour after the first few is the one farthest from all before it, in OKLab, as the
  worse of normal and green-blind vision tells them apart.
  """
  first = np.array([[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in FIRST]) / 255
  colors = np.concatenate([first, _candidates()])
  looks = _looks(colors)
  chosen = list(range(len(first)))
  # White and black are taken: by the page, the boundaries and the text.
  nearest = _distance(looks, _looks(np.array([[1.0, 1, 1], [0, 0, 0]]))).min(1)
  nearest = np.minimum(nearest, _distance(looks, looks[:, chosen]).min(1))
  while len(chosen) < 255:
    chosen.append(int(nearest.argmax()))
    nearest = np.minimum(nearest, _distance(looks, looks[:, chosen[-1:]])[:, 0])
  grey = np.full((1, 3), 0.85)
  return np.round(255 * np.concatenate([colors[chosen], grey])).astype(np.uint8)


def _candidates() -> np.ndarray:
  """sRGB colours [N, 3] of a regular grid in OKLCH, neither glaring nor muddy."""
  light, chroma, hue = np.meshgrid(
    np.arange(0.42, 0.91, 0.06), np.arange(0.05, 0.21, 0.03), np.radians(range(0, 360, 9))
  )
  lab = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], -1).reshape(-1, 3)
  lms = (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3
  linear = lms @ np.linalg.inv(_RGB_TO_LMS).T
  linear = linear[((linear >= 0) & (linear <= 1)).all(1)]
  return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


# OKLab (Ottosson 2020): linear sRGB to cone responses, their cube roots to lightness and two opponents.
_RGB_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LMS_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _looks(srgb: np.ndarray) -> np.ndarray:
  """OKLab [2, N, 3] of sRGB colours [N, 3] for normal and for green-blind vision."""
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
  seen = np.stack([linear, np.clip(linear @ _DEUTAN.T, 0, 1)])
  return np.cbrt(seen @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Smaller distance of the two kinds of vision: [2, N, 3], [2, M, 3] -> [N, M]."""
  return np.linalg.norm(a[:, :, None] - b[:, None], axis=-1).min(0)


def heat(values: np.ndarray, limits: tuple[float, float], scale: int = cv2.COLORMAP_VIRIDIS) -> np.ndarray:
  """Numbers [...] on a perceptually uniform scale between two limits: uint8 [..., 3]."""
  low, high = limits
  level = np.clip((np.asarray(values, np.float32) - low) / max(high - low, 1e-12), 0, 1)
  return _colors(scale)[np.round(255 * level).astype(np.uint8)]


@functools.cache
def _colors(scale: int) -> np.ndarray:
  return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], scale)[:, 0, ::-1]


def depth_limits(depth: np.ndarray) -> tuple[float, float]:
  """Nearest and farthest depth of a map, without the outermost 1%; (0, 1) where it has none."""
  valid = depth[np.isfinite(depth) & (depth > 0)]
  if not valid.size:
    return 0.0, 1.0
  low, high = np.percentile(valid, (1, 99))
  return float(low), float(max(high, low * 1.01))


def colorize(task: Task, values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
  """A prediction or a label as a picture.

  Args:
    values: prediction as `tasks.activate` gives it ([H, W], normals [H, W, 3]), or label
      [H, W, K] as in tasks.py.
    limits: nearest and farthest depth of the colour scale; default those of the map.

  Returns:
    uint8 [H, W, 3] RGB: class colours; probability of saliency as white on black and of
    boundaries as ink on white; (xyz + 1) / 2 of normals; depth from yellow (near) to dark
    blue (far). Unlabelled pixels are hatched grey.
  """
  values = np.asarray(values)
  if task.kind == 'normals':
    picture, labelled = np.round((np.clip(values, -1, 1) + 1) * 127.5), (values != 0).any(-1)
    return _hatch_unless(labelled, picture)
  plane = values[..., 0] if values.ndim == 3 else values
  if task.kind == 'depth':
    low, high = limits or depth_limits(plane)
    # A prediction may be 0 or less; in a label that means unlabelled.
    labelled = np.isfinite(plane) & ((plane > 0) | (values.ndim == 2))
    return _hatch_unless(labelled, heat(-np.where(labelled, plane, high), (-high, -low)))
  labelled = plane != IGNORE
  if task.classes:
    return _hatch_unless(labelled, palette()[plane])
  share = np.where(labelled, plane, 0).astype(np.float64)[..., None]
  dark, bright = (PAPER, INK) if task.kind == 'boundary' else ((0, 0, 0), PAPER)
  return _hatch_unless(labelled, np.round((1 - share) * dark + share * bright))


def _hatch_unless(labelled: np.ndarray, picture: np.ndarray) -> np.ndarray:
  return np.where(labelled[..., None], picture, _hatch(*labelled.shape)).astype(np.uint8)


def _hatch(height: int, width: int) -> np.ndarray:
  stripe = np.add.outer(np.arange(height), np.arange(width)) % 8 < 3
  return np.where(stripe[..., None], np.uint8(206), np.uint8(228)).repeat(3, -1)


def overlay(image: np.ndarray, colors: np.ndarray, alpha: float | np.ndarray = 0.55) -> np.ndarray:
  """Colours laid over an image, both uint8 [H, W, 3]; `alpha` (also [H, W, 1]) is the share of the colours."""
  return np.round(image + alpha * (colors.astype(np.float32) - image)).astype(np.uint8)


def annotated(task: Task, image: np.ndarray, values: np.ndarray, limits=None, present=None) -> np.ndarray:
  """A prediction laid over its image, with the legend below.

  Saliency and boundaries are orange where they are probable; the others are their colours, see-through.

  Args:
    image: uint8 [H, W, 3].
    values: prediction [H, W] or [H, W, 3].
    limits, present: see `legend`.
  """
  if task.kind in ('saliency', 'boundary'):
    most = 1.0 if task.kind == 'boundary' else 0.6
    picture = overlay(image, np.broadcast_to(np.float32(ORANGE), image.shape), most * values[..., None])
    ends = np.linspace(0, most, 256)[:, None]
    key = functools.partial(_bar, (235 * (1 - ends) + ends * ORANGE).astype(np.uint8), '0', 'probability 1')
  else:
    picture = overlay(image, colorize(task, values, limits))
    key = functools.partial(legend, task, limits=limits, present=present)
  return _captioned(picture, key)


def uncertainty(task: Task, values: np.ndarray, high: float) -> np.ndarray:
  """A map of uncertainty [H, W] as a picture, from dark (0) to bright (`high`), with the scale below."""
  return _captioned(_uncertain(values, high), functools.partial(_uncertainty_bar, task, high))


def _uncertain(values: np.ndarray, high: float) -> np.ndarray:
  return heat(values, (0, high), cv2.COLORMAP_INFERNO)


def uncertainty_limit(values: np.ndarray) -> float:
  """Where the colours of a map of uncertainty end: at its largest value, but for 1% of the pixels."""
  return max(float(np.percentile(values, 99)), 1e-6)


def _captioned(picture: np.ndarray, key: Callable[..., np.ndarray]) -> np.ndarray:
  """A picture with key(width=, scale=) below it, lettered to be read where the whole is seen at once."""
  scale = min(max(max(picture.shape[:2]) / 640, 1.0), 4.0)
  width = max(picture.shape[1], round(200 * scale))
  below = key(width=width - round(16 * scale), scale=scale)
  gap = round(8 * scale)
  sheet = np.full((len(picture) + len(below) + 2 * gap, width, 3), 255, np.uint8)
  sheet[: len(picture), : picture.shape[1]] = picture
  sheet[len(picture) + gap : -gap, gap : gap + below.shape[1]] = below
  return sheet


# --- Legends ---------------------------------------------------------------------------------


@functools.cache
def font(size: float):
  """The font of all pictures; it comes with Pillow."""
  return ImageFont.load_default(size)


def fitted(text: str, width: float, points: float, least: float = 10):
  """The text and its font, smaller down to `least` or cut, so that it is at most `width` pixels wide."""
  while points > least and font(points).getlength(text) > width:
    points -= 1
  whole = text
  while len(text) > 1 and font(points).getlength(text) > width:
    whole = whole[:-1]
    text = whole + '\u2026'
  return text, font(points)


def legend(
  task: Task,
  width: int = 200,
  limits: tuple[float, float] | None = None,
  present: Sequence[int] | None = None,
  scale: float = 1,
) -> np.ndarray:
  """What the colours of a task mean: uint8 [h, width, 3] on white.

  Args:
    limits: depth at the ends of the scale bar; default: 'near' and 'far'.
    present: class ids to name; default all.
    scale: of letters and swatches; at 1 they suit a picture of 640 pixels.
  """
  if task.classes:
    ids = range(len(task.classes)) if present is None else present
    return _class_names([(task.classes[i], palette()[i]) for i in ids], width, scale)
  if task.kind == 'normals':
    return _wheel(width, scale)
  if task.kind == 'depth':
    ends = [f'{x:.3g}' for x in limits] if limits else ['near', 'far']
    return _bar(heat(-np.linspace(0, 1, 256), (-1, 0)), *ends, width, scale)
  low, high = [colorize(task, np.full((1, 1), p, np.float32))[0, 0].astype(float) for p in (0, 1)]
  colors = np.round(low + np.linspace(0, 1, 256)[:, None] * (high - low)).astype(np.uint8)
  return _bar(colors, '0', 'probability 1', width, scale)


def _uncertainty_bar(task: Task, high: float, width: int, scale: float = 1) -> np.ndarray:
  unit = {'normals': '\u00b0 between draws'}.get(task.kind, ' entropy' if task.classes else ' std')
  return _bar(_colors(cv2.COLORMAP_INFERNO), '0', f'{high:.2g}{unit}', width, scale)


def _class_names(entries: Sequence[tuple[str, np.ndarray]], width: int, scale: float) -> np.ndarray:
  """Swatches with names, line after line like text."""
  line, swatch, gap = round(20 * scale), round(13 * scale), round(5 * scale)
  places, x, y = [], 0, 0
  for name, color in entries:
    name, text = fitted(name, width - swatch - gap, 13 * scale, 13 * scale)
    wide = swatch + gap + int(np.ceil(text.getlength(name)))
    if x and x + wide > width:
      x, y = 0, y + line
    places.append((x, y, name, text, tuple(map(int, color))))
    x += wide + 2 * gap
  sheet = Image.new('RGB', (width, y + line), PAPER)
  draw = ImageDraw.Draw(sheet)
  for x, y, name, text, color in places:
    top = y + round((line - swatch) / 2)
    draw.rounded_rectangle((x, top, x + swatch - 1, top + swatch - 1), 3 * scale, color)
    draw.text((x + swatch + gap, y + line // 2), name, INK, text, anchor='lm')
  return np.asarray(sheet)


def _bar(colors: np.ndarray, left: str, right: str, width: int, scale: float = 1) -> np.ndarray:
  """A scale bar of colours [256, 3] with words below its ends."""
  thick, top = round(10 * scale), round(2 * scale)
  sheet = Image.new('RGB', (width, round(32 * scale)), PAPER)
  sheet.paste(Image.fromarray(colors[None]).resize((width, thick)), (0, top))
  draw = ImageDraw.Draw(sheet)
  draw.rectangle((0, top, width - 1, top + thick - 1), outline=(196, 200, 208))
  for text, x, anchor in ((left, 0, 'lt'), (right, width - 1, 'rt')):
    draw.text((x, round(15 * scale)), text, SOFT, font(13 * scale), anchor=anchor)
  return np.asarray(sheet)


def _wheel(width: int, scale: float) -> np.ndarray:
  """Normals as two balls, of z > 0 and of z < 0, with x to the right and y up."""
  px = lambda n: round(n * scale)
  size, text = px(56), font(12 * scale)
  at = (np.arange(size) + 0.5) / size * 2 - 1
  x, y = np.meshgrid(at, -at)
  z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
  inside = np.clip((1 - np.hypot(x, y)) * size / 2 + 0.5, 0, 1)[..., None]  # the share of the pixel, for a smooth rim
  sheet = Image.new('RGB', (width, size + px(34)), PAPER)
  draw = ImageDraw.Draw(sheet)
  for center, sign in ((px(40), 1), (px(120), -1)):
    ball = np.stack([x, y, sign * z], -1)
    ball = ball / np.maximum(np.linalg.norm(ball, axis=-1, keepdims=True), 1e-9)
    picture = inside * (ball + 1) * 127.5 + (1 - inside) * 255
    sheet.paste(Image.fromarray(np.round(picture).astype(np.uint8)), (center - size // 2, px(15)))
    draw.text((center, px(6)), 'y', SOFT, text, anchor='mm')
    draw.text((center + size // 2 + px(7), px(15) + size // 2), 'x', SOFT, text, anchor='mm')
    draw.text((center, size + px(19)), 'z > 0' if sign > 0 else 'z < 0', SOFT, text, anchor='mt')
  return np.asarray(sheet)


# --- Panels ----------------------------------------------------------------------------------


def panel(
  image: np.ndarray,
  tasks: Sequence[Task],
  rows: Sequence[tuple[str, dict]],
  limits: dict | None = None,
  uncertain: dict | None = None,
  every_class: bool = False,
) -> np.ndarray:
  """A grid of tiles: a column a task, a row a stage (the paper's Figures 5, 7 and 9), legends below.

  Args:
    image: uint8 [H, W, 3]. It stands left of the first row; left of the others stand its
      overlays with the row's first segmentation, if any.
    rows: (title, {task name: map as for `colorize`, of any size, or None}).
    limits: {depth task: (nearest, farthest)} of the colours; default those of the first row.
    uncertain: {task name: (map of uncertainty [H, W], where its colours end)}: a last row of these.
    every_class: legends name all classes, not only those that some row shows.

  Returns:
    uint8 [h, w, 3]; tiles are 160 to 320 pixels wide.
  """
  width, height = size = tile_size(*image.shape[:2])
  shared = {t.name: _shared_limits([maps.get(t.name) for _, maps in rows]) for t in tasks if t.kind == 'depth'}
  limits = shared | (limits or {})
  columns = [_inputs(_resized(image, size), tasks, rows)]
  keys = [np.full((1, width, 3), 255, np.uint8)]
  for task in tasks:
    columns.append([_tile(task, maps.get(task.name), size, limits.get(task.name)) for _, maps in rows])
    keys.append(legend(task, width, limits.get(task.name), None if every_class else _present(task, rows)))
  grid = [list(tiles) for tiles in zip(*columns)] + [keys]
  titles = [title for title, _ in rows] + ['']
  if uncertain:
    maps = [uncertain[t.name] for t in tasks]
    grid.append([keys[0], *(_resized(_uncertain(values, high), size) for values, high in maps)])
    grid.append([keys[0], *(_uncertainty_bar(t, high, width) for t, (_, high) in zip(tasks, maps))])
    titles += ['Uncertainty', '']
  return _sheet(['Input', *map(_title, tasks)], titles, grid, width)


def _sheet(heads: Sequence[str], titles: Sequence[str], grid: Sequence[Sequence[np.ndarray]], width: int) -> np.ndarray:
  """Pictures in rows and columns with a title above each column and left of each row."""
  gap, top, left, margin = 6, 30, 24, 10
  heights = [max(map(len, pictures)) for pictures in grid]
  bottom = top + sum(heights) + gap * (len(grid) - 1)
  sheet = Image.new('RGB', (left + len(heads) * (width + gap) - gap + margin, bottom + margin), PAPER)
  draw = ImageDraw.Draw(sheet)
  across = [left + c * (width + gap) for c in range(len(heads))]
  for x, head in zip(across, heads):
    text, letters = fitted(head, width, 16)
    draw.text((x + width / 2, top / 2), text, INK, letters, anchor='mm')
  y = top
  for title, height, pictures in zip(titles, heights, grid):
    if title:
      sheet.paste(_upright(title, (left, height)), (0, y))
    for x, picture in zip(across, pictures):
      sheet.paste(Image.fromarray(picture), (x, y))
    y += height + gap
  return np.asarray(sheet)


def tile_size(height: int, width: int) -> tuple[int, int]:
  """(width, height) of a tile: pixels of small images become squares, large images shrink, strips are stretched."""
  scale = -(-160 // width) if width < 160 else 1
  scale = min(scale, 320 / max(height, width))
  return max(round(width * scale), 160), max(round(height * scale), 80)


def _title(task: Task) -> str:
  return task.spec.title if task.name == task.kind else f'{task.name} ({task.spec.title.lower()})'


def _shared_limits(maps) -> tuple[float, float] | None:
  """One depth scale for all rows, so that their colours compare: that of the first map (the ground truth)."""
  found = [depth_limits(np.asarray(m)) for m in maps if m is not None and (np.asarray(m) > 0).any()]
  return found[0] if found else None


def _present(task: Task, rows) -> list[int] | None:
  """Ids of the classes that some row shows."""
  if not task.classes:
    return None
  maps = [maps[task.name] for _, maps in rows if maps.get(task.name) is not None]
  return [int(i) for i in np.unique(np.concatenate([np.ravel(m) for m in maps] or [[]])) if i < len(task.classes)]


def _tile(task: Task, values, size: tuple[int, int], limits) -> np.ndarray:
  if values is None or (np.ndim(values) == 3 and not task.valid(np.asarray(values)).any()):
    sheet = Image.fromarray(_hatch(size[1], size[0]))
    ImageDraw.Draw(sheet).text((size[0] / 2, size[1] / 2), 'no label', SOFT, font(15), anchor='mm')
    return np.asarray(sheet)
  values = np.asarray(values)
  if values.shape[1] < size[0]:  # enlarged before it is coloured, so that hatching stays fine
    labels = task.classes or values.dtype == np.uint8 or values.ndim == 3
    how = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    values = cv2.resize(values, size, interpolation=how).reshape(*size[::-1], *values.shape[2:])
  picture = _resized(colorize(task, values, limits), size)
  if task.kind == 'boundary':
    picture[[0, -1]], picture[:, [0, -1]] = 214, 214  # a frame: most of the picture is white like the page
  return picture


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  shrinks = size[0] < picture.shape[1]
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _inputs(image: np.ndarray, tasks: Sequence[Task], rows) -> list[np.ndarray]:
  """The left column: the image, then its overlay with each later row's segmentation, or white."""
  found = next((task for task in tasks if task.classes), None)
  tiles = [image]
  for _, maps in rows[1:]:
    values = maps.get(found.name) if found else None
    blank = np.full_like(image, 255)
    tiles.append(blank if values is None else overlay(image, _tile(found, values, image.shape[1::-1], None)))
  return tiles


def _upright(title: str, size: tuple[int, int]) -> Image.Image:
  """A row's title [height, width], read from bottom to top; small enough for the tile."""
  sheet = Image.new('RGB', size[::-1], PAPER)
  text, letters = fitted(title, size[1], 16)
  ImageDraw.Draw(sheet).text((size[1] / 2, size[0] / 2), text, INK, letters, anchor='mm')
  return sheet.transpose(Image.Transpose.ROTATE_90)


def save_png(path: os.PathLike | str, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] whole or not at all, making its folder if need be."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  Image.fromarray(picture).save(temporary, format='PNG', compress_level=4)  # 6 takes twice the time to save 6%
  os.replace(temporary, path)
