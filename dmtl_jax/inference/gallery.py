"""What evaluation leaves to look at and to use elsewhere: W/panels and W/predictions.

W/panels/ID.png is one image with all tasks and stages. W/panels/ID/ holds the same, one file a map, for
figures (report.py); W/panels/index.json says which image is there, for which tasks, why, and its scores:

  {"images": [{"id", "index", "input": "ID/input.jpg", "tasks": {TASK: {
      "why": ["panel", "best", "worst"],  # one or more of these
      "scores": {"initial": value, "final": value},  # headline metric of this image alone
      "limits": [nearest, farthest],  # of a depth's colours
      "files": {"label": "ID/TASK_label.png", "initial", "step0" (decayed), "step1", ..., "final",
                "change" (see `panels.draw_change`)}}}}]}
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

import numpy as np
from PIL import Image

from dmtl_jax.basics.atomic import atomic_open, remove, transaction, write_json
from dmtl_jax.basics.files import is_id, read_json
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.inference import images as images_lib
from dmtl_jax.tasks import Task

SIDE = 320  # pixels of a picture's longer side, at most


@dataclasses.dataclass(frozen=True)
class Example:
  """One image with what is known and predicted of it, all of one size H x W.

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
    """{'label', 'initial', 'step0', ..., 'final': map}; what there is of them, in this order."""
    label = self.labels.get(task.name)
    maps = {} if label is None or not task.valid(label).any() else {'label': label}
    return maps | {stage: self.stages[stage][task.name] for stage in stage_names(self.stages)}


# --- Which images ----------------------------------------------------------------------------


