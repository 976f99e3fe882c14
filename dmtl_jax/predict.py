"""Predictions for any images, at each image's own size; and the Python API.

  import dmtl_jax

  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor(image)  # {task: array}: see `Predictor`
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax import evaluate, images, pictures, sharding, visualize, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import transforms
from dmtl_jax.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.models.layers import resize
from dmtl_jax.progress import Progress
from dmtl_jax.sampling import make_samples_step
from dmtl_jax.steps import make_maps_step
from dmtl_jax.tasks import Task, activate
from dmtl_jax.workdir import say

FAR = 2.0  # an image that must shrink more than this to be seen whole is seen in tiles too, this much larger
BAND = 2**18  # pixels of an image that are enlarged and activated at once
SIDE = 2048  # longest side of the pictures (arrays have the image's size)


class Predictor:
  """A trained model as a function of an image.

  Attributes:
    tasks: what it predicts, each with its name, kind and classes.
  """

  def __init__(self, config, tasks: tuple[Task, ...], variables: dict):
    self.tasks, self.config, self._variables = tasks, config, variables
    model, size = build_model(config, tasks), tuple(config.data.size)
    maps_step = make_maps_step(model, config, tasks)
    one = lambda variables, image: jax.tree.map(lambda x: x[0], maps_step(variables, image, jnp.zeros(1, jnp.int32)))
    outputs = jax.eval_shape(one, variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    self._cells = outputs['final'][tasks[0].name].shape[:2]

    def compiled(samples: int):
      step = make_samples_step(model, config, tasks, samples) if samples != 1 else one
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
      {task: prediction}, in the order of `tasks`, at the image's size; a list of them for a list.

      | kind | array | |
      |---|---|---|
      | semseg, parsing | uint8 [H, W] | class id, the place in `Task.classes` |
      | saliency, boundary | float32 [H, W] | probability, 0 to 1 |
      | normals | float32 [H, W, 3] | unit vector in the camera's space, as in the labels |
      | depth | float32 [H, W] | in the data set's unit (folders: metres) |

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
      probability, direction and depth. `uncertainty` is {task: float32 [H, W]}, 0 where the draws agree:

      | kind | uncertainty |
      |---|---|
      | semseg, parsing | entropy of the mean class distribution, 0 (one sure class) to 1 (all alike) |
      | saliency, boundary | standard deviation of the probability, 0 to 0.5 |
      | normals | root mean square angle to the mean direction, in degrees |
      | depth | standard deviation, in the data set's unit |

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
    size, cells, step = tuple(self.config.data.size), self._cells, self._step(samples)
    scaled, _ = transforms.rescale(image, {}, scale, {})
    pitch = size[0] / cells[0], size[1] / cells[1]
    extent = scaled.shape[0] / pitch[0], scaled.shape[1] / pitch[1]

    def tile(top: int, left: int) -> images.Maps:
      window = scaled[round(top * pitch[0]) :, round(left * pitch[1]) :][: size[0], : size[1]]
      ready = transforms.finish(window, {}, size, (), 0)['image']
      stages = jax.device_get(step(self._variables, ready[None]))
      return {(s, t.name): np.float32(maps[t.name]) for s, maps in stages.items() for t in self.tasks}

    grid = tuple(max(n, int(np.ceil(x - 1e-6))) for n, x in zip(cells, extent))
    return Raw(self.tasks, images.blend_tiles(tile, grid, cells), extent, samples)

  def _scales(self, shape: Sequence[int], zoom: float | None) -> list[float]:
    """The factors by which the network sees an image scaled."""
    ratios = [n / m for n, m in zip(self.config.data.size, shape)]
    fits, fills = min(ratios), max(ratios)
    whole = min(fits, 1) if self.config.data.augment == 'pascal' else fits
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
  """

  tasks: tuple[Task, ...]
  maps: dict[tuple[str, str], np.ndarray]
  extent: tuple[float, float]
  samples: int

  @property
  def stages(self) -> list[str]:
    return list(dict.fromkeys(stage for stage, _ in self.maps))

  def predictions(self, stage: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """{task: prediction} of one stage at a size (H, W).

    Raw maps are enlarged first and activated then, so that edges are smooth; in bands of rows,
    so that the raw maps of a large image never are in memory.
    """
    step = max(BAND // size[1], 1)
    bands = [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]
    finish = (lambda task, band: band[..., 0]) if stage == 'uncertainty' else _activated
    whole = lambda task, raw: np.concatenate([finish(task, images.enlarge(raw, self.extent, size, b)) for b in bands])
    return {task.name: whole(task, self.maps[stage, task.name]) for task in self.tasks}


def _joined(whole: Raw, tiles: Raw) -> Raw:
  """The mean of an image's maps seen whole and in tiles; depth as seen whole, since a tile has no scale."""
  depth = {task.name for task in whole.tasks if task.kind == 'depth'}
  grid = next(iter(tiles.maps.values())).shape[:2]
  extent = tuple(n * e / part for n, e, part in zip(grid, whole.extent, tiles.extent))
  joined = {}
  for key, values in whole.maps.items():
    enlarged = images.enlarge(values, extent, grid, slice(None))
    joined[key] = enlarged if key[1] in depth else (enlarged + tiles.maps[key]) / 2
  return dataclasses.replace(tiles, maps=joined)


def _activated(task: Task, raw: np.ndarray) -> np.ndarray:
  """`activate` of [h, w, C]; padded to a power of two pixels, so that images of all sizes share a few programs."""
  pixels = raw.shape[0] * raw.shape[1]
  padded = np.zeros((1 << (pixels - 1).bit_length(), raw.shape[-1]), np.float32)
  padded[:pixels] = raw.reshape(pixels, -1)
  values = np.asarray(_activate(task, padded))[:pixels]
  return values.reshape(*raw.shape[:2], *values.shape[1:])


_activate = jax.jit(activate, static_argnums=0)


def load(workdir: str | os.PathLike, which: str = 'best') -> Predictor:
  """The predictor of a trained run.

  Args:
    workdir: the run's folder.
    which: checkpoint: 'best', 'latest' or a step.

  Raises:
    UserError: no run or checkpoint there.
  """
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  mesh = sharding.make_mesh()
  checkpoints = Checkpoints(workdir, read_only=True)
  variables = evaluate.restore(checkpoints, checkpoints.choose(str(which)), build_model(config, tasks), config, mesh)
  return Predictor(config, tasks, variables)


# --- The job ---------------------------------------------------------------------------------


def run(workdir: str, which: str, spec: str, out: str, samples: int = 1, zoom: float | None = None) -> int:
  """The job `--mode=predict`. It writes, for each image,

    OUT/NAME.png                                a panel of all tasks and stages, with legends
    OUT/TASK/NAME.npy, NAME.png                 the prediction; the same laid over the image
    OUT/uncertainty/TASK/NAME.npy, NAME.png     with samples: their uncertainty; the same in colours

  and for each video the pictures as OUT/NAME.mp4, OUT/TASK/NAME.mp4, ..., without arrays. Arrays have the
  image's size, pictures at most SIDE pixels a side. NAME: see `images.result_names`.

  Args:
    spec: files, folders, globs and videos, see `images.find_images`.
    samples, zoom: see `Predictor`.

  Returns:
    1 where a file could not be read (it is named and skipped), else 0.

  Raises:
    UserError: no run, no image, options that do not fit, or OUT cannot be written.
  """
  paths = images.find_images(spec, out)
  predictor = load(workdir, which)
  predictor.check(samples, zoom)
  sources, broken = [], []
  for path, name in zip(paths, images.result_names(paths)):
    try:
      sources.append((name, images.Video(path) if images.is_video(path) else images.Still(path)))
    except UserError as error:
      broken.append(str(error))
  try:
    _predict_all(predictor, sources, pathlib.Path(out), samples, zoom, broken)
  except OSError as error:
    raise UserError(f'--out={out}: cannot be written ({error.strerror or error}); choose another folder') from error
  for reason in broken:
    print(f'skipped {reason}', file=sys.stderr)
  told = f'{len(paths) - len(broken)} of {len(paths)} files predicted'
  say(f'{told}: panels in {out}, arrays and overlays in {out}/TASK' if len(broken) < len(paths) else told)
  return 1 if broken else 0


def _predict_all(predictor, sources, folder: pathlib.Path, samples, zoom, broken: list[str]):
  """Predicts images and videos; appends to `broken` why one could not be read to its end."""
  folder.mkdir(parents=True, exist_ok=True)
  with Progress('predicting', sum(source.length for _, source in sources), 'img') as progress:
    for name, source in sources:
      video, scales, end = bool(source.rate), {}, progress.done + source.length
      with _Clips(folder, name, source.rate) if video else contextlib.nullcontext(_Stills(folder, name)) as save:
        for image in _readable(source, broken):
          raw = predictor.raw(image, samples, zoom)
          save(draw(raw, image, scales, video))  # all frames of a video have the scales of its first
          if not video:
            _save_arrays(raw, image.shape[:2], folder, name)
          progress.update(1, source.path.name)
      progress.update(end - progress.done)


def _readable(source, broken: list[str]) -> Iterator[np.ndarray]:
  try:
    yield from source
  except UserError as error:
    broken.append(str(error))


def draw(raw: Raw, image: np.ndarray, scales: dict, every_class: bool = False) -> dict[str, np.ndarray]:
  """Pictures of one image: {'': panel, TASK: overlay with legend, 'uncertainty/TASK': map with scale}.

  Args:
    scales: limits of the colours of depth and of uncertainty; what is missing is added from this image.
    every_class: legends name all classes, not only those that the prediction shows.
  """
  small = images.shrink(image, SIDE)
  final = raw.predictions('final', small.shape[:2])
  spread = raw.predictions('uncertainty', small.shape[:2]) if 'uncertainty' in raw.stages else {}
  drawn = {}
  for task in raw.tasks:
    values = final[task.name]
    if task.kind == 'depth':
      scales.setdefault(task.name, visualize.depth_limits(values))
    present = None if every_class or not task.classes else np.unique(values)
    drawn[task.name] = visualize.annotated(task, small, values, scales.get(task.name), present)
    if spread:
      key = f'uncertainty/{task.name}'
      scales.setdefault(key, visualize.uncertainty_limit(spread[task.name]))
      drawn[key] = visualize.uncertainty(task, spread[task.name], scales[key])
  tile = visualize.tile_size(*image.shape[:2])[::-1]
  stages = {stage: raw.predictions(stage, tile) for stage in raw.stages if stage != 'uncertainty'}
  rows = pictures.panel_rows(stages, {}, raw.tasks)
  if spread:
    rows[-1] = (f'Mean of {raw.samples} draws', stages['final'])
    spread = {task.name: (spread[task.name], scales[f'uncertainty/{task.name}']) for task in raw.tasks}
  drawn[''] = visualize.panel(small, raw.tasks, rows, scales, spread, every_class)
  return drawn


def _save_arrays(raw: Raw, size: tuple[int, int], folder: pathlib.Path, name: str):
  for stage, place in (('final', folder), ('uncertainty', folder / 'uncertainty')):
    for task, values in raw.predictions(stage, size).items() if stage in raw.stages else ():
      path = place / task / f'{name}.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      temporary = path.with_name(f'.{path.name}.{os.getpid()}')  # whole or not at all
      with open(temporary, 'wb') as file:
        np.save(file, values)
      os.replace(temporary, path)


@dataclasses.dataclass
class _Stills:
  """Writes the pictures of an image."""

  folder: pathlib.Path
  name: str

  def __call__(self, drawn: dict[str, np.ndarray]):
    for place, picture in drawn.items():
      visualize.save_png(self.folder / place / f'{self.name}.png', picture)


class _Clips(contextlib.ExitStack):
  """Writes the pictures of a video's frames, one call a frame, each kind as a video."""

  def __init__(self, folder: pathlib.Path, name: str, rate: float):
    super().__init__()
    self._open = lambda place: images.VideoWriter(folder / place / f'{name}.mp4', rate)
    self._writers = {}

  def __call__(self, drawn: dict[str, np.ndarray]):
    for place, picture in drawn.items():
      if place not in self._writers:
        self._writers[place] = self.enter_context(self._open(place))
      self._writers[place].write(picture)
