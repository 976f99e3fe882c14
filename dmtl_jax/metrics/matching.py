"""Maximum one-to-one matchings between boundary pixels of predictions and of a ground truth.

Two pixels may match if they are at most `radius` apart. The Berkeley benchmark matches the masks of many thresholds of
a soft map with the same truth, so the pairs that may match are found once for up to 64 masks. A greedy matching,
nearest pairs first, treats these masks together, one in each bit of a word. Rounds of breadth-first search from every
unmatched pixel of one side follow, each augmenting along one path per tree, until no augmenting path is left, so that
the matching is a maximum one (Berge 1957).

All maximum matchings have the same number of pairs, but may cover different pixels where predictions compete for a
truth pixel. Here mostly the nearest wins, as in the benchmark's assignment of minimum total distance, so that scores
against several annotators (which use the union of the covered pixels) agree with it to about 4e-4 in F.
"""

from collections.abc import Iterator
import dataclasses
import itertools

import cv2
import numpy as np

from dmtl_jax.metrics.masks import MaskStack, pack, unpack, WORD, WORD_BITS

GROUP_PAIRS = 8_000_000  # pairs of a graph, at most, unless it is of a single mask; about 60 bytes each
GROUP_CELLS = 32_000_000  # pixels in any mask, times masks that are matched together, likewise; about 10 bytes each
SEARCH_PAIRS = 1_000_000  # pairs that a search follows together, about; 50 bytes each


def match(stack: MaskStack, truth: np.ndarray, radius: float, any_side: bool = False) -> np.ndarray:
  """Finds the predicted pixels that a maximum matching with the truth covers.

  Args:
    stack: the predictions of T thresholds.
    truth: [H, W] bool.
    radius: largest distance of a pair, in pixels.
    any_side: see `augment`; faster where only the number of covered pixels counts.

  Time and memory grow with the pairs. Where the truth is dense they are many, and few masks fit into a group: with 12%
  of 840x1000 pixels true and noise predicted, a pixel may match 36 others, 99 masks come in 69 groups of 5 to 8 million
  pairs, and each takes about a second to build on an AMD core, two minutes in all. Searching takes 2 s for the first
  group and 0.1 s for each of the others.

  Returns:
    [N, T] bool, a subset of `stack.inside`; its sum over N is also the number of covered truth pixels.
  """
  covered = np.zeros_like(stack.inside)
  for group in groups(stack, truth, radius):
    graph = build(stack, group, truth, radius)
    augment(graph, any_side)
    covered[graph.row, group] = graph.predicted.mate >= 0
  return covered


