"""Panels: images, labels and predictions of all tasks in one picture (the paper's Figures 5, 7 and 9)."""

from collections.abc import Mapping, Sequence
import functools
import itertools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dmtl_jax.draw import legends
from dmtl_jax.draw.colors import BLUE, hatch, hatch_unlabelled, heat, INK, ORANGE, PAPER, signed, SOFT
from dmtl_jax.draw.fonts import fit_text, font

TRUTH = 'Ground truth'  # title of the row of labels
DECAYED = 'Decayed: the initial maps with noise added; denoising starts from these.'


def draw_prediction(task, image: np.ndarray, values: np.ndarray, limits=None, present=None) -> np.ndarray:
  """Overlays a prediction [H, W] or [H, W, 3] on its image, uint8 [H, W, 3], with the legend (`Task.key`) below."""
  key = functools.partial(task.overlay_legend, limits=limits, present=present)
  return legends.add_legend(task.overlay_prediction(image, values, limits), key)


def draw_uncertainty(task, values: np.ndarray, high: float) -> np.ndarray:
  """Draws a map of uncertainty [H, W] from dark (0) to bright (`high`), with the scale below."""
  return legends.add_legend(color_uncertainty(values, high), uncertainty_key(task, values, high).draw)


def color_uncertainty(values: np.ndarray, high: float) -> np.ndarray:
  """Colours a map of uncertainty from dark (0) to bright (`high`), uint8 [..., 3]."""
  return heat(values, (0, high), legends.UNCERTAINTY)


def uncertainty_key(task, values: np.ndarray, high: float) -> legends.Scale:
  """The scale of `color_uncertainty`."""
  return legends.uncertainty_scale(task.spread_unit, high, bool(values.max() > high))


def draw_change(task, before: np.ndarray, after: np.ndarray, label: np.ndarray, limits=None) -> np.ndarray:
  """Compares two predictions with the label: blue where `after` is closer to it, orange where `before` is.

  Args:
    before, after: predictions from `Task.activate`, of the size of the label [H, W, K].
    limits: see `Task.limits`.

  Returns:
    uint8 [H, W, 3]; the colours saturate at a gain of `Task.spread_limit`.
  """
  gain = task.pixel_error(before, label) - task.pixel_error(after, label)
  return hatch_unlabelled(task.valid(label), signed(gain / task.spread_limit(limits)))


def panel(
  image: np.ndarray,
  tasks: Sequence,
  rows: Sequence[tuple[str, dict]],
  limits: dict | None = None,
  uncertain: dict | None = None,
  every_class: bool = False,
  scores: dict[tuple[str, str], str] | None = None,
  change: tuple[str, str] | None = None,
) -> np.ndarray:
  """Draws a grid of tiles: a column per task, a row per stage (the paper's Figures 5, 7 and 9), legends below.

  Args:
    image: uint8 [H, W, 3], shown left of the first row; the other rows show it overlaid with their map of the first
      task with classes, or of the first task.
    rows: (title, {task name: map for `Task.picture`, of any size, or None}).
    limits: {task name: ends of the colour scale}, see `Task.limits`; default those of the first row.
    uncertain: {task name: (map of uncertainty [H, W], upper end of its colour scale)}; adds a last row.
    every_class: whether legends name all classes, not only those that appear in a row.
    scores: {(title of a row, task name): text in the corner of the tile}.
    change: titles of two rows with maps of the ground truth's size; adds a row with `draw_change` between them.

  Returns:
    uint8 [h, w, 3]; tiles are 160 to 320 pixels wide.
  """
  size = tile_size(*image.shape[:2])
  width = size[0]
  shared = {t.name: _shared_limits(t, [maps.get(t.name) for _, maps in rows]) for t in tasks}
  limits = shared | (limits or {})
  columns = [_inputs(resize(image, size), tasks, rows, limits)]
  keys = [np.full((1, width, 3), 255, np.uint8)]
  for task in tasks:
    tiles = [_tile(task, maps.get(task.name), size, limits.get(task.name)) for _, maps in rows]
    columns.append(
      [_add_text(tile, (scores or {}).get((title, task.name), '')) for tile, (title, _) in zip(tiles, rows)]
    )
    keys.append(task.legend(width, limits.get(task.name), None if every_class else _present(task, rows)))
  grid = [list(tiles) for tiles in zip(*columns)]
  titles = [title for title, _ in rows]
  if change:
    before, after, truth = (dict(rows)[title] for title in (*change, TRUTH))
    tiles = [
      _change_tile(t, before.get(t.name), after.get(t.name), truth.get(t.name), limits.get(t.name), size) for t in tasks
    ]
    grid.append([_change_key(size), *tiles])
    titles.append('Change')
  grid.append(keys)
  titles.append('')
  if uncertain:
    maps = [uncertain[t.name] for t in tasks]
    grid.append([keys[0], *(resize(color_uncertainty(values, high), size) for values, high in maps)])
    grid.append([keys[0], *(uncertainty_key(t, values, high).draw(width) for t, (values, high) in zip(tasks, maps))])
    titles += ['Uncertainty', '']
  note = DECAYED if any(title == 'Decayed' for title, _ in rows) else ''
  return _draw_sheet(['Input', *(task.heading for task in tasks)], titles, grid, width, note)


