"""Label Studio's JSON: brush masks, bitmasks and polygons."""

import pathlib
import re
import urllib.parse

from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import (
  Annotated,
  base64_bytes,
  checked,
  class_name,
  Drawing,
  Export,
  field,
  image_size,
  objects,
  points,
)

REPEATED = ('brush', 'bitmask', 'polygon')  # a region of which another result has the class
REGIONS = ('brushlabels', 'bitmasklabels', 'polygonlabels', 'labels', *REPEATED)
IMAGE_SUFFIX = re.compile(r'\.(jpe?g|png|bmp|tiff?|webp|gif|avif|hei[cf])$', re.IGNORECASE)


def is_label_studio(content) -> bool:
  return isinstance(content, list) and any(isinstance(entry, dict) and _ANNOTATIONS & entry.keys() for entry in content)


_ANNOTATIONS = {'annotations', 'completions'}  # 'completions': before version 1.0


def read(path: pathlib.Path, content: list) -> Export:
  """Reads one file of tasks; of several annotations of an image the last one counts, and regions cover those before."""
  export = Export('Label Studio', [], [])
  for i, entry in enumerate(content):
    where = f'{path}: [{i}]'
    _add(export, where, checked(where, entry, dict))
  export.classes = sorted(set(export.classes))
  return export


def _add(export: Export, where: str, entry: dict):
  name = _image(where, entry)
  key = 'annotations' if 'annotations' in entry else 'completions'
  annotations = [it for it in objects(where, entry, key, []) if not it.get('was_cancelled')]
  if entry.get('predictions'):
    export.notes['images with predictions of a model, which are left out'] += 1
  if len(annotations) > 1:
    export.notes['images with several annotations, of which the last is read'] += 1
  regions, size = [], None
  results = objects(where, annotations[-1], 'result', []) if annotations else []
  for k, item in enumerate(results):
    at = f'{where}: "result"[{k}]'
    region, item_size = _region(at, item, export)
    if size and item_size and item_size != size:
      raise UserError(
        f'{at}: its image has {item_size[0]}x{item_size[1]} pixels, before {size[0]}x{size[1]}; export it again'
      )
    size = size or item_size
    regions += [region] if region else []
  where = f'{where}: "{sanitize(name, 80)}"'
  is_empty = bool(annotations) and not results  # submitted without a region: none of the classes is there
  export.images.append(
    Annotated([name], where, Drawing(regions) if regions or is_empty else None, size, may_be_empty=False)
  )


def _image(where: str, entry: dict) -> str:
  """The path in the image's address."""
  texts = [value for value in field(where, entry, 'data', dict).values() if isinstance(value, str)]
  images = [text for text in map(_path, texts) if IMAGE_SUFFIX.search(text)]
  if not images:
    raise UserError(f'{where}: "data" names no image; export the project as JSON')
  if len(images) > 1:
    raise UserError(f'{where}: "data" names {len(images)} images, and one is read; export the project as JSON')
  return images[0]


def _path(address: str) -> str:
  """The path in an address; local files have it in ?d=."""
  path, _, query = address.partition('?')
  local = [part[2:] for part in query.split('&') if part.startswith('d=')]
  return urllib.parse.unquote(local[0] if local else path)


def _region(where: str, item: dict, export: Export):
  """The region of a result, or None, and the size of its image."""
  kind = field(where, item, 'type', str, '')
  value = field(where, item, 'value', dict, {})
  labels = value.get(kind) or value.get('labels')
  if not labels or kind not in REGIONS:
    if kind not in ('choices', 'textarea', 'relation', 'rating', *REPEATED):
      export.notes['boxes, ellipses and points, left out'] += 1
    return None, None
  if field(where, item, 'image_rotation', float, 0) % 360:
    raise UserError(f'{where}: "image_rotation" is {item["image_rotation"]}; turn the image back in Label Studio')
  if len(checked(f'{where}: labels', labels, list)) > 1:
    export.notes['regions with several classes, of which the first is taken'] += 1
  name = class_name(f'{where}: labels', labels[0])
  export.classes.append(name)
  size = image_size(where, item.get('original_width', ...), item.get('original_height', ...))
  if 'rle' in value:
    return shapes.Brush(where, name, _bytes(f'{where}: "rle"', value['rle'])), size
  if 'imageDataURL' in value:  # of BitmaskLabels: a PNG of the image's size, transparent where nothing is drawn
    at = f'{where}: "imageDataURL"'
    png = base64_bytes(at, checked(at, value['imageDataURL'], str).removeprefix('data:image/png;base64,'))
    return shapes.Bitmap(where, name, png, None), size
  if 'points' not in value:
    export.notes['boxes, ellipses and points, left out'] += 1
    return None, size
  ring = points(f'{where}: "points"', value['points']) * size / 100
  if len(ring) < 3:
    export.notes['polygons of fewer than three points, left out'] += 1
    return None, size
  return shapes.Polygons(where, name, [ring]), size


def _bytes(where: str, values) -> bytes:
  """A list of numbers from 0 to 255 as bytes."""
  try:
    return bytes(checked(where, values, list))
  except (TypeError, ValueError):
    raise UserError(f'{where} must be numbers from 0 to 255; export the project as JSON') from None
