"""Opening a TFDS data set as a source, on a stand-in for a data set's package."""

import json
import pickle
import runpy
import sys
import types
from typing import ClassVar

from ml_collections import ConfigDict
import numpy as np
import pytest

from dmtl_jax import datasets
from dmtl_jax.basics import torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings, pipeline
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import stored
from dmtl_jax.jobs import prepare
from dmtl_jax.tasks import make_task
from dmtl_jax.training import setup
from tests.tiny import shared

TASKS = (make_task('saliency', 'saliency'), make_task('depth', 'depth'))


def decode(example, tasks):
  """As the packages of datasets/ do; the result has only the labels asked for."""
  return {'image': example['image'], 'labels': {task.name: example[task.name] for task in tasks}}


class Builder:
  """What is used of a TFDS builder."""

  OFFICIAL: ClassVar = {'one': 'onelabel.pth'}

  def __init__(self, path, ids=('x', 'y', 'z'), **metadata):
    self.data_path = path
    self.info = types.SimpleNamespace(metadata={'ids': {'train': list(ids), 'val': ['v']}} | metadata)

  def as_data_source(self, split):
    count = len(self.info.metadata['ids'][split])
    return [
      {'image': np.full((2, 2, 3), i % 256, np.uint8), 'saliency': f's{i}', 'depth': f'd{i}'} for i in range(count)
    ]


@pytest.fixture
def config(tmp_path, monkeypatch):
  package = types.ModuleType('dmtl_jax.datasets.nyud')
  package.open_split = lambda data_config, split: stored.open_split(Builder(tmp_path), split, TASKS, decode)
  monkeypatch.setitem(sys.modules, 'dmtl_jax.datasets.nyud', package)
  return ConfigDict({'name': 'nyud', 'labels': 'full'})


def test_open_source(config):
  source = source_lib.open_source(config, 'train')
  assert source.tasks == TASKS
  assert list(source.ids) == ['x', 'y', 'z']
  assert len(source) == 3
  assert source.label_mask.shape == (3, 2)
  assert source.label_mask.all()
  example = source[2]
  assert example['index'] == 2
  assert (example['image'] == 2).all()
  assert example['labels'] == {'saliency': 's2', 'depth': 'd2'}
  assert source.truth(2) == {}
  assert len(source_lib.open_source(config, 'val')) == 1


STRIPES = """
import numpy as np
import tensorflow_datasets as tfds
from dmtl_jax.datasets import raw, stored
from dmtl_jax.tasks import make_task

TASKS = (make_task('saliency', 'saliency'), make_task('depth', 'depth'))


def encode(root, id):
  stripe = np.load(root / f'{id}.npy')
  return dict(id=id, image=np.repeat(stripe * 100, 3, -1), saliency=stripe)


class Builder(raw.RawBuilder):
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}
  MARKER = 'stripes.txt'
  IMAGES = {'train': 4, 'val': 1}

  def _info(self):
    grey, colour = (tfds.features.Tensor(shape=(8, 12, c), dtype=np.uint8) for c in (1, 3))
    features = tfds.features.FeaturesDict({'id': tfds.features.Text(), 'image': colour, 'saliency': grey})
    metadata = tfds.core.MetadataDict()
    return self.dataset_info_from_configs(features=features, metadata=metadata, disable_shuffling=True)

  def _split_generators(self, dl_manager):
    root = raw.find_root(dl_manager.manual_dir, self.MARKER)
    ids = self.info.metadata['ids'] = {'train': list('abcd'), 'val': ['e']}
    return {split: self._generate_examples(root, ids, split) for split in ids}

  def _generate_examples(self, root, ids, split):
    return raw.encode_split(encode, root, ids, split, self.processes)


def open_split(data_config, split):
  return stored.open_split(stored.prepared(Builder, data_config), split, TASKS, decode)


def decode(example, tasks):
  labels = {'saliency': example['saliency'], 'depth': 1 + example['saliency'].astype(np.float32)}
  return {'image': example['image'], 'labels': {task.name: labels[task.name] for task in tasks}}
"""
STRIPES_CONFIG = """
from dmtl_jax.configs import common

def get_config(arg=None):
  config = common.base(arg)
  config.data.name, config.data.dir, config.data.raw = 'stripes', '', ''
  config.data.size, config.train.batch = (8, 12), 2
  return config
"""


