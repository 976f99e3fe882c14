"""Panels: images, labels and predictions of all tasks in one picture (the paper's Figures 5, 7 and 9)."""

from collections.abc import Sequence
import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw

from dmtl_jax.draw import legends
from dmtl_jax.draw.colors import BLUE, hatch, hatch_unless, heat, INK, ORANGE, overlay, PAPER, signed, SOFT
from dmtl_jax.draw.legends import fitted, font

TRUTH = 'Ground truth'  # title of the row of labels
DECAYED = 'Decayed: the initial maps with noise added; denoising starts from these.'


def annotated(task, image: np.ndarray, values: np.ndarray, limits=None, present=None) -> np.ndarray:
  """A prediction of a task laid over its image, with the legend below.

  Args:
    image: uint8 [H, W, 3].
    values: prediction [H, W] or [H, W, 3].
    limits, present: see `tasks.Task.key`.
  """
  key = functools.partial(task.overlay_legend, limits=limits, present=present)
  return legends.captioned(task.overlay_prediction(image, values, limits), key)


def uncertainty(task, values: np.ndarray, high: float) -> np.ndarray:
  """A map of uncertainty [H, W] as a picture, from dark (0) to bright (`high`), with the scale below."""
  return legends.captioned(_uncertain(values, high), _uncertainty_key(task, values, high).draw)


def _uncertain(values: np.ndarray, high: float) -> np.ndarray:
  return heat(values, (0, high), legends.SURE)


def _uncertainty_key(task, values: np.ndarray, high: float) -> legends.Scale:
  return legends.uncertainty(task.spread_unit, high, bool(values.max() > high))


def changed(task, before: np.ndarray, after: np.ndarray, label: np.ndarray, limits=None) -> np.ndarray:
  """What `after` makes of the mistakes of `before`: blue where it is nearer the label, orange where farther.

  Args:
    before, after: predictions as `Task.activate` gives them, of the size of the label [H, W, K].
    limits: see `tasks.Task.limits`.

  Returns:
    uint8 [H, W, 3]; colours end where those of uncertainty do (`Task.spread_limit`), those of classes where a right
    one stands for a wrong one.
  """
  gain = task.pixel_error(before, label) - task.pixel_error(after, label)
  return hatch_unless(task.valid(label), signed(gain / task.spread_limit(limits)))


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
  """A grid of tiles: a column per task, a row per stage (the paper's Figures 5, 7 and 9), legends below.

  Args:
    image: uint8 [H, W, 3]. It stands left of the row of the ground truth; left of the others stand its overlays
      with the row's first segmentation. Without any of these, it stands left of the first row.
    rows: (title, {task name: map as for `Task.picture`, of any size, or None}).
    limits: {task: ends of its colours}, see `Task.limits`; default those of the first row.
    uncertain: {task name: (map of uncertainty [H, W], where its colours end)}: a last row of these.
    every_class: legends name all classes, not only those that some row shows.
    scores: {(row's title, task name): words in the corner of the tile}.
    change: titles of two rows, whose maps are as large as the ground truth: one row more says where the second one's
      are nearer the ground truth than the first one's, and where farther, see `changed`.

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
    tiles = [_tile(task, maps.get(task.name), size, limits.get(task.name)) for _, maps in rows]
    columns.append([_marked(tile, (scores or {}).get((title, task.name), '')) for tile, (title, _) in zip(tiles, rows)])
    keys.append(task.legend(width, limits.get(task.name), None if every_class else _present(task, rows)))
  grid, titles = [list(tiles) for tiles in zip(*columns)], [title for title, _ in rows]
  if change:
    before, after, truth = (dict(rows)[title] for title in (*change, TRUTH))
    of = lambda name: (before.get(name), after.get(name), truth.get(name), limits.get(name))
    grid.append([_change_key(size), *(_change(task, *of(task.name), size) for task in tasks)])
    titles.append('Change')
  grid.append(keys)
  titles.append('')
  if uncertain:
    maps = [uncertain[t.name] for t in tasks]
    grid.append([keys[0], *(_resized(_uncertain(values, high), size) for values, high in maps)])
    grid.append([keys[0], *(_uncertainty_key(t, *of).draw(width) for t, of in zip(tasks, maps))])
    titles += ['Uncertainty', '']
  note = DECAYED if any(title == 'Decayed' for title, _ in rows) else ''
  return _sheet(['Input', *(task.heading for task in tasks)], titles, grid, width, note)


def contact_sheet(images: Sequence[tuple[str, np.ndarray, dict]], tasks: Sequence) -> np.ndarray:
  """A row an image, a column a task: the labels laid over the image, legends below.

  Args:
    images: (id, uint8 [H, W, 3], {task name: label [H, W, K]}) of each, of any sizes.

  Returns:
    uint8 [h, w, 3].
  """
  size = tile_size(*images[0][1].shape[:2])
  blank = np.full((1, size[0], 3), 255, np.uint8)
  grid, keys = [], [blank]
  limits = {t.name: _joint_limits(t, [labels[t.name] for _, _, labels in images if t.name in labels]) for t in tasks}
  for _, image, labels in images:
    drawn = [t.overlay_label(image, labels[t.name], limits[t.name]) if t.name in labels else None for t in tasks]
    grid.append([_framed(image, size), *(_no_label(size) if one is None else _framed(one, size) for one in drawn)])
  for t in tasks:
    shown = [(id, {t.name: labels.get(t.name)}) for id, _, labels in images]
    keys.append(t.overlay_legend(size[0], limits[t.name], _present(t, shown)))
  return _sheet(['Image', *(t.heading for t in tasks)], [*(id for id, _, _ in images), ''], [*grid, keys], size[0])


def _joint_limits(task, labels: Sequence[np.ndarray]) -> tuple[float, float] | None:
  """One scale of colours for labels of several images."""
  return task.limits(np.concatenate([label[task.valid(label)].ravel() for label in labels])) if labels else None


def _framed(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A picture as large as fits a tile, on white."""
  scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
  small = _resized(picture, (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)))
  tile = np.full((size[1], size[0], 3), 255, np.uint8)
  top, left = (size[1] - len(small)) // 2, (size[0] - small.shape[1]) // 2
  tile[top : top + len(small), left : left + small.shape[1]] = small
  return tile


