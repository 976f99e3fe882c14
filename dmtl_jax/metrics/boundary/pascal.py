"""Boundary scores on PASCAL-Context, as the authors of the benchmark's tables measure them.

They do not score the soft map itself. An 8-bit map is suppressed to the ridges of its own
orientation, cut at 101 thresholds (>), thinned and matched one to one with the thinned changes of
the Context LabelMap at the image's own size. Counts are added up over 2498 of the 5105 validation
images, and F is taken at the best threshold for the whole set.

The procedure is that of github.com/prismformore/Boundary-Detection-Evaluation-Tools (1c3b850), to
which the README of DiffusionMTL points. It computes in float32, and so does this: orientation, and
with it which pixels are ridges, hangs on the last bits where a map is flat.
"""

import numpy as np

from dmtl_jax.metrics import matching
from dmtl_jax.metrics.base import Metric, ratio, State
from dmtl_jax.metrics.boundary import _BoundaryMetric, Boundary, TOLERANCE
from dmtl_jax.metrics.saliency import f_measure
from dmtl_jax.metrics.thinning import thin

THRESHOLDS = np.array([0.001, *(k / 100 for k in range(1, 100)), 0.999], np.float32)
LISTED = 2498  # images that are scored
SMOOTHING = 4  # radius of the triangle filter below the orientation, in pixels
TILT = np.float32(1e-5)  # keeps the slope of the orientation finite
MARGIN = np.float32(1.01)  # a neighbour must be stronger than this share of a pixel to suppress it
EDGE = 1.001  # bilinear samples stay this far inside the far borders
FRAME = 5  # pixels of the border over which the map fades to 0
OUTLIERS = 6  # random partners that the original offers to what finds no pixel


def truth(label_map: np.ndarray) -> np.ndarray:
  """The evaluator's boundaries [H, W] bool, thinned, of a Context LabelMap [H, W].

  Not the label for training, which marks both sides of a change before it is thinned.
  """
  return thin(changes(label_map))


