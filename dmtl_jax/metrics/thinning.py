"""Morphological thinning to lines one pixel wide, as the Berkeley boundary benchmark applies it; resizing of lines.

Thinning is the parallel algorithm of Guo and Hall in the form of Lam, Lee and Suen (1992), which Matlab's
bwmorph(..., 'thin', Inf) uses too: two alternating passes, each a table over the 8 neighbours.
"""

import cv2
import numpy as np

# Bits of the neighbours x1..x8: east, then counter-clockwise.
_BITS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], np.float32)


def _tables() -> tuple[np.ndarray, np.ndarray]:
  """For each neighbourhood [256]: is the centre removed, in the first and in the second pass?"""
  x = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
  x = np.concatenate([x, x[:, :1]], axis=1)  # x[:, i] is x_{i+1}; x9 = x1
  crossings = sum((~x[:, i] & (x[:, i + 1] | x[:, i + 2])).astype(int) for i in (0, 2, 4, 6))
  n1 = sum((x[:, i] | x[:, i + 1]).astype(int) for i in (0, 2, 4, 6))
  n2 = sum((x[:, i + 1] | x[:, i + 2]).astype(int) for i in (0, 2, 4, 6))
  fewest = np.minimum(n1, n2)
  ends = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
  first = ends & ~((x[:, 1] | x[:, 2] | ~x[:, 7]) & x[:, 0])
  second = ends & ~((x[:, 5] | x[:, 6] | ~x[:, 3]) & x[:, 4])
  return first, second


_LINE, _UNKNOWN = 1, 2  # bits of `resize_lines`
_KEPT = [np.where(removed, 0, 1).astype(np.uint8) for removed in _tables()]  # tables for cv2.LUT


def thin(mask: np.ndarray) -> np.ndarray:
  """Thins mask [H, W] bool until nothing changes; connectivity (8) is kept."""
  mask = mask.astype(np.uint8)
  while True:
    before = cv2.countNonZero(mask)
    for kept in _KEPT:
      code = cv2.filter2D(mask, cv2.CV_8U, _BITS, borderType=cv2.BORDER_CONSTANT)
      mask = np.bitwise_and(mask, cv2.LUT(code, kept))
    if cv2.countNonZero(mask) == before:
      return mask.astype(bool)


def resize_lines(label: np.ndarray, size: tuple[int, int], unlabelled: int) -> np.ndarray:
  """A map of lines at another size: 1 on a line, `unlabelled`, or 0; uint8 [h, w] to uint8 [H, W].

  Nearest neighbour would break a line into dots where it shrinks. Here output cell (i, j) covers the input rows
  from i h/H to (i + 1) h/H, and its columns likewise. Cells that touch a line pixel are on a line, and lines are
  thinned to one pixel. Any other cell that touches an unlabelled pixel is unlabelled: we know that there is no line
  only where all of the cell is labelled. The rule is the same for shrinking, enlarging and one axis of each. A line in
  one piece (8-connected) stays in one piece; lines that fall into the same or neighbouring cells join.
  """
  codes = np.zeros(256, np.uint8)
  codes[1], codes[unlabelled] = _LINE, _UNKNOWN
  bits = cv2.LUT(label, codes)  # one pass over photographs of many megapixels
  bits = _touched(_touched(bits, size[0]).T, size[1]).T
  lines = thin(bits & _LINE)
  return np.where(lines, np.uint8(1), np.where(bits & _UNKNOWN, np.uint8(unlabelled), np.uint8(0)))


def _touched(bits: np.ndarray, count: int) -> np.ndarray:
  """Rows of bits [h, w] joined by `or` into `count` rows, each covering an equal share of them: [count, w]."""
  rows, cells = len(bits), np.arange(count)
  first, last = cells * rows // count, -(-(cells + 1) * rows // count) - 1
  joined = bits[first]
  for step in range(1, (last - first).max() + 1):
    joined |= bits[np.minimum(first + step, last)]
  return joined
