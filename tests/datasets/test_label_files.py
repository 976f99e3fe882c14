"""What label files mean: of each kind, what is labelled, what is refused, and the fields of dataset.json it takes."""

import json

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import folder
from dmtl_jax.tasks import KINDS, make_task

SIZE = (8, 10)
TWO = ['background', 'target']


def write_folder(root, entry: dict, files: dict, name: str = 'it'):
  """A data set of one task: for each label file {NAME.png or NAME.npy: array} a grey image of its size."""
  (root / 'train/images').mkdir(parents=True)
  (root / 'train/labels' / name).mkdir(parents=True)
  (root / 'dataset.json').write_text(json.dumps({'tasks': {name: entry}}))
  for file, values in files.items():
    path = root / 'train/labels' / name / file
    np.save(path, values) if path.suffix == '.npy' else Image.fromarray(values).save(path)
    Image.fromarray(np.full(values.shape[:2], 90, np.uint8)).save(root / f'train/images/{path.stem}.png')


def read(root, entry: dict, files: dict) -> list[np.ndarray]:
  """The labels of a data set of one task, in the order of their names."""
  write_folder(root, entry, files)
  source = folder.open_folder(str(root), 'train')
  return [source[i]['labels']['it'] for i in range(len(source))]


def refused(root, entry: dict, files: dict) -> list[str]:
  """Why such a data set is refused: a sentence for each file."""
  write_folder(root, entry, files)
  with pytest.raises(UserError) as caught:
    folder.open_folder(str(root), 'train')
  return list(caught.value.parts)


# --- Normals ---------------------------------------------------------------------------------


def directions() -> np.ndarray:
  """Unit vectors [H, W, 3] towards the camera, spread over a cap of 60 degrees."""
  rng = np.random.default_rng(0)
  angle, turn = np.radians(rng.uniform(0, 60, SIZE)), rng.uniform(0, 2 * np.pi, SIZE)
  return np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], -1)


def in_8_bits(vectors):
  return np.round(127.5 * (vectors + 1)).astype(np.uint8)


# What stands for *no normal*, and the array of a file that holds it in its first two rows.
GREYS = {
  'grey 127': (in_8_bits, 127),
  'grey 128': (in_8_bits, 128),
  'white': (in_8_bits, 255),
  'grey in 16 bits': (lambda vectors: np.round(32767.5 * (vectors + 1)).astype(np.uint16), 32768),
  'float of grey': (lambda vectors: vectors.astype(np.float32), 1 / 255),
  'not a number': (lambda vectors: vectors.astype(np.float32), np.nan),
}


@pytest.mark.parametrize('name', GREYS)
def test_normals_far_from_unit_length_are_unlabelled(tmp_path, name):
  encode, grey = GREYS[name]
  truth, values = directions(), encode(directions())
  values[:2] = grey
  label = read(tmp_path, {'kind': 'normals'}, {'a.npy': values})[0]
  assert not label[:2].any()
  np.testing.assert_allclose(label[2:], truth[2:], atol=0.01)
  np.testing.assert_allclose(np.linalg.norm(label[2:], axis=-1), 1, atol=1e-6)
  metric = make_task('it', 'normals').scorer()
  assert metric.compute(metric.image(truth.astype(np.float32), label))['mErr'] < 0.3  # degrees, by rounding to 8 bits


def test_normals_that_resizing_has_shortened_keep_their_direction():
  edge = np.array([[[0, 0, 1], [0, 0.5, 0.5], [0, 1, 0]]])  # the mean of two that are 90 degrees apart
  np.testing.assert_allclose(make_task('it', 'normals').from_file(edge)[0, 1], [0, 0.5**0.5, 0.5**0.5], atol=1e-6)


def test_normals_in_another_encoding_are_refused(tmp_path):
  vectors = directions()
  grey = (vectors + 1) / 2
  grey[:2] = 0.5
  grey[2] = 0
  files = {'a.npy': grey, 'b.npy': 255 * (vectors + 1) / 2, 'c.npy': 127 * vectors, 'd.npy': vectors}
  parts = refused(tmp_path, {'kind': 'normals'}, files)
  assert [name for name, part in zip(files, parts, strict=False) if name in part] == ['a.npy', 'b.npy', 'c.npy']
  assert len(parts) == 3
  assert 'holds (xyz + 1) / 2' in parts[0]
  assert 'far from unit length' in parts[1]
  assert 'the median of these is 1.3e+02' in parts[2]