def contact_sheet(
  images: Sequence[tuple[str, np.ndarray, dict]], tasks: Sequence, units: Mapping[str, str] = {}
) -> np.ndarray:
  """Draws a row per image and a column per task: labels overlaid on the image, legends below.

  Args:
    images: (id, uint8 [H, W, 3], {task name: label [H, W, K]}), of any sizes.
    units: {task name: unit of its values}, where it is known.

  Returns:
    uint8 [h, w, 3].
  """
  size = tile_size(*images[0][1].shape[:2])
  blank = np.full((1, size[0], 3), 255, np.uint8)
  grid = []
  keys = [blank]
  limits = {t.name: _joint_limits(t, [labels[t.name] for _, _, labels in images if t.name in labels]) for t in tasks}
  for _, image, labels in images:
    drawn = [t.overlay_label(image, labels[t.name], limits[t.name]) if t.name in labels else None for t in tasks]
    grid.append(
      [_letterbox(image, size), *(_unlabelled_tile(size) if one is None else _letterbox(one, size) for one in drawn)]
    )
  for t in tasks:
    shown = [(id, {t.name: labels.get(t.name)}) for id, _, labels in images]
    keys.append(t.overlay_legend(size[0], limits[t.name], _present(t, shown), unit=units.get(t.name, '')))
  return _draw_sheet(['Image', *(t.heading for t in tasks)], [*(id for id, _, _ in images), ''], [*grid, keys], size[0])


class Suggestion(NamedTuple):
  """A pair on `suggestion_sheet`: image uint8 [H, W, 3], prediction and uncertainty [H, W, ...] of its task."""

  title: str
  task: Any
  image: np.ndarray
  prediction: np.ndarray
  uncertainty: np.ndarray


def suggestion_sheet(suggestions: Sequence[Suggestion]) -> np.ndarray:
  """Draws two suggestions per row, each as the image, the prediction over it, and its uncertainty from dark to bright.

  Colour scales are shared by the suggestions of a task; the names of its classes stand at the end.

  Returns:
    uint8 [h, w, 3].
  """
  size = tile_size(*suggestions[0].image.shape[:2])
  blank = np.full((1, size[0], 3), 255, np.uint8)
  by_task: dict = {}
  for one in suggestions:
    by_task.setdefault(one.task, []).append(one)
  limits = {task: task.limits(group[0].prediction) for task, group in by_task.items()}
  highest = {task: max(max(float(one.uncertainty.max()) for one in group), 1e-6) for task, group in by_task.items()}
  cells = []
  for one in suggestions:
    prediction = one.task.overlay_prediction(one.image, one.prediction, limits[one.task])
    uncertainty = color_uncertainty(one.uncertainty, highest[one.task])
    photograph, *maps = (_letterbox(picture, size) for picture in (one.image, prediction, uncertainty))
    cells.append([_add_text(photograph, one.title), *maps])
  if len(cells) % 2:
    cells.append([blank] * 3)
  for task in by_task:
    if task.classes:
      shown = [('', {task.name: one.prediction}) for one in by_task[task]]
      cells.append([blank, task.legend(size[0], present=_present(task, shown)), blank])
  grid = [[*left, *right] for left, right in itertools.zip_longest(cells[::2], cells[1::2], fillvalue=[blank] * 3)]
  return _draw_sheet(['Image', 'Prediction', 'Uncertainty'] * 2, [''] * len(grid), grid, size[0])


def _joint_limits(task, labels: Sequence[np.ndarray]) -> tuple[float, float] | None:
  """Limits of one colour scale for labels of several images."""
  return task.limits(np.concatenate([label[task.valid(label)].ravel() for label in labels])) if labels else None


