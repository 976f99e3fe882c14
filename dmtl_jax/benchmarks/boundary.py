"""Speed of the boundary protocol: seconds an image on one core, against the plain method with the same counts.

  python -m dmtl_jax.benchmarks.boundary                         # drawn maps of 512x512
  python -m dmtl_jax.benchmarks.boundary --pred DIR --gt DIR     # your own, as dmtl_jax.metrics.boundary takes them

The plain method treats each of the 99 thresholds by itself: it cuts and thins the map, finds all pairs
within the tolerance with a k-d tree, and asks SciPy for a maximum matching.
"""

import argparse
import pathlib
import sys
import time

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from dmtl_jax.metrics import boundary
from dmtl_jax.metrics.boundary import folders
from dmtl_jax.metrics.thinning import thin


def plain(
  prediction: np.ndarray, truth: np.ndarray, tolerance: float = boundary.TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
  """Predicted and matched pixels [99] by a fresh maximum matching for each threshold."""
  radius, places = tolerance * np.hypot(*truth.shape), np.argwhere(truth)
  predicted, matched = [], []
  for level in boundary.levels(boundary.THRESHOLDS):
    mask = np.argwhere(thin(prediction >= level))
    predicted.append(len(mask))
    matched.append(_most(mask, places, radius) if len(mask) and len(places) else 0)
  return np.array(predicted), np.array(matched)


def _most(mask: np.ndarray, truth: np.ndarray, radius: float) -> int:
  """Size of a maximum matching of two sets of pixels [N, 2]."""
  near = cKDTree(mask).query_ball_tree(cKDTree(truth), radius + 1e-9)
  rows = np.repeat(np.arange(len(mask)), [len(n) for n in near])
  columns = np.array([i for n in near for i in n], int)
  graph = csr_matrix((np.ones(len(rows), bool), (rows, columns)), (len(mask), len(truth)))
  return int((maximum_bipartite_matching(graph) >= 0).sum())


def drawn(seed: int, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
  """A soft boundary map [H, W] and a truth that it resembles: ridges of smooth noise, shifted and disturbed."""
  rng = np.random.default_rng(seed)
  fields = [cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), sigma) for sigma in (20, 4)]
  field, noise = (x / x.std() for x in fields)
  truth, soft = (np.exp(-((4 * x) ** 2)) for x in (field, field + 0.15 * noise))
  return np.roll(soft, 2, axis=1) * rng.uniform(0.9, 1, (size, size)), thin(truth > 0.7)


def main(arguments=None) -> int:
  """Prints a line per image and the means; returns 1 where the counts differ, which they must not."""
  parser = argparse.ArgumentParser(
    'python -m dmtl_jax.benchmarks.boundary', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--pred', type=pathlib.Path, help='folder of grey PNGs')
  parser.add_argument('--gt', type=pathlib.Path, help='folder of truths; of several annotators the first counts')
  parser.add_argument('--images', type=int, default=3, help='how many (default %(default)s)')
  options = parser.parse_args(arguments)
  if options.pred:
    pairs = list(folders.pairs(options.pred, options.gt).items())[: options.images]
    images = [(name, folders.read_prediction(p), folders.read_truths(t)[0][0]) for name, (p, t) in pairs]
  else:
    images = [(f'drawn {seed}', *drawn(seed)) for seed in range(options.images)]
  cv2.setNumThreads(1)
  times = []
  for name, prediction, truth in images:
    began = time.process_time()  # of this process: other work on the machine does not count
    state = boundary.counts(prediction, [truth])
    ours = time.process_time() - began
    predicted, matched = plain(prediction, truth)
    times.append((ours, time.process_time() - began - ours))
    same = (state['predicted'] == predicted).all() and (state['recalled'] == matched).all()
    print(
      f'{name:<12} {truth.shape[0]}x{truth.shape[1]}  {ours:6.2f} s, plain {times[-1][1]:6.2f} s, '
      f'{times[-1][1] / ours:5.1f} times, counts {"equal" if same else "DIFFER"}',
      flush=True,
    )
    if not same:
      return 1
  ours, other = np.mean(times, 0)
  print(f'{"mean":<12} {"":>7}  {ours:6.2f} s, plain {other:6.2f} s, {other / ours:5.1f} times faster')
  return 0


if __name__ == '__main__':
  sys.exit(main())