def test_normals_that_happen_to_be_positive_are_read():
  for flat in ([0, 0, 1], [0.6, 0, 0.8], [0.48, 0.6, 0.64]):
    vectors = np.broadcast_to(np.array(flat), (*SIZE, 3))
    np.testing.assert_allclose(make_task('it', 'normals').from_file(vectors), vectors, atol=1e-6)


# --- Masks of two classes --------------------------------------------------------------------

MASKS = {'saliency': {'kind': 'saliency'}, 'boundary': {'kind': 'boundary'}}
MASKS |= {kind: {'kind': kind, 'classes': TWO} for kind in ('semseg', 'parsing')}


def mask(*values) -> np.ndarray:
  """[H, W] uint8 of columns with these values in turn."""
  return np.resize(np.uint8(values), SIZE[1])[None].repeat(SIZE[0], 0)


@pytest.mark.parametrize('kind', MASKS)
def test_a_mask_of_0_and_255_is_refused_whatever_the_others_hold(tmp_path, kind):
  files = {'a.png': mask(0, 1, 255), 'b.png': mask(0, 255), 'c.png': mask(255, 0), 'd.png': mask(0, 1)}
  files |= {'e.png': mask(0), 'f.png': mask(255), 'g.png': mask(1, 255)}
  parts = refused(tmp_path, MASKS[kind], files)
  assert len(parts) == 2
  assert 'b.png: holds only 0 and 255' in parts[0]
  assert 'c.png' in parts[1]
  name = 'target' if 'classes' in MASKS[kind] else kind
  assert f'store 1 for {name}' in parts[0]
  assert '"positive": 255' in parts[0]
  assert '"ignore": 255' in parts[0]


@pytest.mark.parametrize('kind', MASKS)
def test_positive_is_the_value_of_class_1(tmp_path, kind):
  files = {'a.png': mask(0, 255), 'b.png': mask(0, 255, 7), 'c.npy': mask(0, 1) > 0}
  labels = read(tmp_path, MASKS[kind] | {'positive': 255, 'ignore': 7}, files)
  for label, columns in zip(labels, ([0, 1, 0, 1], [0, 1, 255, 0], [0, 1, 0, 1])):
    assert label[0, :4, 0].tolist() == columns
    assert label.dtype == np.uint8


@pytest.mark.parametrize('entry, stored, expected', [
  ({'kind': 'saliency', 'positive': 128}, (0, 128, 255), (0, 1, 255)),
  ({'kind': 'saliency', 'ignore': 255}, (0, 255), (0, 255)),
  ({'kind': 'semseg', 'classes': ['a', 'b', 'c']}, (0, 255), (0, 255)),
])  # fmt: skip
def test_255_is_unlabelled_unless_it_is_positive(tmp_path, entry, stored, expected):
  (label,) = read(tmp_path, entry, {'a.png': mask(*stored)})
  np.testing.assert_array_equal(label[..., 0], mask(*expected))


def test_other_values_of_a_mask_point_to_positive(tmp_path):
  files = {'a.png': mask(0, 128), 'b.png': mask(0, 3, 5), 'c.png': mask(0, 1)}
  parts = refused(tmp_path, MASKS['semseg'], files)
  assert 'class id 128; it has ids 0 to 1 and 255 for unlabelled; set "positive": 128' in parts[0]
  assert 'means target' in parts[0]
  assert 'positive' not in parts[1]
  assert len(parts) == 2


def test_what_is_neither_0_nor_positive_is_refused(tmp_path):
  parts = refused(tmp_path, MASKS['boundary'] | {'positive': 255}, {'a.png': mask(0, 255, 1), 'b.png': mask(0, 255)})
  assert len(parts) == 1
  assert 'a.png: holds class id 1; it has 0 and 255 ("positive")' in parts[0]
  assert 'unlabelled' not in parts[0]


# --- Depth -----------------------------------------------------------------------------------


