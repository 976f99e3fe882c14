"""Boundary scores: the full protocol of the Berkeley benchmark, and a quick F for use during training.

The protocol (Martin, Fowlkes and Malik 2004, as in the benchmark's own programs): a soft map is thresholded (>=) at
each level, thinned, and matched one to one with the truth within a tolerance; counts are summed over images before
precision, recall and F are computed.
`--mode=boundary` scores folders of images.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from dmtl_jax.metrics.base import Metric, OperatingPoint, ratio, State
from dmtl_jax.metrics.masks import MaskStack
from dmtl_jax.metrics.matching import match
from dmtl_jax.metrics.saliency import f_measure
from dmtl_jax.metrics.thinning import thin_nested

THRESHOLDS = 99
TOLERANCE = 0.0075  # of the diagonal: PASCAL-Context, BSDS; 0.011 is usual on NYUD-v2


def levels(count: int) -> np.ndarray:
  """The benchmark's thresholds [count], evenly spaced inside (0, 1)."""
  return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


def counts(
  prediction: np.ndarray,
  truths: Sequence[np.ndarray],
  tolerance: float = TOLERANCE,
  count: int = THRESHOLDS,
  thinning: bool = True,
) -> State:
  """Counts the matched boundary pixels of one image.

  Args:
    prediction: [H, W] probability of a boundary.
    truths: boundaries [H, W] bool, one pixel wide, of each annotator.
    tolerance: largest distance of a matched pair, as a share of the image's diagonal.
    count: number of thresholds T.
    thinning: False for predictions that are already one pixel wide.

  Returns:
    int64 counts by threshold [T]: `predicted` pixels; `precise`, those matched to any annotator; `recalled`, matched
    truth pixels summed over annotators. Also `truth`, all truth pixels summed over annotators, and `best` [4]:
    recalled, truth, precise, predicted at this image's best threshold.
  """
  masks, again = nested_masks(prediction.astype(np.float64), levels(count), 'right', thinning)
  radius = tolerance * np.hypot(*prediction.shape)
  recalled = np.zeros(masks.inside.shape[1], np.int64)
  precise = np.zeros_like(masks.inside)
  for truth in truths:
    covered = match(masks, truth, radius, any_side=len(truths) == 1)
    recalled += covered.sum(0)
    precise |= covered
  state = {
    'predicted': masks.sizes()[again],
    'precise': precise.sum(0)[again],
    'recalled': recalled[again],
    'truth': np.array(sum(truth.sum() for truth in truths), np.int64),
  }
  k = count - 1 - int(np.argmax(curve(state)['f'][::-1]))  # the last of equally good ones, as in the original
  best = [state['recalled'][k], state['truth'], state['precise'][k], state['predicted'][k]]
  return state | {'best': np.array(best, np.int64)}


def nested_masks(
  values: np.ndarray, thresholds: np.ndarray, side: Literal['left', 'right'], thinning: bool = True
) -> tuple[MaskStack, np.ndarray]:
  """The masks of a soft map [H, W] at thresholds [T], thinned or not; equal ones only once.

  Args:
    side: 'right': values >= threshold; 'left': values > threshold.

  Returns:
    U masks, and for each threshold the position [T] of its mask.
  """
  depth = np.searchsorted(thresholds, np.nan_to_num(values), side=side)
  outside = np.cumsum(np.bincount(depth.ravel(), minlength=len(thresholds) + 1))[:-1]
  _, first, again = np.unique(outside, return_index=True, return_inverse=True)  # nested masks of one size are equal
  depth = np.searchsorted(first, np.arange(len(thresholds) + 1))[depth]
  if thinning:
    return thin_nested(depth, len(first)), again
  return MaskStack.from_masks(depth > np.arange(len(first))[:, None, None]), again


def curve(state: State) -> dict[str, np.ndarray]:
  """{threshold, recall, precision, f} by threshold, each [T] in 0..1."""
  recall = ratio(state['recalled'], state['truth'])
  precision = ratio(state['precise'], state['predicted'])
  return {
    'threshold': levels(len(recall)),
    'recall': recall,
    'precision': precision,
    'f': f_measure(precision, recall, 1),
  }


