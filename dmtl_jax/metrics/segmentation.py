"""Mean intersection over union and pixel accuracy, for semantic segmentation and human parsing."""

import numpy as np

from dmtl_jax.metrics.base import mean, Metric, ratio, State


def intersection_over_union(confusion: np.ndarray, refuted: np.ndarray | int = 0) -> np.ndarray:
  """IoU [C] in 0..1 of each class; nan for a class that is in neither.

  Args:
    confusion: counts [label, prediction].
    refuted: further pixels [C] predicted as each class, of which only is known that they are not of that class.
  """
  both = np.diag(confusion)
  either = confusion.sum(0) + confusion.sum(1) - both + refuted
  return np.where(either == 0, np.nan, ratio(both, either))


class Segmentation(Metric):
  """mIoU and pixelAcc in %, from the confusion counts of the whole set, background included.

  The protocols treat a class that is in no label and no prediction differently: in 'pascal' (the released
  PASCAL-Context code) it scores 0, in the others it is left out of the mean (MTPSL's own code divides 0 by 0). The
  mIoU of a single image, which shows few classes, always leaves it out.

  Only what is known counts. A pixel that is none of some classes (`Task.annotated`) is a false positive of the
  predicted class if that is one of these; its own class is unknown, so it is no false negative. Predicted as another
  class, it may be right and counts nowhere. pixelAcc is the share of right pixels among those of known class.

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
    rows = count + len(self.task.annotated)
    truth = label[..., 0][valid].astype(np.int64)
    guess = prediction[valid].astype(np.int64)
    for name, ids, limit in (('label', truth, rows), ('prediction', guess, count)):
      if ids.size and ids.max() >= limit:
        raise ValueError(f"task '{self.task.name}': a {name} contains class {ids.max()}, but there are {count} classes")
    counts = np.bincount(truth * count + guess, minlength=rows * count).reshape(rows, count)
    state = {'confusion': counts[:count]}
    if self.task.annotated:
      state['refuted'] = np.where(self.task.possible_classes, 0, counts)[count:].sum(0)
    return state

  def confusion(self, state):
    return state['confusion']

  def compute(self, state) -> dict[str, float]:
    return self._scores(state, absent=0.0 if self.protocol == 'pascal' else np.nan)

  def compute_one(self, state) -> dict[str, float]:
    return self._scores(state, absent=np.nan)

  def _scores(self, state: State, absent: float) -> dict[str, float]:
    if not any(counts.any() for counts in state.values()):
      return {'mIoU': float('nan'), 'pixelAcc': float('nan')}
    confusion = state['confusion']
    scores = np.nan_to_num(intersection_over_union(**state), nan=absent)
    return {'mIoU': 100 * float(np.nanmean(scores)), 'pixelAcc': 100 * mean(np.trace(confusion), confusion.sum())}

  def per_class(self, state) -> dict[str, float]:
    """IoU in % by class name; nan for a class that does not occur in the set."""
    return {name: 100 * float(iou) for name, iou in zip(self.task.classes, intersection_over_union(**state))}
