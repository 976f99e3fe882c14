"""Opening a TFDS data set as a source, on a stand-in for a data set's package."""

import pickle
import sys
import types

from ml_collections import ConfigDict
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.tasks import make_task

TASKS = (make_task('saliency', 'saliency'), make_task('depth', 'depth'))


def decode(example, tasks):
  """As the packages of datasets/ do; the labels asked for are told in the result."""
  return {'image': example['image'], 'labels': {task.name: example[task.name] for task in tasks}}


class Builder:
  """What is used of a TFDS builder."""

  def __init__(self, path, files):
    self.data_path = path
    self.url_infos = {f'https://example.org/{name}': types.SimpleNamespace(filename=name) for name in files}
    self.info = types.SimpleNamespace(metadata={'ids': {'train': ['x', 'y', 'z'], 'val': ['v']}})

  def as_data_source(self, split):
    count = len(self.info.metadata['ids'][split])
    return [{'image': np.full((2, 2, 3), i, np.uint8), 'saliency': f's{i}', 'depth': f'd{i}'} for i in range(count)]


@pytest.fixture
def config(tmp_path, monkeypatch):
  package = types.ModuleType('dmtl_jax.datasets.nyud_mt')
  package.TASKS, package.decode = TASKS, decode
  package.builder = lambda data_config: Builder(tmp_path, ['onelabel.pth', 'data.zip'])
  monkeypatch.setitem(sys.modules, 'dmtl_jax.datasets.nyud_mt', package)
  return ConfigDict({'name': 'nyud', 'labels': 'full'})


def test_open_source(config):
  source = source_lib.open_source(config, 'train')
  assert source.tasks == TASKS and list(source.ids) == ['x', 'y', 'z'] and len(source) == 3
  assert source.label_mask.shape == (3, 2) and source.label_mask.all()
  example = source[2]
  assert example['index'] == 2 and (example['image'] == 2).all()
  assert example['labels'] == {'saliency': 's2', 'depth': 'd2'}
  assert len(source_lib.open_source(config, 'val')) == 1


def test_hidden_labels_are_not_decoded(config):
  source = label_settings.apply_labels(source_lib.open_source(config, 'train'), 'random', 1)
  for i, row in enumerate(source.label_mask):
    assert list(source[i]['labels']) == [task.name for task, seen in zip(TASKS, row) if seen]
  assert not source.label_mask.all()


def test_chosen_tasks_come_in_the_order_asked(config):
  config.tasks = ('depth', 'saliency')
  source = source_lib.open_source(config, 'train')
  assert [task.name for task in source.tasks] == ['depth', 'saliency']
  assert list(source[0]['labels']) == ['depth', 'saliency']
  config.tasks = ('depth', 'depth')
  with pytest.raises(UserError, match='config.data.tasks'):
    source_lib.open_source(config, 'train')


def test_official_mappings_are_those_the_data_set_lists(config, tmp_path):
  source = source_lib.open_source(config, 'train')
  assert source.official == {'one': tmp_path / 'label_mappings/onelabel.pth'}
  with pytest.raises(UserError, match='onelabel.pth: the official .* missing; run --mode=prepare'):
    label_settings.apply_labels(source, 'one')


def test_workers_can_take_a_source(config):
  source = pickle.loads(pickle.dumps(source_lib.open_source(config, 'train')))
  assert source[1]['labels'] == {'saliency': 's1', 'depth': 'd1'}
