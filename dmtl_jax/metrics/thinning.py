"""Morphological thinning to lines one pixel wide, as in the Berkeley boundary benchmark; resizing of lines.

Thinning is the parallel algorithm of Guo and Hall in the form of Lam, Lee and Suen (1992), which Matlab's
bwmorph(..., 'thin', Inf) also uses: two alternating passes over the 8 neighbours of each pixel. `thin` looks them up in
a table, for the whole mask; `thin_nested` computes them as a formula for the bits of a word per pixel, one for each of
up to 64 masks, only where a neighbour has changed. On 500x375 maps at 99 thresholds that takes a half to a third
of the time; of a single mask, `thin` is faster.
"""

from collections.abc import Sequence
import functools

import cv2
import numpy as np

from dmtl_jax.metrics.masks import MaskStack, unpack, WORD, WORD_BITS

_BLOCK = 16384  # words per step: its arrays stay in the CPU's cache


def thin_nested(depth: np.ndarray, count: int) -> MaskStack:
  """Thins nested masks, such as those of a soft map at rising thresholds.

  Args:
    depth: [H, W] integers or bool, in how many of the masks a pixel is: mask k holds the pixels of depth > k.
    count: number of masks.
  """
  height, width = depth.shape
  depth = np.minimum(depth, count).astype(np.int32)
  planes = np.stack([np.clip(depth - start, 0, WORD_BITS) for start in range(0, max(count, 1), WORD_BITS)])
  lowest = np.array([(1 << k) - 1 for k in range(WORD_BITS + 1)], WORD)
  words = lowest[np.pad(planes, ((0, 0), (1, 1), (1, 1)))]
  _thin_words(words.reshape(-1, width + 2))
  words = words[:, 1:-1, 1:-1].reshape(len(words), -1)
  place = np.flatnonzero(functools.reduce(np.bitwise_or, words))
  inside = np.concatenate([unpack(plane.take(place), WORD_BITS) for plane in words], axis=1)
  return MaskStack((height, width), place, inside[:, :count])


def _thin_words(words: np.ndarray):
  """Thins the masks in the bits of words [H, W] in place; the words at the border are 0."""
  stride = words.shape[1]
  shifts = [1, 1 - stride, -stride, -stride - 1, -1, stride - 1, stride, stride + 1]  # east, then counter-clockwise

  def around(plane: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Flat views of a padded plane and of its eight neighbours: the same index in all is a pixel and those around."""
    flat = plane.ravel()
    size = len(flat) - 2 * (stride + 1)
    return flat[stride + 1 :][:size], [flat[stride + 1 + shift :][:size] for shift in shifts]

  centre, neighbours = around(words)
  # The last pass that removed a neighbour. A pass removes nothing where no neighbour was removed since the pass of its
  # own kind before, and nothing inside a mask.
  last, neighbours_last = around(np.zeros(words.shape, np.int32))
  last[centre & ~functools.reduce(np.bitwise_and, neighbours) != 0] = 2
  number = 3
  while (active := np.flatnonzero(last >= number - 2)).size:
    parts = [active[start : start + _BLOCK] for start in range(0, len(active), _BLOCK)]
    found = [_find_removable(centre, neighbours, part, is_first=number % 2 == 1) for part in parts]
    for place, bits in found:
      centre[place] ^= bits
      for plane in neighbours_last:
        plane[place] = number
    number += 1


def _find_removable(centre, neighbours, place: np.ndarray, is_first: bool) -> tuple[np.ndarray, np.ndarray]:
  """The places [n], of those given, at which a pass removes bits; and these bits [n]."""
  bits = centre.take(place) & _exposed([neighbours[k].take(place) for k in _EXPOSING[is_first]])
  some = np.flatnonzero(bits != 0)  # a third of them; on words themselves NumPy takes three times as long
  place = place.take(some)
  bits = bits.take(some) & _is_simple([plane.take(place) for plane in neighbours])
  some = np.flatnonzero(bits != 0)
  return place.take(some), bits.take(some)


_EXPOSING = {True: (0, 1, 2, 7), False: (4, 5, 6, 3)}  # the neighbours that the condition of a pass looks at


def _exposed(x: Sequence[np.ndarray]) -> np.ndarray:
  """The bits that satisfy the condition of the first or second pass, from the words of its neighbours."""
  return ~(x[0] & (x[1] | x[2] | ~x[3]))


def _is_simple(x: Sequence[np.ndarray]) -> np.ndarray:
  """The bits whose pixel either pass may remove, from the words x1..x8 of the neighbours (here x[0]..x[7]).

  The pixel has one crossing number, and min(n1, n2) is 2 or 3.
  """
  n1 = [x[k] | x[k + 1] for k in (0, 2, 4, 6)]
  n2 = [x[k + 1] | x[(k + 2) % 8] for k in (0, 2, 4, 6)]
  a, b, c, d = (after & ~x[k] for after, k in zip(n2, (0, 2, 4, 6)))  # crossings from 0 to 1
  is_one = (a ^ b ^ c ^ d) & ~((a & b) | (c & d))
  (two_1, four_1), (two_2, four_2) = _at_least(*n1), _at_least(*n2)
  return is_one & two_1 & two_2 & ~(four_1 & four_2)


def _at_least(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The bits that at least two, and that all four words have."""
  first, second = a & b, c & d
  return first | second | ((a | b) & (c | d)), first & second


# Neighbourhoods as numbers 0 to 255, of which bit k is x[k]; `_KEPT` are tables of them for cv2.LUT.
_BITS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], np.float32)
_HAS_BIT = [np.arange(256) >> k & 1 == 1 for k in range(8)]
_REMOVED = [_is_simple(_HAS_BIT) & _exposed([_HAS_BIT[k] for k in _EXPOSING[is_first]]) for is_first in (True, False)]
_KEPT = [np.where(removed, 0, 1).astype(np.uint8) for removed in _REMOVED]


