"""Pictures of predictions and labels: colours of each task, overlays, legends, panels."""

from collections.abc import Sequence
import os
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmtl_jax.tasks import Task

# A palette for up to 20 classes that stay apart on a projector; more classes follow VOC's bit pattern.
_CLASSES = np.array(
    [
        (38, 50, 72), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
        (204, 121, 167), (148, 103, 189), (140, 86, 75), (127, 201, 127), (190, 174, 212), (253, 192, 134),
        (166, 206, 227), (251, 128, 114), (102, 166, 30), (217, 217, 217), (188, 128, 189), (179, 222, 105),
        (255, 237, 111),
    ],
    np.uint8,
)  # fmt: skip
_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
_INK, _PAPER, _GREY = (34, 40, 49), (255, 255, 255), (236, 238, 241)


def palette(count: int) -> np.ndarray:
  """Colours [count, 3] uint8 of class ids, the same for any data set."""
  if count <= len(_CLASSES):
    return _CLASSES[:count]
  rest = [[sum(((c >> (3 * b + ch)) & 1) << (7 - b) for b in range(3)) for ch in range(3)] for c in range(1, 256)]
  return np.concatenate([_CLASSES, np.array(rest, np.uint8)])[:count]


def colorize(task: Task, values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
  """A prediction [H, W(, 3)] or label [H, W, K] as a picture [H, W, 3] uint8.

  Args:
    limits: nearest and farthest depth of the colours; default those of the map.

  Unlabelled pixels are hatched grey. Normals: (xyz + 1) / 2 as RGB. Depth: turbo, near is red.
  """
  values = np.asarray(values)
  plane = values[..., 0] if values.ndim == 3 and task.kind != 'normals' else values
  if task.kind == 'normals':
    picture, blank = np.round((plane + 1) * 127.5).astype(np.uint8), ~(plane != 0).any(-1)
  elif task.kind == 'depth':
    blank = plane <= 0
    low, high = limits or depth_limits(plane)
    level = np.log(np.clip(plane, low, high) / low) / max(np.log(high / low), 1e-9)
    picture = _TURBO[np.round(255 * (1 - level)).astype(int)]
  elif task.kind in ('semseg', 'parsing'):
    blank = plane == 255
    picture = palette(task.channels)[np.where(blank, 0, plane)]
  else:
    blank = plane == 255
    level = np.where(blank, 0, plane).astype(float)
    level = 1 - level if task.kind == 'boundary' else level
    picture = np.round(255 * level).astype(np.uint8)[..., None].repeat(3, -1)
  return np.where(blank[..., None], _hatched(blank.shape), picture).astype(np.uint8)


def depth_limits(depth: np.ndarray) -> tuple[float, float]:
  """Nearest and farthest depth of a map, without outliers; (1, 2) where it has none."""
  valid = depth[depth > 0]
  if not valid.size:
    return 1.0, 2.0
  low, high = np.percentile(valid, (1, 99))
  return float(max(low, 1e-6)), float(max(high, low * 1.01, 2e-6))


def _hatched(shape) -> np.ndarray:
  diagonal = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 8 < 2
  return np.where(diagonal[..., None], (200, 204, 210), _GREY)


def overlay(image: np.ndarray, colors: np.ndarray, alpha: float = 0.55) -> np.ndarray:
  """Colours laid over an image, both [H, W, 3] uint8."""
  return np.round((1 - alpha) * image + alpha * colors.astype(float)).astype(np.uint8)


def font(size: int):
  return ImageFont.load_default(size)


def panel(
    image: np.ndarray, tasks: Sequence[Task], rows: Sequence[tuple[str, dict[str, np.ndarray | None]]], width: int = 200
) -> np.ndarray:
  """A grid: the image on the left, a column a task, a row a stage; class names below.

  Args:
    image: [H, W, 3] uint8.
    rows: (title, {task: map as for `colorize`}); a map that is missing or None stays empty.
    width: of a tile in pixels.
  """
  height = max(int(round(width * image.shape[0] / image.shape[1])), 1)
  gap, head, side = 6, 26, 110
  columns = len(tasks) + 1
  sheet = Image.new('RGB', (side + columns * (width + gap) + gap, head + len(rows) * (height + gap) + gap), _PAPER)
  draw = ImageDraw.Draw(sheet)
  for c, title in enumerate(['Image', *(_title(task) for task in tasks)]):
    draw.text((side + c * (width + gap) + width / 2, head / 2), title, _INK, font(14), anchor='mm')
  # One depth scale for all rows, so that their colours compare.
  limits = {t.name: _shared_limits([maps.get(t.name) for _, maps in rows]) for t in tasks if t.kind == 'depth'}
  for r, (title, maps) in enumerate(rows):
    top = head + r * (height + gap)
    draw.text((side - 8, top + height / 2), title, _INK, font(14), anchor='rm')
    tiles = [image if r == 0 else None]
    for task in tasks:
      values = maps.get(task.name)
      tiles.append(None if values is None else colorize(task, values, limits.get(task.name)))
    for c, tile in enumerate(tiles):
      place = (side + c * (width + gap), top)
      if tile is not None:
        sheet.paste(Image.fromarray(_scaled(tile, (width, height))), place)
      elif c:
        draw.rectangle([place, (place[0] + width - 1, place[1] + height - 1)], _GREY)
  keys = [key for task in tasks if task.classes for key in [legend(task, sheet.width - 2 * gap)]]
  return np.concatenate([np.asarray(sheet), *(_centred(key, sheet.width) for key in keys)])


def _title(task: Task) -> str:
  """The task's name, and its kind where the name does not tell."""
  return task.spec.title if task.name == task.kind else f'{task.name} ({task.spec.title.lower()})'


def _shared_limits(maps):
  found = [depth_limits(np.asarray(m)) for m in maps if m is not None]
  return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _scaled(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  shrinks = size[0] < tile.shape[1]
  return cv2.resize(tile, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)


def _centred(picture: np.ndarray, width: int) -> np.ndarray:
  left = (width - picture.shape[1]) // 2
  return np.pad(picture, ((0, 0), (left, width - picture.shape[1] - left), (0, 0)), constant_values=255)


def legend(task: Task, width: int = 800) -> np.ndarray:
  """Class names beside their colours, in lines of at most `width` pixels: [h, width, 3] uint8."""
  text, line, x = font(13), 24, 0
  places, lines = [], 0
  for name in [f'{_title(task)}:', *task.classes]:
    wide = int(text.getlength(name)) + (34 if places else 14)
    if x + wide > width and x:
      x, lines = 0, lines + 1
    places.append((x, lines * line))
    x += wide
  sheet = Image.new('RGB', (width, (lines + 1) * line), _PAPER)
  draw = ImageDraw.Draw(sheet)
  draw.text((places[0][0], places[0][1] + line / 2), f'{_title(task)}:', _INK, text, anchor='lm')
  for (x, y), name, color in zip(places[1:], task.classes, palette(task.channels)):
    draw.rounded_rectangle([x, y + 5, x + 16, y + 19], 3, tuple(map(int, color)))
    draw.text((x + 21, y + line / 2), name, _INK, text, anchor='lm')
  return np.asarray(sheet)


def save_png(path: pathlib.Path, picture: np.ndarray):
  """Writes uint8 [H, W(, 3)] atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  Image.fromarray(picture).save(temporary, format='PNG')
  os.replace(temporary, path)