def _letterbox(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Scales a picture to fit into a tile, on white."""
  scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
  small = resize(picture, (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)))
  tile = np.full((size[1], size[0], 3), 255, np.uint8)
  top, left = (size[1] - len(small)) // 2, (size[0] - small.shape[1]) // 2
  tile[top : top + len(small), left : left + small.shape[1]] = small
  return tile


def _draw_sheet(
  heads: Sequence[str], titles: Sequence[str], grid: Sequence[Sequence[np.ndarray]], width: int, note: str = ''
) -> np.ndarray:
  """Arranges pictures in a grid with a title above each column and left of each row, and a note below."""
  gap, top, left, margin = 6, 30, 24, 10
  heights = [max(map(len, pictures)) for pictures in grid]
  bottom = top + sum(heights) + gap * (len(grid) - 1)
  total_width = left + len(heads) * (width + gap) - gap + margin
  sheet = Image.new('RGB', (total_width, bottom + margin + (20 if note else 0)), PAPER)
  if note:
    text, letters = fit_text(note, total_width - left - margin, 13)
    letters.draw(sheet, (left, bottom + margin + 6), text, SOFT)
  columns = [left + c * (width + gap) for c in range(len(heads))]
  for x, head in zip(columns, heads):
    text, letters = fit_text(head, width, 16)
    letters.draw(sheet, (x + width / 2, top / 2), text, INK, centered=True)
  y = top
  for title, height, pictures in zip(titles, heights, grid):
    if title:
      sheet.paste(_vertical_title(title, (left, height)), (0, y))
    for x, picture in zip(columns, pictures):
      sheet.paste(Image.fromarray(picture), (x, y))
    y += height + gap
  return np.asarray(sheet)


def tile_size(height: int, width: int) -> tuple[int, int]:
  """(width, height) of a tile: small images are enlarged by a whole number, large ones shrunk, strips stretched."""
  scale = min(math.ceil(160 / width), 320 / max(height, width))
  return max(round(width * scale), 160), max(round(height * scale), 80)


def _shared_limits(task, maps) -> tuple[float, float] | None:
  """Limits of one colour scale for all rows, so that they compare: those of the first map with values."""
  arrays = (np.asarray(values) for values in maps if values is not None)
  return next((task.limits(values) for values in arrays if (values > 0).any()), None)


def _present(task, rows) -> list[int] | None:
  """Ids of the classes, or sets of classes, that appear in some row."""
  if not task.classes:
    return None
  maps = [maps[task.name] for _, maps in rows if maps.get(task.name) is not None]
  return [int(i) for i in np.unique(np.concatenate([np.ravel(m) for m in maps] or [[]])) if i < len(task.id_names)]


def _tile(task, values, size: tuple[int, int], limits) -> np.ndarray:
  if values is None or (np.ndim(values) == 3 and not task.valid(np.asarray(values)).any()):
    return _unlabelled_tile(size)
  values = np.asarray(values)
  if values.shape[1] < size[0]:  # enlarged before it is coloured, so that hatching stays fine
    is_label = task.classes or values.dtype == np.uint8 or values.ndim == 3
    interpolation = cv2.INTER_NEAREST if is_label else cv2.INTER_LINEAR
    values = cv2.resize(values, size, interpolation=interpolation).reshape(*size[::-1], *values.shape[2:])
  picture = resize(task.picture(values, limits), size)
  return _add_frame(picture) if task.framed else picture


def _change_tile(task, before, after, label, limits, size: tuple[int, int]) -> np.ndarray:
  if any(values is None for values in (before, after, label)) or not task.valid(label).any():
    return _unlabelled_tile(size)
  return _add_frame(resize(draw_change(task, before, after, label, limits), size))


def _change_key(size: tuple[int, int]) -> np.ndarray:
  key = legends.Swatches((('nearer the truth', BLUE), ('farther', ORANGE))).draw(size[0])[: size[1]]
  tile = np.full((size[1], size[0], 3), 255, np.uint8)
  tile[: len(key)] = key
  return tile


def _add_frame(picture: np.ndarray) -> np.ndarray:
  """Frames, in place, a picture that is mostly white like the page."""
  picture[[0, -1]], picture[:, [0, -1]] = 214, 214
  return picture


def _unlabelled_tile(size: tuple[int, int]) -> np.ndarray:
  sheet = Image.fromarray(hatch(size[1], size[0]))
  ImageDraw.Draw(sheet).text((size[0] / 2, size[1] / 2), 'no label', SOFT, font(15), anchor='mm')
  return np.asarray(sheet)


def _add_text(tile: np.ndarray, text: str) -> np.ndarray:
  """Writes text into the lower left corner of a tile."""
  if not text:
    return tile
  sheet = Image.fromarray(tile)
  text, letters = fit_text(text, tile.shape[1] - 8, 13)
  ImageDraw.Draw(sheet).rectangle((0, len(tile) - 18, letters.getlength(text) + 7, len(tile)), PAPER)
  letters.draw(sheet, (4, len(tile) - 9), text, INK)
  return np.asarray(sheet)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a picture, uint8 [h, w, 3], to (width, height)."""
  shrinks = size[0] < picture.shape[1]
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _inputs(image: np.ndarray, tasks: Sequence, rows, limits: dict) -> list[np.ndarray]:
  """The left column: the image itself, then overlaid with each row's map of the first task with classes, or of any."""
  task = next((task for task in tasks if task.classes), tasks[0])
  tiles = [image]
  for _, maps in rows[1:]:
    values = maps.get(task.name)
    if values is None:
      tiles.append(np.full_like(image, 255))
    else:
      values = task.resize_prediction(np.asarray(values), image.shape[:2])
      tiles.append(task.overlay_prediction(image, values, limits.get(task.name)))
  return tiles


def _vertical_title(title: str, size: tuple[int, int]) -> Image.Image:
  """Draws a row's title in [height, width], reading from bottom to top."""
  sheet = Image.new('RGB', size[::-1], PAPER)
  text, letters = fit_text(title, size[1], 16)
  letters.draw(sheet, (size[1] / 2, size[0] / 2), text, INK, centered=True)
  return sheet.transpose(Image.Transpose.ROTATE_90)
