"""Morphological thinning to lines one pixel wide, as in the Berkeley boundary benchmark; resizing of lines.

Thinning is the parallel algorithm of Guo and Hall in the form of Lam, Lee and Suen (1992), which Matlab's
bwmorph(..., 'thin', Inf) also uses: two alternating passes, each a lookup table over the 8 neighbours.
"""

import cv2
import numpy as np

# Bits of the neighbours x1..x8: east, then counter-clockwise.
_BITS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], np.float32)


def _tables() -> tuple[np.ndarray, np.ndarray]:
  """Whether the first and the second pass remove the centre pixel, for each neighbourhood [256]."""
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


_LINE, _UNLABELLED = 1, 2  # bits of `resize_lines`
_KEPT = [np.where(removed, 0, 1).astype(np.uint8) for removed in _tables()]  # tables for cv2.LUT


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
