"""The folder data set: decoding of every kind of label, and one sentence for each bad input."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import unicodedata
import unittest.mock

import cv2
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import folder
from dmtl_jax.datasets.folder import scan
from tests import toy
from tests.tiny import shared

TASKS = {
  'semseg': {'classes': ['sky', 'road', 'car'], 'ignore': 200},
  'objects': {'kind': 'saliency'},
  'normals': {},
  'depth': {'scale': 0.01},
}
HEIGHT, WIDTH = 6, 8


def write(path, array):
  """Writes an array as PNG, JPEG or .npy; channels are RGB."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, array)
  else:
    array = np.asarray(array)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def image(path, size=(HEIGHT, WIDTH)):
  write(path, np.full((*size, 3), 90, np.uint8))


@pytest.fixture
def root(tmp_path):
  """A small correct data set: image a has all labels, b (of another size) has semseg alone."""
  base = tmp_path / 'data'
  base.mkdir()
  (base / 'dataset.json').write_text(json.dumps({'tasks': TASKS}))
  for split in ('train', 'val'):
    image(base / split / 'images' / 'a.jpg')
    image(base / split / 'images' / 'b.png', (4, 5))
    labels = base / split / 'labels'
    write(labels / 'semseg' / 'a.png', np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3)
    write(labels / 'semseg' / 'b.png', np.array([[0, 1, 2, 200, 255]] * 4, np.uint8))
    write(labels / 'objects' / 'a.png', np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    write(labels / 'normals' / 'a.png', np.full((HEIGHT, WIDTH, 3), (32768, 32768, 65535), np.uint16))
    write(labels / 'depth' / 'a.png', np.full((HEIGHT, WIDTH), 250, np.uint16))
  return base


def open_train(root):
  return folder.open_folder(str(root), 'train')


def refused(root, *words, split='train'):
  """Opening raises one sentence with all the words."""
  with pytest.raises(UserError) as caught:
    folder.open_folder(str(root), split)
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message


def test_opens_and_decodes(root):
  source = open_train(root)
  assert [(t.name, t.kind) for t in source.tasks] == [
    ('semseg', 'semseg'),
    ('objects', 'saliency'),
    ('normals', 'normals'),
    ('depth', 'depth'),
  ]
  assert source.ids == ['a', 'b']
  np.testing.assert_array_equal(source.label_mask, [[1, 1, 1, 1], [1, 0, 0, 0]])
  a, b = source[0], source[1]
  assert a['image'].shape == (HEIGHT, WIDTH, 3)
  assert a['image'].dtype == np.uint8
  assert abs(int(a['image'][0, 0, 0]) - 90) <= 1
  np.testing.assert_array_equal(a['labels']['objects'][..., 0], np.eye(HEIGHT, WIDTH))
  np.testing.assert_allclose(a['labels']['depth'], 2.5, rtol=1e-6)
  np.testing.assert_allclose(a['labels']['normals'][2, 3], [0, 0, 1], atol=1e-4)
  assert list(b['labels']) == ['semseg']
  np.testing.assert_array_equal(b['labels']['semseg'][0, :, 0], [0, 1, 2, 255, 255])
  assert b['labels']['semseg'].dtype == np.uint8
  assert b['labels']['semseg'].shape == (4, 5, 1)


def test_npy_labels_mark_unlabelled_pixels(root):
  depth = np.full((HEIGHT, WIDTH), 3, np.float32)
  depth[0, :4] = [np.nan, 0, -1, np.inf]
  normals = np.zeros((HEIGHT, WIDTH, 3))
  normals[0, 0], normals[0, 1], normals[0, 2] = (0.66, 0, 0.88), (np.nan, 0, 1), (0, 0, 1)  # the first is 1.1 long
  (root / 'dataset.json').write_text(json.dumps({'tasks': TASKS | {'depth': {}}}))
  for name, array in (('depth', depth), ('normals', normals)):
    (root / f'train/labels/{name}/a.png').unlink()
    write(root / f'train/labels/{name}/a.npy', array)
  labels = open_train(root)[0]['labels']
  np.testing.assert_array_equal(labels['depth'][0, :5, 0], [0, 0, 0, 0, 3])
  np.testing.assert_allclose(labels['normals'][0, :4], [[0.6, 0, 0.8], [0, 0, 0], [0, 0, 1], [0, 0, 0]], atol=1e-6)


def test_rotated_grey_and_transparent_images(root):
  tall = np.zeros((WIDTH, HEIGHT, 3), np.uint8)
  tall[:4] = 250  # upper half of the stored image: the right half after a turn by 90 degrees clockwise
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(tall).save(root / 'train/images/a.jpg', exif=exif, quality=95)
  loaded = open_train(root)[0]['image']
  assert loaded.shape == (HEIGHT, WIDTH, 3)
  assert loaded[:, :3].max() < 60
  assert loaded[:, 5:].min() > 190
  Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)).save(root / 'train/images/a.jpg', quality=100)
  Image.fromarray(np.full((4, 5, 4), (10, 20, 30, 0), np.uint8)).save(root / 'train/images/b.png')
  source = open_train(root)
  assert source[0]['image'].shape == (HEIGHT, WIDTH, 3)
  np.testing.assert_array_equal(source[1]['image'][0, 0], [255, 255, 255])  # as a viewer shows it


