"""Regions of an image: polygons, runs and small masks.

A pixel belongs to a polygon if its centre lies inside (even-odd rule). The first pixel reaches from 0 to 1, and its
centre is at 0.5. Polygons that share an edge neither overlap nor leave a gap.
"""

from collections.abc import Sequence
import dataclasses
import io

import numpy as np
from PIL import Image

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError

MAX_CROSSINGS = 4_000_000  # of a polygon's edges with rows of pixels; an outline with many bays has some 100 000
BAND = 1 << 23  # pixels that are filled together, which takes 16 bytes each
_BAD = 'export it again, or draw the region anew'


@dataclasses.dataclass(frozen=True)
class Polygons:
  """The union of polygons [N, 2] (x, y)."""

  where: str
  name: str | None  # of its class; None: unlabelled
  rings: Sequence[np.ndarray]

  @property
  def area(self) -> float:
    return sum(_area(ring) for ring in self.rings)

  def paint(self, plane: np.ndarray, value: int) -> int:
    """Sets the pixels of the region in `plane` [H, W] to `value`; returns their number."""
    return sum(self._paint_ring(plane, value, ring) for ring in self.rings)

  def _paint_ring(self, plane, value, ring) -> int:
    height, width = plane.shape
    left, top = np.clip(np.floor(ring.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(ring.max(0)), 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
      return 0
    count = 0
    rows = max(BAND // (right - left), 1)
    for start in range(top, bottom, rows):
      end = min(start + rows, bottom)
      inside = self._fill(ring - (left, start), end - start, right - left)
      plane[start:end, left:right][inside] = value
      count += int(inside.sum())
    return count

  def _fill(self, ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centres lie inside, bool [height, width]: an edge toggles all centres to its right."""
    start, end = ring, np.roll(ring, -1, 0)
    upper = np.where((start[:, 1] <= end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] <= end[:, 1])[:, None], end, start)
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (upper[:, 1], lower[:, 1]))
    rows = last - first  # that each edge crosses
    if rows.sum() > MAX_CROSSINGS:
      raise UserError(f'{self.where}: a polygon with {len(ring)} points crosses the image too often; {_BAD}')
    edge = np.repeat(np.arange(len(ring)), rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    x, y = upper[edge].T
    slope = (lower[edge, 0] - x) / (lower[edge, 1] - y)
    column = np.clip(np.ceil(x + (row + 0.5 - y) * slope - 0.5), 0, width).astype(np.int64)
    toggles = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1) & 1
    return np.bitwise_xor.accumulate(toggles[:, :width], axis=1).astype(bool)


def _area(ring: np.ndarray) -> float:
  x, y = (ring - ring[0]).T
  return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@dataclasses.dataclass(frozen=True)
class Runs:
  """Lengths of alternating runs in a box, the first outside the region; by columns (COCO) or by rows (CVAT)."""

  where: str
  name: str | None
  counts: np.ndarray
  box: tuple[int, int, int, int]  # left, top, width, height
  by_columns: bool

  def __post_init__(self):
    _, _, width, height = self.box
    if (self.counts < 0).any() or self.counts.sum(dtype=np.float64) != width * height:
      raise UserError(f'{self.where}: the runs do not add up to {width}x{height} pixels; {_BAD}')

  @property
  def area(self) -> float:
    return float(self.counts[1::2].sum())

  def paint(self, plane: np.ndarray, value: int) -> int:
    left, top, width, height = self.box
    if left < 0 or top < 0 or top + height > plane.shape[0] or left + width > plane.shape[1]:
      raise UserError(f'{self.where}: a mask reaches out of the image; {_BAD}')
    inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
    inside = inside.reshape(width, height).T if self.by_columns else inside.reshape(height, width)
    plane[top : top + height, left : left + width][inside] = value
    return int(inside.sum())


def coco_counts(where: str, text: str) -> np.ndarray:
  """Decodes COCO's compressed runs.

  A number is stored in characters of 5 bits, the lowest first. 0x20 says that more follow, 0x10 in the last one that
  the number is negative. From the fourth run on it is the difference to the run before last.
  """
  counts: list[int] = []
  number = bits = 0
  for character in text:
    code = ord(character) - 48
    if not 0 <= code < 64 or bits > 40:
      raise UserError(f'{where}: not the compressed runs of COCO; {_BAD}')
    number |= (code & 0x1F) << bits
    bits += 5
    if code & 0x20:
      continue
    number -= (1 << bits) if code & 0x10 else 0
    number += counts[-2] if len(counts) > 2 else 0
    if not 0 <= number < 1 << 40:
      raise UserError(f'{where}: a run of {number} pixels; {_BAD}')
    counts.append(number)
    number = bits = 0
  if bits:
    raise UserError(f'{where}: the compressed runs are cut short; {_BAD}')
  return np.array(counts, np.int64)


@dataclasses.dataclass(frozen=True)
class Bitmap:
  """A PNG with its top left pixel at `corner`: of 0 and 1 (or 255) in LabelMe, transparent outside in Label Studio."""

  where: str
  name: str | None
  png: bytes
  corner: tuple[int, int] | None  # left, top; None: it has the size of the image

  def paint(self, plane: np.ndarray, value: int) -> int:
    left, top = self.corner or (0, 0)
    try:
      with Image.open(io.BytesIO(self.png), formats=('PNG',)) as file:
        width, height = file.size
        if left < 0 or top < 0 or top + height > plane.shape[0] or left + width > plane.shape[1]:
          raise ValueError('it reaches out of the image')
        if self.corner is None and (height, width) != plane.shape:
          raise ValueError('it is smaller than the image')
        is_transparent = 'A' in file.getbands() or 'transparency' in file.info
        inside = np.asarray(file.convert('RGBA').getchannel('A') if is_transparent else file.convert('L')) > 0
    except Exception as error:  # Pillow has no common error
      raise UserError(f'{self.where}: its mask cannot be read ({files.reason(error)}); {_BAD}') from error
    plane[top : top + height, left : left + width][inside] = value
    return int(inside.sum())


@dataclasses.dataclass(frozen=True)
class Brush:
  """Label Studio's brush mask: RGBA pixels, run-length encoded bit by bit (the rle-pack format); alpha is the mask."""

  where: str
  name: str | None
  data: bytes

  def paint(self, plane: np.ndarray, value: int) -> int:
    inside = unpack_brush(self.where, self.data, plane.size * 4).reshape(*plane.shape, 4)[..., 3] > 0
    plane[inside] = value
    return int(inside.sum())


def unpack_brush(where: str, data: bytes, count: int) -> np.ndarray:
  """Decodes rle-pack: uint8 [count].

  Header: the number of words (32 bits), bits per word - 1 (5 bits), and four sizes - 1 (4 bits each). Then blocks: a
  bit that says whether one word is repeated, two bits that choose a size, length - 1 in that many bits, and the words.

  Raises:
    UserError: it holds another number of words, words of other than 8 bits, or ends early.
  """
  bits = np.unpackbits(np.frombuffer(data, np.uint8))
  position = 0

  def read(length: int) -> int:
    nonlocal position
    window = int.from_bytes(data[position >> 3 : (position >> 3) + 6].ljust(6, b'\0'), 'big')  # at most 32 bits
    number = window >> (48 - (position & 7) - length) & ((1 << length) - 1)
    position += length
    if position > len(bits):
      raise UserError(f'{where}: the brush mask is cut short; {_BAD}')
    return number

  words = read(32)
  if words != count:
    raise UserError(f'{where}: the brush mask has {words} numbers, its image needs {count}; {_BAD}')
  if read(5) != 7:
    raise UserError(f'{where}: the brush mask does not have 8 bits per number; {_BAD}')
  sizes = [read(4) + 1 for _ in range(4)]
  out = np.empty(count, np.uint8)
  done = 0
  while done < count:
    repeats = read(1)
    end = done + 1 + read(sizes[read(2)])
    if end > count:
      raise UserError(f'{where}: the brush mask does not add up to its image; {_BAD}')
    if repeats:
      out[done:end] = read(8)
    else:
      length = 8 * (end - done)
      if position + length > len(bits):
        raise UserError(f'{where}: the brush mask is cut short; {_BAD}')
      out[done:end] = np.packbits(bits[position : position + length])
      position += length
    done = end
  return out
