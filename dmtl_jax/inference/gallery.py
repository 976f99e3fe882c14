"""The pictures and predictions that evaluation writes: W/panels and W/predictions.

W/panels/ID.png shows one image with all tasks and stages. W/panels/ID/ holds the same, one file per map, for
figures (report.py), and small pictures of the poorest images; W/panels/index.json lists the images, for which tasks
they were chosen, why, and their scores:

  {"images": [{"id", "index", "input": "ID/input.jpg", "tasks": {TASK: {
      "why": ["panel", "best", "worst", "poor"],  # one or more of these; poor: one of the `POOREST`
      "scores": {"initial": value, "final": value},  # headline metric of this image
      "limits": [nearest, farthest],  # of the colours of depth
      "files": {"label": "ID/TASK_label.png", "initial", "step0" (decayed), "step1", ..., "final",
                "change" (see `panels.draw_change`), "strip": "ID/TASK_strip.jpg" (poor, see `draw_strip`)}}}}]}
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

import numpy as np
from PIL import Image

from dmtl_jax.basics.atomic import atomic_open, remove, transaction, write_json
from dmtl_jax.basics.files import is_id, read_json
from dmtl_jax.basics.progress import Progress
from dmtl_jax.draw import colors, panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.inference import images as images_lib
from dmtl_jax.tasks import Task

SIDE = 320  # longest side of a picture in pixels
STRIP_SIDE = 128  # the same of each of the three pictures in a strip
POOREST = 20  # images per task, at most half of all


@dataclasses.dataclass(frozen=True)
class Example:
  """One image with its labels and predictions, all of one size H x W.

  Attributes:
    image: uint8 [H, W, 3].
    labels: {task: [H, W, K]}, labelled tasks only.
    stages: {'final', maybe 'initial', 'step0', ...: {task: prediction as `Task.activate` gives it}}.
  """

  id: str
  image: np.ndarray
  labels: dict[str, np.ndarray]
  stages: dict[str, dict[str, np.ndarray]]

  def maps(self, task: Task) -> dict[str, np.ndarray]:
    """{'label', 'initial', 'step0', ..., 'final': map}, in this order, without those that do not exist."""
    label = self.labels.get(task.name)
    maps = {} if label is None or not task.valid(label).any() else {'label': label}
    return maps | {stage: self.stages[stage][task.name] for stage in stage_names(self.stages)}


# --- Which images ----------------------------------------------------------------------------


def choose(rows: Sequence[dict], tasks: Sequence[Task], panels: int) -> dict[int, dict[str, dict]]:
  """Chooses the images to draw: the first `panels` with all tasks, and for each task its best and its poorest.

  Args:
    rows: {'TASK/METRIC STAGE': value} of every image, in order.

  Returns:
    {image: {task: {'why': [...], 'scores': {stage: value}}}}, in the order of the images.
  """
  chosen = {}

  def add(index: int, task: Task, why: str):
    entry = chosen.setdefault(index, {}).setdefault(task.name, {'why': [], 'scores': _scores(rows[index], task)})
    entry['why'].append(why)

  for index in range(min(panels, len(rows))):
    for task in tasks:
      add(index, task, 'panel')
  for task in tasks:
    scores = {i: _scores(row, task)['final'] for i, row in enumerate(rows) if 'final' in _scores(row, task)}
    order = sorted(scores, key=scores.__getitem__, reverse=task.higher_is_better)
    if order:
      add(order[0], task, 'best')
      add(order[-1], task, 'worst')
      for index in order[-max(min(POOREST, len(order) // 2), 1) :]:
        add(index, task, 'poor')
  return {index: chosen[index] for index in sorted(chosen)}


def _scores(row: dict, task: Task) -> dict[str, float]:
  """{stage: headline score of one image}, without undefined ones."""
  names = {stage: f'{task.name}/{task.metric} {stage}' for stage in ('initial', 'final')}
  return {stage: row[name] for stage, name in names.items() if name in row}


# --- W/panels --------------------------------------------------------------------------------


def save_panels(folder: pathlib.Path, tasks: Sequence[Task], chosen: dict, example: Callable[[int], Example]):
  """Writes the pictures of the chosen images and the index in place of an earlier evaluation's, in one transaction.

  Args:
    chosen: as `choose` returns it.
  """
  entries = []
  with transaction(), Progress('drawing', len(chosen), 'img') as progress:
    for index, reasons in chosen.items():
      entries.append(_save_pictures(folder, tasks, index, reasons, example(index)))
      progress.update()
    write_json(folder / 'index.json', {'images': entries})
    for path in _find_earlier(folder) - {folder / file for entry in entries for file in _files_of(entry)}:
      remove(path)


def _save_pictures(folder: pathlib.Path, tasks: Sequence[Task], index: int, chosen: dict, example: Example) -> dict:
  """Writes the pictures of one image; returns its entry for the index."""
  entry = {'id': example.id, 'index': index, 'input': f'{example.id}/input.jpg', 'tasks': {}}
  with atomic_open(folder / entry['input'], 'wb') as file:
    Image.fromarray(images_lib.shrink(example.image, SIDE)).save(file, format='JPEG', quality=90)
  for task in tasks:
    if task.name in chosen:
      maps = example.maps(task)
      files = {}
      limits = task.limits(maps.get('label', maps['final']))  # one colour scale for all stages
      why = set(chosen[task.name]['why'])
      pictures = {stage: task.picture(values, limits) for stage, values in maps.items()} if why - {'poor'} else {}
      if pictures and 'label' in maps and 'initial' in maps:
        pictures['change'] = panels.draw_change(task, maps['initial'], maps['final'], maps['label'], limits)
      for stage, picture in pictures.items():
        files[stage] = f'{example.id}/{task.name}_{stage}.png'
        save_png(folder / files[stage], images_lib.shrink(picture, SIDE))
      if 'poor' in why:
        files['strip'] = f'{example.id}/{task.name}_strip.jpg'
        strip = draw_strip(example, task, limits)
        with atomic_open(folder / files['strip'], 'wb') as file:
          Image.fromarray(strip).save(file, format='JPEG', quality=85)
      entry['tasks'][task.name] = chosen[task.name] | ({'limits': limits} if limits else {}) | {'files': files}
  if any('panel' in choice['why'] for choice in chosen.values()):
    save_png(folder / f'{example.id}.png', panel(example, tasks, chosen))
  return entry


def draw_strip(example: Example, task: Task, limits) -> np.ndarray:
  """Draws the image, its label over it and its final prediction over it side by side: uint8 [h, w, 3].

  Without a label the middle is hatched.
  """
  image = example.image
  label = example.labels.get(task.name)
  truth = colors.hatch(*image.shape[:2]) if label is None else task.overlay_label(image, label, limits)
  pictures = [image, truth, task.overlay_prediction(image, example.stages['final'][task.name], limits)]
  small = [images_lib.shrink(picture, STRIP_SIDE) for picture in pictures]
  gap = np.full((len(small[0]), 4, 3), 255, np.uint8)
  return np.concatenate([small[0], gap, small[1], gap, small[2]], axis=1)


def _files_of(entry: dict) -> list[str]:
  """The files that an entry of the index names."""
  files = [file for task in entry['tasks'].values() for file in task['files'].values()]
  has_panel = any('panel' in task['why'] for task in entry['tasks'].values())
  return [entry['input'], *files, *([f'{entry["id"]}.png'] if has_panel else [])]


def _find_earlier(folder: pathlib.Path) -> set[pathlib.Path]:
  """The pictures of an earlier evaluation; only ids that cannot lead out of this folder count."""
  try:
    ids = [entry['id'] for entry in read_json(folder / 'index.json')['images']]
  except (ValueError, TypeError, KeyError):
    return set()
  return {path for id in ids if is_id(id) for path in (folder / f'{id}.png', *(folder / id).glob('*'))}


def stage_names(stages) -> list[str]:
  """Stages in the order of computation: initial, step0, ..., final. The last step is left out, since it is final."""
  steps = sorted((stage for stage in stages if stage.startswith('step')), key=lambda stage: int(stage[4:]))
  return [stage for stage in ('initial', *steps[:-1], 'final') if stage in stages]


def panel(example: Example, tasks: Sequence[Task], chosen: dict | None = None) -> np.ndarray:
  """Draws the panel of one image with its labels and all stages: uint8 [h, w, 3].

  Args:
    chosen: {task: {'scores': {stage: score of this image}}}, as in `choose`; written into the tiles.
  """
  rows = panel_rows(example.stages, example.labels, tasks)
  last = _last_step(example.stages)
  scores = {
    (stage_title(stage, last), task.name): f'{task.metric} {value:.{task.digits}f}'
    for task in tasks
    for stage, value in (chosen or {}).get(task.name, {'scores': {}})['scores'].items()
  }
  compared = stage_title('initial', last), stage_title('final', last)
  change = compared if example.labels and 'initial' in example.stages else None
  return panels.panel(example.image, tasks, rows, scores=scores, change=change)


def panel_rows(stages: dict, labels: dict, tasks: Sequence[Task]) -> list[tuple[str, dict]]:
  """Rows of one image's panel: (title, {task: map}), from the labels to the last denoising step."""
  rows = [(panels.TRUTH, {t.name: labels.get(t.name) for t in tasks})] if labels else []
  return rows + [(stage_title(name, _last_step(stages)), stages[name]) for name in stage_names(stages)]


