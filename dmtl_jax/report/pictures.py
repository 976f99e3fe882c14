"""Pictures of a report's page: one image and task at a time, the methods below each other, stages side by side.

As in the paper's Figures 5, 7 and 9: input and ground truth, then each method's initial, decayed and denoised maps.
Images and tasks are chosen by radio buttons and CSS, which need no script.
"""

import base64
from collections.abc import Sequence
import dataclasses
import io
import math
import pathlib
from typing import Any, NamedTuple

from PIL import Image

from dmtl_jax.basics import files
from dmtl_jax.inference import gallery
from dmtl_jax.report.gains import Gain
from dmtl_jax.report.reading import DrawnImage
from dmtl_jax.report.results import Entry, Section
from dmtl_jax.report.table import task_column
from dmtl_jax.tasks import Task

BUDGET = 4_000_000  # characters of all pictures of a page
SIDE = 256  # pixels of an embedded picture's longer side, at most
THUMBNAIL_SIDE = 72


class Album:
  """Encodes pictures for the page and counts the characters that are left for more."""

  def __init__(self):
    self.left = BUDGET
    self._encoded: dict[tuple[pathlib.Path, int], str] = {}

  def embed(self, path: pathlib.Path, side: int = SIDE) -> str:
    """A picture file as a data URI; '' if it cannot be read."""
    if (path, side) not in self._encoded:
      self._encoded[path, side] = _encode(path, side)
    self.left -= len(self._encoded[path, side])
    return self._encoded[path, side]


def _encode(path: pathlib.Path, side: int) -> str:
  """The smaller of lossless and lossy WebP: maps of few colours are smallest, and sharpest, without loss."""
  try:
    picture = files.open_image(path).convert('RGB')
  except ValueError:
    return ''
  picture.thumbnail((side, side), Image.Resampling.BOX)
  encoded = []
  for options in ({'lossless': True}, {'quality': 80}):
    file = io.BytesIO()
    picture.save(file, 'WEBP', method=4, **options)
    encoded.append(file.getvalue())
  return 'data:image/webp;base64,' + base64.b64encode(min(encoded, key=len)).decode()


class Figure(NamedTuple):
  """A picture with its caption; `missing` says why there is none, and an empty caption leaves its place blank."""

  caption: str
  uri: str = ''
  alt: str = ''
  missing: str = 'no picture'


class Strip(NamedTuple):
  """One method's pictures of an image with the scores of that image; `absent` says why there are none."""

  entry: Entry
  figures: list[Figure]
  score: str = ''
  gain: Gain | None = None
  absent: str = ''


@dataclasses.dataclass(frozen=True)
class Shot:
  """One image and task: input and ground truth with the legend of their colours, then a strip per method."""

  image: str
  task: Task
  top: list[Figure]
  key: Any
  strips: list[Strip]


class ImageShots(NamedTuple):
  """An image with its thumbnail, and its shot per task (None if no method has it)."""

  id: str
  thumbnail: str
  shots: list[Shot | None]


class Extreme(NamedTuple):
  """A method's best or worst image of a task."""

  why: str
  image: str
  strip: Strip


def _strip(entry: Entry, task: Task, figures: list[Figure], scores: dict[str, float]) -> Strip:
  column = task_column(task)
  if 'final' not in scores:
    return Strip(entry, figures, 'no score')
  if 'initial' not in scores:
    return Strip(entry, figures, f'{column.unit} {column.text(scores["final"])}')
  gain = Gain(column, scores['initial'], scores['final'])
  return Strip(entry, figures, f'{column.unit} {column.text(gain.initial)} → {column.text(gain.final)}', gain)


# --- Image by image --------------------------------------------------------------------------


def image_by_image(section: Section, album: Album) -> list[ImageShots]:
  """The images drawn with all tasks, as many as the album has room for, those of most methods first."""
  drawn = {entry.name: _panel_images(entry) for entry in section.entries}
  ids = dict.fromkeys(id for images in drawn.values() for id in images)
  shown = []
  room = album.left
  for id in sorted(ids, key=lambda id: -sum(id in images for images in drawn.values())):
    before = album.left
    images = {name: images[id] for name, images in drawn.items() if id in images}
    thumbnail = album.embed(next(iter(images.values())).input, THUMBNAIL_SIDE)
    shots = [_shot(section, task, images, album) for task in section.tasks]
    if not thumbnail or not any(shots):
      continue
    shown.append(ImageShots(id, thumbnail, shots))
    if album.left - (before - album.left) < 0.1 * room:  # another one as large would not fit
      break
  return shown


