"""Metrics as additive states: sums over images, batches and hosts, never averages of averages.

`task.scorer(...)` makes a task's metric: `image(prediction, label) -> state` of one image (prediction from
`Task.activate`, label encoded as in tasks/base.py), `empty()`, `compute(state) -> {name: value}`. States are dicts of
numpy arrays; `merge` adds two. A state without a labelled pixel scores nan. Shares (mIoU, maxF, odsF, ...) are in
percent, angles in degrees.
"""
