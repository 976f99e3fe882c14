"""`--mode=predict --save=labels`: which labels are written, where, and that training learns from them."""

import dataclasses
import json
import os

import numpy as np
from PIL import Image
import pytest

from dmtl_jax import cli
from dmtl_jax.basics import sharding
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets.folder import label_files
from dmtl_jax.jobs import disk_use, predict_labels, train
from dmtl_jax.training import cost, setup
from tests.tiny import SIZE, TASKS, tiny_config

CLASSES = {task.name: {'classes': list(task.classes)} if task.classes else {} for task in TASKS}


def picture(path, seed=0, size=SIZE):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
  """Two images, of which one has a depth label, and one in the pool."""
  root = tmp_path / 'data'
  for n, place in enumerate(('train/images/a.png', 'train/images/b.png', 'unlabelled/c.png', 'val/images/v.png')):
    picture(root / place, n)
  for split, name in (('train', 'a'), ('train', 'b'), ('val', 'v')):
    (root / split / 'labels' / 'depth').mkdir(parents=True, exist_ok=True)
    (root / split / 'labels' / 'saliency').mkdir(parents=True, exist_ok=True)
    np.save(root / split / 'labels' / 'depth' / f'{name}.npy', np.ones(SIZE, np.float32))
  (root / 'train' / 'labels' / 'depth' / 'b.npy').rename(root / 'train' / 'labels' / 'saliency' / 'b.npy')
  np.save(root / 'train' / 'labels' / 'saliency' / 'b.npy', np.ones(SIZE, np.uint8))
  (root / 'dataset.json').write_text(json.dumps({'tasks': CLASSES}))
  return root


def written(out):
  return {os.path.relpath(path, out) for path in out.rglob('*.*')}


@pytest.fixture
def completed(root, tiny_run):
  """The folder with its missing labels predicted, at a confidence of 0."""
  images = [str(root / 'train' / 'images'), str(root / 'unlabelled')]
  assert predict_labels.run(str(tiny_run), 'best', images, str(root / 'train' / 'predicted'), confidence=0.0) == 0
  return root


def test_every_missing_label_is_written_and_no_other(completed):
  names = written(completed / 'train' / 'predicted')
  expected = {f'{task.name}/{name}.png' for task in TASKS for name in 'abc'} | {'source.json', 'predicted.jsonl'}
  missing = expected - {'depth/a.png', 'saliency/b.png'} - names
  assert not names - expected
  assert all(name.startswith('depth/') for name in missing)  # an untrained network may predict only depths below 0


def test_the_source_says_what_predicted_them(completed, tiny_run):
  source = json.loads((completed / 'train' / 'predicted' / 'source.json').read_text())
  assert source.keys() == {task.name for task in TASKS}
  assert source['semseg'].items() >= {'kind': 'semseg', 'run': str(tiny_run), 'step': 7, 'confidence': 0.0}.items()


def test_they_are_the_runs_predictions(completed, tiny_run):
  import dmtl_jax

  maps = dmtl_jax.load(tiny_run)(completed / 'train' / 'images' / 'a.png')
  label = label_files.read_label(completed / 'train' / 'predicted' / 'semseg' / 'a.png', TASKS[0], {'ignore': 255})
  np.testing.assert_array_equal(label[..., 0], maps['semseg'])


def test_a_label_without_a_sure_pixel_is_removed_and_values_stay(completed, tiny_run):
  out = completed / 'train' / 'predicted'
  predict_labels.run(str(tiny_run), 'best', str(completed / 'unlabelled'), str(out), confidence=1.0)
  assert not (out / 'semseg' / 'c.png').exists()
  assert (out / 'semseg' / 'a.png').exists()
  assert (out / 'normals' / 'c.png').exists()


def config_of(root, **fields):
  config = tiny_config('method=prediction,labels=full')
  config.data.update(name='folder', path=str(root), size=SIZE, predicted_labels=True, predicted_weight=0.25, **fields)
  config.train.batch = 2
  return config