def changes(label_map: np.ndarray) -> np.ndarray:
  """Pixels [H, W] bool whose region is another one than that of their east, south or south-east neighbour.

  The original first makes every 4-connected set of equal labels a region of its own. That changes
  nothing: where east and south are equal to a pixel, an equal south-east is connected to it by them.
  """
  out = np.zeros(label_map.shape, bool)
  out[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
  out[:-1] |= label_map[:-1] != label_map[1:]
  out[:-1, :-1] |= label_map[:-1, :-1] != label_map[1:, 1:]
  return out


def quantize(probability: np.ndarray) -> np.ndarray:
  """[H, W] uint8 of probabilities [H, W] in 0..1, cut off rather than rounded, as the authors store them."""
  return (probability.astype(np.float32) * np.float32(255)).astype(np.uint8)


def suppress(probability8: np.ndarray) -> np.ndarray:
  """The ridges of a map.

  A pixel becomes 0 if the map one pixel away across its orientation, on either side, is more than
  1 % stronger; flat patches stay whole. The map then fades towards its border.

  Args:
    probability8: [H, W] uint8.

  Returns:
    [H, W] float32 in 0..1.
  """
  image = probability8.astype(np.float32) / np.float32(255)
  height, width = image.shape
  row, column = np.nonzero(image)
  value = image[row, column]
  angle = orientation(smooth(image))[row, column].astype(np.float64)
  across, down = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
  around = np.pad(image, ((0, 1), (0, 1)), 'edge')  # so that maps of one row or column have neighbours too
  ridge = np.ones(len(value), bool)
  for shift_x, shift_y in ((-across, -down), (across, down)):
    x = np.clip(column.astype(np.float32) + shift_x, 0, np.float32(max(width - EDGE, 0)))
    y = np.clip(row.astype(np.float32) + shift_y, 0, np.float32(max(height - EDGE, 0)))
    ridge &= MARGIN * value >= _bilinear(around, x, y)
  out = np.zeros_like(image)
  out[row[ridge], column[ridge]] = value[ridge]
  return _fade(out)


def smooth(image: np.ndarray) -> np.ndarray:
  """[H, W] float32, filtered with [1 2 3 4 5 4 3 2 1] / 25 along both axes, its border mirrored."""
  factor = np.float32(1 / (SMOOTHING + 1) ** 4)
  return _triangle(_triangle(image.T, factor).T, np.float32(1))


def _triangle(image, factor):
  """The triangle filter along the first axis times (SMOOTHING + 1)^2 factor, in float32.

  Its second difference has three taps, so two running sums make it. Their errors are the original's.
  """
  reach, length = SMOOTHING + 1, len(image)
  wide = np.pad(image, ((reach, reach), (0, 0)), 'symmetric')
  before, here, after = (wide[start : start + length - 1] for start in (0, reach, 2 * reach))
  slope = np.cumsum((before + after) - 2 * here, axis=0, dtype=np.float32)
  box = np.cumsum(wide[reach : 2 * reach], axis=0, dtype=np.float32)
  first = factor * (2 * box.cumsum(axis=0, dtype=np.float32)[-1:] - box[-1:])  # the border is its own mirror
  return np.concatenate([first, factor * slope]).cumsum(axis=0, dtype=np.float32)


def orientation(smoothed: np.ndarray) -> np.ndarray:
  """Angle [H, W] float32 in 0..pi across the ridges of a smoothed map [H, W] float32, from x towards y."""
  x, y = _gradient(smoothed.T).T, _gradient(smoothed)
  xx, xy, yy = _gradient(x.T).T, _gradient(y.T).T, _gradient(y)
  with np.errstate(divide='ignore', invalid='ignore'):
    slope = (yy * np.sign(-xy) / (xx + TILT)).astype(np.float64)
  angle = np.nan_to_num(np.arctan(slope)).astype(np.float32)  # NumPy's in float32 depends on the processor
  return np.mod(angle, np.float32(np.pi))


def _gradient(image):
  """Central differences along the first axis, one-sided ones at its ends."""
  wide = np.pad(image, ((1, 1), (0, 0)), 'edge')
  out = wide[2:] - wide[:-2]
  out[1:-1] *= np.float32(0.5)
  return out


def _bilinear(image, x, y):
  """Values [N] float32 of an image at places x, y [N] float32 inside it."""
  column, row = x.astype(np.int64), y.astype(np.int64)
  x, y = x - column.astype(np.float32), y - row.astype(np.float32)
  top = image[row, column] * (1 - x) * (1 - y) + image[row, column + 1] * x * (1 - y)
  return top + image[row + 1, column] * (1 - x) * y + image[row + 1, column + 1] * x * y


def _fade(image):
  """Multiplies the frame of [H, W] by 0, 0.2, ..., 0.8 from the border inwards; corners by two factors."""
  count = min(FRAME, *(side // 2 for side in image.shape))
  for side in (image.T, image):
    for i in range(count):
      side[i] *= np.float32(i) / np.float32(count)
      side[-1 - i] *= np.float32(i) / np.float32(count)
  return image


def counts(probability8: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
  """Counts of one image.

  Args:
    probability8: [H, W] uint8.
    truth: [H, W] bool, as `truth` gives it.
    tolerance: largest distance of a matched pair, as a share of the image's diagonal.

  Returns:
    [101, 4] int64, at each threshold the pixels of the truth that are matched and all of the truth,
    those of the prediction that are matched and all of the prediction. Matched are, one to one, as
    many as in a largest matching, less what the original loses of it on average (see `pairs`).
  """
  if probability8.dtype != np.uint8 or probability8.shape != truth.shape:
    raise ValueError(
      f'expected a uint8 map of the size {truth.shape} of the truth, got {probability8.dtype} {probability8.shape}'
    )
  ridges = suppress(probability8)
  # The masks are nested, so equal sizes are equal masks: each is thinned and matched once.
  sizes = np.searchsorted(np.sort(ridges[ridges > 0]), THRESHOLDS, side='right')
  _, first, again = np.unique(sizes, return_index=True, return_inverse=True)
  masks = np.stack([thin(ridges > threshold) for threshold in THRESHOLDS[first]])
  largest, lost = pairs(masks, truth, tolerance * np.hypot(*truth.shape))
  matched = (largest - np.rint(lost).astype(np.int64))[again]
  predicted = masks.sum((1, 2))[again]
  return np.stack([matched, np.full_like(matched, truth.sum()), matched, predicted], axis=1).astype(np.int64)


def pairs(masks: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
  """Sizes of the largest matchings, and how many of their pairs the original loses on average.

  The original seeks the cheapest assignment in which each pixel that is near the other map has a
  partner: such a pixel, or an outlier. There are as many outliers as pixels, they need partners too,
  and to keep the problem small each sees but six others, drawn at random. So of the n outliers of the
  smaller side (N > n are on the other) about n (1 - 6 / n)^N are drawn by no other outlier. Each of
  these takes a pixel out of the matching, unless one of the six or so pixels that drew it is left out
  by some largest matching anyway. At most a pair in four hundred; without it F is 3e-4 too high.

  Args:
    masks: [T, H, W] bool.
    truth: [H, W] bool.
    radius: largest distance of a pair, in pixels.

  Returns:
    Largest matchings [T] int64, expected losses [T] float64.
  """
  largest, lost = [], []
  for start, stop in matching._blocks(masks):
    graph, count = matching._build(masks[start:stop], truth, radius), stop - start
    matching._augment(graph)
    edges, mates = (graph.edges, graph.edges.T.tocsr()), (graph.mate, graph.back)
    blocks = graph.block, np.repeat(np.arange(count), truth.sum())
    near = [np.diff(side.indptr) > 0 for side in edges]
    totals = np.stack([np.bincount(block[some], minlength=count) for block, some in zip(blocks, near)])
    few, many, smaller = totals.min(0), totals.max(0), totals.argmin(0)
    spare = np.zeros(count, np.int64)
    for k in (0, 1):
      out = near[k] & (mates[k] < 0) & (smaller[blocks[k]] == k)
      spare += np.bincount(blocks[k][_spare(edges[k], mates[1 - k], out)], minlength=count)
    lonely = few * (1 - ratio(np.minimum(OUTLIERS, few), few)) ** many
    largest.append(np.bincount(graph.block[graph.mate >= 0], minlength=count))
    lost.append(lonely * np.exp(-OUTLIERS * ratio(spare, few)))
  return np.concatenate(largest), np.concatenate(lost)


def _spare(edges, back, out):
  """Rows [N] bool that a largest matching can leave out, among those in reach of `out` [N] bool, left out now.

  Args:
    edges: csr_matrix [N, M] of pairs.
    back: [M] row matched to a column.
  """
  spare, seen, frontier = out.copy(), np.zeros(len(back), bool), np.flatnonzero(out)
  while frontier.size:  # along paths of an edge outside and an edge inside the matching
    reached = np.zeros_like(seen)
    reached[edges[frontier].indices] = True
    frontier = back[np.flatnonzero(reached & ~seen)]
    seen |= reached
    spare[frontier] = True
  return spare


def curve(table: np.ndarray) -> dict[str, np.ndarray]:
  """recall, precision and f [101] in 0..1 of counts [101, 4]; nothing predicted has precision 1, recall 0."""
  recalled, total, precise, predicted = table.T
  recall = ratio(recalled, total)
  precision = np.where(predicted == 0, 1, ratio(precise, predicted))
  return {'recall': recall, 'precision': precision, 'f': f_measure(precision, recall, 1)}


def best(table: np.ndarray) -> np.ndarray:
  """Counts [4] at the first threshold of highest F, which the original compares to six decimals."""
  return table[np.argmax(np.round(curve(table)['f'], 6))]


class Pascal(_BoundaryMetric):
  """odsF and oisF in %, of the images that the original scores; nan for a set without a boundary pixel.

  Instead of the label for training, `image` takes the evaluator's `truth` in the encoding of
  tasks/base.py: 0, 1, and 255 on padding or, all over, for an image that is not listed.
  """

  def image(self, prediction, label) -> State:
    probability, boundaries = self.region(prediction, label)
    table = counts(quantize(probability), boundaries, self.tolerance)
    return {'counts': table, 'best': best(table)}

  def compute(self, state) -> dict[str, float]:
    if not state['counts'][0, 1]:
      return dict.fromkeys(('odsF', 'oisF'), float('nan'))
    recalled, total, precise, predicted = state['best']
    ois = f_measure(ratio(precise, predicted), ratio(recalled, total), 1)
    return {'odsF': 100 * float(curve(state['counts'])['f'].max()), 'oisF': 100 * float(ois)}


class PascalAndPlain(Metric):
  """odsF and oisF of `Pascal`; odsF_plain, oisF_plain and AP_plain of `Boundary` on the same images' labels."""

  def __init__(self, task, tolerance: float = TOLERANCE):
    super().__init__(task)
    self.parts = {'': Pascal(task, tolerance), '_plain': Boundary(task, tolerance)}

  def image(self, prediction, label, truth: np.ndarray | None = None) -> State:
    """State of one image.

    Args:
      prediction: [H, W] probability.
      label: [H, W, 1] uint8, that of training.
      truth: [H, W, 1] uint8, the evaluator's, as `Pascal.image` takes it; default: the label.
    """
    labels = {'': label if truth is None else truth, '_plain': label}
    return {
      f'{name}{suffix}': value
      for suffix, part in self.parts.items()
      for name, value in part.image(prediction, labels[suffix]).items()
    }

  def compute(self, state) -> dict[str, float]:
    plain = {name.removesuffix('_plain'): value for name, value in state.items() if name.endswith('_plain')}
    scores = self.parts['_plain'].compute(plain)
    return self.parts[''].compute(state) | {f'{name}_plain': value for name, value in scores.items()}
