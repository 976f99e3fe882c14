"""Predictions for any images, at each image's own size."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
import functools
import itertools
import numbers
import os
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dmtl_jax.basics import compilation
from dmtl_jax.basics.errors import check_count, UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import transforms
from dmtl_jax.inference import calibration as calibration_lib
from dmtl_jax.inference import images, raw_maps, tiles
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.inference.forward import denoising_steps, make_forward_fn, make_sample_fn
from dmtl_jax.inference.raw_maps import Predictions, RawMaps
from dmtl_jax.models import build_model
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.runs import checkpoints
from dmtl_jax.runs import workdir as workdir_lib

TILE_ZOOM = 2.0  # an image that must shrink by more than this to be seen whole is also seen in tiles, this much larger
BATCH = 8  # views that the network sees together, of a list of images
LONG_LIST = 30  # images from which a list shows its progress

ImageLike = str | os.PathLike | Image.Image | np.ndarray | jax.Array


class Sampled(NamedTuple):
  """What `Predictor.sample` returns."""

  maps: Predictions
  uncertainty: Predictions | None


class Predictor:
  """A trained model as a function of an image; `load` makes one.

  Attributes:
    tasks: what it predicts, each with its name, kind and classes.
    model, variables: the network, its parameters and batch statistics.
    size: height and width of its input.
    geometry: config.eval.geometry.
    seed, diffusion_steps: see `forward.make_forward_fn`.
    config, step: those of the run and its checkpoint if `load` made it, else None.
    calibration: what makes its probabilities mean what they say, and the tasks that are predicted by their initial
      maps; of a run, that of its last evaluation.

  Example:
    >>> predictor = dmtl_jax.load('runs/scenes')
    >>> maps = predictor('photo.jpg')  # {task: array}
    >>> maps, uncertainty = predictor.sample('photo.jpg', 8)
  """

  def __init__(
    self,
    model,
    variables: dict,
    size: tuple[int, int],
    eval_config,
    seed: int,
    config=None,
    step: int | None = None,
    calibration: Calibration = UNCALIBRATED,
  ):
    self.model = model
    self.tasks = model.tasks
    self.variables = variables
    self.size = tuple(size)
    self.geometry = eval_config.geometry
    self.seed = seed
    self.diffusion_steps = eval_config.diffusion_steps
    self.config = config
    self.step = step
    self.calibration = calibration
    forward = make_forward_fn(model, seed, self.diffusion_steps)

    def predict(variables, images):
      stages = forward(variables, images, jnp.zeros(len(images), jnp.int32))
      return stages | {'final': calibration.choose(stages['final'], stages.get('initial', {}))}

    outputs = jax.eval_shape(predict, variables, jax.ShapeDtypeStruct((1, *self.size, 3), jnp.float32))
    self._grid = outputs['final'][self.tasks[0].name].shape[1:3]  # of the raw maps of a tile

    def compile_for(samples: int):
      function = predict
      if samples != 1:
        sample = make_sample_fn(model, samples, seed, self.diffusion_steps, calibration)

        def sample_each(variables, images):
          return jax.lax.map(lambda image: sample(variables, image[None]), images)

        function = sample_each
      return jax.jit(lambda *inputs: jax.tree.map(lambda x: resize(x, self._grid), function(*inputs)))

    self._compile_for = functools.cache(compile_for)

  def __repr__(self):
    tasks = ', '.join(
      f'{task.name} ({len(task.classes)} classes)' if task.classes else task.name for task in self.tasks
    )
    method = self.config.method if self.config else type(self.model).__name__
    step = '' if self.step is None else f' at step {self.step}'
    return f'<Predictor: {method}{step}, {self.size[0]}x{self.size[1]}: {tasks}>'

  @overload
  def __call__(
    self, image: ImageLike, zoom: float | None = None, batch: int = BATCH, probabilities: bool = False
  ) -> Predictions: ...

  @overload
  def __call__(
    self,
    image: list[ImageLike] | tuple[ImageLike, ...],
    zoom: float | None = None,
    batch: int = BATCH,
    probabilities: bool = False,
  ) -> list[Predictions]: ...

  def __call__(self, image, zoom=None, batch=BATCH, probabilities=False):
    """Predicts all tasks.

    Args:
      image: the path of an image file, a Pillow image, or an array uint8 of any size: [H, W, 3] RGB, [H, W, 4] with
        transparency (shown on white) or [H, W] grey; or a list of such images, of any sizes.
      zoom: 1 shows the network the whole image, scaled to fit the training size as in evaluation. A
        larger zoom shows it overlapping tiles, magnified by that factor, but not beyond the image's
        own resolution. By default an image is shown whole; one that would shrink to less than half
        is shown both whole and in tiles of zoom 2, or of a zoom that fills the training size (a
        strip only in tiles).
      batch: of a list, how many views (images or tiles) the network sees together. Memory grows with it; results
        differ by rounding.
      probabilities: gives tasks with classes as calibrated probabilities, float32 [H, W, classes], instead of ids.

    Returns:
      A dict ``{task: prediction}`` at the image's size, in the order of `tasks`; `help(dmtl_jax)`
      lists shapes and units. Class ids are indices into `Task.classes`. For a list, a list of dicts.

    Raises:
      UserError: not an image, a file that cannot be read, a zoom or batch below 1.
    """
    check_count('batch', batch, 'views to predict together')
    if not isinstance(image, (list, tuple)):
      return self([image], zoom, 1, probabilities)[0]
    return [raw.predictions('final', size, probabilities) for raw, size in self._raw_of_list(image, 1, zoom, batch)]

  @overload
  def sample(self, image: ImageLike, samples: int, zoom: float | None = None) -> Sampled: ...

  @overload
  def sample(
    self, image: list[ImageLike] | tuple[ImageLike, ...], samples: int, zoom: float | None = None
  ) -> list[Sampled]: ...

  def sample(self, image, samples, zoom=None):
    """Predicts the mean of several noise draws, and how far the draws differ.

    Args:
      image: one image or a list, as for a call.
      samples: number of draws; the first is the one that a call uses.
      zoom: as for a call.

    Returns:
      (maps, uncertainty), for a list a list of such pairs. `maps` hold the class of the highest mean probability, and
      the mean probability, direction and depth. `uncertainty` is {task: float32 [H, W]}; `help(dmtl_jax)` lists what
      it measures. All draws agree for tasks that are predicted by their initial maps. It is None for one draw.

    Raises:
      UserError: as for a call, or the method adds no noise.
    """
    _check_samples(samples)
    if not isinstance(image, (list, tuple)):
      return self.sample([image], samples, zoom)[0]
    return [
      Sampled(raw.predictions('final', size), raw.predictions('uncertainty', size) if samples > 1 else None)
      for raw, size in self._raw_of_list(image, samples, zoom, 1)
    ]

  def _raw_of_list(
    self, given: Sequence[ImageLike], samples: int, zoom: float | None, batch: int
  ) -> Iterator[tuple[RawMaps, tuple[int, int]]]:
    """Raw maps and size (H, W) of each image; shows the progress of a long list."""
    sizes = deque()

    def read() -> Iterator[np.ndarray]:
      for i, one in enumerate(given):
        image = images.as_rgb(one, f'image {i + 1} of {len(given)}' if len(given) > 1 else 'image')
        sizes.append(image.shape[:2])
        yield image

    raws = self.raw_of_many(read(), samples, zoom, batch)
    if len(given) < LONG_LIST:
      yield from ((raw, sizes.popleft()) for raw in raws)
      return
    with Progress('predicting', len(given), 'img') as progress:
      for raw in raws:
        yield raw, sizes.popleft()
        progress.update()

  def check(self, samples: int, zoom: float | None):
    """Raises UserError if the method or the network cannot do this, before any image is read."""
    _check_samples(samples)
    self._compile_for(samples)
    self._choose_scales((1, 1), zoom)

  def raw(self, image: np.ndarray, samples: int = 1, zoom: float | None = None) -> RawMaps:
    """The network's maps of uint8 [H, W, 3] at every stage, before they are enlarged and activated."""
    return next(self.raw_of_many([image], samples, zoom))

  def raw_of_many(
    self, arrays: Iterable[np.ndarray], samples: int = 1, zoom: float | None = None, batch: int = 1
  ) -> Iterator[RawMaps]:
    """As `raw`, of each image, with `batch` views in one pass; reads ahead only what a pass needs."""
    pending: deque[list[View]] = deque()  # views of the images that were taken and not returned yet

    def take_windows() -> Iterator[np.ndarray]:
      for image in arrays:
        scales = self._choose_scales(image.shape, zoom)
        views = [self._view(image, scale) for scale in scales]
        pending.append(views)
        for view in views:
          yield from view.windows
        del image, views

    maps = self._predict_windows(take_windows(), samples, batch)
    # The first map of an image is there only after its views are pending.
    for first in maps:
      views = pending.popleft()
      maps_of_image = itertools.chain([first], maps)
      raws = [self._join(view, maps_of_image, samples) for view in views]
      yield self._combine(raws, views, zoom)

  def _predict_windows(self, windows: Iterator[np.ndarray], samples: int, batch: int) -> Iterator[tiles.Maps]:
    """The maps of each window, float32 [H, W, 3]; `batch` in a pass, the last ones one by one if they are few."""
    predict = self._compile_for(samples)
    while taken := list(itertools.islice(windows, batch)):
      is_padded = 2 * len(taken) > batch  # so that there are two programs, whatever the number of images
      passes = [taken] if is_padded else [[window] for window in taken]
      for inputs in passes:
        padded = inputs + inputs[:1] * (batch - len(inputs)) if is_padded else inputs
        stages = jax.device_get(predict(self.variables, np.stack(padded)))
        for i in range(len(inputs)):
          yield {(s, t.name): np.asarray(maps[t.name][i], np.float32) for s, maps in stages.items() for t in self.tasks}

  def _view(self, image: np.ndarray, scale: float) -> 'View':
    """An image scaled by a factor; in tiles if it is then larger than the network's input."""
    size = self.size
    scaled, _ = transforms.rescale(image, {}, scale, {})
    # Centred only along an axis where the whole scaled image is smaller than a tile. The last tiles may hold less than
    # a tile too, and centring them would shift what they show.
    covered = [min(n, m) for n, m in zip(scaled.shape, size)]
    top_left = transforms.corner(covered, size, self.geometry == 'pad')
    pitch = size[0] / self._grid[0], size[1] / self._grid[1]  # pixels a cell
    extent = scaled.shape[0] / pitch[0], scaled.shape[1] / pitch[1]
    rows, columns = (max(n, int(np.ceil(x - 1e-6))) for n, x in zip(self._grid, extent))
    grid = rows, columns
    corners = tiles.tile_corners(grid, self._grid)

    def cut() -> Iterator[np.ndarray]:
      for top, left in corners:
        window = scaled[round(top * pitch[0]) :, round(left * pitch[1]) :][: size[0], : size[1]]
        yield transforms.pad_image(window, size, top_left)

    origin = top_left[0] / pitch[0], top_left[1] / pitch[1]
    return View(cut(), corners, grid, extent, origin, scale / self._whole_scale(image.shape))

  def _join(self, view: 'View', maps: Iterator[tiles.Maps], samples: int) -> RawMaps:
    """The maps of a view, from those of its windows, which come next."""
    of_view = itertools.islice(maps, len(view.corners))
    joined = tiles.blend(of_view, view.corners, view.grid, self._grid)
    return RawMaps(self.tasks, joined, view.extent, samples, view.origin, self.calibration)

  def _combine(self, raws: list[RawMaps], views: list['View'], zoom: float | None) -> RawMaps:
    """The maps of an image, from those of its views."""
    if len(raws) == 2:
      return raw_maps.average_views(*raws)
    if zoom == np.inf:  # of data whose training images are tiles too
      return raws[0]
    return raw_maps.undo_zoom(raws[0], views[0].zoom)

  def _whole_scale(self, shape: Sequence[int]) -> float:
    """The factor by which an image is scaled to be seen whole, as in evaluation."""
    fits = min(n / m for n, m in zip(self.size, shape))
    return min(fits, 1) if self.geometry == 'pad' else fits

  def _choose_scales(self, shape: Sequence[int], zoom: float | None) -> list[float]:
    """The factors by which an image is scaled for the network: one view, or whole and tiles."""
    fills = max(n / m for n, m in zip(self.size, shape))
    whole = self._whole_scale(shape)
    if zoom is not None:
      if not (isinstance(zoom, numbers.Real) and zoom >= 1):
        raise UserError(f'--zoom={zoom}: give 1 (the image is seen whole) or more')
      return [max(whole, min(whole * zoom, 1))]
    if whole * TILE_ZOOM >= 1:
      return [whole]
    in_tiles = min(max(whole * TILE_ZOOM, fills), 1)
    is_strip = in_tiles > whole * TILE_ZOOM**2  # seen whole, nothing can be made out in it
    return [in_tiles] if is_strip else [whole, in_tiles]


