"""YOLO segmentation: a text file per image, of lines `class x y x y ...` in shares of width and height."""

import dataclasses
import pathlib

import numpy as np
import yaml

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import Annotated, checked, class_name, Drawing, Export, points, split_of

NAMES_BYTES = 1 << 18  # limit for data.yaml and classes.txt
LABEL_BYTES = 1 << 26  # limit for the labels of an image


def label_files(paths: list[pathlib.Path]) -> list[pathlib.Path]:
  return [path for path in paths if path.suffix.lower() == '.txt' and 'labels' in path.parts]


def names_files(paths: list[pathlib.Path]) -> list[pathlib.Path]:
  return [
    path for path in paths if path.suffix.lower() in ('.yaml', '.yml') or path.name in ('classes.txt', 'obj.names')
  ]


def read(paths: list[pathlib.Path]) -> Export:
  """Reads the files of a folder: those in a folder `labels`, and the one with the names of the classes."""
  sources = names_files(paths)
  if len(sources) != 1:
    found = f'both {join_names(sources)}' if sources else 'none'
    raise UserError(
      f'{paths[0].parent}: the classes of YOLO labels are named in data.yaml or classes.txt, and there is {found}; '
      'leave one of them in the folder'
    )
  names = read_names(sources[0])
  export = Export('YOLO', list(dict.fromkeys(names.values())), [])
  for path in label_files(paths):
    drawing = _read_file(path, names, sources[0], export.notes)
    parts = path.parts[len(sources[0].parent.parts) :]
    name = f'{path.parent}/{path.stem}'
    is_blank = drawing is None and not files.read_text(path, LABEL_BYTES).strip()
    split = split_of(parts[:-1])
    export.images.append(Annotated([name], str(path), drawing, split=split, may_be_empty=is_blank))
  return export


def read_names(path: pathlib.Path) -> dict[int, str]:
  """{number: name} of the classes."""
  try:
    text = files.read_text(path, NAMES_BYTES)
    if path.suffix.lower() not in ('.yaml', '.yml'):
      return {i: class_name(f'{path}: line {i + 1}', line) for i, line in enumerate(text.strip().splitlines())}
    content = yaml.safe_load(text)
  except UserError:
    raise
  except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
    raise UserError(
      f'{path}: cannot be read ({sanitize(" ".join(str(error).split()), 80)}); export it again'
    ) from error
  names = content.get('names', ...) if isinstance(content, dict) else ...
  where = f'{path}: "names"'
  if isinstance(names, list):
    names = dict(enumerate(names))
  names = checked(where, names, dict)
  return {checked(where, i, int): class_name(f'{where}[{i}]', name) for i, name in names.items()}


def _read_file(path: pathlib.Path, names: dict[int, str], source: pathlib.Path, notes) -> 'ShareDrawing | None':
  regions = []
  try:
    lines = files.read_text(path, LABEL_BYTES).splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({files.reason(error)}); export it again') from error
  for i, line in enumerate(lines):
    words = line.split()
    where = f'{path}: line {i + 1}'
    if not words:
      continue
    if not words[0].isdecimal() or int(words[0][:9]) not in names:
      raise UserError(f"{where}: '{sanitize(words[0], 20)}' is not the number of a class in {source}; export it again")
    if len(words) == 5:
      notes['boxes, left out'] += 1
      continue
    ring = points(where, words[1:])
    if len(ring) > 2:
      regions.append(shapes.Polygons(where, names[int(words[0][:9])], [ring]))
    else:
      notes['polygons of fewer than three points, left out'] += 1
  return ShareDrawing(regions) if regions else None


@dataclasses.dataclass(frozen=True)
class ShareDrawing:
  """Polygons in shares of width and height; smaller ones cover larger ones."""

  regions: list[shapes.Polygons]

  def draw(self, size, ids, rest, notes):
    scale = np.array(size[::-1], np.float64)
    scaled = [dataclasses.replace(it, rings=[ring * scale for ring in it.rings]) for it in self.regions]
    return Drawing(sorted(scaled, key=lambda region: -region.area)).draw(size, ids, rest, notes)
