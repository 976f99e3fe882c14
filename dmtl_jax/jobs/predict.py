"""The job `--mode=predict`: panels, maps and videos from any images."""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib

import numpy as np

from dmtl_jax.basics import photographs, stopping
from dmtl_jax.basics.atomic import atomic_open, transaction
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.inference import gallery, images, videos
from dmtl_jax.inference.prediction import load
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import disk_use
from dmtl_jax.tasks import KINDS

SIDE = 2048  # longest side of pictures in pixels; arrays have the image's size


def run(
  workdir: str, step: str, spec: str | Sequence[str], out: str, samples: int = 1, zoom: float | None = None
) -> int:
  """The job `--mode=predict`. It writes, for each image,

    OUT/NAME.png                                a panel of all tasks and stages, with legends
    OUT/TASK/NAME.npy, NAME.png                 the prediction; the prediction over the image
    OUT/uncertainty/TASK/NAME.npy, NAME.png     with samples: their uncertainty; the uncertainty in colours

  and for each video the pictures as OUT/NAME.mp4, OUT/TASK/NAME.mp4, ... (.webm, see `videos`), without arrays. Arrays
  have the image's size, pictures at most SIDE pixels per side. NAME: see `images.result_names`.

  Args:
    spec: files, folders, globs and videos, see `images.find_images`.
    samples, zoom: see `Predictor`.

  Returns:
    1 if a file was skipped since it could not be read (each is reported, unsupported formats in one line), else 0.

  Raises:
    UserError: no run, no image, options that do not fit, or OUT cannot be written.
  """
  paths = images.find_images(spec, out)
  readable = [path for path in paths if not photographs.unsupported_format(path)]
  names = images.result_names(readable)
  predictor = load(workdir, step)
  predictor.check(samples, zoom)
  sources = []
  broken = []
  for path, name in zip(readable, names):
    try:
      sources.append((name, images.Video(path) if images.is_video(path) else images.Still(path)))
    except UserError as error:
      broken.append(str(error))
  for _, source in sources:
    if source.rate and (lost := videos.describe_lost_sound(source.path)):
      say(lost)
  if estimate := disk_use.describe_maps(readable, predictor.tasks, samples, SIDE, pathlib.Path(out)):
    say(estimate)
  _predict_all(predictor, sources, pathlib.Path(out), samples, zoom, broken)
  count = len(readable) - len(broken)
  status = images.report_skipped(paths, broken)
  summary = f'{count} of {len(paths)} files predicted'
  say(f'{summary}: panels in {out}, arrays and overlays in {out}/TASK' if count else summary)
  return status


def _predict_all(predictor, sources, folder: pathlib.Path, samples, zoom, broken: list[str]):
  """Predicts images and videos; adds to `broken` the reason for each that could not be read to its end."""
  progress = Progress('predicting', sum(source.length for _, source in sources), 'img')
  older = f'of {progress.total} images are new in {folder}; what is there of others is older'
  with stopping.report_interruption(lambda: f'{progress.done} {older}', folder), progress:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources:
      is_video = bool(source.rate)
      end = progress.done + source.length
      scales = {}  # a video keeps those of its first frame
      writers = {}
      with contextlib.ExitStack() as stack:
        for image in _read(source, broken):
          raw = predictor.raw(image, samples, zoom)
          pictures = draw(raw, image, scales, is_video)
          if not is_video:
            save(raw, image.shape[:2], pictures, folder, name)
          for place, picture in pictures.items() if is_video else ():
            if place not in writers:
              path = folder / place / f'{name}{videos.suffix()}'
              writers[place] = stack.enter_context(videos.VideoWriter(path, source.rate, source.path))
            writers[place].write(picture, source.seconds)
          progress.update(1, source.path.name)
      progress.update(end - progress.done)


def _read(source, broken: list[str]) -> Iterator[np.ndarray]:
  try:
    yield from source
  except UserError as error:
    broken.append(str(error))


def draw(raw: RawMaps, image: np.ndarray, scales: dict, every_class: bool = False) -> dict[str, np.ndarray]:
  """Draws the pictures of one image: {'': panel, TASK: overlay with legend, 'uncertainty/TASK': map with scale}.

  Args:
    scales: limits of the colours of depth and of uncertainty; missing ones are added from this image.
    every_class: whether legends name all classes, or only the predicted ones.
  """
  small = images.shrink(image, SIDE)
  final = raw.predictions('final', small.shape[:2])
  spread = raw.predictions('uncertainty', small.shape[:2]) if 'uncertainty' in raw.stages else {}
  pictures = {}
  for task in raw.tasks:
    values = final[task.name]
    scales.setdefault(task.name, raw.calibration.limits(task, values))
    present = None if every_class or not task.classes else np.unique(values)
    pictures[task.name] = panels.draw_prediction(task, small, values, scales.get(task.name), present)
    if spread:
      key = f'uncertainty/{task.name}'
      scales.setdefault(key, task.spread_limit(scales[task.name]))
      pictures[key] = panels.draw_uncertainty(task, spread[task.name], scales[key])
  tile = panels.tile_size(*image.shape[:2])[::-1]
  stages = {stage: raw.predictions(stage, tile) for stage in raw.stages if stage != 'uncertainty'}
  rows = gallery.panel_rows(stages, {}, raw.tasks)
  if spread:
    rows[-1] = (f'Mean of {raw.samples} draws', stages['final'])
    spread = {task.name: (spread[task.name], scales[f'uncertainty/{task.name}']) for task in raw.tasks}
  pictures[''] = panels.panel(small, raw.tasks, rows, scales, spread, every_class)
  return pictures


def save(raw: RawMaps, size: tuple[int, int], pictures: dict[str, np.ndarray], folder: pathlib.Path, name: str):
  """Writes all files of one image in one transaction."""
  with transaction():
    for place, picture in pictures.items():
      save_png(folder / place / f'{name}.png', picture)
    for stage, place in (('final', folder), ('uncertainty', folder / 'uncertainty')):
      maps = raw.predictions(stage, size) if stage in raw.stages else {}
      for task in raw.tasks if maps else ():
        values = maps[task.name]
        if stage == 'final' and isinstance(task, KINDS['normals']):  # off by at most 0.03 degrees, in half of the disk
          values = values.astype(np.float16)
        with atomic_open(place / task.name / f'{name}.npy', 'wb') as file:
          np.save(file, values)
