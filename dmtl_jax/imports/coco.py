"""COCO: instances (polygons and run-length masks) and panoptic segmentation (JSON and PNG files)."""

import collections
import dataclasses
import pathlib

import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.imports import shapes
from dmtl_jax.imports.export import (
  Annotated,
  checked,
  class_name,
  Drawing,
  Export,
  field,
  image_size,
  objects,
  points,
  split_of,
  value_of,
)

Key = int | str


def is_coco(content) -> bool:
  return isinstance(content, dict) and {'images', 'annotations', 'categories'} <= content.keys()


def read(path: pathlib.Path, content: dict, pngs: list[pathlib.Path]) -> Export:
  """Reads one JSON file.

  Smaller regions cover larger ones. Crowd regions are unlabelled, and in panoptic maps pixels of no segment; but the
  masks of CVAT, which calls what its brush draws a crowd, are no crowds.

  Args:
    pngs: files among which the maps of panoptic annotations are.
  """
  names = {}
  for i, entry in enumerate(objects(str(path), content, 'categories')):
    where = f'{path}: "categories"[{i}]'
    names[field(where, entry, 'id', (int, str))] = class_name(f'{where}: "name"', entry.get('name', ...))
  export = Export('COCO', list(dict.fromkeys(names.values())), [])
  labels = _Labels(path, names, export.notes, _by_name(pngs))
  sizes: dict[Key, tuple[int, int]] = {}
  for i, entry in enumerate(objects(str(path), content, 'images')):
    where = f'{path}: "images"[{i}]'
    sizes[field(where, entry, 'id', (int, str))] = image_size(where, entry.get('width', ...), entry.get('height', ...))
  for i, entry in enumerate(objects(str(path), content, 'annotations')):
    where = f'{path}: "annotations"[{i}]'
    image = field(where, entry, 'image_id', (int, str))
    if image not in sizes:
      raise UserError(f'{where}: "image_id" {sanitize(str(image), 40)} is not in "images"; export it again')
    labels.add(where, image, sizes[image], entry)
  split = split_of([*path.parts[-3:-1], *path.stem.replace('-', '_').split('_')])
  for i, entry in enumerate(content['images']):
    where = f'{path}: "images"[{i}]'
    name = field(where, entry, 'file_name', str)
    id = entry['id']
    where = f'{path}: "{sanitize(name, 80)}"'
    masks = [labels.maps[id].path] if id in labels.maps else []
    may_be_empty = id not in labels.boxed
    export.images.append(
      Annotated([name], where, labels.of(id), sizes[id], split, masks=masks, may_be_empty=may_be_empty)
    )
  return export


