"""Finds photographs that show the same picture: copies, also resized or recompressed ones.

Pictures are compared as thumbnails of 16x16 grey pixels. On CamVid (256x192) the thumbnails of a photograph and of its
copy differ by at most 0.9 grey levels (root mean square) after JPEG of quality 30, 0.7 after enlarging it 1.7 times and
0.4 after halving it; those of two frames that follow each other by a fifteenth of a second differ by at least 2.1.
"""

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

SIDE = 16  # pixels of a thumbnail
NEAR = 1.5  # largest difference of copies, in grey levels
NEAR_SHARE = 0.1  # and as a share of the picture's contrast
FLAT = 4  # contrast below which pictures are too plain to compare
CHUNK = 2**14  # pairs compared at a time, which bounds the memory
NEIGHBOURS = 8  # compared with each picture; a larger group of copies is linked by chains of neighbours


def thumbnail(image: np.ndarray) -> np.ndarray:
  """Reduces an image, uint8 [H, W, 3], to its thumbnail, uint8 [SIDE * SIDE]."""
  small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
  return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).ravel()


def pictures(thumbnails: np.ndarray) -> np.ndarray:
  """Numbers the pictures that thumbnails [N, SIDE * SIDE] show: [N] int, equal for copies."""
  distinct, positions = np.unique(thumbnails, axis=0, return_inverse=True)
  values = distinct.astype(np.float32)
  contrast = values.std(1)
  # Means of 4x4 pixels, times 4, are coordinates in an orthonormal basis: thumbnails are at least that far apart.
  cells = values.reshape(-1, SIDE // 4, 4, SIDE // 4, 4).mean((2, 4)).reshape(len(values), -1) * 4
  count = min(NEIGHBOURS + 1, len(cells))
  _, near = cKDTree(cells).query(cells, k=[*range(1, count + 1)], distance_upper_bound=NEAR * SIDE, workers=-1)
  first, rank = np.nonzero(near < len(cells))
  second = near[first, rank]
  limit = np.minimum(NEAR, NEAR_SHARE * contrast[first])
  same = np.zeros(len(first), bool)
  for start in range(0, len(first), CHUNK):
    part = slice(start, start + CHUNK)
    difference = np.sqrt(((values[first[part]] - values[second[part]]) ** 2).mean(1))
    same[part] = difference <= limit[part]
  links = coo_matrix((np.ones(same.sum(), bool), (first[same], second[same])), shape=(len(values),) * 2)
  _, numbers = connected_components(links, directed=False)
  numbers = numbers[positions.ravel()]
  flat = (contrast < FLAT)[positions.ravel()]
  numbers[flat] = len(values) + np.flatnonzero(flat)
  return numbers