def test_training_weighs_them_and_takes_no_weights_without_them(completed):
  (completed / 'unlabelled' / 'c.png').rename(completed / 'train' / 'images' / 'c.png')
  (completed / 'train' / 'images' / 'c.png').unlink()
  config = config_of(completed)
  source = label_settings.apply_labels(source_lib.open_source(config.data, 'train'), 'full')
  weights = setup.label_weights(source, config.data)
  assert weights.tolist() == np.where(source.predicted, 0.25, 1).tolist()
  batch = {name: np.zeros(2) for name in ('labels', 'label_mask')} | {'index': np.array([1, 0])}
  batch |= {'image': np.zeros((2, *SIZE, 3), np.uint8), 'region': np.zeros((2, 4), np.int32)}
  mesh = sharding.make_mesh(1)
  training = setup.Training(mesh, None, source, None, None, 1, *[None] * 5, label_weights=weights)
  inputs = training.on_devices(batch)
  np.testing.assert_array_equal(inputs['label_weights'], weights[[1, 0]])
  assert inputs.keys() == cost.abstract_batch(2, SIZE, source.tasks, mesh, weighted=True).keys()
  training.label_weights = None
  assert training.on_devices(batch).keys() == cost.abstract_batch(2, SIZE, source.tasks, mesh).keys()


def test_a_run_is_not_resumed_on_labels_predicted_anew(completed, tiny_run, tmp_path):
  source = source_lib.open_source(config_of(completed).data, 'train')
  assert source.predicted_by['semseg']['confidence'] == 0
  write_json(tmp_path / 'labels.json', {})
  write_json(tmp_path / 'predicted_by.json', source.predicted_by)
  source = dataclasses.replace(source, ids=[])  # of which labels.json, too, says nothing
  train.check_labels(str(tmp_path), source)
  out = str(completed / 'train' / 'predicted')
  predict_labels.run(str(tiny_run), 'best', str(completed / 'train' / 'images'), out, confidence=0.5)
  again = source_lib.open_source(config_of(completed).data, 'train')
  with pytest.raises(
    UserError, match=r'predicted_by.json: the labels of semseg, .* were predicted anew since this run'
  ):
    train.check_labels(str(tmp_path), dataclasses.replace(again, ids=[]))


def test_outside_of_a_data_folder_all_labels_are_written(root, tiny_run, tmp_path):
  predict_labels.run(
    str(tiny_run), 'best', str(root / 'train' / 'images' / 'a.png'), str(tmp_path / 'out'), confidence=0
  )
  assert (tmp_path / 'out' / 'saliency' / 'a.png').exists()


def refused(match, *arguments):
  with pytest.raises(UserError, match=match):
    predict_labels.run(*arguments)


def test_other_classes_are_refused(root, tiny_run):
  (root / 'dataset.json').write_text(json.dumps({'tasks': CLASSES | {'parsing': {'classes': ['a', 'b']}}}))
  out, images = str(root / 'train' / 'predicted'), str(root / 'train' / 'images')
  refused('dataset.json: parsing had another kind or other classes', str(tiny_run), 'best', images, out)


def test_two_images_of_one_name_are_refused(root, tiny_run, tmp_path):
  picture(root / 'unlabelled' / 'a.png')
  images = [str(root / 'train' / 'images'), str(root / 'unlabelled')]
  refused('a.png has the same name, so they would share a label', str(tiny_run), 'best', images, str(tmp_path / 'out'))


def test_a_run_that_was_trained_on_no_folder_needs_images_and_out(tiny_run):
  refused('--save=labels needs --images and --out', str(tiny_run), 'best', None, None)


def test_images_and_out_default_to_the_folder_of_the_training_data(root):
  spec, out = predict_labels.find_places(config_of(root), None, None)
  assert spec == [str(root / 'train' / 'images'), str(root / 'unlabelled')]
  assert out == str(root / 'train' / 'predicted')


def test_the_command_line_takes_the_confidence(fresh_flags, root, tiny_run, tmp_path, capsys):
  fresh_flags()
  out = tmp_path / 'out'
  images = f'--images={root / "unlabelled"}'
  where = [f'--workdir={tiny_run}', images, f'--out={out}']
  assert cli.main(['main.py', '--mode=predict', '--save=labels', '--confidence=1', *where]) == 0
  assert not list(out.glob('semseg/*'))
  assert 'will take about' in capsys.readouterr().out


def test_the_estimate_counts_pixels_and_channels(tmp_path):
  paths = [tmp_path / 'a.png', tmp_path / 'b.png']
  picture(paths[0], size=(100, 200))
  picture(paths[1], size=(200, 200))
  by_name = {task.name: task for task in TASKS}
  text = disk_use.describe_labels(paths, [[by_name['normals']], [by_name['normals']]], tmp_path / 'new' / 'out')
  assert '2 images will take about 180 kB in' in text
  assert 'GB are free' in text
