"""Metrics of every task as additive states: sums over images, batches and hosts, never averages of averages.

`build(task)` gives a metric: `image(prediction, label) -> state` of one image (prediction as
`tasks.activate` gives it, label as tasks.py says), `empty()`, `compute(state) -> {name: value}`.
States are dicts of numpy arrays; `merge` adds two. A state without a labelled pixel computes
to nan. Shares (mIoU, maxF, odsF, ...) are in percent, angles in degrees.
"""

from dmtl_jax.metrics import boundary, depth, normals, saliency, segmentation
from dmtl_jax.metrics.base import merge, Metric, State
from dmtl_jax.tasks import Task


def build(task: Task, protocol: str = 'pascal', tolerance: float = 0.0075, fast: bool = False) -> Metric:
  """The metric of a task.

  Args:
    protocol: 'pascal' or 'mtpsl', how a class absent from a whole set counts in mIoU.
    tolerance: of boundaries, as a share of the image's diagonal.
    fast: for boundaries, F at a fixed tolerance by dilation (tolF) instead of the matching protocol.
  """
  if task.kind in ('semseg', 'parsing'):
    return segmentation.Segmentation(task, protocol)
  if task.kind == 'boundary':
    return (boundary.ToleranceF if fast else boundary.Boundary)(task, tolerance)
  return {'saliency': saliency.Saliency, 'normals': normals.Normals, 'depth': depth.Depth}[task.kind](task)
