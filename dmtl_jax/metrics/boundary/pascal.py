"""Boundary scores on PASCAL-Context, computed as for the published tables.

The soft map is quantised to 8 bits, reduced to its ridges by non-maximum suppression, thresholded (>) at 101 levels,
thinned, and matched one to one with the thinned class changes of the Context LabelMap at the image's own size. Counts
are summed over 2498 of the 5105 validation images, and F is taken at the best threshold for the whole set.

The original is github.com/prismformore/Boundary-Detection-Evaluation-Tools (1c3b850), to which the README of
DiffusionMTL points. It computes in float32, and so does this module: where a map is flat, the orientation, and with
it which pixels are ridges, depends on the last bits.
"""

import numpy as np

from dmtl_jax.metrics import matching
from dmtl_jax.metrics.base import Metric, ratio, State
from dmtl_jax.metrics.boundary import _BoundaryMetric, Boundary, nested_masks, TOLERANCE
from dmtl_jax.metrics.masks import MaskStack, unpack
from dmtl_jax.metrics.saliency import f_measure
from dmtl_jax.metrics.thinning import thin

THRESHOLDS = np.array([0.001, *(k / 100 for k in range(1, 100)), 0.999], np.float32)
LISTED = 2498  # number of images that are scored
SMOOTHING = 4  # radius of the triangle filter applied before the orientation, in pixels
TILT = np.float32(1e-5)  # keeps the slope of the orientation finite
MARGIN = np.float32(1.01)  # a neighbour suppresses a pixel if it is stronger by this factor
EDGE = 1.001  # distance of bilinear samples from the lower and right borders
FRAME = 5  # width in pixels of the border in which the map fades to 0
OUTLIERS = 6  # random partners that the original offers to each outlier, see `pairs`


def truth(label_map: np.ndarray) -> np.ndarray:
  """The thinned boundaries [H, W] bool that are scored against, from a Context LabelMap [H, W].

  They differ from the label for training, which marks both sides of a change before thinning.
  """
  return thin(changes(label_map))


