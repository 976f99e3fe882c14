"""Cityscapes' gtFine and gtCoarse: label ids, or polygons in JSON."""

import pathlib
import re

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import Annotated, class_name, Drawing, Export, image_size, objects, points, split_of
from dmtl_jax.imports.masks import ColorMap

FILE = re.compile(r'(.+)_gt(?:Fine|Coarse)_(labelIds\.png|labelTrainIds\.png|polygons\.json)')
# The 19 classes that the benchmark scores, by label id; all other ids, -1 (stored as 255) to 33, are unlabelled.
CLASSES = {
    7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole', 19: 'traffic light',
    20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car', 27: 'truck',
    28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle',
}  # fmt: skip
LABEL_IDS = {id: CLASSES.get(id) for id in (*range(34), 255)}
TRAIN_IDS = dict(enumerate(CLASSES.values())) | {255: None}
UNSCORED = set(
  'unlabeled,ego vehicle,rectification border,out of roi,static,dynamic,ground,parking,rail track,guard rail,bridge,'
  'tunnel,polegroup,caravan,trailer,license plate'.split(',')
)


def matches(paths: list[pathlib.Path]) -> dict[tuple[str, str], tuple[str, pathlib.Path]]:
  """{(folder, image): (kind of file, path)}, of each image the best file: label ids, then train ids, then polygons."""
  found: dict[tuple[str, str], tuple[str, pathlib.Path]] = {}
  for path in paths:
    if match := FILE.fullmatch(path.name):
      key = (str(path.parent), match[1])
      found[key] = min(found.get(key, (match[2], path)), (match[2], path))  # the kinds are in this order by alphabet
  return dict(sorted(found.items()))


def read(paths: list[pathlib.Path]) -> Export:
  """Reads a folder of annotations; classes are the benchmark's 19, or if polygons have other names, theirs."""
  found = matches(paths)
  export = Export('Cityscapes', list(CLASSES.values()), [])
  names: set[str] = set()
  for (_, image), (kind, path) in found.items():
    split = split_of(path.parent.parts[-2:])
    candidates = [f'{image}_leftImg8bit', image]
    if kind == 'polygons.json':
      size, drawing, used = _read_polygons(path)
      names |= used
    else:
      table = LABEL_IDS if kind == 'labelIds.png' else TRAIN_IDS
      drawing = ColorMap(path, table, 'the table of Cityscapes')
      size = drawing.size()
    masks = [] if kind == 'polygons.json' else [path]
    export.images.append(Annotated(candidates, str(path), drawing, size, split, masks=masks))
  if others := names - UNSCORED - set(CLASSES.values()):
    export.classes = [name for name in CLASSES.values() if name in names] + sorted(others)
  return export


def _read_polygons(path: pathlib.Path) -> tuple[tuple[int, int], Drawing | None, set[str]]:
  content = files.read_json(path)
  if not isinstance(content, dict):
    raise UserError(f'{path}: must be an object with "imgWidth", "imgHeight" and "objects"; download it again')
  size = image_size(str(path), content.get('imgWidth', ...), content.get('imgHeight', ...))
  regions = []
  for i, entry in enumerate(objects(str(path), content, 'objects')):
    where = f'{path}: "objects"[{i}]'
    name = class_name(f'{where}: "label"', entry.get('label', ...))
    name = name.removesuffix('group') if name.removesuffix('group') in CLASSES.values() else name
    ring = points(f'{where}: "polygon"', entry.get('polygon', ...))
    if len(ring) > 2 and not entry.get('deleted'):
      regions.append(shapes.Polygons(where, None if name in UNSCORED else name, [ring]))
  return size, Drawing(regions) if regions else None, {region.name for region in regions if region.name}