def test_palette_class_map_is_read_as_indices(root):
  file = Image.fromarray(np.full((4, 5), 2, np.uint8))
  file.putpalette([9, 9, 9, 100, 100, 100, 250, 0, 0] + [0] * 759)
  file.save(root / 'train/labels/semseg/b.png')
  assert set(open_train(root)[1]['labels']['semseg'].ravel()) == {2}


@pytest.mark.parametrize('channels', [3, 4])
def test_a_grey_label_saved_in_colour_is_read_as_grey(root, channels):
  ids = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
  opaque = np.full((4, 5, 1), 255, np.uint8)
  colours = np.concatenate([np.repeat(ids[..., None], 3, 2), opaque], 2)
  path = root / 'train/labels/semseg/b.png'
  Image.fromarray(colours[..., :channels]).save(path)
  np.testing.assert_array_equal(open_train(root)[1]['labels']['semseg'][..., 0], ids)
  colours[0, 0, 3] = 0
  Image.fromarray(colours).save(path)
  refused(root, 'semseg/b.png', 'is partly transparent; save it without')


def test_hidden_label_is_never_read(root):
  source = open_train(root)
  mask = source.label_mask.copy()
  mask[0] = [False, True, False, False]
  (root / 'train/labels/semseg/a.png').write_bytes(b'would not decode')
  assert list(dataclasses.replace(source, label_mask=mask)[0]['labels']) == ['objects']


# How the data set is broken, and words of the error message.
BAD_FILES = {
  'unreadable image': (lambda r: (r / 'train/images/a.jpg').write_bytes(b'no'), 'a.jpg', 'not a readable image'),
  'truncated image': (lambda r: cut(r / 'train/images/b.png'), 'b.png', 'not a readable image'),
  'unreadable label': (lambda r: (r / 'train/labels/semseg/a.png').write_bytes(b'no'), 'semseg/a.png', 'readable'),
  'broken npy': (lambda r: (r / 'train/labels/depth/b.npy').write_bytes(b'no'), 'b.npy', 'not a readable .npy'),
  'other size': (lambda r: relabel(r, 'semseg', np.zeros((5, 8))), 'semseg/a.png', '8x5', 'a.jpg is 8x6'),
  'class out of range': (lambda r: relabel(r, 'semseg', np.full((6, 8), 3)), 'a.png', 'class id 3', '0 to 2'),
  'binary out of range': (lambda r: relabel(r, 'objects', np.full((6, 8), 2)), 'objects', 'class id 2', '0 to 1'),
  'mask of 255': (lambda r: relabel(r, 'objects', np.eye(6, 8) * 255), 'objects', 'only 0 and 255', 'store 1'),
  'three channels': (
    lambda r: relabel(r, 'semseg', np.eye(6, 8)[..., None] * [0, 1, 2]),
    'semseg/a.png',
    'is a picture of colours',
  ),
  'one channel of normals': (lambda r: relabel(r, 'normals', np.zeros((6, 8))), 'normals/a.png', 'three channels'),
  'no image': (lambda r: (r / 'train/images/b.png').unlink(), 'semseg/b.png', 'no image of the same name'),
  'same stem': (lambda r: image(r / 'train/images/a.png', (6, 8)), 'a.png', 'a.jpg has the same name'),
  'unknown task': (lambda r: (r / 'train/labels/edges').mkdir(), 'labels/edges', 'dataset.json has no such task'),
  'label format': (lambda r: image(r / 'train/labels/semseg/a.jpg'), 'a.jpg', 'not one of .png, .npy; JPEG changes'),
}


