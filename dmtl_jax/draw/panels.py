"""Panels: images, labels and predictions of all tasks in one picture (the paper's Figures 5, 7 and 9)."""

from collections.abc import Sequence
import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dmtl_jax.draw import legends
from dmtl_jax.draw.colors import hatch, heat, INK, overlay, PAPER, SOFT
from dmtl_jax.draw.legends import fitted, font


def annotated(task, image: np.ndarray, values: np.ndarray, limits=None, present=None) -> np.ndarray:
  """A prediction of a task laid over its image, with the legend below.

  Args:
    image: uint8 [H, W, 3].
    values: prediction [H, W] or [H, W, 3].
    limits, present: see `tasks.Task.key`.
  """
  key = functools.partial(task.overlay_legend, limits=limits, present=present)
  return legends.captioned(task.laid_over(image, values, limits), key)


def uncertainty(task, values: np.ndarray, high: float) -> np.ndarray:
  """A map of uncertainty [H, W] as a picture, from dark (0) to bright (`high`), with the scale below."""
  return legends.captioned(_uncertain(values, high), legends.uncertainty(task.spread_unit, high).draw)


def _uncertain(values: np.ndarray, high: float) -> np.ndarray:
  return heat(values, (0, high), legends.SURE)


def uncertainty_limit(values: np.ndarray) -> float:
  """Where the colours of a map of uncertainty end: at its largest value, but for 1% of the pixels."""
  return max(float(np.percentile(values, 99)), 1e-6)


def panel(
  image: np.ndarray,
  tasks: Sequence,
  rows: Sequence[tuple[str, dict]],
  limits: dict | None = None,
  uncertain: dict | None = None,
  every_class: bool = False,
) -> np.ndarray:
  """A grid of tiles: a column per task, a row per stage (the paper's Figures 5, 7 and 9), legends below.

  Args:
    image: uint8 [H, W, 3]. It stands left of the first row; left of the others stand its
      overlays with the row's first segmentation, if any.
    rows: (title, {task name: map as for `Task.picture`, of any size, or None}).
    limits: {task: ends of its colours}, see `Task.limits`; default those of the first row.
    uncertain: {task name: (map of uncertainty [H, W], where its colours end)}: a last row of these.
    every_class: legends name all classes, not only those that some row shows.

  Returns:
    uint8 [h, w, 3]; tiles are 160 to 320 pixels wide.
  """
  size = tile_size(*image.shape[:2])
  width = size[0]
  shared = {t.name: _shared_limits(t, [maps.get(t.name) for _, maps in rows]) for t in tasks}
  limits = shared | (limits or {})
  columns = [_inputs(_resized(image, size), tasks, rows)]
  keys = [np.full((1, width, 3), 255, np.uint8)]
  for task in tasks:
    columns.append([_tile(task, maps.get(task.name), size, limits.get(task.name)) for _, maps in rows])
    keys.append(task.legend(width, limits.get(task.name), None if every_class else _present(task, rows)))
  grid = [list(tiles) for tiles in zip(*columns)] + [keys]
  titles = [title for title, _ in rows] + ['']
  if uncertain:
    maps = [uncertain[t.name] for t in tasks]
    grid.append([keys[0], *(_resized(_uncertain(values, high), size) for values, high in maps)])
    grid.append([keys[0], *(legends.uncertainty(t.spread_unit, high).draw(width) for t, (_, high) in zip(tasks, maps))])
    titles += ['Uncertainty', '']
  return _sheet(['Input', *(task.heading for task in tasks)], titles, grid, width)


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


def _shared_limits(task, maps) -> tuple[float, float] | None:
  """One scale of colours for all rows, so that they compare: that of the first map (the ground truth) with values."""
  found = [task.limits(np.asarray(m)) for m in maps if m is not None and (np.asarray(m) > 0).any()]
  return found[0] if found else None


def _present(task, rows) -> list[int] | None:
  """Ids of the classes that some row shows."""
  if not task.classes:
    return None
  maps = [maps[task.name] for _, maps in rows if maps.get(task.name) is not None]
  return [int(i) for i in np.unique(np.concatenate([np.ravel(m) for m in maps] or [[]])) if i < len(task.classes)]


def _tile(task, values, size: tuple[int, int], limits) -> np.ndarray:
  if values is None or (np.ndim(values) == 3 and not task.valid(np.asarray(values)).any()):
    sheet = Image.fromarray(hatch(size[1], size[0]))
    ImageDraw.Draw(sheet).text((size[0] / 2, size[1] / 2), 'no label', SOFT, font(15), anchor='mm')
    return np.asarray(sheet)
  values = np.asarray(values)
  if values.shape[1] < size[0]:  # enlarged before it is coloured, so that hatching stays fine
    labels = task.classes or values.dtype == np.uint8 or values.ndim == 3
    how = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    values = cv2.resize(values, size, interpolation=how).reshape(*size[::-1], *values.shape[2:])
  picture = _resized(task.picture(values, limits), size)
  if task.framed:
    picture[[0, -1]], picture[:, [0, -1]] = 214, 214  # a frame: most of the picture is white like the page
  return picture


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  shrinks = size[0] < picture.shape[1]
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _inputs(image: np.ndarray, tasks: Sequence, rows) -> list[np.ndarray]:
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
