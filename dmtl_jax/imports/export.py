"""What an export holds, whatever its format, and checked access to the fields of its files."""

import base64
import collections
from collections.abc import Callable, Sequence
import dataclasses
import math
import pathlib
from typing import Any, Protocol
import unicodedata

import numpy as np

from dmtl_jax.basics.errors import is_plain, sanitize, UserError
from dmtl_jax.tasks import IGNORE, MAX_NAME_LENGTH

LARGEST = 1e9  # of coordinates and sizes
JSON_BYTES = 1 << 30  # the largest COCO file, instances_train2017.json, has 0.45 GB
IGNORED = 'ignore'  # the class of regions that are unlabelled; LabelMe's own name is __ignore__
REST = 254  # in a label file: a pixel of none of the annotated classes (see `annotated.json`)
_KINDS = {
  dict: 'an object',
  list: 'a list',
  str: 'a text',
  int: 'a whole number',
  float: 'a finite number',
  (int, str): 'a number or text',
}


class Label(Protocol):
  """The class map of one image."""

  def draw(self, size: tuple[int, int], ids: dict[str, int], rest: int, notes: collections.Counter) -> np.ndarray:
    """Draws uint8 [H, W].

    Args:
      size: H, W.
      ids: value of each class.
      rest: value of all other pixels; those that the export calls unlabelled are `IGNORE`.
      notes: {what was left out: how often}, is added to.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Annotated:
  """An image of an export.

  Attributes:
    names: possible names of its photograph, the most likely first; only compared, never opened.
    where: the file and entry, which begins messages.
    label: its class map; None where nothing was drawn and the export does not say whether somebody looked.
    size: width and height that the export gives, if it does.
    split: 'train' or 'val'.
    pixels: reads the photograph [H, W, 3], where the export holds it.
    depth: reads depths [H, W] float32 in metres, where the export holds them.
    masks: image files that are no photographs: the one that holds the label, and others of the same image.
    may_be_empty: whether an image without regions may show none of the classes; not if something else was drawn there,
      such as a box, or if nobody has looked at it.
  """

  names: Sequence[str]
  where: str
  label: Label | None
  size: tuple[int, int] | None = None
  split: str = 'train'
  pixels: Callable[[], np.ndarray] | None = None
  depth: Callable[[], np.ndarray] | None = None
  masks: Sequence[pathlib.Path] = ()
  may_be_empty: bool = True


@dataclasses.dataclass
class Export:
  """An export that was read.

  Attributes:
    tool: its format, for people.
    classes: names, in the order of the export; without one, by alphabet.
    images: those it mentions.
    notes: {what was left out: how often}.
  """

  tool: str
  classes: list[str]
  images: list[Annotated]
  notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def field(where: str, entry: dict, key: str, kind: Any, default: Any = ...) -> Any:
  """The field of a JSON object; raises UserError unless it is of that kind (see `_KINDS`) or missing with a default."""
  value = entry.get(key, default)
  if value is default and default is not ...:
    return default
  return checked(f'{where}: "{key}"', value, kind)


def checked(where: str, value: Any, kind: Any) -> Any:
  """A value from a file; raises UserError unless it is of that kind (see `_KINDS`)."""
  types = (int, float) if kind is float else kind
  is_number = isinstance(value, (int, float))
  if value is ... or not isinstance(value, types) or isinstance(value, bool) or (is_number and not _is_finite(value)):
    given = 'is missing' if value is ... else f'is {sanitize(repr(value)[:300], 40)}'
    raise UserError(f'{where} {given} and must be {_KINDS[kind]}; correct it or export it again')
  return value


def _is_finite(value: int | float) -> bool:
  return abs(value) <= LARGEST and math.isfinite(value)


def objects(where: str, entry: dict, key: str, default: Any = ...) -> list[dict]:
  """A field that is a list of objects; raises UserError otherwise."""
  items = field(where, entry, key, list, default)
  for i, item in enumerate(items):
    checked(f'{where}: "{key}"[{i}]', item, dict)
  return items


def image_size(where: str, width: Any, height: Any) -> tuple[int, int]:
  """Width and height from a file; raises UserError unless both are whole numbers above 0."""
  for name, value in (('width', width), ('height', height)):
    if checked(f'{where}: "{name}"', value, int) < 1:
      raise UserError(f'{where}: "{name}" is {value} and must be at least 1; correct it or export it again')
  return width, height


def points(where: str, values: Any) -> np.ndarray:
  """Coordinates, [x, y, x, y, ...] or [[x, y], ...], as float64 [N, 2]; raises UserError if they are none."""
  problem = 'must be pairs of finite numbers'
  try:
    array = np.array(values, np.float64)
  except (TypeError, ValueError, OverflowError):
    raise UserError(f'{where} {problem}; correct it or export it again') from None
  if array.ndim == 1 and array.size % 2 == 0:
    array = array.reshape(-1, 2)
  if array.ndim != 2 or array.shape[1] != 2 or not (np.abs(array) <= LARGEST).all():
    raise UserError(f'{where} {problem}; correct it or export it again')
  return array


def base64_bytes(where: str, text: str) -> bytes:
  """The bytes that a text holds in base64; raises UserError if it does not."""
  try:
    return base64.b64decode(text, validate=True)
  except ValueError as error:
    raise UserError(f'{where} is not base64; export it again') from error


def class_name(where: str, value: Any) -> str:
  """The name of a class, in Unicode's NFC without surrounding blanks; raises UserError if it cannot be one."""
  name = unicodedata.normalize('NFC', checked(where, value, str).strip())
  if not any(c.isprintable() and not c.isspace() for c in name) or not is_plain(name):
    raise UserError(f"{where}: '{sanitize(name, 40)}' cannot name a class; rename it in the labelling tool")
  if len(name) > MAX_NAME_LENGTH:
    raise UserError(
      f"{where}: '{sanitize(name, 40)}' has {len(name)} characters, a class at most {MAX_NAME_LENGTH}; "
      'rename it in the labelling tool'
    )
  return name


def split_of(parts: Sequence[str]) -> str:
  """The split that folder or file names speak of: 'val', 'test' or 'train' (also where none is named)."""
  words = {part.lower() for part in parts}
  if words & {'val', 'valid', 'validation', 'val2017', 'val2014'}:
    return 'val'
  return 'test' if words & {'test', 'testing', 'test2017'} else 'train'


def is_ignored(name: str) -> bool:
  """Whether regions of this name are unlabelled."""
  return name.strip('_').casefold() == IGNORED


def value_of(name: str | None, ids: dict[str, int], rest: int) -> int:
  """The value of pixels of a class, None for unlabelled ones; see `Label.draw`."""
  return IGNORE if name is None or is_ignored(name) else ids.get(name, rest)


@dataclasses.dataclass(frozen=True)
class Drawing:
  """Regions, of which later ones cover earlier ones (see shapes.py)."""

  regions: Sequence[Any]

  def draw(self, size, ids, rest, notes):
    plane = np.full(size, rest, np.uint8)
    for region in self.regions:
      value = value_of(region.name, ids, rest)
      if region.name is not None and is_ignored(region.name):
        notes[f'regions of the class {region.name}, left unlabelled'] += 1
      if not region.paint(plane, value):
        notes['regions that cover no pixel, left out'] += 1
    return plane