def cut(path):
  rng = np.random.default_rng(0)
  data = io.BytesIO()
  Image.fromarray(rng.integers(0, 255, (4, 5, 3), np.uint8)).save(data, 'png')
  path.write_bytes(data.getvalue()[:-40])


def relabel(root, task, array):
  write(root / f'train/labels/{task}/a.png', array.astype(np.uint16 if task == 'normals' else np.uint8))


@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_file(root, name):
  break_it, *words = BAD_FILES[name]
  break_it(root)
  refused(root, *words)
  refused(root, *words)  # from the cache of the first scan
  folder.open_folder(str(root), 'val')  # the other split is in order


def spelled(form: str, name: str) -> str:
  return unicodedata.normalize(form, name)


@pytest.mark.parametrize('form', ['NFC', 'NFD'])
def test_names_match_whatever_their_unicode_form(root, form):
  """macOS and archives made there write letters with accents as two characters."""
  forms = {'images/a.jpg': form, 'labels/semseg/a.png': 'NFD', 'labels/depth/a.png': 'NFC'}
  for file, file_form in forms.items():
    path = root / 'train' / file
    path.rename(path.with_stem(spelled(file_form, 'café Ångström')))
  for name in ('objects', 'normals'):
    (root / f'train/labels/{name}/a.png').unlink()
  source = open_train(root)
  assert source.ids == ['b', spelled('NFC', 'café Ångström')]
  assert source[1]['labels'].keys() == {'semseg', 'depth'}


def test_tasks_match_whatever_their_unicode_form(root):
  tasks = TASKS | {spelled('NFD', 'fläche'): {'kind': 'saliency'}}
  (root / 'dataset.json').write_text(json.dumps({'tasks': tasks}))
  write(root / 'train/labels' / spelled('NFC', 'fläche') / 'a.png', np.eye(HEIGHT, WIDTH, dtype=np.uint8))
  assert open_train(root).label_mask[0].all()


@pytest.mark.parametrize('place', ['images', 'labels/semseg'])
def test_two_files_of_one_name_in_other_bytes_are_refused(root, place):
  for form in ('NFC', 'NFD'):
    image(root / 'train' / place / f'{spelled(form, "é")}.png')
  refused(root, f'{place}/', "'\\xe9.png'", "'e\\u0301.png'", 'the same name in two Unicode forms', 'rename')


def test_names_too_long_for_results_are_refused_before_any_work(root):
  """A file's name has 255 bytes at most; NFC makes some longer than they are on the disk."""
  longest, grown = 'n' * 251, '\u0958' * 60 + 'n' * 71
  for path in [*(root / 'train/images').glob('a.*'), *(root / 'train/labels').glob('*/a.*')]:
    path.rename(path.with_name(f'{longest}{path.suffix}'))
  assert longest in open_train(root).ids
  image(root / f'train/images/{grown}.jpg')
  refused(root, grown, 'too long for result files')


def test_empty_and_missing_folders(root):
  for path in (root / 'val/images').iterdir():
    path.unlink()
  refused(root, 'val/images', 'contains no images', split='val')
  (root / 'val/images').rmdir()
  refused(root, 'val/images', 'no such folder', split='val')
  refused('', 'config.data.path is empty')


def test_validation_may_hold_unlabelled_images_but_not_only_them(root):
  (root / 'val/labels/semseg/b.png').unlink()
  assert not folder.open_folder(str(root), 'val').label_mask[1].any()
  for path in (root / 'val/labels').glob('*/*'):
    path.unlink()
  refused(root, 'none of 2 images (a, b) has a label for any task', split='val')


def test_many_bad_files_are_counted(root):
  for i in range(7):
    image(root / f'train/images/c{i}.png')
    (root / f'train/labels/semseg/c{i}.png').write_bytes(b'no')
  refused(root, 'c0.png', 'c1.png', 'c2.png', 'and 4 more files')


