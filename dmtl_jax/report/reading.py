"""Reads the files of a run that a report shows: scores, costs, pictures and learning curves.

A file that is damaged, or that another program wrote, raises a UserError that names it.
"""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import re
from typing import Any

import numpy as np

from dmtl_jax.basics import files, progress
from dmtl_jax.basics.errors import is_plain, UserError
from dmtl_jax.data.label_settings import PREDICTED
from dmtl_jax.tasks import Task

FIX = 'run --mode=evaluate again, or delete it'
LARGEST = 1e300  # larger numbers overflow in sums
LARGEST_COUNT = 2**46  # 255 x 255 such counts add up in 63 bits
STAGE = re.compile(r'label|initial|final|change|strip|step\d{1,4}')

Scores = dict[str, dict[str, float | None]]
Curves = dict[str, tuple[list[int], list[float]]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The scores of one checkpoint, as in metrics.json.

  Attributes:
    step: training step of the checkpoint.
    protocol, resolution, weights: see config.eval.
    final, initial, per_class: {task: {metric or class: value}}, None for an undefined value; `initial` is {} for
      methods without initial maps.
    seconds_per_image: of prediction.
    boundary_side: longest side in pixels at which boundaries were scored; 0: no limit.
    boundary_shrunk: number of images shrunk to it.
    data: name of the data that was scored; '' in files of earlier versions.
    last: scores of the last weights, where these are of the best.
  """

  step: int
  protocol: str
  resolution: str
  weights: str
  final: Scores
  initial: Scores
  per_class: Scores
  seconds_per_image: float | None
  boundary_side: int
  boundary_shrunk: int
  data: str = ''
  last: 'Evaluation | None' = None


@dataclasses.dataclass(frozen=True)
class Drawing:
  """The pictures of one task of one image.

  Attributes:
    why: 'panel', 'best', 'worst' and 'poor', one or more of them.
    scores: {stage: headline metric of this image}.
    limits: range of the colours of a depth map.
    files: {stage: picture}.
  """

  why: frozenset[str]
  scores: dict[str, float]
  limits: tuple[float, float] | None
  files: dict[str, pathlib.Path]


@dataclasses.dataclass(frozen=True)
class DrawnImage:
  """One image of panels/index.json; see gallery.py."""

  id: str
  input: pathlib.Path
  tasks: dict[str, Drawing]


@dataclasses.dataclass(frozen=True)
class LabelCounts:
  """How many training images a run had, and {task: how many were labelled for it, or had a predicted label}."""

  images: int
  tasks: dict[str, int]
  predicted: dict[str, int]


def read_evaluation(path: pathlib.Path) -> Evaluation | None:
  """Reads metrics.json or metrics_S.json; None if there is no file."""
  if not path.exists():
    return None
  with _content(path) as content:
    evaluation = Evaluation(
      step=int(_number(content['step'])),
      **{name: _text(content[name]) for name in ('protocol', 'resolution', 'weights')},
      final=_scores(content['final']),
      initial=_scores(content.get('initial', {})),
      per_class=_scores(content.get('per_class', {})),
      seconds_per_image=_optional_number(content.get('seconds_per_image')),
      boundary_side=int(_number(content.get('boundary_side', 0))),
      boundary_shrunk=int(_number(content.get('boundary_shrunk', 0))),
      data=_text(content.get('data', '')),
    )
    if last := content.get('last'):
      stages = {'final': _scores(last['final']), 'initial': _scores(last.get('initial', {}))}
      last = dataclasses.replace(evaluation, step=int(_number(last['step'])), **stages)
    return dataclasses.replace(evaluation, last=last)


def read_step_evaluations(workdir: pathlib.Path) -> dict[int, Evaluation]:
  """{S: content} of metrics_S.json, evaluations with another number of denoising steps; damaged ones are left out."""
  evaluations = {}
  for path in sorted(workdir.glob('metrics_*.json')):
    if name := re.fullmatch(r'metrics_([1-9]\d{0,3})\.json', path.name):
      try:
        evaluations[int(name[1])] = read_evaluation(path)
      except UserError as error:
        progress.say(f'left out: {error}')
  return {steps: evaluation for steps, evaluation in evaluations.items() if evaluation}


def read_costs(path: pathlib.Path) -> dict[str, float]:
  """Reads cost.json: the measured ones of parameters, gmac and train_memory_bytes."""
  with _content(path) as content:
    costs = {name: content.get(name) for name in ('parameters', 'gmac', 'train_memory_bytes')}
    return {name: _number(value) for name, value in costs.items() if value is not None}


def read_images(path: pathlib.Path) -> list[DrawnImage]:
  """Reads panels/index.json."""
  with _content(path) as content:
    return [
      DrawnImage(
        _text(image['id']),
        _inside(path.parent, image['input']),
        {name: _drawing(path.parent, task) for name, task in image['tasks'].items()},
      )
      for image in content.get('images', ())
    ]


def read_label_counts(path: pathlib.Path) -> LabelCounts | None:
  """Counts the labels in labels.json, {image: [tasks]}; None if there is no file."""
  if not path.exists():
    return None
  with _content(path, 'training') as content:
    counts = collections.Counter(_text(name) for names in content.values() for name in names)
    predicted = {name: counts.pop(name) for name in list(counts) if name.startswith(PREDICTED)}
    return LabelCounts(len(content), dict(counts), {name.removeprefix(PREDICTED): n for name, n in predicted.items()})


def read_confusion(path: pathlib.Path, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
  """Reads confusion.json: {task: pixel counts [label, prediction]}, of the run's tasks with classes."""
  with _content(path) as content:
    counts = {}
    for task in tasks:
      if task.classes and (values := content.get(task.name)) is not None:
        matrix = np.array(values, np.int64)
        if matrix.shape != (len(task.classes),) * 2 or matrix.min() < 0 or matrix.max() > LARGEST_COUNT:
          raise ValueError(f'{task.name} has no table of {len(task.classes)} x {len(task.classes)} counts')
        counts[task.name] = matrix
    return counts


def read_image_rows(path: pathlib.Path) -> list[dict[str, str]]:
  """The rows of per_image.csv by column name, as text; [] if there is no file."""
  if not path.exists():
    return []
  try:
    return list(csv.DictReader(io.StringIO(files.read_text(path), newline='')))
  except (OSError, ValueError, csv.Error) as error:
    raise UserError(f'{path}: not CSV in UTF-8 ({files.reason(error)}); {FIX}') from error


def read_curves(path: pathlib.Path) -> Curves:
  """{scalar: (steps, values)} of log.jsonl, in the order of the steps; the last value wins where a step is repeated.

  Leaves out undefined values, and a line that a crash cut short.
  """
  curves = {}
  try:
    text = files.read_text(path, files.LOG_BYTES, 'replace') if path.exists() else ''
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({files.reason(error)}); move it away') from error
  for line in text.splitlines():
    try:
      row = json.loads(line)
      step = int(_number(row.pop('step')))
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
      continue
    for name, value in row.items():
      with contextlib.suppress(ArithmeticError, TypeError, ValueError):
        curves.setdefault(name, {})[step] = _number(value)
  return {name: tuple(map(list, zip(*sorted(points.items())))) for name, points in curves.items() if points}


@contextlib.contextmanager
def _content(path: pathlib.Path, writer: str = 'evaluation') -> Iterator[dict[str, Any]]:
  """The JSON object in a file, {} if there is none; errors of the block become a UserError with the path."""
  content = files.read_json(path, FIX) if path.exists() else {}
  try:
    yield content
  except UserError:
    raise
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f'{path}: not what {writer} writes ({files.reason(error)}); {FIX}') from error


def _number(value) -> float:
  number = float(value)
  if not abs(number) <= LARGEST:  # also NaN
    raise ValueError(f'{number} is no score')
  return number


def _optional_number(value) -> float | None:
  return None if value is None else _number(value)


def _text(value) -> str:
  if not is_plain(str(value)):
    raise ValueError('a name with control characters')
  return str(value)


def _scores(tasks: dict) -> Scores:
  return {
    task: {_text(name): _optional_number(value) for name, value in values.items()} for task, values in tasks.items()
  }


def _drawing(folder: pathlib.Path, drawn: dict) -> Drawing:
  limits = drawn.get('limits')
  if limits:
    low, high = map(_number, limits)
    limits = low, high
  if unknown := [stage for stage in drawn['files'] if not STAGE.fullmatch(stage)]:
    raise ValueError(f'no stage: {unknown[0]}')
  return Drawing(
    why=frozenset(map(str, drawn['why'])),
    scores={stage: _number(value) for stage, value in drawn['scores'].items()},
    limits=limits,
    files={stage: _inside(folder, name) for stage, name in drawn['files'].items()},
  )


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The path of a file in a folder; raises ValueError if it is elsewhere."""
  path = folder / name
  if not path.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f'{name} is not in this folder')
  return path