def test_a_new_data_set_is_one_folder_and_one_config(tmp_path, monkeypatch):
  """Nothing of the project is touched: the folder joins datasets/, the config is a file anywhere."""
  (tmp_path / 'sets/stripes').mkdir(parents=True)
  (tmp_path / 'sets/stripes/__init__.py').write_text(STRIPES)
  (tmp_path / 'stripes_config.py').write_text(STRIPES_CONFIG)
  (tmp_path / 'raw').mkdir()
  (tmp_path / 'raw/stripes.txt').touch()
  for i, id in enumerate('abcde'):
    np.save(tmp_path / f'raw/{id}.npy', (np.arange(96).reshape(8, 12, 1) // (i + 1) % 2).astype(np.uint8))
  monkeypatch.setattr(datasets, '__path__', [*datasets.__path__, str(tmp_path / 'sets')])
  config = runpy.run_path(str(tmp_path / 'stripes_config.py'))['get_config']('labels=one')
  config.data.dir, config.data.raw = str(tmp_path / 'tfds'), str(tmp_path / 'raw')
  assert 'stripes' in source_lib.names()
  prepare.run(config)
  source = label_settings.apply_labels(source_lib.open_source(config.data, 'train'), config.data.labels)
  assert source.label_mask.sum(0).tolist() == [2, 2]
  batch = next(pipeline.train_iterator(source, config.data, config.train.batch, config.seed))
  assert batch['image'].shape == (2, 8, 12, 3)
  assert set(batch['labels']) == {'saliency', 'depth'}
  assert (
    len(
      next(pipeline.eval_batches(source_lib.open_source(config.data, 'val'), config.data, config.eval.batch, 'fit'))[
        'valid'
      ]
    )
    == 8
  )


def test_hidden_labels_are_not_decoded(config):
  source = label_settings.apply_labels(source_lib.open_source(config, 'train'), 'random', 1)
  for i, row in enumerate(source.label_mask):
    assert list(source[i]['labels']) == [task.name for task, visible in zip(TASKS, row) if visible]
  assert not source.label_mask.all()


def test_a_crops_guide_is_given_whether_its_label_is_visible_or_not(config, monkeypatch):
  monkeypatch.setattr(type(TASKS[0]), 'guides_crops', True)
  config.augment = 'pascal'
  source = label_settings.apply_labels(source_lib.open_source(config, 'train'), 'random', 1)
  for i, row in enumerate(source.label_mask):
    assert source[i]['crop_guide'] == f's{i}'
    assert list(source[i]['labels']) == [task.name for task, visible in zip(TASKS, row) if visible]
  assert not source.label_mask[:, 0].all()
  config.tasks = ('depth',)
  assert source_lib.open_source(config, 'train')[1]['crop_guide'] == 's1'
  assert 'crop_guide' not in source_lib.open_source(config, 'val')[0]
  config.augment = 'light'
  assert 'crop_guide' not in source_lib.open_source(config, 'train')[0]


def test_chosen_tasks_come_in_the_order_asked(config):
  config.tasks = ('depth', 'saliency')
  source = source_lib.open_source(config, 'train')
  assert [task.name for task in source.tasks] == ['depth', 'saliency']
  assert list(source[0]['labels']) == ['depth', 'saliency']
  assert source.label_mask.shape == (3, 2)
  config.tasks = ('depth', 'depth')
  with pytest.raises(UserError, match='config.data.tasks'):
    source_lib.open_source(config, 'train')


def test_official_mappings_are_those_the_data_set_lists(config, tmp_path):
  source = source_lib.open_source(config, 'train')
  assert source.official == {'one': tmp_path / 'label_mappings/onelabel.pth'}
  with pytest.raises(UserError, match='onelabel.pth: the official .* missing; run --mode=prepare'):
    label_settings.apply_labels(source, 'one')


def open_training(data_config):
  source = source_lib.open_source(data_config, 'train')
  return label_settings.apply_labels(source, data_config.labels)


def test_a_mapping_is_of_the_whole_split_whatever_part_is_trained_on(config, monkeypatch, tmp_path):
  ids = [f'{n:02d}' for n in range(10)]
  monkeypatch.setattr(Builder.__init__, '__defaults__', (ids,))
  visible = {name: ['depth'] if int(name) % 3 else ['saliency'] for name in ids}
  (tmp_path / 'm.json').write_text(json.dumps(visible))
  config.labels, config.holdout_fraction = str(tmp_path / 'm.json'), 0.3
  training, validation = open_training(config), source_lib.open_source(config, 'val')
  assert len(training) == 7
  assert sorted([*training.ids, *validation.ids]) == ids
  assert validation.label_mask.all()
  for name, row in zip(training.ids, training.label_mask):
    assert [task.name for task, shown in zip(TASKS, row) if shown] == visible[name]
  config.tasks = ('depth',)
  part = open_training(config)
  assert part.ids == training.ids
  assert part.label_mask.tolist() == [[bool(int(name) % 3)] for name in part.ids]


def official(name: str):
  """A file of the benchmark's, and what it says without our reader of mappings."""
  path = shared(f'label_mappings/{name}.pth')
  content = torch_file.load(path)
  return path, np.asarray(content['labels_weights']) if 'labels_weights' in content else content


@pytest.mark.parametrize('name', ['pascal_onelabel', 'pascal_randomlabels'])
def test_parsing_alone_on_pascal_goes_with_the_official_mapping(name, monkeypatch):
  """Of the images with people, those labels that the file shows; others are left out, though the file names them."""
  path, rows = official(name)
  ids = sorted(rows)
  people = [n for n, i in enumerate(ids) if np.asarray(rows[i])[1] > 0 or n % 2]
  builder = Builder(path.parent, ids, people={'train': people})
  monkeypatch.setattr(stored, 'prepared', lambda *args: builder)
  data = ConfigDict({'name': 'pascal', 'dir': '', 'labels': str(path), 'tasks': ('parsing',)})
  source = open_training(data)
  assert source.ids == [ids[n] for n in people]
  assert [task.name for task in source.tasks] == ['parsing']
  assert source.label_mask[:, 0].tolist() == [bool(np.asarray(rows[i])[1] > 0) for i in source.ids]
  assert source.label_mask.sum() == (999 if name == 'pascal_onelabel' else 847)
  with data.unlocked():
    data.tasks, data.holdout_fraction = (), 0.25
  source = open_training(data)
  assert len(source) == len(ids) - round(0.25 * len(ids))
  np.testing.assert_array_equal(source.label_mask, [np.asarray(rows[i]).ravel() > 0 for i in source.ids])


def test_images_of_nyud_are_held_back_with_the_official_mapping(monkeypatch):
  path, table = official('nyud_randomlabels')
  ids = [f'train/{n}' for n in range(len(table))]
  monkeypatch.setattr(stored, 'prepared', lambda *args: Builder(path.parent, ids))
  monkeypatch.setattr(stored, 'is_id', lambda name: True)
  data = ConfigDict(
    {'name': 'nyud', 'dir': '', 'labels': str(path), 'tasks': ('normals', 'depth'), 'holdout_fraction': 0.2}
  )
  source = open_training(data)
  assert len(source) == 636
  expected = [table[int(i.removeprefix('train/'))][[2, 1]] > 0 for i in source.ids]
  np.testing.assert_array_equal(source.label_mask, expected)


@pytest.mark.parametrize('share, held_out', [(0.1, 1), (0.9, 2)])
def test_images_held_back_leave_some_to_train_and_some_to_validate_on(config, share, held_out, monkeypatch):
  config.holdout_fraction = share
  assert [len(source_lib.open_source(config, split)) for split in ('train', 'val')] == [3 - held_out, held_out]
  monkeypatch.setattr(Builder.__init__, '__defaults__', (('x',),))
  for split in ('train', 'val'):
    with pytest.raises(UserError, match='one labelled image .x. cannot be held out to validate on and learned from'):
      source_lib.open_source(config, split)


def test_labels_that_leave_nothing_to_learn_are_refused(config, tmp_path):
  (tmp_path / 'm.json').write_text('{"x": []}')
  config.labels = str(tmp_path / 'm.json')
  with pytest.raises(UserError, match='labels=.*m.json: none of 3 training images has a label for saliency, depth'):
    open_training(config)
  (tmp_path / 'm.json').write_text('{"x": ["depth"]}')
  config.tasks = ('saliency',)
  with pytest.raises(UserError, match='none of 3 training images has a label for saliency'):
    open_training(config)


def test_a_name_in_a_mapping_that_is_no_task_is_refused_but_a_column_of_a_benchmark_is_not(
  config, tmp_path, monkeypatch
):
  (tmp_path / 'm.json').write_text('{"x": ["depth", "normals"]}')
  config.labels = str(tmp_path / 'm.json')
  with pytest.raises(UserError, match="image 'x' names task 'normals'; the data set has saliency, depth"):
    open_training(config)
  monkeypatch.setattr(torch_file, 'load', lambda path: {key: [1, 1, 1, 0, 0] for key in 'xyz'})
  config.labels = str(tmp_path / 'm.pth')
  (tmp_path / 'm.pth').touch()
  assert open_training(config).label_mask.tolist() == [[True, False]] * 3


def test_workers_can_take_a_source(config):
  source = pickle.loads(pickle.dumps(source_lib.open_source(config, 'train')))
  assert source[1]['labels'] == {'saliency': 's1', 'depth': 'd1'}


@pytest.mark.parametrize('method, left', [('mtl_baseline', ['x']), ('ss', ['x', 'y', 'z'])])
def test_images_without_a_visible_label_are_left_to_methods_that_use_them(config, tmp_path, method, left):
  (tmp_path / 'm.json').write_text('{"x": ["depth"]}')
  config.labels, config.label_seed = str(tmp_path / 'm.json'), 0
  data = setup.open_data(ConfigDict({'data': config, 'method': method}))
  assert list(data.train.ids) == left
  assert data.left_out == 3 - len(left)