def _panel_images(entry: Entry) -> dict[str, DrawnImage]:
  """{id: image} of the images drawn with all tasks, from the first run that has any."""
  for run in entry.runs:
    images = {image.id: image for image in run.images if any('panel' in task.why for task in image.tasks.values())}
    if images:
      return images
  return {}


def _shot(section: Section, task: Task, images: dict[str, DrawnImage], album: Album) -> Shot | None:
  """One image and task; None if no method has drawn it.

  Args:
    images: {name of the entry: its drawing of the image}.
  """
  drawings = {name: image.tasks[task.name] for name, image in images.items() if task.name in image.tasks}
  if not drawings:
    return None
  first = next(entry.name for entry in section.entries if entry.name in drawings)
  image = images[first]
  top = [_embed(image.input, 'Input', f'input {image.id}', album)]
  if label := drawings[first].files.get('label'):
    top.append(_embed(label, 'Ground truth', f'{task.name} of {image.id}: ground truth', album))
  else:
    top.append(Figure('Ground truth', missing='not labelled'))
  stages = _stages([drawing.files for drawing in drawings.values()])
  strips = []
  for entry in section.entries:
    if entry.name not in drawings:
      strips.append(Strip(entry, [], absent=_why_absent(entry, task)))
      continue
    drawing = drawings[entry.name]
    figures = [
      _embed(drawing.files[stage], caption, f'{task.name} of {image.id} by {entry.name}: {caption}', album)
      if (caption := _caption(entry, stage, drawing.files))
      else Figure('')
      for stage in stages
    ]
    strips.append(_strip(entry, task, figures, drawing.scores))
  return Shot(image.id, task, top, task.key(drawings[first].limits), strips)


def _stages(drawn: Sequence[dict]) -> list[str]:
  """The stages that some method has, a column each, in the order of the computation."""
  stages = {stage for files in drawn for stage in files} - {'label', 'strip'}
  order = {'initial': (-1,), 'final': (math.inf, 0), 'change': (math.inf, 1)}
  return sorted(stages, key=lambda stage: order.get(stage) or (int(stage.removeprefix('step')),))


def _caption(entry: Entry, stage: str, files: dict) -> str:
  """The title of a stage; '' if the method does not have it."""
  if stage not in files:
    return ''
  if stage == 'step0' and not entry.config['model']['add_noise']:
    return 'Unchanged (no noise)'
  return gallery.stage_title(stage, sum(name.startswith('step') for name in files))


def _embed(path: pathlib.Path, caption: str, alt: str, album: Album) -> Figure:
  return Figure(caption, album.embed(path), alt)


def _why_absent(entry: Entry, task: Task) -> str:
  if not any(t.name == task.name for run in entry.runs for t in run.tasks):
    return f'does not learn {task.name}'
  if not any(run.images for run in entry.runs):
    return 'no pictures; run --mode=evaluate on it'
  return 'not among the images that were drawn'


# --- Best and worst images -------------------------------------------------------------------


def best_and_worst(section: Section, album: Album) -> dict[str, list[Extreme]]:
  """{task: each method's best and worst image} of the tasks that have them, while the album has room."""
  extremes = {}
  for task in section.tasks:
    for entry in section.entries:
      for why in ('best', 'worst'):
        images = [i for run in entry.runs for i in run.images if task.name in i.tasks and why in i.tasks[task.name].why]
        if images and album.left >= 0:
          strip = _extreme_strip(entry, task, images[0], album)
          extremes.setdefault(task.name, []).append(Extreme(why, images[0].id, strip))
  return extremes


def _extreme_strip(entry: Entry, task: Task, image: DrawnImage, album: Album) -> Strip:
  """Input, ground truth, initial and final map of one image, with the scores."""
  drawing = image.tasks[task.name]
  final = 'Denoised' if entry.diffuses else 'Prediction'
  figures = [_embed(image.input, 'Input', f'input {image.id}', album)]
  for stage, caption in (('label', 'Ground truth'), ('initial', 'Initial'), ('final', final)):
    if stage in drawing.files:
      alt = f'{task.name} of {image.id} by {entry.name}: {caption}'
      figures.append(_embed(drawing.files[stage], caption, alt, album))
  return _strip(entry, task, figures, drawing.scores)
