"""mIoU and pixel accuracy from the confusion counts of the whole set."""

import dataclasses

import numpy as np

from dmtl_jax.tasks import IGNORE


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """Metric of semseg and parsing.

  Attributes:
    classes: names; background counts like any other.
    absent_counts: True (PASCAL protocol): a class that neither appears nor is predicted in the
      whole set counts as IoU 0; False (MTPSL): it is left out of the mean.
  """

  classes: tuple[str, ...]
  absent_counts: bool = True

  def empty(self) -> dict:
    """{'confusion': [C, C] int64}, rows true classes, columns predicted ones."""
    return {'confusion': np.zeros((len(self.classes),) * 2, np.int64)}

  def image(self, prediction: np.ndarray, label: np.ndarray) -> dict:
    """prediction [H, W] class ids, label [H, W, 1]."""
    count, label = len(self.classes), label[..., 0]
    valid = label != IGNORE
    pairs = label[valid].astype(np.int64) * count + prediction[valid]
    return {'confusion': np.bincount(pairs, minlength=count * count).reshape(count, count)}

  def compute(self, state: dict) -> dict[str, float]:
    """mIoU, pixelAcc in %."""
    confusion = state['confusion']
    total = confusion.sum()
    if not total:
      return {'mIoU': float('nan'), 'pixelAcc': float('nan')}
    iou = self._iou(confusion)
    mean = np.nan_to_num(iou).mean() if self.absent_counts else np.nanmean(iou)
    return {'mIoU': 100 * float(mean), 'pixelAcc': 100 * float(np.trace(confusion) / total)}

  def per_class(self, state: dict) -> dict[str, float]:
    """{class name: IoU in %}, NaN for a class absent from labels and predictions."""
    return {name: 100 * float(v) for name, v in zip(self.classes, self._iou(state['confusion']))}

  def _iou(self, confusion):
    hit = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
