"""The input benchmark on the images that stand in for the benchmarks' data sets."""

import numpy as np
import pytest

from dmtl_jax.benchmarks import input as input_benchmark
from dmtl_jax.configs import common
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib


@pytest.mark.parametrize('name', ['pascal', 'nyud', 'cityscapes'])
def test_stand_in_has_the_form_of_the_data_set(tmp_path, name):
  source = input_benchmark.synthetic_source(name, str(tmp_path), 2)
  example = source[1]
  size = source_lib.package(name).Builder.USUAL
  assert example['image'].shape == (*size, 3) and example['image'].dtype == np.uint8
  for task in source.tasks:
    label = example['labels'][task.name]
    assert label.shape == (*size, task.label_channels) and label.dtype == task.label_dtype
    assert task.valid(label).mean() > 0.9
    if task.kind == 'normals':
      np.testing.assert_allclose(np.linalg.norm(label, axis=-1)[task.valid(label)], 1, atol=1e-3)
    elif task.kind != 'depth':
      assert label.max() < max(task.channels, 2)


@pytest.mark.parametrize('workers', [0, 1])
def test_measures_stages_and_speed(tmp_path, workers):
  source = input_benchmark.synthetic_source('cityscapes', str(tmp_path), 3)
  source = label_settings.apply_labels(source, 'one')
  config = common.base('')
  config.data.size, config.data.augment, config.data.workers = (128, 256), 'mtan', workers
  config.train.batch = 3
  result = input_benchmark.measure(source, config, 6)
  assert result['images_per_second'] > 0
  stages = result['milliseconds']
  assert stages['read and decode'] > 0 and stages['geometry'] > 0 and stages['normalize, pad'] > 0
  assert stages['photometric'] == 0  # MTAN has none
  # The stages add up to the whole (batching is the rest, never below zero).
  assert sum(stages.values()) >= 1000 / result['images_per_second_per_core'] - 1e-6
  text = input_benchmark.as_text(result | {'data': 'cityscapes', 'synthetic': True, 'labels': 'one'})
  assert 'cityscapes (synthetic), labels one' in text and 'images/s per core' in text