@pytest.mark.parametrize(
  'content, words',
  [
    (None, ['no such file']),
    ('{', ['not JSON']),
    ('[]', ['"tasks" must map']),
    ('{"tasks": {}}', ['"tasks" must map']),
    ('{"tasks": {"depth": 3}}', ['"depth"', 'must be an object']),
    ('{"tasks": {"a b": {"kind": "depth"}}}', ['"a b"', 'letters, digits']),
    ('{"tasks": {"sky": {}}}', ['"sky"', "kind: 'sky' is none of "]),
    ('{"tasks": {"depth": {"unit": 1}}}', ['unknown field "unit"', 'classes, ignore, kind, positive, scale']),
    ('{"tasks": {"depth": {"scale": 0}}}', ['"scale" must be a positive number']),
    ('{"tasks": {"depth": {"scale": "1"}}}', ['"scale" must be a positive number']),
    ('{"tasks": {"saliency": {"ignore": 1.5}}}', ['"ignore" must be a whole number']),
    ('{"tasks": {"semseg": {"classes": "ab"}}}', ['"classes" must be a list']),
    ('{"tasks": {"semseg": {"classes": ["sky"]}}}', ['needs 2 to 255 class names']),
    ('{"tasks": {"depth": {"classes": ["a", "b"]}}}', ['takes no class names']),
  ],
)
def test_bad_description(root, content, words):
  (root / 'dataset.json').unlink()
  if content is not None:
    (root / 'dataset.json').write_text(content)
  refused(root, 'dataset.json', *words)


def test_scan_is_cached_until_a_file_changes(root, monkeypatch):
  open_train(root)
  scan_image = unittest.mock.Mock(wraps=scan.scan_image)
  monkeypatch.setattr(scan, 'scan_image', scan_image)
  open_train(root)
  scan_image.assert_not_called()
  os.utime(root / 'train/labels/semseg/a.png', ns=(1, 1))
  open_train(root)
  scan_image.assert_called_once()


def rewritten(path):
  """The same length, another time."""
  path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize('file', ['images/a.jpg', 'labels/semseg/a.png'])
@pytest.mark.parametrize('change', [pathlib.Path.unlink, cut, rewritten])
def test_a_file_that_changes_under_a_run_is_named(root, file, change):
  source = open_train(root)
  index = source.ids.index('a')
  assert source[index]['labels']
  change(root / 'train' / file)
  with pytest.raises(UserError, match=f'{file}: changed or removed since it was checked'):
    source[index]


