"""What the files of a workdir must look like to be reported: they may be damaged, or come from elsewhere."""

import pathlib
import re
from typing import Any

ANY = object()  # every name of a dict
STAGE = re.compile(r'label|initial|final|change|step\d{1,4}')


def fits(value: Any, shape: Any) -> bool:
  """Whether a JSON value has a shape.

  Args:
    shape: a predicate; [shape] of all items of a list; {name: shape} of some of a dict's, {ANY: shape} of all.
      A name that is not there counts as None.
  """
  if isinstance(shape, list):
    return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
  if isinstance(shape, dict):
    if not isinstance(value, dict):
      return False
    return all(
      all(fits(item, of) for item in value.values()) if name is ANY else fits(value.get(name), of)
      for name, of in shape.items()
    )
  return shape(value)


def optional(shape: Any):
  """The shape of what may also be None, or not there."""
  return lambda value: value is None or fits(value, shape)


def is_number(value) -> bool:
  """A finite number that arithmetic with floats can take."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300


def _is_text(value) -> bool:
  return isinstance(value, str)


def _is_inside(path) -> bool:
  """Whether a path leads to somewhere in its folder."""
  return _is_text(path) and '\0' not in path and path[:1] != '/' and '..' not in pathlib.PurePosixPath(path).parts


def _are_limits(value) -> bool:
  return fits(value, [is_number]) and len(value) == 2


def _are_files(value) -> bool:
  return fits(value, {ANY: _is_inside}) and all(map(STAGE.fullmatch, value))


_NUMBER = optional(is_number)
_SCORES = optional({ANY: {ANY: _NUMBER}})  # {task: {metric or class: number}}
METRICS = dict.fromkeys(('initial', 'final', 'per_class'), _SCORES) | dict.fromkeys(
  ('step', 'seconds_per_image', 'delta_m', 'version', 'boundary_side', 'boundary_shrunk'), _NUMBER
)
METRICS |= dict.fromkeys(('protocol', 'weights', 'resolution'), optional(_is_text))
METRICS['last'] = optional(dict.fromkeys(('initial', 'final'), _SCORES) | dict.fromkeys(('step', 'delta_m'), _NUMBER))
COST = dict.fromkeys(('parameters', 'gmac', 'train_memory_bytes'), _NUMBER)
_DRAWN = {'why': [_is_text], 'scores': {ANY: is_number}, 'limits': optional(_are_limits), 'files': _are_files}
INDEX = {'images': optional([{'id': _is_text, 'input': _is_inside, 'tasks': {ANY: _DRAWN}}])}  # see gallery.py