def test_depth_honours_ignore_before_scale(tmp_path):
  values = np.resize(np.uint16([512, 65535, 0, 1024]), SIZE)
  entry = {'kind': 'depth', 'scale': 1 / 512}
  expected = [1, 0, 0, 2]
  np.testing.assert_array_equal(
    read(tmp_path / 'a', entry | {'ignore': 65535}, {'a.png': values})[0].ravel()[:4], expected
  )
  np.testing.assert_allclose(read(tmp_path / 'b', entry, {'a.png': values})[0].ravel()[1], 65535 / 512)
  floats = np.resize(np.float32([1, 99, 0, 2]), SIZE)
  label = read(tmp_path / 'c', {'kind': 'depth', 'ignore': 99}, {'a.npy': floats})[0]
  np.testing.assert_array_equal(label.ravel()[:4], expected)


def test_a_scale_that_would_not_reach_floating_point_depth_is_refused(tmp_path):
  files = {'a.npy': np.ones(SIZE, np.float32), 'b.png': np.full(SIZE, 9, np.uint16)}
  (part,) = refused(tmp_path / 'a', {'kind': 'depth', 'scale': 0.01}, files)
  assert 'a.npy: holds floating-point numbers, which are metres' in part
  assert 'remove "scale"' in part
  a, b = read(tmp_path / 'b', {'kind': 'depth', 'scale': 1}, files)
  assert (a == 1).all()
  assert (b == 9).all()


# --- dataset.json ----------------------------------------------------------------------------

VALUES = {'ignore': 7, 'positive': 9, 'scale': 0.5, 'classes': TWO}
# By the documentation's table.
TAKES = {
  'semseg': {'classes', 'ignore', 'positive'},
  'parsing': {'classes', 'ignore', 'positive'},
  'saliency': {'ignore', 'positive'},
  'boundary': {'ignore', 'positive'},
  'normals': set(),
  'depth': {'ignore', 'scale'},
}


def describe(path, entry: dict, **beside):
  path.write_text(json.dumps({'tasks': {'it': entry}} | beside))
  return folder.read_description(path)


def bare(kind: str) -> dict:
  return {'kind': kind} | ({'classes': TWO} if 'classes' in TAKES[kind] else {})


@pytest.mark.parametrize('kind', TAKES)
def test_each_field_changes_what_is_read_or_is_refused(tmp_path, kind):
  values = np.resize([0, 1, 7, 9], SIZE).astype(np.uint16)
  values = values[..., None].repeat(3, -1) if kind == 'normals' else values
  path = tmp_path / 'dataset.json'

  def outcome(encoding):
    task = describe(path, bare(kind))[0][0]
    try:
      return task.from_file(values, **encoding).tolist()
    except ValueError as error:
      return str(error)

  for field, value in VALUES.items():
    if field not in TAKES[kind]:
      with pytest.raises(UserError, match='dataset.json: "tasks"."it"'):
        describe(path, bare(kind) | {field: value})
    elif field != 'classes':
      _, encodings = describe(path, bare(kind) | {field: value})
      assert encodings == {'it': {field: value}}
      assert outcome(encodings['it']) != outcome({}), field
      assert describe(path, bare(kind))[0][0].file_warnings(values, **encodings['it']) == {}


def test_every_kind_is_in_the_table():
  assert {*TAKES} == {name for name, kind in KINDS.items() if kind.__module__.startswith('dmtl_jax.')}


