"""Predictions for any images, at each image's own size; and the Python API.

import dmtl_jax

predictor = dmtl_jax.load('runs/scenes')
maps = predictor(image)  # {task: array}: see `Predictor`
"""

from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax import datasets
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.inference import images
from dmtl_jax.inference.steps import make_maps_step, make_samples_step
from dmtl_jax.models import build_model
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.runs import checkpoints
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

FAR = 2.0  # an image that must shrink more than this to be seen whole is seen in tiles too, this much larger
BAND = 2**18  # pixels of an image that are enlarged and activated at once


class Predictor:
  """A trained model as a function of an image.

  Attributes:
    tasks: what it predicts, each with its name, kind and classes.
    model, variables: the network.
    size: height and width of its input.
    geometry: config.eval.geometry.
    seed, diffusion_steps: see `steps.make_maps_step`.
    config: that of the run, where `load` made it; else None.
  """

  def __init__(self, model, variables: dict, size: tuple[int, int], eval_config, seed: int, config=None):
    self.model, self.tasks, self.variables, self.config = model, model.tasks, variables, config
    self.size, self.geometry = tuple(size), eval_config.geometry
    self.seed, self.diffusion_steps = seed, eval_config.diffusion_steps
    maps_step = make_maps_step(model, seed, self.diffusion_steps)

    def one(variables, image):
      return jax.tree.map(lambda x: x[0], maps_step(variables, image, jnp.zeros(1, jnp.int32)))

    outputs = jax.eval_shape(one, variables, jax.ShapeDtypeStruct((1, *self.size, 3), jnp.float32))
    self._cells = outputs['final'][self.tasks[0].name].shape[:2]

    def compiled(samples: int):
      step = make_samples_step(model, samples, seed, self.diffusion_steps) if samples != 1 else one
      return jax.jit(lambda *inputs: jax.tree.map(lambda x: resize(x[None], self._cells)[0], step(*inputs)))

    self._step = functools.cache(compiled)

  def __call__(self, image, zoom: float | None = None):
    """Predicts all tasks.

    Args:
      image: uint8 [H, W, 3] RGB of any size, a Pillow image or the path of an image file; or a list
        of such images, of any sizes.
      zoom: 1: the network sees the image whole, scaled to fit the training size as in evaluation;
        more: so many times larger, at most at the image's own resolution, in overlapping tiles.
        Default: whole, and an image that would shrink to less than half both whole and in tiles of
        zoom 2 or what fills the training size (strips only so).

    Returns:
      {task: prediction}, in the order of `tasks`, at the image's size, as `help(dmtl_jax)` lists them; class ids are
      places in `Task.classes`. A list of them for a list.

    Raises:
      UserError: anything else for an image, a file that cannot be read, or a zoom below 1.
    """
    if isinstance(image, (list, tuple)):
      return [self(one, zoom) for one in image]
    image = images.as_rgb(image)
    return self.raw(image, 1, zoom).predictions('final', image.shape[:2])

  def sample(self, image, samples: int, zoom: float | None = None):
    """As a call, but the mean prediction of several noise draws, and how far they differ.

    Args:
      samples: number of draws K; the first is the one of a call.

    Returns:
      maps, uncertainty. `maps` are as above: the class of the highest mean probability, the mean
      probability, direction and depth. `uncertainty` is {task: float32 [H, W]}, 0 where the draws agree, in
      what `help(dmtl_jax)` lists.

    Raises:
      UserError: as above, or the method adds no noise.
    """
    image = images.as_rgb(image)
    raw, size = self.raw(image, samples, zoom), image.shape[:2]
    uncertainty = raw.predictions('uncertainty', size) if samples > 1 else None
    return raw.predictions('final', size), uncertainty

  def check(self, samples: int, zoom: float | None):
    """Raises UserError where the method or the network cannot do this, before any image is read."""
    self._step(samples)
    self._scales((1, 1), zoom)

  def raw(self, image: np.ndarray, samples: int = 1, zoom: float | None = None) -> 'Raw':
    """What the network says of uint8 [H, W, 3]: every stage's maps, before they are enlarged and activated."""
    views = [self._view(image, samples, scale) for scale in self._scales(image.shape, zoom)]
    return _joined(*views) if len(views) == 2 else views[0]

  def _view(self, image: np.ndarray, samples: int, scale: float) -> 'Raw':
    """The maps of an image scaled by a factor, in tiles where it is larger than the network's input then."""
    size, cells, step = self.size, self._cells, self._step(samples)
    scaled, _ = transforms.rescale(image, {}, scale, {})
    # Centred only along an axis where the whole scaled image is smaller than a tile: the last tiles may hold less than
    # a tile too, and centring them would shift what they show.
    shown = [min(n, m) for n, m in zip(scaled.shape, size)]
    top_left = transforms.corner(shown, size, self.geometry == 'pad')
    pitch = size[0] / cells[0], size[1] / cells[1]
    extent = scaled.shape[0] / pitch[0], scaled.shape[1] / pitch[1]

    def tile(top: int, left: int) -> images.Maps:
      window = scaled[round(top * pitch[0]) :, round(left * pitch[1]) :][: size[0], : size[1]]
      stages = jax.device_get(step(self.variables, transforms.pad_image(window, size, top_left)[None]))
      return {(s, t.name): np.asarray(maps[t.name], np.float32) for s, maps in stages.items() for t in self.tasks}

    rows, columns = (max(n, int(np.ceil(x - 1e-6))) for n, x in zip(cells, extent))
    origin = top_left[0] / pitch[0], top_left[1] / pitch[1]
    return Raw(self.tasks, images.blend_tiles(tile, (rows, columns), cells), extent, samples, origin)

  def _scales(self, shape: Sequence[int], zoom: float | None) -> list[float]:
    """The factors by which the network sees an image scaled."""
    ratios = [n / m for n, m in zip(self.size, shape)]
    fits, fills = min(ratios), max(ratios)
    whole = min(fits, 1) if self.geometry == 'pad' else fits
    if zoom is not None:
      if not zoom >= 1:
        raise UserError(f'--zoom={zoom}: give 1 (the image is seen whole) or more')
      return [max(whole, min(whole * zoom, 1))]
    if whole * FAR >= 1:
      return [whole]
    tiles = min(max(whole * FAR, fills), 1)
    return [whole, tiles] if tiles <= whole * FAR**2 else [tiles]  # of a strip seen whole nothing can be made out


