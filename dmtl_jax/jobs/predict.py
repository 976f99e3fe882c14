"""The job `--mode=predict`: panels, maps and videos from any images."""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
from typing import BinaryIO

import numpy as np

from dmtl_jax.basics import photographs, stopping
from dmtl_jax.basics.atomic import atomic_open, remove_abandoned, transaction
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.inference import gallery, images, many, videos
from dmtl_jax.inference.prediction import load
from dmtl_jax.inference.raw_maps import bands, RawMaps
from dmtl_jax.jobs import disk_use, predict_record
from dmtl_jax.jobs.predict_record import Item, Record
from dmtl_jax.tasks import KINDS, Task

SIDE = 2048  # longest side of pictures in pixels; arrays have the image's size


def run(
  workdir: str, step: str, spec: str | Sequence[str], out: str, samples: int = 1, zoom: float | None = None
) -> int:
  """The job `--mode=predict`. It writes, for each image,

    OUT/NAME.png                                a panel of all tasks and stages, with legends
    OUT/TASK/NAME.npy, NAME.png                 the prediction; the prediction over the image
    OUT/uncertainty/TASK/NAME.npy, NAME.png     with samples: their uncertainty; the uncertainty in colours

  and for each video the pictures as OUT/NAME.mp4, OUT/TASK/NAME.mp4, ... (.webm, see `videos`), without arrays. Arrays
  have the image's size, pictures at most SIDE pixels per side. NAME: see `images.result_names`. What OUT holds already,
  of the same photograph by the same weights and settings, stays, see `predict_record`.

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
  fingerprint = predict_record.fingerprint(predictor, 'maps', samples, zoom)
  items = []
  for path, name in zip(readable, names):
    details = [videos.suffix()] if images.is_video(path) else []
    items.append(predict_record.describe_item(path, name, fingerprint, *details))
  record = Record(pathlib.Path(out))
  todo = [item for item in items if not record.holds(item)]
  held = len(items) - len(todo)
  for sentence in record.describe(items, todo, held):
    say(sentence)
  broken = _predict_all(predictor, todo, held, record, samples, zoom)
  count = len(items) - len(broken)
  status = images.report_skipped(paths, broken)
  summary = f'{count} of {images.count_of(len(paths), "file")} predicted'
  say(f'{summary}: panels in {out}, arrays and overlays in {out}/TASK' if count else summary)
  return status


def _predict_all(predictor, items: list[Item], held: int, record: Record, samples, zoom) -> list[str]:
  """Predicts images, then videos; returns the reason for each that could not be read to its end."""
  stills = [item for item in items if not images.is_video(item.path)]
  clips: list[tuple[Item, images.Video]] = []
  broken: list[str] = []
  for item in items:
    if images.is_video(item.path):
      try:
        clips.append((item, images.Video(item.path)))
      except UserError as error:
        broken.append(str(error))
  for item, _ in clips:
    if lost := videos.describe_lost_sound(item.path):
      say(lost)
  folder = record.folder
  if estimate := disk_use.describe_maps([item.path for item in stills], predictor.tasks, samples, SIDE, folder):
    say(estimate)
  total = held + len(stills) + sum(clip.length for _, clip in clips)
  progress = Progress('predicting', total, 'img', start=held)
  saved = []  # by threads, some of which finish after an interruption

  def write(place: int, image: np.ndarray, raw: RawMaps) -> pathlib.Path:
    item = stills[place]
    pictures = draw(raw, image, {})
    with transaction():
      written = save(raw, image.shape[:2], pictures, folder, item.name)
      record.replace(item, written)
    record.add(item, written)
    saved.append(item)
    return item.path

  def describe_kept() -> str:
    return many.describe_kept(max(progress.done, held + len(saved)), total, folder)

  with stopping.report_interruption(describe_kept, folder), progress:
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    paths = [item.path for item in stills]
    with contextlib.closing(many.predict_photographs(predictor, paths, write, broken, samples, zoom)) as written:
      for path in written:
        progress.update(1, path.name)
    progress.update(held + len(stills) - progress.done)
    for item, clip in clips:
      end = progress.done + clip.length
      _predict_video(predictor, item, clip, record, samples, zoom, progress, broken)
      progress.update(end - progress.done)
  return broken


def _predict_video(predictor, item: Item, clip: images.Video, record: Record, samples, zoom, progress, broken):
  scales = {}  # of the first frame, for all
  writers = {}
  written = []
  broken_before = len(broken)
  with contextlib.ExitStack() as stack:
    for image in _read(clip, broken):
      for place, picture in draw(predictor.raw(image, samples, zoom), image, scales, True).items():
        if place not in writers:
          written.append(record.folder / place / f'{item.name}{videos.suffix()}')
          writers[place] = stack.enter_context(videos.VideoWriter(written[-1], clip.rate, clip.path))
        writers[place].write(picture, clip.seconds)
      progress.update(1, clip.path.name)
    if writers and (cut := writers[''].describe_cut()):
      say(cut)
    if written:
      record.replace(item, written)
  if len(broken) == broken_before:
    record.add(item, written)


def _read(clip: images.Video, broken: list[str]) -> Iterator[np.ndarray]:
  try:
    yield from clip
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
  if raw.calibration.initial:  # not all are denoised
    rows[-1] = ('Prediction', stages['final'])
  if spread:
    rows[-1] = (f'Mean of {raw.samples} draws', stages['final'])
    spread = {task.name: (spread[task.name], scales[f'uncertainty/{task.name}']) for task in raw.tasks}
  pictures[''] = panels.panel(small, raw.tasks, rows, scales, spread, every_class)
  return pictures


def save(
  raw: RawMaps, size: tuple[int, int], pictures: dict[str, np.ndarray], folder: pathlib.Path, name: str
) -> list[pathlib.Path]:
  """Writes all files of one image in one transaction; returns their paths."""
  written = []
  with transaction():
    for place, picture in pictures.items():
      written.append(folder / place / f'{name}.png')
      save_png(written[-1], picture)
    for stage, place in (('final', folder), ('uncertainty', folder / 'uncertainty')):
      for task in raw.tasks if stage in raw.stages else ():
        written.append(place / task.name / f'{name}.npy')
        with atomic_open(written[-1], 'wb') as file:
          _write_array(file, raw, stage, task, size)
  return written


def _write_array(file: BinaryIO, raw: RawMaps, stage: str, task: Task, size: tuple[int, int]):
  """Writes a map as `np.save` does, band by band, so that it is never in memory whole."""
  half = np.float16 if isinstance(task, KINDS['normals']) else None  # off by at most 0.03 degrees, in half of the disk
  for rows in bands(size):
    values = raw.prediction(stage, task, size, rows, dtype=half)
    if rows.start == 0:
      header = {'descr': values.dtype.str, 'fortran_order': False, 'shape': (size[0], *values.shape[1:])}
      np.lib.format.write_array_header_1_0(file, header)
    values.tofile(file)