@pytest.mark.parametrize(
  'entry, words',
  [
    ({'kind': 'normals', 'ignore': 127}, '."ignore" would have no effect: normals takes kind; remove it'),
    ({'kind': 'normals', 'scale': 2}, '."scale" would have no effect'),
    ({'kind': 'depth', 'classes': []}, '."classes" would have no effect: depth takes kind, ignore, scale'),
    ({'kind': 'depth', 'positive': 3}, '."positive" would have no effect'),
    (
      {'kind': 'semseg', 'classes': TWO, 'scale': 2},
      'no effect: semseg with 2 classes takes kind, classes, ignore, positive',
    ),
    (
      {'kind': 'semseg', 'classes': ['a', 'b', 'c'], 'positive': 3},
      'semseg with 3 classes takes kind, classes, ignore;',
    ),
    ({'kind': 'saliency', 'positive': 0}, '."positive" must be a whole number from 1 to 65535'),
    ({'kind': 'saliency', 'positive': True}, '."positive" must be a whole number'),
    ({'kind': 'saliency', 'positive': 9, 'ignore': 9}, '"positive" and "ignore" are both 9'),
    ({'kind': 'semseg', 'classes': ['a', ' ']}, '."classes"[1] is blank'),
    ({'kind': 'semseg', 'classes': ['a', '\u200b']}, '."classes"[1] is blank'),
    ({'kind': 'semseg', 'classes': ['a', 'b', 'a ']}, '."classes"[2]: [0] is also named "a"'),
    ({'kind': 'semseg', 'classes': ['e\u0301', '\u00e9']}, '."classes"[1]: [0] is also named'),
    ({'kind': 'semseg', 'classes': ['a', 'x' * 65]}, '."classes"[1]: a name has at most 64 characters, not 65'),
    ({'kind': 'semseg', 'classes': ['a', 'b\n']}, '."classes" must be a list of names'),
  ],
)
def test_fields_that_cannot_be_meant_are_refused(tmp_path, entry, words):
  with pytest.raises(UserError) as caught:
    describe(tmp_path / 'dataset.json', entry)
  message = str(caught.value)
  assert f'dataset.json: "tasks"."it"{words}' in message or words in message
  assert '\n' not in message


def test_names_of_classes_that_are_legal(tmp_path):
  names = ['x' * 64, 'A', 'a', 'sky / cloud', 'م\u200cر', '天']
  assert describe(tmp_path / 'dataset.json', {'kind': 'semseg', 'classes': names})[0][0].classes == tuple(names)


def test_a_task_s_field_beside_tasks_is_refused(tmp_path):
  path = tmp_path / 'dataset.json'
  assert describe(path, {'kind': 'depth'}, source='where from')[0]
  with pytest.raises(UserError, match='"ignore" has no effect beside "tasks"'):
    describe(path, {'kind': 'depth'}, ignore=65535)


# --- Bytes, which are read by a table ---------------------------------------------------------


@pytest.mark.parametrize('stored', [(0, 1), (0, 255), (0, 1, 255), (0, 1, 2), (0, 7), (9, 7, 0), (255,), (1, 200)])
@pytest.mark.parametrize('fields', [{}, {'ignore': 200}, {'positive': 255}, {'positive': 7}, {'annotated': (1,)}])
@pytest.mark.parametrize('classes', [TWO, ['a', 'b', 'c']])
def test_bytes_mean_what_wider_numbers_mean(stored, fields, classes):
  task = make_task('it', 'semseg', tuple(classes))
  values = np.random.default_rng(0).choice(np.uint8(stored), (30, 40))
  results = []
  for array in (values, values.astype(np.uint16), values[::-1, ::-1][::-1, ::-1]):
    try:
      results.append(task.from_file(array, **fields).tolist())
    except ValueError as error:
      results.append(str(error))
  assert results[0] == results[1] == results[2]


# --- Images that EXIF turns ------------------------------------------------------------------


@pytest.mark.parametrize('orientation, how', [(6, 'clockwise'), (8, 'counterclockwise')])
def test_a_label_of_an_image_that_exif_turns(tmp_path, orientation, how):
  tall = np.arange(20, dtype=np.uint8).reshape(5, 4) % 3
  entry = {'kind': 'semseg', 'classes': ['a', 'b', 'c']}
  write_folder(tmp_path, entry, {'a.png': tall})
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(np.full((5, 4), 90, np.uint8)).save(tmp_path / 'train/images/a.png', exif=exif)
  with pytest.raises(UserError) as caught:
    folder.open_folder(str(tmp_path), 'train')
  message = str(caught.value)
  assert 'it/a.png: 4x5, as its image a.png is stored; EXIF rotates the image by 90 degrees, to 5x4' in message
  assert f'rotate the label too ({how})' in message
  assert 'equal' not in message
  # That is the right way: a label turned so by NumPy shows the place that the turned image shows.
  turned = np.rot90(tall, -1 if how == 'clockwise' else 1)
  Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / 'train/labels/it/a.png')
  Image.fromarray(100 * tall).save(tmp_path / 'train/images/a.png', exif=exif)
  example = folder.open_folder(str(tmp_path), 'train')[0]
  np.testing.assert_array_equal(example['image'][..., 0], 100 * example['labels']['it'][..., 0])
