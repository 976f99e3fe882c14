"""The raw maps of one image, and predictions from them at any size."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import numpy as np

from dmtl_jax.inference import tiles
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.tasks import Task

BAND = 2**18  # pixels of an image that are enlarged and activated together

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
    self, stage: str, task: Task, size: tuple[int, int], rows: slice | None = None, probabilities: bool = False
  ) -> np.ndarray:
    """As `predictions`, of one task: all of it, or only these rows, one of `bands(size)`."""
    if rows is None:
      first, *others = bands(size)
      values = self.prediction(stage, task, size, first, probabilities)
      whole = np.empty((size[0], *values.shape[1:]), values.dtype)
      whole[first] = values
      for band in others:
        whole[band] = self.prediction(stage, task, size, band, probabilities)
      return whole
    part = tiles.enlarge(self.maps[stage, task.name], self.extent, size, rows, self.origin)
    if probabilities and task.classes and stage != 'uncertainty':
      return _by_pixels(_soften, task, self.calibration.apply(task, part))
    return part[..., 0] if stage == 'uncertainty' else _by_pixels(_activate, task, self.calibration.decide(task, part))

  def calibrated(self, task: Task) -> np.ndarray:
    """The calibrated final map [h, w, C_t] of one task, at the network's resolution."""
    return self.calibration.apply(task, self.maps['final', task.name])

  def confidence(self, task: Task, size: tuple[int, int]) -> np.ndarray:
    """Calibrated probability [H, W] float32, at a size (H, W), that the final prediction is right.

    Of the class that is predicted; of the likelier answer for a binary task.

    Raises:
      ValueError: a kind without probabilities, see `Task.has_probabilities`.
    """
    final = self.maps['final', task.name]
    parts = [tiles.enlarge(final, self.extent, size, rows, self.origin) for rows in bands(size)]
    return np.concatenate([_by_pixels(self.calibration.confidence, task, part) for part in parts])


def bands(size: tuple[int, int]) -> list[slice]:
  """The rows of an image of a size (H, W), in bands to work on one after the other."""
  step = max(BAND // size[1], 1)
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


def _by_pixels(function: Callable, task: Task, raw: np.ndarray) -> np.ndarray:
  """function(task, pixels) of [h, w, C]; padded to a power of two pixels, so that images share a few programs."""
  pixels = raw.shape[0] * raw.shape[1]
  padded = np.zeros((1 << (pixels - 1).bit_length(), raw.shape[-1]), np.float32)
  padded[:pixels] = raw.reshape(pixels, -1)
  values = np.asarray(function(task, padded))[:pixels]
  return values.reshape(*raw.shape[:2], *values.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def _activate(task: Task, raw):
  return task.activate(raw)


@functools.partial(jax.jit, static_argnums=0)
def _soften(task: Task, raw):
  return task.soft_prediction(raw)