def _last_step(stages) -> int:
  """Number of denoising steps."""
  return sum(name.startswith('step') for name in stage_names(stages))


def stage_title(stage: str, last: int) -> str:
  """The title of a stage, for a method with `last` denoising steps (0: none)."""
  if stage in ('label', 'initial', 'change'):
    return {'label': panels.TRUTH, 'initial': 'Initial', 'change': 'Nearer the truth: blue'}[stage]
  if stage == 'final' and not last:
    return 'Prediction'
  step = last if stage == 'final' else int(stage[4:])
  return f'Denoised {step}/{last}' if step else 'Decayed'


# --- W/predictions ---------------------------------------------------------------------------


def save_predictions(folder: pathlib.Path, tasks: Sequence[Task], id: str, maps: dict, region, size):
  """Writes FOLDER/TASK/ID.png or .npy for each task, without padding, at the image's own size.

  Class ids are 8-bit PNGs, probabilities of saliency and boundaries 16-bit PNGs (65535 is 1), normals
  float16 [H, W, 3] and depth float32 [H, W] arrays.

  Args:
    maps: {task: prediction as `Task.activate` gives it}, padded.
    region: top, left, height and width of the image within the map.
    size: height and width of the image itself; if they differ from the region's, class ids are
      resized by nearest neighbour and the rest bilinearly.
  """
  top, left, height, width = region
  for task in tasks:
    values = np.asarray(maps[task.name])[top : top + height, left : left + width]
    if values.shape[:2] != tuple(size):
      values = task.resize_prediction(values, (int(size[0]), int(size[1])))
    suffix, values = task.encode_file(values)
    path = folder / task.name / f'{id}{suffix}'
    if suffix == '.png':
      save_png(path, values)
    else:
      with atomic_open(path, 'wb') as file:
        np.save(file, values)
