"""Predictions as labels: what is unlabelled at which confidence."""

import numpy as np
import pytest

from dmtl_jax.inference.predicted_labels import predict_label
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import make_task

SIZE = (6, 8)


def label_of(task, logits, confidence):
  logits = np.asarray(logits, np.float32)
  raw = RawMaps((task,), {('final', task.name): logits}, logits.shape[:2], 1)
  return predict_label(raw, task, logits.shape[:2], confidence)


@pytest.mark.parametrize('confidence', [0, 0.5, 0.9])
def test_classes_below_the_confidence_are_unlabelled(confidence):
  probability = np.random.default_rng(0).dirichlet(np.full(3, 0.5), SIZE)
  expected = np.where(probability.max(-1) < confidence, 255, probability.argmax(-1))
  label = label_of(make_task('semseg', 'semseg', ('a', 'b', 'c')), np.log(probability + 1e-9), confidence)
  assert label.dtype == np.uint8
  np.testing.assert_array_equal(label[..., 0], expected)


def test_masks_are_unlabelled_where_neither_side_is_sure():
  probability = np.array([[0.05, 0.45, 0.55, 0.95]])
  logits = np.stack([np.log(1 - probability), np.log(probability)], -1)
  assert label_of(make_task('saliency', 'saliency'), logits, 0.9)[0, :, 0].tolist() == [0, 255, 255, 1]
  assert label_of(make_task('saliency', 'saliency'), logits, 0)[0, :, 0].tolist() == [0, 0, 1, 1]


def test_lines_are_thin_and_what_lies_beside_them_is_unlabelled():
  probability = np.full((9, 12), 0.02)
  probability[3:6, 1:11] = 0.96
  task, logits = make_task('boundary', 'boundary'), np.log(probability / (1 - probability))[..., None]
  line = thin(probability > 0.5)
  assert 0 < line.sum() < (probability > 0.5).sum()
  sure = label_of(task, logits, 0.9)[..., 0]
  np.testing.assert_array_equal(sure, np.where(line, 1, np.where(probability > 0.5, 255, 0)))
  np.testing.assert_array_equal(label_of(task, logits, 0)[..., 0], line)


def test_values_are_labels_everywhere_but_at_a_depth_of_0_or_less():
  label = label_of(make_task('depth', 'depth'), [[[2.0], [0.0], [-1.0]]], 0.99)
  assert label.dtype == np.float32
  assert label.ravel().tolist() == [2, 0, 0]
  normals = label_of(make_task('normals', 'normals'), np.random.default_rng(1).standard_normal((*SIZE, 3)), 0.99)
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
