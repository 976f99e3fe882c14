"""`--mode=prepare`, then `--mode=train`, on a small raw tree of each benchmark."""

import importlib

import numpy as np
import pytest

from dmtl_jax.basics import atomic
from dmtl_jax.jobs import prepare, train
from dmtl_jax.metrics.boundary import pascal as boundaries
from tests import faults, raw_trees

SIZE = (32, 48)


def pascal_raw(folder):
  root = folder / 'PASCAL_MT'
  rng = np.random.default_rng(0)
  ids = [f'2008_{n}' for n in range(4)]
  person = raw_trees.thing(15, [('head', np.s_[:9, :9]), ('torso', np.s_[9:20, :9])], SIZE)
  for n, name in enumerate(ids):
    label_map = np.where(np.arange(48)[None] < 20, raw_trees.WALL, raw_trees.SKY) * np.ones((32, 1))
    raw_trees.write_pascal(
        root, name, rng.integers(0, 255, (*SIZE, 3), np.uint8), label_map, [person] if n else [],
        raw_trees.colour(*SIZE, 200), raw_trees.grey(*SIZE, 255 * (n % 2)), voc=raw_trees.grey(*SIZE, n),
    )  # fmt: skip
  raw_trees.write_lists(root, ids[:3], ids[3:])
  return root


def mtan_raw(folder, labels, normals):
  rng = np.random.default_rng(0)
  for split, count in (('train', 3), ('val', 1)):
    for n in range(count):
      label = rng.integers(-1, 7, SIZE).astype(np.float32)
      depth = rng.uniform(0, 3, (*SIZE, 1)).astype(np.float32)
      normal = np.full((*SIZE, 3), (0.6, 0.0, 0.8), np.float32) if normals else None
      raw_trees.write_mtan(folder, labels, split, n, rng.random((*SIZE, 3), np.float32), label, depth, normal)
  return folder


@pytest.mark.parametrize('name', ['pascal', 'nyud', 'cityscapes'])
def test_prepare_and_train(name, tmp_path, monkeypatch, no_downloads):
  faults.use_toy_model(monkeypatch.setattr)
  raw = {
    'pascal': lambda: pascal_raw(tmp_path),
    'nyud': lambda: mtan_raw(tmp_path / 'nyuv2', 'label', True),
    'cityscapes': lambda: mtan_raw(tmp_path / 'cityscapes', 'label_7', False),
  }[name]()
  config = importlib.import_module(f'configs.{name}').get_config('method=mtl_baseline,labels=full')
  config.init_from = ''
  config.data.dir, config.data.raw, config.data.size, config.data.workers = str(tmp_path / 'tfds'), str(raw), SIZE, 0
  config.train.batch, config.train.steps, config.eval.batch, config.eval.panels = 2, 1, 1, 1
  prepare.run(config)
  if name == 'pascal':  # the list of the images whose boundaries count would be downloaded
    (built,) = (tmp_path / 'tfds/pascal_mt').glob('1.*')
    ids = [f'2008_{n}' for n in range(boundaries.LISTED)]
    atomic.write_atomic(built / 'label_mappings/boundary_ids.txt', '\n'.join(ids))
  result = train.run(config, str(tmp_path / 'run'))
  module = importlib.import_module(f'dmtl_jax.datasets.{name}')
  for task in module.TASKS:
    assert np.isfinite(result['final'][task.name][task.metric]), task.name
