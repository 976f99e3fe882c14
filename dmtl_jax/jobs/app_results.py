"""What the page of `--mode=app` shows and gives to download: maps, archives and videos of one run, without Gradio."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from typing import NamedTuple
import zipfile

import numpy as np

from dmtl_jax.basics import photographs
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.draw import legends, panels
from dmtl_jax.inference import images, videos
from dmtl_jax.inference.forward import denoising_steps
from dmtl_jax.inference.prediction import Predictor
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import predict
from dmtl_jax.report import reading
from dmtl_jax.tasks import Task

MAX_SAMPLES = 16
MAX_PIXELS = 64_000_000  # of a photograph or a frame: what phones take, and 200 MB in memory
MAX_FRAMES = 150  # of a video: five seconds at 30 frames per second; a frame takes half a second on two cores
SIDES = (640, 960)  # longest side of pictures on the page, at least and at most
VIDEO_SIDE = 960  # the same of frames, at most


class Settings(NamedTuple):
  """S (0 for methods that do not denoise) and the number of noise draws."""

  diffusion_steps: int
  samples: int


@dataclasses.dataclass(frozen=True)
class TaskPictures:
  """The maps of one task as pictures uint8 [H, W, 3] of one size, with their legends.

  Attributes:
    sides: what `before` and `after` are.
    before: the initial map; the photograph itself for methods without initial maps.
    after: the final map, with samples that of their mean.
    uncertainty, uncertainty_key: only with samples.
  """

  task: Task
  sides: str
  before: np.ndarray
  after: np.ndarray
  key: legends.Key
  uncertainty: np.ndarray | None = None
  uncertainty_key: legends.Key | None = None


class VideoPictures(NamedTuple):
  """Videos of maps.

  Attributes:
    paths: {'': all tasks and stages, TASK: its map over the frames}.
    frames: how many they have.
    is_whole: whether the video has no more frames.
    is_shortened: whether frames that are shown for long were cut, see `VideoWriter.describe_cut`.
  """

  paths: dict[str, pathlib.Path]
  frames: int
  is_whole: bool
  is_shortened: bool


class Archive(NamedTuple):
  """A zip of maps, and their size (H, W) if it is less than the photograph's, else None."""

  path: pathlib.Path
  reduced: tuple[int, int] | None


class Trial:
  """A run to try: one predictor per S, each with one program per number of samples.

  Maps of every S are calibrated as those of the run's own S, so that they can be compared.

  Attributes:
    default_steps: S of the run's evaluation, 0 for methods that do not denoise.
    trained_steps: S of training, 0 likewise.
    max_steps: largest S on offer.
    initial: names of the tasks that are predicted by their initial maps.
  """

  def __init__(self, predictor: Predictor):
    self._loaded = predictor
    self.tasks = predictor.tasks
    self.default_steps = denoising_steps(predictor.model, predictor.diffusion_steps)
    self.trained_steps = predictor.model.diffusion_steps if self.default_steps else 0
    self.max_steps = max(4, 2 * self.trained_steps, self.default_steps) if self.default_steps else 0
    self.draws_noise = predictor.model.draws_noise
    self.initial = predictor.calibration.initial
    self._predictor = functools.cache(self._make_predictor)
    self._compiled: set[Settings] = set()

  def needs_compiling(self, settings: Settings) -> bool:
    """Whether nothing was predicted with these settings so far."""
    return settings not in self._compiled

  def show(self, path: str | os.PathLike, settings: Settings) -> list[TaskPictures]:
    """Predicts a photograph; raises UserError for a file that is none, or is too large."""
    image = read_photograph(path)
    raw = self._raw(image, settings)
    denoises = bool(self.default_steps)
    sides = {task.name: name_sides(raw.stages, task.name in self.initial, denoises) for task in self.tasks}
    return [_draw(raw, task, image, sides[task.name]) for task in self.tasks]

  def archive(self, path: str | os.PathLike, settings: Settings, folder: pathlib.Path) -> Archive:
    """Writes FOLDER/NAME_maps.zip with the files that `--mode=predict` writes for this photograph.

    Arrays too have at most `predict.SIDE` pixels per side: those of 64 million pixels would be a gigabyte.

    Raises UserError as `show`.
    """
    image = read_photograph(path)
    raw = self._raw(image, settings)
    (name,) = images.result_names([pathlib.Path(path)])
    out = folder / f'{name[:80]}_maps.zip'
    size = images.shrink(image, predict.SIDE).shape[:2]
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(out, 'w') as file:
      root = pathlib.Path(temporary)
      predict.save(raw, size, predict.draw(raw, image, {}), root, name)
      for member in sorted(path for path in root.rglob('*') if path.is_file()):
        packing = zipfile.ZIP_DEFLATED if member.suffix == '.npy' else zipfile.ZIP_STORED  # PNGs are packed already
        file.write(member, str(member.relative_to(root)), packing, compresslevel=1)
    return Archive(out, size if size != image.shape[:2] else None)

  def video(
    self,
    path: str | os.PathLike,
    settings: Settings,
    folder: pathlib.Path,
    report: Callable[[int, int], None] = lambda done, total: None,
  ) -> VideoPictures:
    """Predicts the first `MAX_FRAMES` frames of a video and writes videos below `folder`, which must be empty.

    Args:
      report: called after every frame with the number of frames done and, as far as the header says, in all.

    Raises:
      UserError: not a video, or one that ends too early, or frames that are too large.
    """
    video = images.Video(pathlib.Path(path))
    total = min(video.length or MAX_FRAMES, MAX_FRAMES)
    scales: dict = {}
    writers: dict[str, videos.VideoWriter] = {}
    paths: dict[str, pathlib.Path] = {}
    count = 0
    is_whole = True
    with contextlib.ExitStack() as stack:
      for frame in video:
        if count == MAX_FRAMES:
          is_whole = False
          break
        _check_size(video.path, frame.shape[1], frame.shape[0])
        raw = self._raw(frame, settings)
        pictures = predict.draw(raw, images.shrink(frame, VIDEO_SIDE), scales, every_class=True)
        for place in ('', *(task.name for task in self.tasks)):
          if place not in writers:
            paths[place] = folder / place / f'video{videos.suffix()}'
            writers[place] = stack.enter_context(videos.VideoWriter(paths[place], video.rate))
          writers[place].write(pictures[place], video.seconds)
        count += 1
        report(count, max(count, total))
    return VideoPictures(paths, count, is_whole, bool(writers[''].describe_cut()))

  def _raw(self, image: np.ndarray, settings: Settings) -> RawMaps:
    raw = self._predictor(settings.diffusion_steps).raw(image, settings.samples)
    self._compiled.add(settings)
    return raw

  def _make_predictor(self, diffusion_steps: int) -> Predictor:
    one = self._loaded
    if diffusion_steps == self.default_steps:
      return one
    eval_config = one.config.eval.copy_and_resolve_references()
    eval_config.diffusion_steps = diffusion_steps
    return Predictor(one.model, one.variables, one.size, eval_config, one.seed, one.config, one.step, one.calibration)


