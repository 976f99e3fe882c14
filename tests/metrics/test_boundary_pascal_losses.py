"""What PASCAL's boundary protocol loses of a largest matching, against random assignments as the original makes them."""

import cv2
import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching

from dmtl_jax.metrics import matching
from dmtl_jax.metrics.boundary import pascal
from dmtl_jax.metrics.masks import MaskStack, unpack
from dmtl_jax.metrics.thinning import thin
from tests.metrics.maps import lines8, soft8


def assign(mask, truth, radius, outliers, rng):
  """Pairs of real pixels in the cheapest assignment with random outliers, as the original sets it up."""
  a, b = np.argwhere(mask), np.argwhere(truth)
  distance = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
  near = distance <= radius
  distance = distance[near.any(1)][:, near.any(0)]
  rows, columns = distance.shape
  left, right = np.nonzero(distance <= radius)
  price = np.ceil(100 * 100 * radius)
  draw = lambda count, others: np.concatenate([rng.permutation(others)[:outliers] for _ in range(count)])
  times = lambda count, others: np.repeat(np.arange(count), min(outliers, others))
  parts = [
    (left, right, np.rint(100 * distance[left, right])),
    (times(rows, rows), columns + draw(rows, rows), price),
    (rows + draw(columns, columns), times(columns, columns), price),
    (np.arange(rows), columns + np.arange(rows), 100 * price),
    (rows + np.arange(columns), np.arange(columns), 100 * price),
  ]
  if rows >= columns:
    parts.append((rows + draw(rows, columns), columns + times(rows, columns), price))
  else:
    parts.append((rows + times(columns, rows), columns + draw(columns, rows), price))
  parts = [np.broadcast_arrays(*part) for part in parts]
  i, j, cost = (np.concatenate(values) for values in zip(*parts))
  order = np.lexsort((cost, j, i))
  i, j, cost = i[order], j[order], cost[order]
  first = np.append(True, (np.diff(i) != 0) | (np.diff(j) != 0))
  size = rows + columns
  i, j = min_weight_full_bipartite_matching(coo_matrix((cost[first] + 1, (i[first], j[first])), (size, size)).tocsr())
  return ((i < rows) & (j < columns)).sum()


@pytest.mark.parametrize('kind', ['all match', 'some are left out', 'many are left out'])
def test_expected_losses_are_those_of_random_assignments(kind, monkeypatch):
  monkeypatch.setattr(pascal, 'OUTLIERS', 5)  # more are lost than with six, so that few draws tell
  truth = lines8(1, (90, 105))
  mask = np.roll(truth, 1, 0)
  if kind != 'all match':
    r = np.random.default_rng(0)
    mask = mask | (cv2.dilate(truth.astype(np.uint8), np.ones((5, 5))) > 0) & (r.random(mask.shape) < 0.02)
    truth = truth | (r.random(mask.shape) < (0.004 if kind == 'some are left out' else 0.03)) & ~truth
    if kind == 'many are left out':
      mask |= r.random(mask.shape) < 0.03
  (largest,), (lost,) = pascal.pairs(MaskStack.from_masks(mask[None]), truth, 1.5)
  rng = np.random.default_rng(1)
  found = [largest - assign(mask, truth, 1.5, 5, rng) for _ in range(10)]
  print(f'{kind}: {largest} pairs, expected loss {lost:.1f}, found {np.mean(found):.1f}')
  assert np.mean(found) == pytest.approx(lost, abs=max(1.5, 0.3 * lost))


def test_of_a_perfect_map_the_average_loss_is_taken_off():
  truth = np.zeros((120, 400), bool)
  truth[8:-12, 8:-8:8] = True
  count = truth.sum()
  matched = count - 12  # 4800 e^-6 is 11.9
  assert pascal.counts((255 * truth).astype(np.uint8), truth)[50].tolist() == [matched, count, matched, count]


@pytest.mark.parametrize('seed', range(4))
def test_pixels_reached_from_unmatched_ones_are_those_without_which_a_matching_is_as_large(seed):
  r = np.random.default_rng(seed)
  masks, truth = r.random((2, 9, 10)) < 0.25, r.random((9, 10)) < 0.2
  stack = MaskStack.from_masks(masks)
  graph = matching.build(stack, slice(0, 2), truth, 1.5)
  matching.augment(graph, any_side=True)
  matched = graph.rematch()
  reached = [
    unpack(matching.reachable(side.unmatched(), side, far, matched)[0], 2)
    for side, far in ((graph.predicted, graph.truth), (graph.truth, graph.predicted))
  ]
  predicted = np.stack(np.divmod(stack.place[graph.row], 10), axis=1)
  for k in range(2):
    inside = unpack(graph.predicted.near, 2)[:, k]
    pairs = (((predicted[:, None] - np.argwhere(truth)) ** 2).sum(-1) <= 1.5**2) & inside[:, None]
    for near, found in ((pairs, reached[0][:, k]), (pairs.T, reached[1][:, k])):
      without = [largest_matching(np.delete(near, row, 0)) for row in range(len(near))]
      assert (found == (near.any(1) & (np.array(without) == largest_matching(near)))).all()


def largest_matching(near):
  return (maximum_bipartite_matching(csr_matrix(near)) >= 0).sum()


@pytest.mark.parametrize('seed', range(3))
def test_the_largest_matchings_are_those_of_the_plain_protocol(seed):
  masks, truth = np.stack([thin(soft8(seed) > t) for t in (20, 100, 200, 255)]), lines8(seed + 5)
  stack = MaskStack.from_masks(masks)
  largest, lost = pascal.pairs(stack, truth, 2.3)
  assert (largest == matching.match(stack, truth, 2.3).sum(0)).all()
  assert largest[-1] == 0 < largest[0]
  assert ((lost >= 0) & (lost <= 0.01 * largest + 0.01)).all()
  nothing = pascal.pairs(stack, np.zeros_like(truth), 2.3)
  assert not np.any(nothing)