def summary(state: State) -> dict:
  """ODS, OIS and AP in 0..1, as the benchmark prints them.

  Returns:
    {'ods': {threshold, recall, precision, f}, 'ois': {recall, precision, f}, 'ap': area}. ODS is the best of 100 steps
    between neighbouring thresholds, with recall and precision interpolated linearly. The area under the
    precision-recall curve is a sum over recalls 0, 0.01, ..., 1, with precision 0 outside the curve.
  """
  points = curve(state)
  count = len(points['f'])
  fine = np.append(np.arange(count - 1)[:, None] + np.linspace(0, 1, 100), count - 1)
  ods = {name: np.interp(fine, np.arange(count), points[name]) for name in ('threshold', 'recall', 'precision')}
  ods['f'] = f_measure(ods['precision'], ods['recall'], 1)
  k = int(np.argmax(ods['f']))
  recalled, truth, precise, predicted = state['best']
  ois = {'recall': ratio(recalled, truth), 'precision': ratio(precise, predicted)}
  ois['f'] = f_measure(ois['precision'], ois['recall'], 1)
  return {
    'ods': {name: float(values[k]) for name, values in ods.items()},
    'ois': {name: float(value) for name, value in ois.items()},
    'ap': _area(points['recall'], points['precision']),
  }


def _area(recall, precision) -> float:
  recall, first = np.unique(recall, return_index=True)
  if len(recall) == 1:  # a point has no area
    return 0.0
  return float(np.interp(np.linspace(0, 1, 101), recall, precision[first], left=0, right=0).sum() / 100)


class _BoundaryMetric(Metric):
  """Base of the boundary metrics: scores the bounding box of the labelled pixels, without predictions elsewhere.

  The box leaves out padding, so that the tolerance is a share of the diagonal of the image itself.
  """

  def __init__(self, task, tolerance: float = TOLERANCE):
    super().__init__(task)
    self.tolerance = tolerance

  def region(self, prediction, label) -> tuple[np.ndarray, np.ndarray]:
    """Probability [h, w] and boundary mask [h, w] of the labelled region; one empty pixel if there is none."""
    valid = self.valid(prediction, label)
    rows = np.flatnonzero(valid.any(1))
    columns = np.flatnonzero(valid.any(0))
    if not rows.size:
      return np.zeros((1, 1), np.float32), np.zeros((1, 1), bool)
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(valid, prediction, 0)[box], label[..., 0][box] == 1


class Boundary(_BoundaryMetric):
  """odsF, oisF and AP in % by the full protocol with 99 thresholds; nan for a set without a boundary pixel."""

  def image(self, prediction, label) -> State:
    probability, truth = self.region(prediction, label)
    return counts(probability, [truth], self.tolerance)

  def compute(self, state) -> dict[str, float]:
    if not state['truth']:
      return dict.fromkeys(('odsF', 'oisF', 'AP'), float('nan'))
    scores = summary(state)
    return {'odsF': 100 * scores['ods']['f'], 'oisF': 100 * scores['ois']['f'], 'AP': 100 * scores['ap']}

  def operating_point(self, state):
    if not state['truth']:
      return None
    points = curve(state)
    k = int(points['f'].argmax())
    at_half = np.interp(0.5, points['threshold'], points['f'])
    return OperatingPoint(float(points['threshold'][k]), 100 * float(points['f'][k]), 100 * float(at_half))


class ToleranceF(_BoundaryMetric):
  """tolF in %: a quick upper bound of odsF; nan for a set without a boundary pixel.

  Best F of the set over the thresholds 0.1, ..., 0.9 of thinned predictions. A pixel counts as matched if the other
  map has any pixel within the tolerance, even if several pixels share that one.
  """

  def image(self, prediction, label) -> State:
    probability, truth = self.region(prediction, label)
    state = {name: np.zeros(9, np.int64) for name in ('predicted', 'precise', 'recalled')}
    radius = self.tolerance * np.hypot(*truth.shape)
    near_truth = _within(truth, radius)
    masks, again = nested_masks(probability, levels(9), 'right')
    for k, mask in enumerate(masks.to_masks()[again]):
      state['predicted'][k] = mask.sum()
      state['precise'][k] = (mask & near_truth).sum()
      state['recalled'][k] = (truth & _within(mask, radius)).sum()
    return state | {'truth': np.array(truth.sum(), np.int64)}

  def compute(self, state) -> dict[str, float]:
    return {'tolF': 100 * float(curve(state)['f'].max()) if state['truth'] else float('nan')}


def _within(mask, radius) -> np.ndarray:
  """Pixels at most `radius` from a pixel of the mask."""
  reach = np.arange(-int(radius), int(radius) + 1)
  disc = (np.hypot(reach[:, None], reach) <= radius).astype(np.uint8)
  return cv2.dilate(mask.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
