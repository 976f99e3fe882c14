"""The raw maps of one image, and predictions from them at any size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.inference import tiles
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.tasks import Task

BAND = 2**18  # pixels of an image that are enlarged and activated together
COLUMNS = 512  # wider bands are padded to a multiple of it, so that images of many sizes share a few programs

Predictions = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RawMaps:
  """The network's maps of one image, at its resolution.

  Attributes:
    maps: {(stage, task): raw map [h, w, C_t] float32}; stages 'final', maybe 'initial', 'step0' (decayed),
      'step1', ..., or with samples 'uncertainty' [h, w, 1].
    extent: rows and columns of these maps that the image covers; the rest is padding.
    samples: number of noise draws.
    origin: rows and columns of padding above and left of the image.
    calibration: applied to probabilities, at every stage so that the stages compare, though fitted on 'final'.
  """

  tasks: tuple[Task, ...]
  maps: dict[tuple[str, str], np.ndarray]
  extent: tuple[float, float]
  samples: int
  origin: tuple[float, float] = (0.0, 0.0)
  calibration: Calibration = UNCALIBRATED

  @property
  def stages(self) -> list[str]:
    return list(dict.fromkeys(stage for stage, _ in self.maps))

  def predictions(self, stage: str, size: tuple[int, int], probabilities: bool = False) -> Predictions:
    """{task: prediction} of one stage at a size (H, W); with `probabilities` those of classes instead of class ids.

    Raw maps are first enlarged and then activated, so that edges are smooth; in bands of rows,
    so that the enlarged raw maps of a large image are never in memory.
    """
    return {task.name: self.prediction(stage, task, size, probabilities=probabilities) for task in self.tasks}

  def prediction(
    self,
    stage: str,
    task: Task,
    size: tuple[int, int],
    rows: slice | None = None,
    probabilities: bool = False,
    dtype: np.dtype | type | None = None,
  ) -> np.ndarray:
    """As `predictions`, of one task: all of it, or only these rows, one of `bands(size)`.

    Args:
      dtype: of the result; default that of `Task.activate`. Maps of uncertainty are always float32.
    """
    if rows is None:
      first, *others = bands(size)
      values = self.prediction(stage, task, size, first, probabilities, dtype)
      whole = np.empty((size[0], *values.shape[1:]), values.dtype)
      whole[first] = values
      for band in others:
        whole[band] = self.prediction(stage, task, size, band, probabilities, dtype)
      return whole
    maps = self.maps[stage, task.name]
    if stage == 'uncertainty':
      return tiles.enlarge(maps, self.extent, size, rows, self.origin)[..., 0]
    soften = probabilities and bool(task.classes)
    maps = self.calibration.apply(task, maps) if soften else self.calibration.decide(task, maps)
    y, x = tiles.positions(maps, self.extent, size, self.origin)
    most = bands(size)[0].stop
    return _widen_and_activate(task, soften, dtype, tiles.interpolate(maps, y[rows], 0), x, most)

  def calibrated(self, task: Task) -> np.ndarray:
    """The calibrated final map [h, w, C_t] of one task, at the network's resolution."""
    return self.calibration.apply(task, self.maps['final', task.name])

  def confidence(self, task: Task, size: tuple[int, int]) -> np.ndarray:
    """Calibrated probability [H, W] float32, at a size (H, W), that the final prediction is right.

    Of the class that is predicted; of the likelier answer for a binary task.

    Raises:
      ValueError: a kind without probabilities, see `Task.has_probabilities`.
    """
    if not task.has_probabilities:
      raise ValueError(f"task '{task.name}': {task.kind} has no probabilities")
    if task.binary:
      positive = self.prediction('final', task, size)
      return np.maximum(positive, 1 - positive)
    confidence = np.empty(size, np.float32)
    for rows in bands(size):
      chosen = self.prediction('final', task, size, rows)
      probabilities = self.prediction('final', task, size, rows, probabilities=True)
      confidence[rows] = np.take_along_axis(probabilities, chosen[..., None], -1)[..., 0]
    return confidence