def _sheet(
  heads: Sequence[str], titles: Sequence[str], grid: Sequence[Sequence[np.ndarray]], width: int, note: str = ''
) -> np.ndarray:
  """Pictures in rows and columns with a title above each column and left of each row, and a note below."""
  gap, top, left, margin = 6, 30, 24, 10
  heights = [max(map(len, pictures)) for pictures in grid]
  bottom = top + sum(heights) + gap * (len(grid) - 1)
  whole = left + len(heads) * (width + gap) - gap + margin
  sheet = Image.new('RGB', (whole, bottom + margin + (20 if note else 0)), PAPER)
  draw = ImageDraw.Draw(sheet)
  if note:
    text, letters = fitted(note, whole - left - margin, 13)
    draw.text((left, bottom + margin), text, SOFT, letters, anchor='lt')
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
    return _no_label(size)
  values = np.asarray(values)
  if values.shape[1] < size[0]:  # enlarged before it is coloured, so that hatching stays fine
    labels = task.classes or values.dtype == np.uint8 or values.ndim == 3
    how = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    values = cv2.resize(values, size, interpolation=how).reshape(*size[::-1], *values.shape[2:])
  picture = _resized(task.picture(values, limits), size)
  return _ruled(picture) if task.framed else picture


def _change(task, before, after, label, limits, size: tuple[int, int]) -> np.ndarray:
  if any(values is None for values in (before, after, label)) or not task.valid(label).any():
    return _no_label(size)
  return _ruled(_resized(changed(task, before, after, label, limits), size))


def _change_key(size: tuple[int, int]) -> np.ndarray:
  key = legends.Swatches((('nearer the truth', BLUE), ('farther', ORANGE))).draw(size[0])[: size[1]]
  tile = np.full((size[1], size[0], 3), 255, np.uint8)
  tile[: len(key)] = key
  return tile


def _ruled(picture: np.ndarray) -> np.ndarray:
  """With a frame, where most of the picture is white like the page."""
  picture[[0, -1]], picture[:, [0, -1]] = 214, 214
  return picture


def _no_label(size: tuple[int, int]) -> np.ndarray:
  sheet = Image.fromarray(hatch(size[1], size[0]))
  ImageDraw.Draw(sheet).text((size[0] / 2, size[1] / 2), 'no label', SOFT, font(15), anchor='mm')
  return np.asarray(sheet)


def _marked(tile: np.ndarray, words: str) -> np.ndarray:
  """A tile with words in its lower left corner."""
  if not words:
    return tile
  sheet = Image.fromarray(tile)
  draw, (text, letters) = ImageDraw.Draw(sheet), fitted(words, tile.shape[1] - 8, 13)
  draw.rectangle((0, len(tile) - 18, letters.getlength(text) + 7, len(tile)), PAPER)
  draw.text((4, len(tile) - 9), text, INK, letters, anchor='lm')
  return np.asarray(sheet)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  shrinks = size[0] < picture.shape[1]
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _inputs(image: np.ndarray, tasks: Sequence, rows) -> list[np.ndarray]:
  """The left column: of each row the image with the row's first segmentation, of the ground truth's the image alone."""
  found = next((task for task in tasks if task.classes), None)
  tiles = []
  for title, maps in rows:
    values = maps.get(found.name) if found else None
    if title == TRUTH or (found is None and not tiles):
      tiles.append(image)
    elif values is None:
      tiles.append(np.full_like(image, 255))
    else:
      tiles.append(overlay(image, _tile(found, values, image.shape[1::-1], None)))
  return tiles


def _upright(title: str, size: tuple[int, int]) -> Image.Image:
  """A row's title [height, width], read from bottom to top; small enough for the tile."""
  sheet = Image.new('RGB', size[::-1], PAPER)
  text, letters = fitted(title, size[1], 16)
  ImageDraw.Draw(sheet).text((size[1] / 2, size[0] / 2), text, INK, letters, anchor='mm')
  return sheet.transpose(Image.Transpose.ROTATE_90)
