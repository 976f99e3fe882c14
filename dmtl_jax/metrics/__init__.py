"""Metrics of every task as additive states: sums over images, batches and hosts, never averages of averages.

`build(task)` gives a metric: `image(prediction, label) -> state` of one image (prediction as
`tasks.activate` gives it, label as tasks.py says), `empty()`, `compute(state) -> {name: value}`.
States are dicts of numpy arrays; `merge` adds two. A state without a labelled pixel computes
to NaN. Shares (mIoU, maxF, odsF, ...) are in percent, angles in degrees.
"""

from dmtl_jax.metrics import boundary, depth, normals, saliency, segmentation
from dmtl_jax.tasks import Task


def build(task: Task, protocol: str = 'pascal', tolerance: float = 0.0075, fast: bool = False):
  """The metric of a task.

  Args:
    protocol: 'pascal' or 'mtpsl', how a class absent from a whole set counts in mIoU.
    fast: for boundaries, F at a fixed tolerance by dilation (tolF) instead of the matching protocol.
    tolerance: of boundaries, as a share of the image's diagonal.
  """
  if task.kind in ('semseg', 'parsing'):
    return segmentation.Segmentation(task.classes, absent_counts=protocol == 'pascal')
  if task.kind == 'boundary':
    return boundary.ToleranceF(tolerance)
  return {'saliency': saliency.Saliency, 'normals': normals.Normals, 'depth': depth.Depth}[task.kind]()


def merge(a: dict, b: dict) -> dict:
  """The state of two disjoint sets of images together."""
  return {name: a[name] + b[name] for name in a}