def thin(mask: np.ndarray) -> np.ndarray:
  """Thins a mask [H, W] bool until nothing changes; keeps its 8-connectivity."""
  mask = mask.astype(np.uint8)
  while True:
    before = cv2.countNonZero(mask)
    for kept in _KEPT:
      code = cv2.filter2D(mask, cv2.CV_8U, _BITS, borderType=cv2.BORDER_CONSTANT)
      mask = np.bitwise_and(mask, cv2.LUT(code, kept))
    if cv2.countNonZero(mask) == before:
      return mask.astype(bool)


_LINE, _UNLABELLED = 1, 2  # bits of `resize_lines`


def resize_lines(label: np.ndarray, size: tuple[int, int], unlabelled: int) -> np.ndarray:
  """Resizes a map of lines, uint8 [h, w] to uint8 [H, W]: 1 on a line, `unlabelled`, or 0.

  Nearest neighbour would break a shrinking line into dots. Here an output cell (i, j) covers the input rows from
  i h/H to (i + 1) h/H, and columns likewise. Cells that touch a line pixel are on a line, and lines are then thinned
  to one pixel. Any other cell that touches an unlabelled pixel is unlabelled, because a line may pass there. The rule
  is the same for enlarging. An 8-connected line stays connected; lines in the same or neighbouring cells join.
  """
  codes = np.zeros(256, np.uint8)
  codes[1], codes[unlabelled] = _LINE, _UNLABELLED
  bits = cv2.LUT(label, codes)  # one pass over photographs of many megapixels
  bits = _join_rows(_join_rows(bits, size[0]).T, size[1]).T
  lines = thin(bits & _LINE)
  return np.where(lines, np.uint8(1), np.where(bits & _UNLABELLED, np.uint8(unlabelled), np.uint8(0)))


def _join_rows(bits: np.ndarray, count: int) -> np.ndarray:
  """Combines rows of bits [h, w] by `or` into [count, w]; each output row covers an equal share of the input rows."""
  edges = np.arange(count + 1) * len(bits)
  first = edges[:-1] // count
  last = (edges[1:] - 1) // count
  joined = bits[first]
  for step in range(1, (last - first).max() + 1):
    joined |= bits[np.minimum(first + step, last)]
  return joined