def changes(label_map: np.ndarray) -> np.ndarray:
  """Pixels [H, W] bool whose label differs from that of their east, south or south-east neighbour.

  The original compares 4-connected regions of equal labels instead. The result is the same: if east and south equal a
  pixel, they also connect it to an equal south-east neighbour.
  """
  out = np.zeros(label_map.shape, bool)
  out[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
  out[:-1] |= label_map[:-1] != label_map[1:]
  out[:-1, :-1] |= label_map[:-1, :-1] != label_map[1:, 1:]
  return out


def quantize(probability: np.ndarray) -> np.ndarray:
  """Converts probabilities [H, W] in 0..1 to uint8, truncating rather than rounding, as the authors store them."""
  return (probability.astype(np.float32) * np.float32(255)).astype(np.uint8)


def suppress(probability8: np.ndarray) -> np.ndarray:
  """Keeps only the ridges of a map (non-maximum suppression).

  A pixel becomes 0 if the map one pixel away across the ridge, on either side, is more than 1 % stronger; flat patches
  are kept. The map then fades to 0 towards its border.

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
  across = np.cos(angle).astype(np.float32)
  down = np.sin(angle).astype(np.float32)
  padded = np.pad(image, ((0, 1), (0, 1)), 'edge')  # for the neighbours in maps of one row or column
  ridge = np.ones(len(value), bool)
  for shift_x, shift_y in ((-across, -down), (across, down)):
    x = np.clip(column.astype(np.float32) + shift_x, 0, np.float32(max(width - EDGE, 0)))
    y = np.clip(row.astype(np.float32) + shift_y, 0, np.float32(max(height - EDGE, 0)))
    ridge &= MARGIN * value >= _bilinear(padded, x, y)
  out = np.zeros_like(image)
  out[row[ridge], column[ridge]] = value[ridge]
  return _fade(out)


def smooth(image: np.ndarray) -> np.ndarray:
  """Filters [H, W] float32 with [1 2 3 4 5 4 3 2 1] / 25 along both axes, mirroring at the border."""
  factor = np.float32(1 / (SMOOTHING + 1) ** 4)
  return _triangle(_triangle(image.T, factor).T, np.float32(1))


def _triangle(image, factor):
  """Applies the triangle filter times (SMOOTHING + 1)^2 factor along the first axis, in float32.

  The second difference of the filter has three taps, so two running sums compute it, with the original's rounding.
  """
  reach = SMOOTHING + 1
  wide = np.pad(image, ((reach, reach), (0, 0)), 'symmetric')
  before, here, after = (wide[start : start + len(image) - 1] for start in (0, reach, 2 * reach))
  slope = np.cumsum((before + after) - 2 * here, axis=0, dtype=np.float32)
  box = np.cumsum(wide[reach : 2 * reach], axis=0, dtype=np.float32)
  first = factor * (2 * box.cumsum(axis=0, dtype=np.float32)[-1:] - box[-1:])  # uses the symmetry of the padding
  return np.concatenate([first, factor * slope]).cumsum(axis=0, dtype=np.float32)


def orientation(smoothed: np.ndarray) -> np.ndarray:
  """Angle [H, W] float32 in 0..pi across the ridges of a smoothed map [H, W] float32, from x towards y."""
  y = _gradient(smoothed)
  yy = _gradient(y)
  xy = _gradient(y.T).T
  xx = _gradient(_gradient(smoothed.T)).T
  with np.errstate(divide='ignore', invalid='ignore'):
    slope = (yy * np.sign(-xy) / (xx + TILT)).astype(np.float64)
  angle = np.nan_to_num(np.arctan(slope)).astype(np.float32)  # NumPy's arctan in float32 depends on the processor
  return np.mod(angle, np.float32(np.pi))


def _gradient(image):
  """Central differences along the first axis, one-sided ones at its ends."""
  wide = np.pad(image, ((1, 1), (0, 0)), 'edge')
  out = wide[2:] - wide[:-2]
  out[1:-1] *= np.float32(0.5)
  return out


def _bilinear(image, x, y):
  """Samples an image bilinearly at positions x, y [N] float32 inside it: [N] float32."""
  column, row = x.astype(np.int64), y.astype(np.int64)
  x, y = x - column.astype(np.float32), y - row.astype(np.float32)
  top = image[row, column] * (1 - x) * (1 - y) + image[row, column + 1] * x * (1 - y)
  return top + image[row + 1, column] * (1 - x) * y + image[row + 1, column + 1] * x * y


def _fade(image):
  """Multiplies the frame of [H, W] in place by 0, 0.2, ..., 0.8 from the border inwards; corners by two factors."""
  count = min(FRAME, *(side // 2 for side in image.shape))
  for side in (image.T, image):
    for i in range(count):
      side[i] *= np.float32(i) / np.float32(count)
      side[-1 - i] *= np.float32(i) / np.float32(count)
  return image


def counts(probability8: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
  """Counts the matched boundary pixels of one image.

  Args:
    probability8: [H, W] uint8.
    truth: [H, W] bool, from `truth`.
    tolerance: largest distance of a matched pair, as a share of the image's diagonal.

  Returns:
    [101, 4] int64, by threshold: matched truth pixels, all truth pixels, matched predicted pixels, all predicted
    pixels. The number of matches is that of a maximum matching minus the original's average loss (see `pairs`).
  """
  if probability8.dtype != np.uint8 or probability8.shape != truth.shape:
    raise ValueError(
      f'expected a uint8 map of the size of the truth, {truth.shape}; got {probability8.dtype} {probability8.shape}'
    )
  masks, again = nested_masks(suppress(probability8), THRESHOLDS, 'left')
  largest, lost = pairs(masks, truth, tolerance * np.hypot(*truth.shape))
  matched = (largest - np.rint(lost).astype(np.int64))[again]
  predicted = masks.sizes()[again]
  return np.stack([matched, np.full_like(matched, truth.sum()), matched, predicted], axis=1).astype(np.int64)


def pairs(masks: MaskStack, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
  """Sizes of maximum matchings, and how many of their pairs the original loses on average.

  The original computes the cheapest assignment in which each pixel near the other map has a partner: such a pixel, or
  an outlier. There are as many outliers as pixels, outliers need partners too, and to keep the problem small each is
  offered only six others, drawn at random. So of the n outliers of the smaller side (the other has N > n) about
  n (1 - 6 / n)^N are offered to no other outlier. Each of these takes a pixel out of the matching, unless one of the
  six or so pixels that were offered it is unmatched in some maximum matching anyway. The loss is at most one pair in
  400; without it F would be 3e-4 too high.

  Args:
    masks: the predictions of T thresholds.
    truth: [H, W] bool.
    radius: largest distance of a pair, in pixels.

  Returns:
    Sizes of the maximum matchings [T] int64, expected losses [T] float64.
  """
  largest, lost = [], []
  for group in matching.groups(masks, truth, radius):
    graph = matching.build(masks, group, truth, radius)
    matching.augment(graph, any_side=True)
    count = group.stop - group.start
    matched = graph.rematch()
    totals, spare = [], []
    for side, far in ((graph.predicted, graph.truth), (graph.truth, graph.predicted)):
      totals.append(unpack(side.near, count).sum(0))
      spare.append(unpack(matching.reachable(side.unmatched(), side, far, matched)[0], count).sum(0))
    few, many = np.min(totals, 0), np.max(totals, 0)
    spare = np.where(totals[0] <= totals[1], *spare)
    lonely = few * (1 - ratio(np.minimum(OUTLIERS, few), few)) ** many
    largest.append((graph.predicted.mate >= 0).sum(0))
    lost.append(lonely * np.exp(-OUTLIERS * ratio(spare, few)))
  return np.concatenate(largest), np.concatenate(lost)


def curve(table: np.ndarray) -> dict[str, np.ndarray]:
  """{recall, precision, f}, each [101] in 0..1, from counts [101, 4]; an empty prediction has precision 1."""
  recalled, total, precise, predicted = table.T
  recall = ratio(recalled, total)
  precision = np.where(predicted == 0, 1, ratio(precise, predicted))
  return {'recall': recall, 'precision': precision, 'f': f_measure(precision, recall, 1)}


def best(table: np.ndarray) -> np.ndarray:
  """Counts [4] at the first threshold with the highest F; as in the original, F is compared to six decimals."""
  return table[np.argmax(np.round(curve(table)['f'], 6))]


class Pascal(_BoundaryMetric):
  """odsF and oisF in % over the images that the original scores; nan for a set without a boundary pixel.

  `image` takes as its label not that for training but `truth`, encoded as in tasks/base.py: 0, 1, and 255 in the
  padding or, for an image that is not scored, everywhere.
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
  """odsF and oisF of `Pascal`; odsF_plain, oisF_plain and AP_plain of `Boundary`, with the labels for training."""

  def __init__(self, task, tolerance: float = TOLERANCE):
    super().__init__(task)
    self.parts = {'': Pascal(task, tolerance), '_plain': Boundary(task, tolerance)}

  def image(self, prediction, label, truth: np.ndarray | None = None) -> State:
    """State of one image.

    Args:
      prediction: [H, W] probability.
      label: [H, W, 1] uint8, the label for training.
      truth: [H, W, 1] uint8, the label for `Pascal.image`; default: `label`.
    """
    labels = {'': label if truth is None else truth, '_plain': label}
    return {
      f'{name}{suffix}': value
      for suffix, part in self.parts.items()
      for name, value in part.image(prediction, labels[suffix]).items()
    }

  def compute(self, state) -> dict[str, float]:
    scores = self.parts['_plain'].compute(_plain(state))
    return self.parts[''].compute(state) | {f'{name}_plain': value for name, value in scores.items()}

  def operating_point(self, state):
    return self.parts['_plain'].operating_point(_plain(state))


def _plain(state: State) -> State:
  """The part of `PascalAndPlain`'s state that is `Boundary`'s."""
  return {name.removesuffix('_plain'): value for name, value in state.items() if name.endswith('_plain')}