class _Labels:
  """Collects the annotations of each image."""

  def __init__(self, path, names: dict[Key, str], notes: collections.Counter, pngs: dict[str, list[pathlib.Path]]):
    self.path = path
    self.names = names
    self.notes = notes
    self.pngs = pngs
    self.regions: dict[Key, list] = collections.defaultdict(list)
    self.maps: dict[Key, SegmentMap] = {}
    self.boxed: set[Key] = set()  # images with annotations without a mask

  def of(self, image: Key):
    if image in self.maps:
      return self.maps[image]
    regions = self.regions.get(image)
    return Drawing(sorted(regions, key=lambda region: -region.area)) if regions else None

  def add(self, where: str, image: Key, size: tuple[int, int], entry: dict):
    if 'segments_info' in entry:
      if image in self.maps:
        raise UserError(f'{where}: a second map of image {image}; keep one of them')
      segments = {}
      for k, segment in enumerate(objects(where, entry, 'segments_info')):
        at = f'{where}: "segments_info"[{k}]'
        segments[field(at, segment, 'id', int)] = self._class(at, segment)
      self.maps[image] = SegmentMap(self._png(where, field(where, entry, 'file_name', str)), segments, where)
      return
    if not entry.get('segmentation'):
      self.notes['annotations without a mask, such as boxes and captions, left out'] += 1
      self.boxed.add(image)
      return
    if region := self._region(where, size, self._class(where, entry), entry['segmentation']):
      self.regions[image].append(region)

  def _class(self, where: str, entry: dict) -> str | None:
    category = field(where, entry, 'category_id', (int, str))
    if category not in self.names:
      raise UserError(f'{where}: "category_id" {sanitize(str(category), 40)} is not in "categories"; export it again')
    if field(where, entry, 'iscrowd', int, 0) and not _is_from_cvat(entry):
      self.notes['crowd regions, left unlabelled'] += 1
      return None
    return self.names[category]

  def _region(self, where: str, size: tuple[int, int], name: str | None, value):
    where = f'{where}: "segmentation"'
    width, height = size
    if isinstance(value, list):
      rings = [points(f'{where}[{k}]', polygon) for k, polygon in enumerate(value)]
      kept = [ring for ring in rings if len(ring) > 2]
      self.notes['polygons of fewer than three points, left out'] += len(rings) - len(kept)
      return shapes.Polygons(where, name, kept) if kept else None
    entry = checked(where, value, dict)
    stored = field(where, entry, 'size', list)
    if stored != [height, width]:
      raise UserError(
        f'{where}: "size" is {sanitize(str(stored), 40)} and its image has {[height, width]}; export it again'
      )
    counts = entry.get('counts', ...)
    if isinstance(counts, list):
      runs = np.array([checked(f'{where}: "counts"[{k}]', run, int) for k, run in enumerate(counts)], np.int64)
    else:
      runs = shapes.coco_counts(where, checked(f'{where}: "counts"', counts, str))
    return shapes.Runs(where, name, runs, (0, 0, width, height), by_columns=True)

  def _png(self, where: str, name: str) -> pathlib.Path:
    paths = self.pngs.get(name.replace('\\', '/').rpartition('/')[2], [])
    if len(paths) > 1:  # the photographs may be PNGs too
      paths = [path for path in paths if path.parent.name == self.path.stem] or paths
    if len(paths) != 1:
      found = f'{len(paths)} files of that name ({join_names(paths)})' if paths else 'no such file'
      raise UserError(
        f'{where}: "file_name" {sanitize(name, 80)}: {found}; put the maps into {self.path.with_suffix("")}'
      )
    return paths[0]


def _is_from_cvat(entry: dict) -> bool:
  """Whether CVAT exported an annotation: it adds this attribute to all of them."""
  attributes = entry.get('attributes')
  return isinstance(attributes, dict) and 'occluded' in attributes


def _by_name(paths: list[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
  found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for path in paths:
    found[path.name].append(path)
  return found


@dataclasses.dataclass(frozen=True)
class SegmentMap:
  """A PNG whose pixels hold the numbers of segments: red + 256 green + 65536 blue, 0 for none."""

  path: pathlib.Path
  segments: dict[int, str | None]
  where: str  # the annotation

  def draw(self, size, ids, rest, notes):
    pixels = open_map(self.path, size)
    if pixels.ndim != 3:
      raise UserError(f'{self.path}: is not the RGB image of a panoptic map; export it again')
    numbers = pixels[..., :3].astype(np.int64) @ [1, 1 << 8, 1 << 16]
    present, places = np.unique(numbers, return_inverse=True)
    values = np.zeros(len(present), np.uint8)
    for i, number in enumerate(present.tolist()):
      if number and number not in self.segments:
        raise UserError(f'{self.path}: holds segment {number}, which {self.where} does not have; export it again')
      values[i] = value_of(self.segments.get(number), ids, rest)
    return values[places].reshape(size)


def open_map(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
  """Decodes a PNG with its pixels as stored, palettes as RGB; raises UserError unless it is [H, W] of that size."""
  try:
    with files.opened_image(path, ['PNG']) as file:
      if file.size != size[::-1]:
        raise ValueError(f'{file.width}x{file.height}, but its image has {size[1]}x{size[0]}')
      mode = {'1': 'L', 'LA': 'L', 'P': 'RGB', 'RGBA': 'RGB'}.get(file.mode, file.mode)
      return np.asarray(file.convert(mode))
  except Exception as error:  # Pillow has no common error
    raise UserError(f'{path}: is not the map of its image ({files.reason(error)}); export it again') from error