def groups(stack: MaskStack, truth: np.ndarray, radius: float) -> Iterator[slice]:
  """Ranges of thresholds that fit into a word and have at most GROUP_PAIRS pairs and GROUP_CELLS cells.

  A single mask may have more.
  """
  pixels, count = stack.inside.shape
  longest = min(max(GROUP_CELLS // max(pixels, 1), 1), WORD_BITS)
  pairs = None
  if pixels * len(_offsets(radius)) > GROUP_PAIRS:  # those of usual maps need no counting
    pairs = _count_pairs(stack, truth, radius)
  start = 0
  while start < count:
    stop = min(start + longest, count)
    if pairs is not None:
      union = np.zeros(pixels, bool)
      for mask in range(start, stop):
        union |= stack.inside[:, mask]
        if mask > start and pairs[union].sum() > GROUP_PAIRS:
          stop = mask
          break
    yield slice(start, stop)
    start = stop


def _count_pairs(stack: MaskStack, truth: np.ndarray, radius: float) -> np.ndarray:
  """Number of truth pixels [N] int32 at most `radius` from each pixel of the stack."""
  reach = int(radius)
  disc = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
  disc[tuple((_offsets(radius) + reach).T)] = 1
  near = cv2.filter2D(truth.astype(np.float32), cv2.CV_32F, disc, borderType=cv2.BORDER_CONSTANT)
  return np.rint(near.ravel().take(stack.place)).astype(np.int32)


@dataclasses.dataclass
class Side:
  """The nodes of one side of a graph, with their pairs and, for each of T masks, their partners in a matching.

  Attributes:
    starts: [A + 1] where the pairs of a node begin in `other` and `pair`.
    other: [P] the node on the other side of a pair, ascending for each node.
    pair: [P] position of the pair in `Graph.matched`.
    near: [A] words, in which masks a node has a pair.
    mate: [A, T] node of the other side matched to a node, or -1.
  """

  starts: np.ndarray
  other: np.ndarray
  pair: np.ndarray
  near: np.ndarray
  mate: np.ndarray

  def pairs(self, nodes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of some nodes: position of the node in `nodes`, and position of the pair in `other`, each [K].

    They come in parts of about SEARCH_PAIRS pairs.
    """
    first = self.starts.take(nodes)
    count = self.starts.take(nodes + 1) - first
    end = np.cumsum(count)
    shift = first - (end - count)
    bounds = [0, len(nodes)]
    if len(nodes) and end[-1] > SEARCH_PAIRS:
      bounds = np.unique([0, *np.searchsorted(end, np.arange(SEARCH_PAIRS, end[-1], SEARCH_PAIRS)), len(nodes)])
    for start, stop in itertools.pairwise(bounds):
      member = np.repeat(np.arange(start, stop), count[start:stop])
      before = end[start] - count[start] if len(nodes) else 0
      yield member, np.arange(before, before + len(member)) + shift.take(member)

  def unmatched(self) -> np.ndarray:
    """Words [A], in which masks a node has a pair but no partner."""
    return self.near & pack(self.mate < 0)


@dataclasses.dataclass
class Graph:
  """Predicted pixels near the truth, truth pixels, and a matching for each of T masks.

  Attributes:
    row: [L] position in the stack of a predicted pixel.
    predicted, truth: the two sides; a predicted pixel is in the masks `predicted.near`.
    matched: [P] words, in which masks the greedy matching holds a pair.
  """

  row: np.ndarray
  predicted: Side
  truth: Side
  matched: np.ndarray

  def rematch(self) -> np.ndarray:
    """Words [P] as `matched`, of the present matching."""
    node = np.repeat(np.arange(len(self.truth.near), dtype=np.int32), np.diff(self.truth.starts))
    words = np.empty_like(self.matched)
    length = max(GROUP_CELLS // self.truth.mate.shape[1], 1)
    for start in range(0, len(node), length):
      part = slice(start, start + length)
      words[self.truth.pair[part]] = pack(self.predicted.mate[self.truth.other[part]] == node[part, None])
    return words


def _offsets(radius: float) -> np.ndarray:
  """Shifts [D, 2] of at most `radius`, nearest first."""
  reach = int(radius)
  shifts = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
  squares = (shifts**2).sum(1)
  near = np.flatnonzero(squares <= radius**2)
  return shifts[near[np.argsort(squares[near], kind='stable')]]


def build(stack: MaskStack, group: slice, truth: np.ndarray, radius: float) -> Graph:
  """Builds the graph of a group of masks, and its greedy matching, nearest pairs first.

  A shift maps pixels one to one, so that all its pairs of unmatched pixels match together.
  """
  reach = int(radius)
  box = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
  around = cv2.dilate(truth.astype(np.uint8), box, borderType=cv2.BORDER_CONSTANT, borderValue=0).ravel()
  row = np.flatnonzero(around.take(stack.place))
  inside = pack(stack.inside[row, group])
  row, inside = row[inside != 0], inside[inside != 0]
  width = truth.shape[1] + 2 * reach
  index = np.full((truth.shape[0] + 2 * reach, width), -1, np.int32)
  index[reach : reach + truth.shape[0], reach : reach + truth.shape[1]][truth] = np.arange(truth.sum())
  y, x = np.divmod(stack.place[row], truth.shape[1])
  place = (y + reach) * width + x + reach  # in the padded `index`, which no shift leaves
  free_left = inside.copy()
  free_right = np.full(truth.sum(), ~np.uint64(0), WORD)
  near_right = np.zeros(len(free_right), WORD)
  shifts = _offsets(radius)
  lefts, rights, words = [], [], []
  for shift in shifts:
    target = index.ravel().take(place + shift @ (width, 1))
    left = np.flatnonzero(target >= 0).astype(np.int32)
    right = target.take(left)
    near_right[right] |= inside.take(left)
    matched = free_left.take(left) & free_right.take(right)
    free_left[left] ^= matched
    free_right[right] ^= matched
    lefts.append(left)
    rights.append(right)
    words.append(matched)
  # In rows from top to bottom, shifts lead from a predicted pixel to truth pixels in ascending order, and from a truth
  # pixel to predicted ones in descending order.
  size = np.cumsum([len(left) for left in lefts])
  blocks = np.split(np.arange(size[-1], dtype=np.int32), size[:-1])
  order = [blocks[i] for i in np.lexsort((shifts[:, 1], shifts[:, 0]))]
  left, right, matched = (_join(parts) for parts in (lefts, rights, words))
  count = group.stop - group.start
  some = np.flatnonzero(matched != 0)
  pair, mask = np.divmod(np.flatnonzero(unpack(matched[some], count)), count)
  pair = some.take(pair)
  mate = np.full((len(row), count), -1, np.int32)
  back = np.full((len(free_right), count), -1, np.int32)
  mate[left.take(pair), mask] = right.take(pair)
  back[right.take(pair), mask] = left.take(pair)
  predicted = _side(left, right, np.concatenate(order), inside, mate)
  truth_side = _side(right, left, np.concatenate(order[::-1]), near_right, back)
  return Graph(row, predicted, truth_side, matched)


def _join(parts: list[np.ndarray]) -> np.ndarray:
  """Concatenates the parts and frees them."""
  joined = np.concatenate(parts)
  parts.clear()
  return joined


def _side(node: np.ndarray, other: np.ndarray, order: np.ndarray, near: np.ndarray, mate: np.ndarray) -> Side:
  """The side with the nodes `node` [P] of pairs.

  Args:
    order: [P] the pairs, those of each node by ascending `other`.
    near: [A] words; cleared where a node has no pair.
  """
  pair = order.take(np.argsort(node.astype(np.min_scalar_type(len(mate))).take(order), kind='stable'))
  count = np.bincount(node, minlength=len(mate))
  return Side(np.append(0, np.cumsum(count)), other.take(pair), pair, np.where(count, near, WORD.type(0)), mate)


def reachable(start: np.ndarray, side: Side, far: Side, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Finds what alternating paths reach: any pair leads to the far side, only matched pairs lead back.

  Args:
    start: [A] words, from which nodes of `side`, in which masks.
    side, far: the sides of the graph, of A and B nodes.
    matched: [P] words, in which masks a pair is matched, see `Side.pair`.

  Returns:
    Words [A] and [B] of the reached nodes.
  """
  reached, reached_far = start.copy(), np.zeros_like(far.near)
  fresh = start
  while (nodes := np.flatnonzero(fresh != 0)).size:
    onward = np.zeros_like(reached_far)
    for member, position in side.pairs(nodes):
      np.bitwise_or.at(onward, side.other.take(position), fresh.take(nodes).take(member))
    onward &= ~reached_far
    reached_far |= onward
    nodes = np.flatnonzero(onward != 0)
    fresh = np.zeros_like(reached)
    for member, position in far.pairs(nodes):
      back = onward.take(nodes).take(member) & matched.take(far.pair.take(position))
      some = np.flatnonzero(back != 0)
      np.bitwise_or.at(fresh, far.other.take(position.take(some)), back.take(some))
    fresh &= ~reached
    reached |= fresh
  return reached, reached_far


def augment(graph: Graph, any_side: bool):
  """Enlarges the matching to a maximum one.

  Args:
    any_side: search from the side with fewer unmatched nodes, instead of from the predicted pixels. This takes up to a
      third of the time, and covers as many predicted pixels, but others where they compete.
  """
  count = graph.predicted.mate.shape[1]
  left, right = graph.predicted.unmatched(), graph.truth.unmatched()
  if not any_side or unpack(left, count).sum() <= unpack(right, count).sum():
    _augment(graph.predicted, graph.truth, left, np.zeros(graph.truth.mate.size, bool))
  else:
    # Augmenting paths start only from the truth pixels reached, and pass only through the predicted pixels reached.
    left, reached = reachable(left, graph.predicted, graph.truth, graph.matched)
    _augment(graph.truth, graph.predicted, right & reached, ~unpack(left, count).ravel())


def _augment(side: Side, far: Side, start: np.ndarray, closed: np.ndarray):
  """Augments from the unmatched nodes `start` [A] words; the far nodes `closed` [B * T] bool are left out."""
  count = side.mate.shape[1]
  root, mask = np.divmod(np.flatnonzero(unpack(start, count)), count)
  mate, back = side.mate.ravel(), far.mate.ravel()
  while root.size:
    parent, end = _search(side, back, root, mask, closed)
    has_path = end >= 0
    node, of = end[has_path], mask[has_path]
    while node.size:  # follow all paths back to their roots together: the trees share no node
      before = parent.take(node * count + of)
      onward = mate.take(before * count + of)
      mate[before * count + of] = node
      back[node * count + of] = before
      node, of = onward[onward >= 0], of[onward >= 0]
    improved = np.bincount(mask[has_path], minlength=count) > 0  # without an augmenting path a mask is finished
    goes_on = ~has_path & improved[mask]
    root, mask = root[goes_on], mask[goes_on]


def _search(side: Side, back: np.ndarray, roots, mask, closed) -> tuple[np.ndarray, np.ndarray]:
  """Grows one tree of alternating paths from each node of `roots` [K] in the mask `mask` [K].

  Args:
    back: [B * T] `mate` of the far side.
    closed: [B * T] bool, the far nodes that are left out.

  Returns:
    parent [B * T]: node from which a far node was reached, or a negative number.
    end [K]: an unmatched far node that the root's tree reached, or -1.
  """
  count = side.mate.shape[1]
  parent = np.where(closed, np.int32(-2), np.int32(-1))
  end = np.full(len(roots), -1)
  frontier, tree = roots, np.arange(len(roots))
  while frontier.size:
    nodes, trees = [], []
    for member, position in side.pairs(frontier):
      far = side.other.take(position) * count + mask.take(tree).take(member)
      fresh = np.flatnonzero(parent.take(far) == -1)
      member, far = member.take(fresh), far.take(fresh)
      source = frontier.take(member)
      parent[far] = source
      is_parent = np.flatnonzero(parent.take(far) == source)  # a far node that several nodes reached keeps one of them
      far, grown = far.take(is_parent), tree.take(member.take(is_parent))
      onward = back.take(far)
      is_end = onward < 0
      end[grown[is_end]] = far[is_end] // count
      grows = np.flatnonzero(~is_end & (end.take(grown) < 0))
      nodes.append(onward.take(grows))
      trees.append(grown.take(grows))
    frontier, tree = np.concatenate(nodes), np.concatenate(trees)
  return parent, end
