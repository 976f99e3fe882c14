"""Label files that `Task.to_file` writes are read as the same labels."""

import numpy as np
import pytest

from dmtl_jax.basics import files
from dmtl_jax.datasets.folder import label_files
from dmtl_jax.tasks import make_task
from tests.tiny import random_labels, TASKS

LABELS = {name: label[0] for name, label in random_labels(np.random.default_rng(0), 1, (9, 12)).items()}


def read_back(tmp_path, task, label, fields):
  suffix, values = task.to_file(label, **fields)
  path = tmp_path / f'a{suffix}'
  if suffix == '.png':
    path.write_bytes(files.encode_png(values))
  else:
    np.save(path, values)
  return label_files.read_label(path, task, fields)


@pytest.mark.parametrize(
  'name, fields',
  [('semseg', {}), ('semseg', {'ignore': 7}), ('semseg', {'ignore': 900}), ('parsing', {}), ('saliency', {}),
   ('saliency', {'positive': 200}), ('saliency', {'positive': 255, 'ignore': 128}), ('boundary', {'ignore': 9})],
)  # fmt: skip
def test_class_maps_come_back_the_same(tmp_path, name, fields):
  task = next(task for task in TASKS if task.name == name)
  label = read_back(tmp_path, task, LABELS[name], fields)
  assert label.dtype == np.uint8
  np.testing.assert_array_equal(label, LABELS[name])


def test_normals_come_back_within_half_a_degree(tmp_path):
  task, label = make_task('normals', 'normals'), LABELS['normals']
  read = read_back(tmp_path, task, label, {})
  np.testing.assert_array_equal(task.valid(read), task.valid(label))
  cosine = (read * label).sum(-1)[task.valid(label)]
  assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5


@pytest.mark.parametrize('fields', [{}, {'scale': 0.01}, {'scale': 1e-5}, {'ignore': 2345}])
def test_depth_comes_back_within_a_unit(tmp_path, fields):
  label = np.concatenate([LABELS['depth'].ravel(), np.float32([2.345, 1e-7])]).reshape(1, -1, 1)
  read = read_back(tmp_path, make_task('depth', 'depth'), label, fields)
  unit = fields.get('scale', 0.001)
  np.testing.assert_array_equal(read > 0, label > 0)
  assert np.abs(read - label).max() <= unit + 1e-6


def test_a_depth_beyond_32_bits_is_unlabelled():
  _, values = make_task('depth', 'depth').to_file(np.float32([[[1e30], [2.0]]]))
  assert values.tolist() == [[0, 2000]]