def test_opens_where_the_cache_cannot_be_written(root, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('in the way')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert len(open_train(root)) == 2


def test_a_crop_may_be_guided_by_a_label_that_is_hidden(root):
  config = ConfigDict({'name': 'folder', 'path': str(root), 'augment': 'pascal'})
  source = source_lib.open_source(config, 'train')
  hidden = dataclasses.replace(source, label_mask=np.zeros_like(source.label_mask))
  for i, labels in enumerate(source.read.labels):
    assert ('crop_guide' in hidden[i]) == ('semseg' in labels)
    assert not hidden[i]['labels']
    if 'semseg' in labels:
      np.testing.assert_array_equal(hidden[i]['crop_guide'], source[i]['labels']['semseg'])


def test_a_share_of_the_training_images_is_held_back(tmp_path):
  config = ConfigDict({'name': 'folder', 'path': str(tmp_path), 'holdout_fraction': 0.25})
  toy.write(tmp_path, train=8)
  whole = folder.open_folder(config.path, 'train')
  rest, back = (source_lib.open_source(config, split) for split in ('train', 'val'))
  assert (len(rest), len(back)) == (6, 2)
  assert {*rest.ids} | {*back.ids} == {*whole.ids}
  for part in (rest, back):
    for i, name in enumerate(part.ids):
      expected, example = whole[whole.ids.index(name)], part[i]
      np.testing.assert_array_equal(example['image'], expected['image'])
      assert example['labels'].keys() == expected['labels'].keys()
      assert example['index'] == i


def test_camvid():
  source = folder.open_folder(str(shared('data/camvid')), 'val')
  assert len(source) == 101
  assert source.label_mask.all()
  example = source[0]
  assert example['image'].shape == (192, 256, 3)
  assert {k: v.shape for k, v in example['labels'].items()} == dict.fromkeys(
    ('semseg', 'boundary', 'saliency'), (192, 256, 1)
  )


def test_photographs_without_labels_join_the_training_images(root):
  image(root / 'unlabelled/pool.jpg')
  image(root / 'train/images/alone.jpg')
  source = open_train(root)
  assert source.ids == ['a', 'alone', 'b', 'pool']
  assert source.label_mask.any(1).tolist() == [True, False, True, False]
  assert source[3].keys() == {'image', 'labels', 'index'}
  assert source.labelled().ids == ['a', 'b']
  assert folder.open_folder(str(root), 'val').ids == ['a', 'b']
  image(root / 'unlabelled/a.png')
  refused(root, 'unlabelled/a.png', 'train/images/a.jpg has the same name')


def test_a_folder_of_unlabelled_photographs_alone_is_refused(root):
  for path in (root / 'train/labels').glob('*/*'):
    path.unlink()
  refused(root, 'none of 2 images (a, b) has a label for any task; add', 'labels/TASK/NAME.png')


def test_images_and_labels_may_lie_in_the_folder_itself(root):
  for name in ('images', 'labels'):
    (root / 'train' / name).rename(root / name)
  (root / 'train').rmdir()
  assert open_train(root)[0]['labels'].keys() == TASKS.keys()
  image(root / 'train/images/c.jpg')
  refused(root, 'has images both in images and in train/images; move all to train')


@pytest.mark.parametrize('place', ['train', '.'])
def test_photographs_beside_the_folder_of_images_are_told_where_to_go(root, place):
  (root / 'train/images').rename(root / 'elsewhere')
  image(root / place / 'photo.JPG')
  refused(root, 'train/images: no such folder; move the images of', 'there')


def test_only_new_and_changed_images_are_read_again(root, monkeypatch):
  open_train(root)
  read = []
  scan_image = scan.scan_image
  monkeypatch.setattr(scan, 'scan_image', lambda files, i: read.append(files.ids[i]) or scan_image(files, i))
  image(root / 'unlabelled/new.jpg')
  assert open_train(root).ids == ['a', 'b', 'new']
  os.utime(root / 'train/labels/semseg/b.png', ns=(1, 1))
  (root / 'train/labels/objects/a.png').unlink()
  (root / 'unlabelled/new.jpg').unlink()
  assert open_train(root).ids == ['a', 'b']
  assert read == ['new', 'a', 'b']
  (root / 'dataset.json').write_text(json.dumps({'tasks': TASKS | {'depth': {'scale': 0.02}}}))
  open_train(root)
  assert read[3:] == ['a']  # b has no depth


def test_a_scan_that_ends_early_keeps_what_it_has_read(root, monkeypatch):
  for n in range(5):
    image(root / f'unlabelled/{n}.jpg')
  monkeypatch.setattr(scan, 'CHUNK', 2)
  read = []
  scan_image = scan.scan_image

  def read_some(files, index):
    if len(read) == 5:
      raise KeyboardInterrupt
    read.append(index)
    return scan_image(files, index)

  monkeypatch.setattr(scan, 'scan_image', read_some)
  with pytest.raises(KeyboardInterrupt):
    open_train(root)
  before = len(read)
  monkeypatch.setattr(scan, 'scan_image', lambda files, i: read.append(i) or scan_image(files, i))
  open_train(root)
  assert before == 5
  assert len(read) - before == 3  # 7 images, of which two chunks of 2 were kept


def test_a_held_out_part_has_positives_where_the_training_images_have_some(tmp_path):
  """Saliency that is empty in the images that would be held out."""
  toy.write(tmp_path, train=10, val=0)
  config = ConfigDict({'name': 'folder', 'path': str(tmp_path)})
  before = source_lib.open_splits(config)
  for id in before['val'].ids:
    write(tmp_path / f'train/labels/saliency/{id}.png', np.zeros((64, 96), np.uint8))
  after = source_lib.open_splits(config)
  assert after['val'].positives_shown.sum(0).tolist() == [1, 2]  # saliency, boundary
  assert len({*before['val'].ids} & {*after['val'].ids}) == 1


def test_a_summary_says_what_the_labels_hold_without_reading_them(root):
  source = open_train(root)
  for path in (root / 'train/labels').glob('*/*'):
    path.unlink()
  summary = source.summary(1)
  assert summary.size == (4, 5)
  assert summary.labels['semseg'][:3] == (20, 12, [4, 4, 4])
  depth = source.summary(0).labels['depth']
  assert (depth.low, depth.high, depth.counts) == (pytest.approx(2.5), pytest.approx(2.5), [])


def test_without_val_a_fifth_of_the_labelled_images_is_held_out(tmp_path):
  toy.write(tmp_path, train=10, val=1)
  config = ConfigDict({'name': 'folder', 'path': str(tmp_path)})
  assert len(source_lib.open_source(config, 'val')) == 1
  shutil.rmtree(tmp_path / 'val')
  image(tmp_path / 'unlabelled/pool.jpg')
  parts = source_lib.open_splits(config)
  assert len(parts['val']) == 2
  assert parts['val'].label_mask.all()
  assert 'pool' in parts['train'].ids
  assert sorted([*parts['val'].ids, *parts['train'].ids]) == folder.open_folder(str(tmp_path), 'train').ids
