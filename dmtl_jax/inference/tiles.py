"""Large images in overlapping tiles, whose maps blend without seams; and maps at an image's size."""

from collections.abc import Iterable, Iterator, Sequence
import math

import numpy as np

Maps = dict[tuple[str, str], np.ndarray]  # {(stage, task): [h, w, C]}


def tile_corners(size: tuple[int, int], tile: tuple[int, int], overlap: float = 0.5) -> list[tuple[int, int]]:
  """Top and left of the overlapping tiles (h, w) that cover maps of a size (H, W), which is at least the tile's.

  Args:
    overlap: least share of a tile that its neighbour also covers, in [0, 1).
  """
  rows, columns = (_tile_starts(n, part, overlap) for n, part in zip(size, tile))
  return [(top, left) for top in rows for left in columns]


def blend(
  maps: Iterable[Maps], corners: Sequence[tuple[int, int]], size: tuple[int, int], tile: tuple[int, int]
) -> Maps:
  """Joins the maps of tiles with weights that fall smoothly to the rim, so that no seam shows.

  Args:
    maps: {key: float [h, w, C]} of each tile, in the order of `corners`; one at a time is taken.
    corners: see `tile_corners`.
    size: (H, W) of the result.
    tile: (h, w) of a tile.

  Returns:
    {key: float32 [H, W, C]}: at each pixel the weighted mean of the tiles that cover it; a single tile unchanged.
  """
  if tuple(size) == tuple(tile):
    (whole,) = maps
    return whole
  window = (_tile_weights(tile[0])[:, None] * _tile_weights(tile[1]))[..., None]
  weight = np.zeros((*size, 1), np.float32)
  sums = {}
  for (top, left), values_by_key in zip(corners, maps, strict=True):
    place = slice(top, top + tile[0]), slice(left, left + tile[1])
    weight[place] += window
    for key, values in values_by_key.items():
      sums.setdefault(key, np.zeros((*size, values.shape[-1]), np.float32))[place] += window * values
  return {key: total / weight for key, total in sums.items()}


def _tile_starts(length: int, size: int, overlap: float) -> list[int]:
  """Where tiles begin: the first at 0, the last at the end, evenly between."""
  stride = max(int(size * (1 - overlap)), 1)
  count = 1 + math.ceil((length - size) / stride)
  return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def _tile_weights(size: int) -> np.ndarray:
  """Weights of a tile along one side: a squared sine, above 0 even at the rim."""
  return np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2


def enlarge(
  maps: np.ndarray,
  extent: tuple[float, float],
  size: tuple[int, int],
  rows: slice,
  origin: tuple[float, float] = (0, 0),
) -> np.ndarray:
  """Resizes some rows of a map to an image's size, bilinear between the centres of cells.

  Args:
    maps: float [h, w, C].
    extent: rows and columns of cells that the image covers; may be fractions.
    size: (H, W) of the image.
    rows: of the image, to return.
    origin: rows and columns of cells above and left of the image.

  Returns:
    [rows, W, C].
  """
  y, x = positions(maps, extent, size, origin)
  return interpolate(interpolate(maps, y[rows], 0), x, 1)


def values_at(
  maps: np.ndarray,
  extent: tuple[float, float],
  size: tuple[int, int],
  rows: np.ndarray,
  columns: np.ndarray,
  origin: tuple[float, float] = (0, 0),
) -> np.ndarray:
  """The values [N, C] that `enlarge` gives at the pixels `rows`, `columns` [N] of an image."""
  y, x = positions(maps, extent, size, origin)
  y, x = y[rows], x[columns]
  top, left = y.astype(int), x.astype(int)
  down, right = (y - top).astype(np.float32)[:, None], (x - left).astype(np.float32)[:, None]
  bottom, end = np.minimum(top + 1, maps.shape[0] - 1), np.minimum(left + 1, maps.shape[1] - 1)
  before = maps[top, left] + down * (maps[bottom, left] - maps[top, left])
  after = maps[top, end] + down * (maps[bottom, end] - maps[top, end])
  return before + right * (after - before)


def positions(maps: np.ndarray, extent, size, origin) -> Iterator[np.ndarray]:
  """Where the pixels of each row and each column of an image lie on the grid of a map [h, w, C]."""
  centres = [o + (np.arange(n) + 0.5) * e / n - 0.5 for o, n, e in zip(origin, size, extent)]
  return (np.clip(c, 0, n - 1) for c, n in zip(centres, maps.shape))


def interpolate(maps: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
  """Linear interpolation of [h, w, C] along an axis, at fractional indices."""
  low = indices.astype(int)
  share = (indices - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
  before = maps.take(low, axis)
  after = maps.take(np.minimum(low + 1, maps.shape[axis] - 1), axis)
  after -= before  # in place, since new arrays of this size take longer than the arithmetic
  after *= share
  after += before
  return after
