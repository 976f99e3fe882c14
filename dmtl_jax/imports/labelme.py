"""LabelMe: a JSON file per image, with polygons, circles and the masks of its AI tools."""

import pathlib

import numpy as np

from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import (
  Annotated,
  base64_bytes,
  class_name,
  Drawing,
  Export,
  field,
  image_size,
  objects,
  points,
  split_of,
)


def is_labelme(content) -> bool:
  return isinstance(content, dict) and {'shapes', 'imagePath'} <= content.keys()


def read(path: pathlib.Path, content: dict, root: pathlib.Path) -> Export:
  """Reads one JSON file of the folder `root`, which may be the file; shapes cover those before them."""
  export = Export('LabelMe', [], [])
  regions = []
  for i, entry in enumerate(objects(str(path), content, 'shapes')):
    where = f'{path}: "shapes"[{i}]'
    name = class_name(f'{where}: "label"', entry.get('label', ...))
    export.classes.append(name)
    if region := _region(where, name, entry, export.notes):
      regions.append(region)
  image = field(str(path), content, 'imagePath', str)
  size = image_size(str(path), content.get('imageWidth', ...), content.get('imageHeight', ...))
  export.classes = sorted(set(export.classes))
  # The path is relative to the file, which LabelMe names after the image; the image may have moved.
  names = [f'{path.parent}/{name}' for name in (image, path.stem) if name]
  where = f'{path}: "{sanitize(image, 80)}"'
  split = split_of(path.parent.parts[len(root.parts) - 1 :])
  label = Drawing(regions) if regions else None
  export.images.append(Annotated(names, where, label, size, split, may_be_empty=not content['shapes']))
  return export


def _region(where: str, name: str, entry: dict, notes):
  kind = field(where, entry, 'shape_type', str, 'polygon') or 'polygon'
  if kind not in ('polygon', 'circle', 'mask'):
    notes['boxes, lines and points, left out'] += 1
    return None
  corners = points(f'{where}: "points"', entry.get('points', ...))
  if kind == 'mask':
    png = base64_bytes(f'{where}: "mask"', field(where, entry, 'mask', str))
    if not len(corners):
      raise UserError(f'{where}: "points" is empty, and a mask has two; save the file again in LabelMe')
    left, top = corners[0]
    return shapes.Bitmap(where, name, png, (int(left), int(top)))
  if kind == 'circle' and len(corners) == 2:
    angles = np.arange(360) * np.pi / 180
    radius = np.hypot(*(corners[1] - corners[0]))
    corners = corners[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
  if len(corners) < 3:
    notes['polygons of fewer than three points, left out'] += 1
    return None
  return shapes.Polygons(where, name, [corners])
