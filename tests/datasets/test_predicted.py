"""Labels that a model predicted, in a folder data set: who reads them, how they are kept apart, what is refused."""

import json

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import folder
from dmtl_jax.datasets.folder import predicted
from dmtl_jax.tasks import make_task
from tests import toy

SIZE = (16, 24)


@pytest.fixture
def root(tmp_path):
  """Image 0 has a label for everything, image 1 only for depth; both have predicted semseg and saliency labels."""
  root = tmp_path / 'data'
  toy.write(root, train=2, val=1, size=SIZE)
  for task in ('semseg', 'saliency', 'boundary', 'normals'):
    for path in (root / 'train' / 'labels' / task).glob('train01.*'):
      path.unlink()
  tasks = folder.tasks(ConfigDict({'path': str(root)}))
  for task in tasks[:2]:
    for n in range(2):
      write(root, task, f'train0{n}', np.full((*SIZE, 1), 1, np.uint8))
  predicted.write_source(predicted.place(root), tasks[:2], {'run': 'runs/a', 'step': 3})
  return root


def write(root, task, name, label):
  path = predicted.place(root) / task.name / f'{name}.png'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(files.encode_png(task.to_file(label, **predicted.encoding(task, {}))[1]))


def open_split(root, split='train', predicted_labels=True, **fields):
  config = ConfigDict({'name': 'folder', 'path': str(root), 'predicted_labels': predicted_labels} | fields)
  return source_lib.open_source(config, split)


def test_they_are_visible_to_training_only_where_there_is_no_own_label(root):
  source = label_settings.apply_labels(open_split(root), 'full')
  assert source.label_mask.tolist() == [[True] * 5, [True, True, False, False, True]]
  assert source.predicted.tolist() == [[False] * 5, [True, True, False, False, False]]
  own, other = source[0]['labels'], source[1]['labels']
  assert set(np.unique(own['semseg'])) > {1}
  assert other.keys() == {'semseg', 'saliency', 'depth'}
  assert (other['semseg'] == 1).all()
  assert (other['saliency'] == 1).all()


def test_they_keep_their_size_beside_a_reduced_photograph(root):
  next((root / 'train' / 'images').glob('train01.*')).unlink()
  Image.new('RGB', SIZE[::-1]).save(root / 'train/images/train01.jpg')
  source = label_settings.apply_labels(open_split(root), 'full')
  example = source.example(1, tuple(n // 4 for n in SIZE))
  assert example['image'].shape[:2] == tuple(n // 4 for n in SIZE)
  assert example['labels']['semseg'].shape[:2] == SIZE


def test_predicted_normals_are_not_read(root):
  (predicted.place(root) / 'normals').mkdir()
  (predicted.place(root) / 'normals' / 'train01.png').write_bytes(b'no image')
  source = label_settings.apply_labels(open_split(root), 'full')
  assert source.predicted.tolist() == [[False] * 5, [True, True, False, False, False]]
  assert source[1]['labels'].keys() == {'semseg', 'saliency', 'depth'}


def test_without_the_flag_and_in_validation_there_are_none(root):
  assert open_split(root, predicted_labels=False).predicted is None
  assert open_split(root, 'val').predicted is None


def test_images_held_out_of_training_are_scored_on_their_own_labels(root):
  held_out = [open_split(root, 'val', holdout_fraction=0.5), open_split(root, 'train', holdout_fraction=0.5)]
  for source in held_out:
    assert source.label_mask.sum() in (1, 5)
  assert sorted(int(source.predicted.sum()) for source in held_out) == [0, 2]


def test_parts_of_a_source_keep_track_of_them(root):
  part = open_split(root).with_tasks([4, 1]).subset([1])
  assert part.predicted.tolist() == [[False, True]]
  shown = label_settings.apply_labels(part, 'full')
  assert shown[0]['labels'].keys() == {'depth', 'saliency'}


def test_label_settings_hide_own_labels_only(root):
  source = label_settings.apply_labels(open_split(root), 'one')
  assert (source.label_mask & ~source.predicted).sum(1).tolist() == [1, 1]
  assert (source.label_mask & source.predicted).sum(1).tolist() == [0, 2]


def test_a_runs_mapping_names_them_as_predicted_and_is_read_without_them(root, tmp_path):
  source = label_settings.apply_labels(open_split(root), 'full')
  path = tmp_path / 'labels.json'
  label_settings.save_mapping(path, source.ids, source.tasks, source.label_mask, source.predicted)
  assert json.loads(path.read_text())['train01'] == ['predicted:semseg', 'predicted:saliency', 'depth']
  label_settings.check_same(path, source.ids, source.tasks, source.label_mask, source.predicted)
  with pytest.raises(UserError, match='started with other labels'):
    label_settings.check_same(path, source.ids, source.tasks, source.label_mask)
  mask = label_settings.load_mapping(path, source.ids, source.tasks)
  np.testing.assert_array_equal(mask, source.label_mask & ~source.predicted)


@pytest.mark.parametrize('own, unlabelled', [({}, 255), ({'ignore': 200}, 200), ({'positive': 255}, 128)])
def test_masks_are_stored_as_the_folders_own_with_a_value_for_unlabelled(own, unlabelled):
  task = make_task('saliency', 'saliency')
  fields = predicted.encoding(task, own)
  _, values = task.to_file(np.array([[[0], [1], [255]]], np.uint8), **fields)
  assert values.tolist() == [[0, own.get('positive', 1), unlabelled]]
  assert task.from_file(values, **fields).ravel().tolist() == [0, 1, 255]


def refused(root, match):
  with pytest.raises(UserError, match=match):
    label_settings.apply_labels(open_split(root), 'full')[1]


def test_the_flag_without_labels_says_how_to_predict_them(tmp_path):
  toy.write(tmp_path, train=2, val=1, size=SIZE)
  refused(
    tmp_path,
    r'predicted holds no labels of classes or masks; predict them first with --mode=predict --workdir=RUN --save=labels',
  )


def test_labels_of_other_classes_are_refused(root):
  description = json.loads((root / 'dataset.json').read_text())
  description['tasks']['semseg']['classes'].append('lamp')
  (root / 'dataset.json').write_text(json.dumps(description))
  refused(root, 'source.json: semseg had another kind or other classes; train without config.data.predicted_labels on')


def test_labels_without_a_source_are_refused(root):
  (predicted.place(root) / 'source.json').unlink()
  refused(root, 'source.json: no such file')


@pytest.mark.parametrize('text', ['[]', '{"semseg": 3}', '{', '{"semseg": {"kind": ["semseg"]}}'])
def test_a_damaged_source_is_refused(root, text):
  (predicted.place(root) / 'source.json').write_text(text)
  refused(root, 'source.json: .*again')


def test_a_label_of_another_size_is_refused(root):
  task = make_task('saliency', 'saliency')
  write(root, task, 'train01', np.zeros((4, 4, 1), np.uint8))
  refused(root, 'train01.png: 4x4 but its image is 24x16; predict it again or delete it')


def test_a_damaged_label_is_refused(root):
  (predicted.place(root) / 'semseg' / 'train01.png').write_bytes(b'no image')
  refused(root, 'train01.png: not a readable image .*; predict it again or delete it')
