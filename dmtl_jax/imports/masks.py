"""Class maps in PNG files: palettes of PASCAL VOC, colours, class ids; with the names of the classes."""

import dataclasses
import pathlib

import numpy as np

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.imports.coco import open_map
from dmtl_jax.imports.export import Annotated, checked, class_name, Export, IGNORED, is_ignored, split_of, value_of

VOC = (
  'background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person '
  'pottedplant sheep sofa train tvmonitor'
).split()
VOC_BORDER = (224, 224, 192)
SUFFIXES = ('_mask', '_label', '_labels', '_gt', '_L')  # what some tools append to the name of the image
EXAMPLE = '{"road": [128, 64, 128], "car": 13, "ignore": [0, 0, 0]}'
Code = int | tuple[int, int, int]


def voc_colors() -> dict[Code, str | None]:
  """The colours of PASCAL VOC: the bits of a class id, spread over red, green and blue from the highest down."""
  table: dict[Code, str | None] = {VOC_BORDER: None}
  for id, name in enumerate(VOC):
    color = [sum((id >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    table[(color[0], color[1], color[2])] = name
  return table


def read_colors(path: pathlib.Path) -> dict[Code, str | None]:
  """{colour or id: class, None for unlabelled}, from JSON like `EXAMPLE` or a labelmap.txt with lines name:r,g,b."""
  table: dict[Code, str | None] = {}
  for where, name, value in _entries(path):
    for code in value if isinstance(value, list) and value and isinstance(value[0], list) else [value]:
      key = _code(where, code)
      if key in table:
        raise UserError(f'{where}: {code} is already that of {table[key] or IGNORED}; give each class its own')
      table[key] = None if is_ignored(name) else class_name(where, name)
  if not table:
    raise UserError(f'{path}: names no class; it must look like {EXAMPLE}')
  return table


def _entries(path: pathlib.Path):
  """(where, name, value) of each class."""
  if path.suffix.lower() == '.json':
    content = files.read_json(path, f'it must look like {EXAMPLE}')
    for name, value in checked(f'{path}: the content', content, dict).items():
      yield f'{path}: "{sanitize(name, 40)}"', name, value
    return
  try:
    lines = files.read_text(path, 1 << 20).splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({files.reason(error)}); give a labelmap.txt or JSON') from error
  for i, line in enumerate(lines):
    if not line.strip() or line.startswith('#'):
      continue
    name, _, rest = line.partition(':')
    numbers = rest.partition(':')[0].split(',')
    where = f'{path}: line {i + 1}'
    if not all(number.strip().isdecimal() and len(number) < 9 for number in numbers):
      raise UserError(f"{where}: '{sanitize(line, 40)}' is not like road:128,64,128; correct it")
    values = [int(number) for number in numbers]
    yield where, name, values if len(values) > 1 else values[0]


def _code(where: str, value) -> Code:
  numbers = value if isinstance(value, list) else [value]
  most = 255 if isinstance(value, list) else 65535
  is_whole = all(type(number) is int and 0 <= number <= most for number in numbers)
  if not is_whole or (isinstance(value, list) and len(value) != 3):
    raise UserError(
      f'{where}: {sanitize(str(value), 40)} is neither [red, green, blue] of 0 to 255 nor an id; correct it'
    )
  return (value[0], value[1], value[2]) if isinstance(value, list) else value


def read(paths: list[pathlib.Path], colors: pathlib.Path | None) -> Export:
  """Reads a folder of PNG files: those below SegmentationClass, if there is one, or all."""
  labelmaps = [path for path in paths if path.name == 'labelmap.txt']
  voc = [path for path in paths if 'SegmentationClass' in path.parts]
  pngs = [path for path in voc or paths if path.suffix.lower() == '.png' and 'SegmentationObject' not in path.parts]
  if len(labelmaps) > 1 and not colors:
    raise UserError(f'--from: {join_names(labelmaps)} may differ; name one of them with --colors')
  source = colors or (labelmaps[0] if labelmaps else None)
  if source is None and not voc:
    raise UserError(
      f'--from: masks in {pngs[0].parent} need the names of their colours; write {EXAMPLE} to a file and give that '
      'with --colors'
    )
  table = voc_colors() if source is None else read_colors(source)
  export = Export('masks', list(dict.fromkeys(name for name in table.values() if name is not None)), [])
  splits = _read_splits(paths)
  for path in pngs:
    stems = [path.stem, *(path.stem.removesuffix(suffix) for suffix in SUFFIXES if path.stem.endswith(suffix))]
    names = [f'{path.parent}/{stem}' for stem in stems if stem]
    label = ColorMap(path, table, source or 'the colours of PASCAL VOC')
    split = splits.get(path.stem) or split_of([] if splits else path.parent.parts[-2:])
    export.images.append(Annotated(names, str(path), label, label.size(), split, masks=[path, _object_map(path)]))
  return export


def _object_map(path: pathlib.Path) -> pathlib.Path:
  """Where VOC has the map of single objects that belongs to a class map."""
  return pathlib.Path(*('SegmentationObject' if part == 'SegmentationClass' else part for part in path.parts))


def _read_splits(paths: list[pathlib.Path]) -> dict[str, str]:
  """{image: split} of the lists ImageSets/Segmentation/train.txt and val.txt."""
  splits = {}
  for path in paths:
    if 'ImageSets' in path.parts and path.stem in ('train', 'val', 'test'):
      try:
        splits |= dict.fromkeys(files.read_text(path, 1 << 26).split(), path.stem)
      except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read ({files.reason(error)}); export it again') from error
  return splits


@dataclasses.dataclass(frozen=True)
class ColorMap:
  """A PNG of colours or ids.

  Attributes:
    table: the class of each colour or id; None for unlabelled.
    source: where the table is from.
  """

  path: pathlib.Path
  table: dict[Code, str | None]
  source: object

  def size(self) -> tuple[int, int]:
    try:
      with files.opened_image(self.path, ['PNG']) as file:
        return file.size
    except Exception as error:  # Pillow has no common error
      raise UserError(f'{self.path}: not a readable PNG ({files.reason(error)}); replace or remove it') from error

  def draw(self, size, ids, rest, notes):
    numbers = self._numbers(size)
    table = {_number(code): name for code, name in self.table.items()}
    present, places = np.unique(numbers, return_inverse=True)
    unknown = [number for number in present.tolist() if number not in table]
    if unknown:
      share = np.isin(numbers, unknown).mean()
      raise UserError(
        f'{self.path}: {share:.2%} of the pixels have {join_names([_describe(number) for number in unknown])}, '
        f'which {self.source} does not name; add a class there, or add it to "{IGNORED}"'
      )
    values = np.array([value_of(table[number], ids, rest) for number in present.tolist()], np.uint8)
    return values[places].reshape(size)

  def _numbers(self, size) -> np.ndarray:
    """The pixels as `_number` gives them: ids if the table has an id, otherwise colours."""
    if any(isinstance(code, int) for code in self.table):
      try:
        stored = np.asarray(files.open_image(self.path, ['PNG']))
      except ValueError as error:
        raise UserError(f'{self.path}: {error}; replace or remove it') from error
      if stored.ndim == 2 and stored.shape == size:
        return stored.astype(np.int64)
    pixels = open_map(self.path, size)
    pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    return pixels.astype(np.int64) @ [1 << 16, 1 << 8, 1] + _COLOR


_COLOR = 1 << 32  # tells colours from ids


def _number(code: Code) -> int:
  return code if isinstance(code, int) else _COLOR + (code[0] << 16) + (code[1] << 8) + code[2]


def _describe(number: int) -> str:
  if number < _COLOR:
    return f'id {number}'
  return f'colour [{number >> 16 & 255}, {number >> 8 & 255}, {number & 255}]'
