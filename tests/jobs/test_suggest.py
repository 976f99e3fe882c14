"""The command `suggest` on a small folder of photographs."""

import csv
import itertools
import os
import pathlib

import cv2
import jax
import numpy as np
from PIL import Image
import pytest

import dmtl_jax
from dmtl_jax import cli
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.jobs import convert, suggest
from dmtl_jax.models import build_model
from tests import toy
from tests.tiny import random_variables, SIZE

pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Eight images with all labels but depth of the first four and semseg of the last."""
  root = tmp_path_factory.mktemp('suggest') / 'data'
  toy.write(root, train=8, val=1)
  for n in range(4):
    (root / f'train/labels/depth/train{n:02d}.png').unlink()
  (root / 'train/labels/semseg/train07.png').unlink()
  return root


def write_run(path, data, **fields):
  fields = {'data.size': SIZE, 'model.width': 8, 'model.channels': 32} | fields
  config = dmtl_jax.get_config(data, **fields)
  with config.unlocked():
    config.model.update(depth=1, decoder_blocks=1)
  tasks = source_lib.data_tasks(config.data)
  variables = jax.tree.map(np.float32, random_variables(build_model(config, tasks), seed=2))
  return convert.write_run(path, config, tasks, variables, 7)


@pytest.fixture(scope='module')
def workdir(folder, short_encoder):
  return write_run(folder.parent / 'run', 'folder', **{'data.path': str(folder)})


def rows(out):
  with open(out / 'suggestions.csv', encoding='utf-8') as file:
    return list(csv.DictReader(file))


MISSING = {
  ('train00', 'depth'),
  ('train01', 'depth'),
  ('train02', 'depth'),
  ('train03', 'depth'),
  ('train07', 'semseg'),
}


def test_all_missing_labels_are_suggested(workdir, tmp_path, capsys):
  assert suggest.run(workdir, str(tmp_path), None, 50) == 0
  assert {(row['image'], row['task']) for row in rows(tmp_path)} == MISSING
  assert [row['rank'] for row in rows(tmp_path)] == list('12345')
  assert rows(tmp_path)[0]['why'].startswith('depth has the fewest labels (4); more uncertain than ')
  assert rows(tmp_path)[1]['why'].startswith('depth has the fewest labels (4, and 1 suggested before); more')
  assert '5 of 5 pairs without a label suggested' in capsys.readouterr().out
  sheet = Image.open(tmp_path / 'suggestions.png')
  assert sheet.width > 6 * SIZE[1]  # two pairs of three pictures in a row
  assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


def test_labels_that_the_run_hid_from_training_need_not_be_drawn(workdir, tmp_path, monkeypatch):
  def load(path):
    predictor = dmtl_jax.load(path)
    predictor.config.data.labels = 'one'
    return predictor

  monkeypatch.setattr(suggest, 'load', load)
  assert suggest.run(workdir, str(tmp_path), None, 50) == 0
  assert {(row['image'], row['task']) for row in rows(tmp_path)} == MISSING


def test_the_command_is_deterministic_and_counts(workdir, tmp_path, fresh_flags):
  for out in ('a', 'b'):
    fresh_flags()
    assert cli.main(['main.py', '--mode=suggest', f'--workdir={workdir}', f'--out={tmp_path / out}', '--count=2']) == 0
  assert len(rows(tmp_path / 'a')) == 2
  assert (tmp_path / 'a/suggestions.csv').read_bytes() == (tmp_path / 'b/suggestions.csv').read_bytes()


def test_photographs_to_choose_from(workdir, folder, tmp_path, capsys):
  """Only they are suggested; one that cannot be read is named, and copies only for labels that they do not have."""
  photos = tmp_path / 'photos'
  photos.mkdir()
  rng = np.random.default_rng(0)
  for name, size in (('wide', (40, 90)), ('tall', (90, 40))):
    cv2.imwrite(str(photos / f'{name}.png'), rng.integers(0, 256, (*size, 3)).astype(np.uint8))
  (photos / 'tall.png').rename(os.fsdecode(os.fsencode(photos / 'tall') + b'\xff.png'))  # not UTF-8
  (photos / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  for name in ('train/images/train05.png', 'train/images/train00.png', 'val/images/val00.png'):
    (photos / pathlib.Path(name).name).write_bytes((folder / name).read_bytes())
  assert suggest.run(workdir, str(tmp_path / 'out'), str(photos), 50) == 1
  found = [(row['image'], row['task']) for row in rows(tmp_path / 'out')]
  new = [str(photos / 'wide.png'), str(photos / r'tall\udcff.png')]
  assert sorted(found) == sorted(
    [*itertools.product(new, toy.DESCRIPTION['tasks']), (str(photos / 'train00.png'), 'depth')]
  )
  captured = capsys.readouterr()
  assert f'skipped: {photos}/broken.png' in captured.err
  assert '3 of 5 photographs are labelled in the data already; they are suggested only for labels' in captured.out
  for name in ('train00.png', 'wide.png'):
    (photos / name).unlink()
  (photos / os.fsdecode(b'tall\xff.png')).unlink()
  with pytest.raises(UserError, match='all 2 photographs are in the data, labelled for all tasks; name others'):
    suggest.run(workdir, str(tmp_path / 'out'), str(photos), 3)


def test_data_that_are_rendered_are_not_opened(folder, tmp_path, capsys):
  """Only labels.json says what the run learned from them: here three labels of semseg and one of depth."""
  data = {'data.dir': str(tmp_path / 'rooms'), 'data.tasks': ('semseg', 'depth')}
  rooms = write_run(tmp_path / 'run', 'scenes', **data)
  with pytest.raises(UserError, match='all its training images are labelled for all tasks; name others with --images'):
    suggest.run(rooms, str(tmp_path / 'out'), None, 2)
  labels = {'a': ['semseg', 'depth'], 'b': ['semseg'], 'c': ['semseg', 'predicted:depth']}
  write_json(pathlib.Path(rooms) / 'labels.json', labels)
  assert suggest.run(rooms, str(tmp_path / 'out'), str(folder / 'train/images'), 2) == 0
  assert [row['why'].partition(';')[0] for row in rows(tmp_path / 'out')] == [
    'depth has the fewest labels (1)',
    'depth has the fewest labels (1, and 1 suggested before)',
  ]
  (pathlib.Path(rooms) / 'labels.json').unlink()
  assert suggest.run(rooms, str(tmp_path / 'out'), str(folder / 'train/images'), 1) == 0
  assert rows(tmp_path / 'out')[0]['why'].startswith('tasks take turns, since labels are not counted; more uncertain')
  assert 'does not list the labels that it learned from (labels.json), so they are not' in capsys.readouterr().out
  assert not (tmp_path / 'rooms').exists()


def test_a_video_is_refused(workdir, tmp_path):
  (tmp_path / 'walk.mp4').touch()
  with pytest.raises(UserError, match='walk.mp4 is a video; give photographs'):
    suggest.run(workdir, str(tmp_path / 'out'), str(tmp_path / 'walk.mp4'), 3)


def test_photographs_of_which_none_can_be_read(workdir, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  with pytest.raises(UserError, match='none of 1 photographs can be read; .*broken.png'):
    suggest.run(workdir, str(tmp_path / 'out'), str(tmp_path / 'broken.png'), 3)


def test_nothing_left_to_label(workdir, folder, tmp_path):
  complete = tmp_path / 'complete'
  toy.write(complete, train=2, val=1)
  (folder / 'dataset.json').rename(folder / 'kept.json')
  try:
    with pytest.raises(UserError, match='dataset.json'):  # the data are gone
      suggest.run(workdir, str(tmp_path / 'out'), None, 3)
  finally:
    (folder / 'kept.json').rename(folder / 'dataset.json')
  config = dmtl_jax.load(workdir).config
  config.data.path = str(complete)
  tasks = source_lib.data_tasks(config.data)
  other = convert.write_run(tmp_path / 'run', config, tasks, dmtl_jax.load(workdir).variables, 7)
  with pytest.raises(UserError, match='all its training images are labelled for all tasks; name others with --images'):
    suggest.run(other, str(tmp_path / 'out'), None, 3)
  assert not (tmp_path / 'out').exists()
