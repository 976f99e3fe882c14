"""What the files of a workdir must look like to be reported: they may be damaged, or come from elsewhere."""

from collections.abc import Callable
import pathlib
import re
from typing import Any

STAGE = re.compile(r'label|initial|final|step\d{1,4}')


def is_number(value) -> bool:
  """A finite number that arithmetic with floats can take."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300


def is_metrics(content: dict) -> bool:
  """metrics.json: {stage: {task: {metric: number or null}}}, IoU by class, and numbers of the whole run."""
  stages = [content.get(stage, {}) for stage in ('initial', 'final')]
  numbers = [content.get(name) for name in ('step', 'seconds_per_image', 'delta_m')]
  tables = all(_mapping(stage, _is_scores) for stage in stages) and _mapping(content.get('per_class', {}), _is_scores)
  return tables and all(value is None or is_number(value) for value in numbers)


def is_cost(content: dict) -> bool:
  """cost.json: what the report reads of it are numbers, or null."""
  numbers = [content.get(name) for name in ('parameters', 'gmac', 'train_memory_bytes')]
  return all(value is None or is_number(value) for value in numbers)


def is_index(content: dict) -> bool:
  """panels/index.json, see pictures.py; its files lie in panels/."""
  images = content.get('images', [])
  return isinstance(images, list) and all(map(_is_image, images))


def _is_image(entry) -> bool:
  return (
    isinstance(entry, dict)
    and isinstance(entry.get('id'), str)
    and _is_inside(entry.get('input'))
    and _mapping(entry.get('tasks'), _is_drawn)
  )


def _is_drawn(entry) -> bool:
  if not isinstance(entry, dict):
    return False
  why, limits, files = entry.get('why'), entry.get('limits', [0, 0]), entry.get('files')
  return (
    isinstance(why, list)
    and _mapping(entry.get('scores'), is_number)
    and isinstance(limits, list)
    and len(limits) == 2
    and all(map(is_number, limits))
    and _mapping(files, _is_inside)
    and all(STAGE.fullmatch(stage) for stage in files)
  )


def _is_scores(scores) -> bool:
  """{metric or class: number or null} of one task."""
  return _mapping(scores, lambda value: value is None or is_number(value))


def _is_inside(path) -> bool:
  """Whether a path leads to somewhere in its folder."""
  return (
    isinstance(path, str)
    and '\0' not in path
    and not path.startswith('/')
    and '..' not in pathlib.PurePosixPath(path).parts
  )


def _mapping(value, fits: Callable[[Any], bool]) -> bool:
  return isinstance(value, dict) and all(map(fits, value.values()))
