"""Risk against coverage: closed forms, and the command's table of a run."""

import dataclasses

import numpy as np
import pytest

from dmtl_jax.inference.prediction import load
from dmtl_jax.jobs import uncertainty
from tests.tiny import TASKS


def test_the_surest_pixels_come_first():
  error = np.arange(100.0)  # sorted: the mean of the least n is (n - 1) / 2
  expected = {1.0: 49.5, 0.8: 39.5, 0.5: 24.5, 0.2: 9.5}
  assert uncertainty.risks(error, error**2) == expected
  assert uncertainty.risks(error, -error) == {1.0: 49.5, 0.8: 59.5, 0.5: 74.5, 0.2: 89.5}
  assert uncertainty.risks(error[::-1], np.zeros(100))[0.2] == 89.5  # no doubt: their order


@pytest.mark.parametrize(
  'kind, prediction, label, expected',
  [
    ('semseg', np.array([[1, 2]], np.uint8), np.array([[[1], [3]]]), [[0, 1]]),
    ('saliency', np.array([[0.25, 0.75]]), np.array([[[0], [1]]], np.uint8), [[0.25, 0.25]]),
    ('depth', np.array([[2.0, 5.0]]), np.array([[[3.0], [1.0]]]), [[1, 4]]),
    ('normals', np.array([[[0, 0, 1.0], [0, 1, 0]]]), np.array([[[0, 1.0, 0], [0, 1, 0]]]), [[90, 0]]),
  ],
)
def test_mistakes(kind, prediction, label, expected):
  task = next(task for task in TASKS if task.kind == kind)
  np.testing.assert_allclose(task.pixel_error(prediction, label), expected, atol=1e-6)


def test_doubt_is_largest_where_classes_are_alike():
  for task in TASKS:
    flat, sharp = np.zeros((1, task.channels), np.float32), np.zeros((1, task.channels), np.float32)
    sharp[0, 0] = 9
    if task.kind in ('semseg', 'parsing', 'saliency', 'boundary'):
      highest = 1 if task.classes else 0.5
      assert task.self_uncertainty(flat)[0] == pytest.approx(highest)
      assert task.self_uncertainty(sharp)[0] < 0.01
    else:
      assert task.self_uncertainty(flat) is None


def test_a_run(tiny_run):
  """No order is better than the best."""
  predictor = load(tiny_run)
  rng = np.random.default_rng(0)
  size = tuple(predictor.config.data.size)
  labels = {task.name: task.blank(*size) for task in predictor.tasks}
  for task in predictor.tasks[:3]:
    labels[task.name] = rng.integers(0, 2, (*size, 1)).astype(np.uint8)

  class Source(list):
    tasks = predictor.tasks

  source = Source([{'image': rng.integers(0, 256, (*size, 3)).astype(np.uint8), 'labels': labels}])
  result = uncertainty.measure(predictor, source, 2, 1)
  assert list(result) == [task.name for task in predictor.tasks[:3]]  # the others have no labelled pixel
  for by in result.values():
    for name in by:
      assert all(by['best'][kept] <= risk + 1e-6 for kept, risk in by[name].items())
  assert '| semseg | prediction |' in uncertainty.as_text(result)
  predictor.calibration = dataclasses.replace(predictor.calibration, initial=('saliency',))
  result = uncertainty.measure(predictor, source, 2, 1)
  assert {name: 'samples' in by for name, by in result.items()} == {
    task.name: task.name != 'saliency' for task in predictor.tasks[:3]
  }