class View(NamedTuple):
  """An image as the network sees it, in one or several windows.

  Attributes:
    windows: float32 [H, W, 3], normalised and padded to the network's input; can be taken once.
    corners, grid: top and left of each window, and the size of all, in cells of the raw maps.
    extent, origin: see `RawMaps`.
    zoom: how much larger than whole the image is seen.
  """

  windows: Iterator[np.ndarray]
  corners: list[tuple[int, int]]
  grid: tuple[int, int]
  extent: tuple[float, float]
  origin: tuple[float, float]
  zoom: float


def _check_samples(samples: object):
  check_count('--samples', samples, 'noise draws')


def load(workdir: str | os.PathLike, step: str | int = 'best') -> Predictor:
  """Loads the predictor of a trained run.

  Compiled programs are kept in the user's cache folder, unless JAX is configured to use another.

  Args:
    workdir: folder of the run; its address on the Hugging Face Hub, 'hf://OWNER/RUN' or 'hf://OWNER/RUN@REVISION';
      or the name of a data set that comes with a small trained network: 'scenes'.
    step: checkpoint: 'best', 'latest' or a step.

  Raises:
    UserError: no run or checkpoint there.

  Example:
    >>> predictor = dmtl_jax.load('runs/scenes', step='latest')
  """
  compilation.use_cache()
  workdir = workdir_lib.resolve_run(workdir)
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  model = build_model(config, tasks)
  variables, number = checkpoints.load(workdir, str(step), model, tuple(config.data.size))
  steps = denoising_steps(model, config.eval.diffusion_steps)
  calibration = calibration_lib.load(workdir, number, steps, tasks)
  return Predictor(model, variables, config.data.size, config.eval, config.seed, config, number, calibration)
