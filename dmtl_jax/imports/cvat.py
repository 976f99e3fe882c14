"""CVAT for images 1.1: an XML file with polygons and masks."""

import pathlib
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import Annotated, class_name, Drawing, Export, image_size, LARGEST, points, split_of

MAX_DEPTH = 100
DRAWN = (None, 'any', 'polygon', 'mask')  # types of labels that may have a region
OTHER = ('box', 'polyline', 'points', 'ellipse', 'cuboid', 'skeleton', 'tag')


class _NotRead(ValueError):
  pass


def parse(path: pathlib.Path) -> ElementTree.Element:
  """The root of an XML file; raises UserError if it is broken or defines entities, which may grow without end."""
  builder = ElementTree.TreeBuilder()
  parser = expat.ParserCreate()
  depth = 0

  def start(tag, attributes):
    nonlocal depth
    depth += 1
    if depth > MAX_DEPTH:
      raise _NotRead(f'more than {MAX_DEPTH} levels')
    builder.start(tag, attributes)

  def end(tag):
    nonlocal depth
    depth -= 1
    builder.end(tag)

  def refuse(*_):
    raise _NotRead('it has a <!DOCTYPE>, which no export needs')

  parser.StartElementHandler = start
  parser.EndElementHandler = end
  parser.CharacterDataHandler = builder.data
  parser.StartDoctypeDeclHandler = refuse
  try:
    parser.Parse(files.read_text(path), True)
    return builder.close()
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror})') from error
  except (ValueError, expat.ExpatError) as error:
    raise UserError(f'{path}: not readable XML ({files.reason(error)}); export it again') from error


def is_cvat(root: ElementTree.Element) -> bool:
  return root.tag == 'annotations'


def read(path: pathlib.Path, root: ElementTree.Element) -> Export:
  """Reads one XML file; regions of a higher z_order cover others, and later ones those before."""
  if root.find('track') is not None:
    raise UserError(f'{path}: is "CVAT for video", which is not read; export the task as "CVAT for images 1.1"')
  export = Export('CVAT', [], [])
  for label in root.findall('meta//label'):
    if label.findtext('type') in DRAWN and label.findtext('parent') is None:
      export.classes.append(class_name(f'{path}: <label>', label.findtext('name') or ''))
  for i, image in enumerate(root.findall('image')):
    name = image.get('name', '')
    where = f'{path}: image {i} "{sanitize(name, 80)}"'
    size = image_size(where, *(_whole(where, image, key) for key in ('width', 'height')))
    regions = []
    for child in image:
      if child.tag in ('polygon', 'mask'):
        regions.append((_whole(where, child, 'z_order', 0), _region(f'{where}: <{child.tag}>', child, export)))
      elif child.tag in OTHER:
        export.notes['boxes, lines, points and tags, left out'] += 1
    drawn = [region for _, region in sorted(regions, key=lambda pair: pair[0]) if region]
    split = split_of([image.get('subset', '')])
    label = Drawing(drawn) if drawn else None
    export.images.append(Annotated([name], where, label, size, split, may_be_empty=not len(image)))
  export.classes = list(dict.fromkeys(export.classes))
  return export


def _region(where: str, child: ElementTree.Element, export: Export):
  name = class_name(f'{where} label', child.get('label', ''))
  if name not in export.classes:
    export.classes.append(name)
  if child.tag == 'polygon':
    pairs = [pair.split(',') for pair in child.get('points', '').split(';')]
    ring = points(f'{where} points', pairs)
    if len(ring) > 2:
      return shapes.Polygons(where, name, [ring])
    export.notes['polygons of fewer than three points, left out'] += 1
    return None
  left, top, width, height = (_whole(where, child, key) for key in ('left', 'top', 'width', 'height'))
  image_size(where, width, height)
  try:
    counts = np.array([int(run) for run in child.get('rle', '').split(',')], np.int64)
  except (ValueError, OverflowError):
    raise UserError(f'{where} rle must be whole numbers; export it again') from None
  return shapes.Runs(where, name, counts, (left, top, width, height), by_columns=False)


def _whole(where: str, element: ElementTree.Element, key: str, default: int | None = None) -> int:
  text = element.get(key)
  if text is None and default is not None:
    return default
  try:
    number = float(text or '')
    if number != int(number) or abs(number) > LARGEST:
      raise ValueError
  except (ValueError, OverflowError):
    given = 'is missing' if text is None else f"is '{sanitize(text, 40)}'"
    raise UserError(f'{where} {key} {given} and must be a whole number; export it again') from None
  return int(number)
