"""Metrics as additive states: sums over images, batches and hosts, never averages of averages.

`task.scorer(...)` gives a task's metric: `image(prediction, label) -> state` of one image (prediction as
`Task.activate` gives it, label as tasks/base.py says), `empty()`, `compute(state) -> {name: value}`.
States are dicts of numpy arrays; `merge` adds two. A state without a labelled pixel computes
to nan. Shares (mIoU, maxF, odsF, ...) are in percent, angles in degrees.
"""