@dataclasses.dataclass(frozen=True)
class Raw:
  """The network's maps of one image, at its resolution.

  Attributes:
    maps: {(stage, task): raw map [h, w, C_t] float32}; stages 'final', maybe 'initial', 'step0' (decayed),
      'step1', ..., or with samples 'uncertainty' [h, w, 1].
    extent: rows and columns of these maps that the image covers; the rest is padding.
    samples: number of noise draws.
    origin: rows and columns of padding above and left of the image.
  """

  tasks: tuple[Task, ...]
  maps: dict[tuple[str, str], np.ndarray]
  extent: tuple[float, float]
  samples: int
  origin: tuple[float, float] = (0.0, 0.0)

  @property
  def stages(self) -> list[str]:
    return list(dict.fromkeys(stage for stage, _ in self.maps))

  def predictions(self, stage: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """{task: prediction} of one stage at a size (H, W).

    Raw maps are enlarged first and activated then, so that edges are smooth; in bands of rows,
    so that the raw maps of a large image never are in memory.
    """
    return {task.name: self.prediction(stage, task, size) for task in self.tasks}

  def prediction(self, stage: str, task: Task, size: tuple[int, int], rows: slice | None = None) -> np.ndarray:
    """As `predictions`, of one task; all of it, or these rows, one of `bands(size)`."""
    if rows is None:
      return np.concatenate([self.prediction(stage, task, size, band) for band in bands(size)])
    part = images.enlarge(self.maps[stage, task.name], self.extent, size, rows, self.origin)
    return part[..., 0] if stage == 'uncertainty' else _activated(task, part)


def bands(size: tuple[int, int]) -> list[slice]:
  """The rows of an image of a size (H, W), in bands that are worked on one after the other."""
  step = max(BAND // size[1], 1)
  return [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]


def _joined(whole: Raw, tiles: Raw) -> Raw:
  """The mean of an image's maps seen whole and in tiles; depth as seen whole, since a tile has no scale."""
  of_view = {task.name for task in whole.tasks if task.relative_to_view}
  grid = next(iter(tiles.maps.values())).shape[:2]
  ratio = [e / part for e, part in zip(whole.extent, tiles.extent)]
  extent = tuple(n * r for n, r in zip(grid, ratio))
  top, left = (o - r * part for o, r, part in zip(whole.origin, ratio, tiles.origin))
  joined = {}
  for key, values in whole.maps.items():
    enlarged = images.enlarge(values, extent, grid, slice(None), (top, left))
    joined[key] = enlarged if key[1] in of_view else (enlarged + tiles.maps[key]) / 2
  return dataclasses.replace(tiles, maps=joined)


def _activated(task: Task, raw: np.ndarray) -> np.ndarray:
  """`activate` of [h, w, C]; padded to a power of two pixels, so that images of all sizes share a few programs."""
  pixels = raw.shape[0] * raw.shape[1]
  padded = np.zeros((1 << (pixels - 1).bit_length(), raw.shape[-1]), np.float32)
  padded[:pixels] = raw.reshape(pixels, -1)
  values = np.asarray(_activate(task, padded))[:pixels]
  return values.reshape(*raw.shape[:2], *values.shape[1:])


_activate = jax.jit(lambda task, raw: task.activate(raw), static_argnums=0)


def load(workdir: str | os.PathLike, which: str = 'best') -> Predictor:
  """The predictor of a trained run.

  Args:
    workdir: the run's folder; or the name of a data set that comes with a small trained network: 'scenes'.
    which: checkpoint: 'best', 'latest' or a step.

  Raises:
    UserError: no run or checkpoint there.
  """
  shipped = pathlib.Path(datasets.__path__[0]) / workdir / 'trained'
  workdir = shipped if shipped.exists() and not os.path.exists(workdir) else workdir
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  model = build_model(config, tasks)
  variables, _ = checkpoints.load(workdir, str(which), model, tuple(config.data.size))
  return Predictor(model, variables, config.data.size, config.eval, config.seed, config)