def name_sides(stages: Sequence[str], is_initial: bool, denoises: bool) -> str:
  """What is left and right of the divider between a task's maps.

  Args:
    stages: of the method.
    is_initial: whether the task is predicted by its initial map.
    denoises: whether the method makes its final maps by denoising.
  """
  if is_initial:
    return 'initial, chosen by evaluation'
  if 'initial' not in stages:
    return '◀ photograph │ prediction ▶'
  return f'◀ initial │ {"denoised" if denoises else "final"} ▶'


def read_evaluation(folder: pathlib.Path, step: int) -> reading.Evaluation | None:
  """The scores of a step's weights; without any, a line says so where scores are of other weights."""
  evaluation = reading.read_evaluation(folder / 'metrics.json')
  if evaluation and evaluation.step != step:
    say(
      f'the page shows no scores: {folder}/metrics.json has those of step {evaluation.step}, and the weights are of '
      f'step {step}; --mode=evaluate --workdir={folder} --step={step} scores these'
    )
    return None
  return evaluation


def read_photograph(path: str | os.PathLike) -> np.ndarray:
  """`photographs.read_image`, but raises UserError for more than `MAX_PIXELS` pixels before they are decoded."""
  size = photographs.read_size(path)
  _check_size(path, size.width, size.height)
  return photographs.read_image(path)


def _check_size(path: str | os.PathLike, width: int, height: int):
  if width * height > MAX_PIXELS:
    raise UserError(
      f'{path}: {width}x{height} pixels; this page takes up to {MAX_PIXELS // 10**6} million: shrink it, or use '
      '--mode=predict'
    )


def describe_error(error: UserError, path: str | os.PathLike) -> str:
  """The error's sentence with the name of the visitor's file instead of its path on this machine."""
  return sanitize(str(error).replace(os.fspath(path), os.path.basename(path)), 1000)


def _draw(raw: RawMaps, task: Task, image: np.ndarray, sides: str) -> TaskPictures:
  longest = max(image.shape[:2])
  scale = min(max(longest, SIDES[0]), SIDES[1]) / longest
  height, width = (max(round(n * scale), 1) for n in image.shape[:2])
  size = (height, width)
  stages = {stage: raw.prediction(stage, task, size) for stage in ('initial', 'final') if stage in raw.stages}
  limits = raw.calibration.limits(task, stages['final'])
  present = None
  if task.classes:
    present = np.unique(np.stack(list(stages.values()))).tolist()
  pictures = {stage: task.picture(values, limits) for stage, values in stages.items()}
  before = pictures.get('initial')
  if before is None:
    before = panels.resize(image, (width, height))
  key = task.key(limits, present)
  if 'uncertainty' not in raw.stages:
    return TaskPictures(task, sides, before, pictures['final'], key)
  spread = raw.prediction('uncertainty', task, size)
  high = task.spread_limit(limits)
  uncertainty = panels.color_uncertainty(spread, high)
  return TaskPictures(
    task, sides, before, pictures['final'], key, uncertainty, panels.uncertainty_key(task, spread, high)
  )