def bands(size: tuple[int, int]) -> list[slice]:
  """The rows of an image of a size (H, W), in bands to work on one after the other."""
  step = 1 << max((BAND // size[1]).bit_length() - 1, 0)  # a power of two, as `_widen_and_activate` pads to
  return [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def undo_zoom(raw: RawMaps, zoom: float) -> RawMaps:
  """Depth of a view in tiles, magnified `zoom` times, as the whole image would show it: a tile looks closer."""
  if zoom == 1:
    return raw
  tasks = {task.name: task for task in raw.tasks if task.relative_to_view}
  maps = {
    (stage, name): tasks[name].rescale_for_zoom(values, np.float32(1 / zoom)) if name in tasks else values
    for (stage, name), values in raw.maps.items()
  }
  return dataclasses.replace(raw, maps=maps)


def average_views(whole: RawMaps, tiled: RawMaps) -> RawMaps:
  """The mean of an image's maps seen whole and in tiles; depth as seen whole, since a tile has no scale."""
  of_whole = {task.name for task in whole.tasks if task.relative_to_view}
  grid = next(iter(tiled.maps.values())).shape[:2]
  ratio = [e / part for e, part in zip(whole.extent, tiled.extent)]
  extent = tuple(n * r for n, r in zip(grid, ratio))
  top, left = (o - r * part for o, r, part in zip(whole.origin, ratio, tiled.origin))
  averaged = {}
  for key, values in whole.maps.items():
    enlarged = tiles.enlarge(values, extent, grid, slice(None), (top, left))
    averaged[key] = enlarged if key[1] in of_whole else (enlarged + tiled.maps[key]) / 2
  return dataclasses.replace(tiled, maps=averaged)


def _widen_and_activate(task: Task, soften: bool, dtype, maps: np.ndarray, x: np.ndarray, most: int) -> np.ndarray:
  """The prediction [h, W, ...] of maps [h, w, C] that are first enlarged to the W fractional columns `x`.

  Sizes are padded to powers of two or multiples of `COLUMNS`; h as that of the image's largest band, of `most` rows.
  """
  height, width = len(maps), len(x)
  padded = np.zeros((maps.shape[2], _power_of_two(most), _power_of_two(maps.shape[1])), np.float32)
  padded[:, :height, : maps.shape[1]] = np.moveaxis(maps, -1, 0)
  columns = np.zeros(_power_of_two(width) if width <= COLUMNS else -(-width // COLUMNS) * COLUMNS)
  columns[:width] = x
  low = columns.astype(np.int32)
  share = (columns - low).astype(np.float32)
  if task.classes and not soften:
    values = _choose_class(task, padded, low, share)
  else:
    values = _activate(task, soften, dtype, _widen(padded, low, share))
  return np.ascontiguousarray(np.asarray(values)[:height, :width], dtype)


def _power_of_two(number: int) -> int:
  """The least power of two that is not below a number."""
  return 1 << (number - 1).bit_length()


@jax.jit
def _widen(maps: jax.Array, low: jax.Array, share: jax.Array) -> jax.Array:
  """Maps [C, h, w] interpolated at the columns low + share: [C, h, W].

  With the channels first, softmax and normals take 0.6 of the time on a CPU.
  """
  before = jnp.take(maps, low, axis=2, mode='clip')
  after = jnp.take(maps, low + 1, axis=2, mode='clip')
  return before + share * (after - before)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _activate(task: Task, soften: bool, dtype, maps: jax.Array) -> jax.Array:
  """`Task.activate` or `soft_prediction` of maps [C, h, W].

  A program apart from `_widen`: in one program XLA on CPUs interpolates a channel again for every use of it, which
  takes twice the time for saliency and four times for normals.
  """
  values = jnp.moveaxis(maps, 0, -1)
  values = task.soft_prediction(values) if soften else task.activate(values)
  return values if dtype is None else values.astype(dtype)


@functools.partial(jax.jit, static_argnums=0)
def _choose_class(task: Task, maps: jax.Array, low: jax.Array, share: jax.Array) -> jax.Array:
  """Class ids [h, W] of maps [C, h, w]; in one program, which uses each channel once, in half of the time."""
  return task.activate(jnp.moveaxis(_widen(maps, low, share), 0, -1))