def choose(rows: Sequence[dict], tasks: Sequence[Task], panels: int) -> dict[int, dict[str, dict]]:
  """The images to draw: the first `panels` with all tasks, and of each task its best and its worst.

  Args:
    rows: of all images, in their order, {'TASK/METRIC STAGE': value}.

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
  return {index: chosen[index] for index in sorted(chosen)}


def _scores(row: dict, task: Task) -> dict[str, float]:
  """{stage: headline score of one image}, defined ones only."""
  names = {stage: f'{task.name}/{task.metric} {stage}' for stage in ('initial', 'final')}
  return {stage: row[name] for stage, name in names.items() if name in row}


# --- W/panels --------------------------------------------------------------------------------


def save_panels(folder: pathlib.Path, tasks: Sequence[Task], chosen: dict, example: Callable[[int], Example]):
  """Writes the pictures of the chosen images and the index; those of an earlier evaluation go. All at once.

  Args:
    chosen: as `choose` gives it.
  """
  with transaction():
    images = [_save_pictures(folder, tasks, index, wanted, example(index)) for index, wanted in chosen.items()]
    write_json(folder / 'index.json', {'images': images})
    for path in _earlier(folder) - {folder / file for entry in images for file in _names(entry)}:
      remove(path)


def _save_pictures(folder: pathlib.Path, tasks: Sequence[Task], index: int, wanted: dict, shown: Example) -> dict:
  """Writes the pictures of one image; returns its entry of the index."""
  entry = {'id': shown.id, 'index': index, 'input': f'{shown.id}/input.jpg', 'tasks': {}}
  with atomic_open(folder / entry['input'], 'wb') as file:
    Image.fromarray(images_lib.shrink(shown.image, SIDE)).save(file, format='JPEG', quality=90)
  for task in tasks:
    if task.name in wanted:
      maps, files = shown.maps(task), {}
      limits = task.limits(maps.get('label', maps['final']))  # one scale of colours for all of them
      pictures = {stage: task.picture(values, limits) for stage, values in maps.items()}
      if 'label' in maps and 'initial' in maps:
        pictures['change'] = panels.draw_change(task, maps['initial'], maps['final'], maps['label'], limits)
      for stage, picture in pictures.items():
        files[stage] = f'{shown.id}/{task.name}_{stage}.png'
        save_png(folder / files[stage], images_lib.shrink(picture, SIDE))
      entry['tasks'][task.name] = wanted[task.name] | ({'limits': limits} if limits else {}) | {'files': files}
  if any('panel' in of_task['why'] for of_task in wanted.values()):
    save_png(folder / f'{shown.id}.png', panel(shown, tasks, wanted))
  return entry


def _names(entry: dict) -> list[str]:
  """The files of an entry of the index."""
  files = [file for task in entry['tasks'].values() for file in task['files'].values()]
  panel = any('panel' in task['why'] for task in entry['tasks'].values())
  return [entry['input'], *files, *([f'{entry["id"]}.png'] if panel else [])]


def _earlier(folder: pathlib.Path) -> set[pathlib.Path]:
  """Pictures that an earlier evaluation left, of ids that are names of something right here."""
  try:
    ids = [entry['id'] for entry in read_json(folder / 'index.json')['images']]
  except (ValueError, TypeError, KeyError):
    return set()
  return {path for id in ids if is_id(id) for path in (folder / f'{id}.png', *(folder / id).glob('*'))}


def stage_names(stages) -> list[str]:
  """Stages in the order of the computation: initial, step0, ..., final; without the last step, which is final."""
  steps = sorted((stage for stage in stages if stage.startswith('step')), key=lambda stage: int(stage[4:]))
  return [stage for stage in ('initial', *steps[:-1], 'final') if stage in stages]


def panel(example: Example, tasks: Sequence[Task], wanted: dict | None = None) -> np.ndarray:
  """The panel of one image with its labels and all stages: uint8 [h, w, 3].

  Args:
    wanted: {task: {'scores': {stage: of this image}}}, as in `choose`; told in the tiles.
  """
  rows, last = panel_rows(example.stages, example.labels, tasks), _last(example.stages)
  told = {
    (stage_title(stage, last), task.name): f'{task.metric} {value:.{task.digits}f}'
    for task in tasks
    for stage, value in (wanted or {}).get(task.name, {'scores': {}})['scores'].items()
  }
  both = stage_title('initial', last), stage_title('final', last)
  change = both if example.labels and 'initial' in example.stages else None
  return panels.panel(example.image, tasks, rows, scores=told, change=change)


def panel_rows(stages: dict, labels: dict, tasks: Sequence[Task]) -> list[tuple[str, dict]]:
  """Rows of one image's panel: (title, {task: map}), from the labels to the last denoising step."""
  rows = [(panels.TRUTH, {t.name: labels.get(t.name) for t in tasks})] if labels else []
  return rows + [(stage_title(name, _last(stages)), stages[name]) for name in stage_names(stages)]


def _last(stages) -> int:
  """Number of denoising steps."""
  return sum(name.startswith('step') for name in stage_names(stages))


def stage_title(stage: str, last: int) -> str:
  """Of a stage of a method with `last` denoising steps (0: none)."""
  if stage in ('label', 'initial', 'change'):
    return {'label': panels.TRUTH, 'initial': 'Initial', 'change': 'Nearer the truth: blue'}[stage]
  if stage == 'final' and not last:
    return 'Prediction'
  step = last if stage == 'final' else int(stage[4:])
  return f'Denoised {step}/{last}' if step else 'Decayed'


# --- W/predictions ---------------------------------------------------------------------------


def save_predictions(folder: pathlib.Path, tasks: Sequence[Task], id: str, maps: dict, region, size):
  """Writes FOLDER/TASK/ID.png or .npy of each task, without padding, at the image's own size.

  Class ids are 8-bit PNGs, probabilities of saliency and boundaries 16-bit PNGs (65535 is 1), normals
  float16 [H, W, 3] and depth float32 [H, W] arrays.

  Args:
    maps: {task: prediction as `Task.activate` gives it}, padded.
    region: top, left, height and width of the image within the map.
    size: height and width of the image itself; where they differ from the region's, class ids are
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
