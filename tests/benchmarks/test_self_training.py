"""The study of predicted labels: its folders hold what the sources show."""

import numpy as np

from benchmarks import self_training
from dmtl_jax.data import label_settings
from dmtl_jax.datasets import folder
from tests import toy


def test_a_folder_shows_only_the_drawn_labels(tmp_path):
  toy.write(tmp_path / 'all', train=5, val=1, size=(16, 24))
  drawn = label_settings.apply_labels(folder.open_folder(str(tmp_path / 'all'), 'train'), 'one', 3)
  val = folder.open_folder(str(tmp_path / 'all'), 'val')
  self_training.write_folder(tmp_path / 'one', {'train': drawn, 'val': val})
  source = folder.open_folder(str(tmp_path / 'one'), 'train')
  assert source.tasks == drawn.tasks
  np.testing.assert_array_equal(source.label_mask, drawn.label_mask)
  for i, example in enumerate(map(drawn.__getitem__, range(5))):
    np.testing.assert_array_equal(source[i]['image'], example['image'])
    for name, label in example['labels'].items():
      np.testing.assert_allclose(source[i]['labels'][name], label, atol=0.005)
