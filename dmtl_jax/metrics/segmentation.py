"""Mean intersection over union and pixel accuracy, for semantic segmentation and human parsing."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, ratio, State


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
  """IoU [C] in 0..1 of each class, from counts [label, prediction]; nan for a class that is in neither."""
  both = np.diag(confusion)
  either = confusion.sum(0) + confusion.sum(1) - both
  return np.where(either == 0, np.nan, ratio(both, either))


class Segmentation(Metric):
  """mIoU and pixelAcc in %, from the confusion counts of the whole set, background included.

  The protocols treat a class that is in no label and no prediction differently: in 'pascal' (the released
  PASCAL-Context code) it scores 0, in the others it is left out of the mean (MTPSL's own code divides 0 by 0). The
  mIoU of a single image, which shows few classes, always leaves it out.

  Args:
    task: of kind semseg or parsing.
    protocol: 'plain', 'pascal' or 'mtpsl'.

  Raises:
    ValueError: a class id is not one of the task's classes.
  """

  sums_over_pixels = True

  def image(self, prediction, label) -> State:
    valid = self.valid(prediction, label)
    count = len(self.task.classes)
    truth = label[..., 0][valid].astype(np.int64)
    guess = prediction[valid].astype(np.int64)
    for name, ids in (('label', truth), ('prediction', guess)):
      if ids.size and ids.max() >= count:
        raise ValueError(f"task '{self.task.name}': a {name} contains class {ids.max()}, but there are {count} classes")
    return {'confusion': np.bincount(truth * count + guess, minlength=count**2).reshape(count, count)}

  def confusion(self, state):
    return state['confusion']

  def compute(self, state) -> dict[str, float]:
    return self._scores(state['confusion'], absent=0.0 if self.protocol == 'pascal' else np.nan)

  def compute_one(self, state) -> dict[str, float]:
    return self._scores(state['confusion'], absent=np.nan)

  def _scores(self, confusion: np.ndarray, absent: float) -> dict[str, float]:
    if not confusion.any():
      return {'mIoU': float('nan'), 'pixelAcc': float('nan')}
    scores = np.nan_to_num(intersection_over_union(confusion), nan=absent)
    return {'mIoU': 100 * float(np.nanmean(scores)), 'pixelAcc': 100 * mean(np.trace(confusion), confusion.sum())}

  def per_class(self, state) -> dict[str, float]:
    """IoU in % by class name; nan for a class that does not occur in the set."""
    return {name: 100 * float(iou) for name, iou in zip(self.task.classes, intersection_over_union(state['confusion']))}
