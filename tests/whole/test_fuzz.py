"""Data that others wrote, mutated: only a sentence may come out, and nothing may run or be written elsewhere.

FUZZ_EXAMPLES=N tries N new inputs a reader instead of the suite's few; tests/fuzz_readers.py fuzzes some of the
readers by coverage, and docs/robustness.md says how many inputs were tried.
tests/basics/test_hostile.py has the smallest input of each bug found.
"""

import io
import itertools
import json
import pathlib
import shutil
import warnings

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.datasets import folder, mtan
from dmtl_jax.datasets.pascal import labels as pascal
from dmtl_jax.tasks import make_task
from tests import fuzzing, raw_trees
from tests.basics import test_torch_file

TASKS = (
    make_task('semseg', 'semseg', ('a', 'b', 'c')), make_task('saliency', 'saliency'), make_task('normals', 'normals'),
    make_task('depth', 'depth'),
)  # fmt: skip
DESCRIPTION = {
    'tasks': {
        'semseg': {'classes': ['a', 'b', 'c'], 'ignore': 200}, 'saliency': {}, 'normals': {}, 'depth': {'scale': 0.01}
    }
}  # fmt: skip
SIZE = (5, 8)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr('dmtl_jax.datasets.folder.scan.Progress', Silent)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow's, of corrupt EXIF and the like
    yield


class Silent:
  """Progress that is not shown: these are thousands of runs."""

  def __init__(self, *args, **kwargs):
    pass

  def __enter__(self):
    return self

  def __exit__(self, *args):
    pass

  def update(self, *args, **kwargs):
    pass


def encoded(array, kind: str, **options) -> bytes:
  stream = io.BytesIO()
  if kind == 'npy':
    np.save(stream, array)
  else:
    Image.fromarray(array).save(stream, kind, **options)
  return stream.getvalue()


def pattern(dtype, most: int, channels: int = 0):
  shape = SIZE + ((channels,) if channels else ())
  return (np.arange(np.prod(shape)).reshape(shape) % (most + 1)).astype(dtype)


def run(few: int, inputs, check):
  """Fuzzes; both outcomes must occur, or the mutations are too weak or too strong."""
  outcomes = {}

  @fuzzing.fuzz(few)
  @given(inputs)
  def body(data):
    good = check(data)
    outcomes[good] = outcomes.get(good, 0) + 1

  body()
  print(f'{sum(outcomes.values())} inputs: {outcomes}')
  assert set(outcomes) == {True, False}


# --- PyTorch files and mappings --------------------------------------------------------------

# Programs of the instructions a pickle may have, with arguments that mostly fit.
_INSTRUCTIONS = [
    b'N', b'\x88', b')', b']', b'}', b'(', b't', b'\x85', b'\x86', b'\x87', b'a', b'e', b's', b'u', b'R', b'b', b'Q',
    b'\x93', b'\x94', b'K\x01', b'K\x05', b'J\xff\xff\xff\xff', b'G?\xe0\0\0\0\0\0\0', b'\x8a\x09' + b'\xff' * 8 + b'\x00',
    b'X\x07\0\0\0storage', b'X\x01\0\0\x000', b'X\x06\0\0\0latin1', b'X\x02\0\0\0f8', b'X\x0e\0\0\0labels_weights',
    b'ctorch\nFloatStorage\n', b'ctorch._utils\n_rebuild_tensor_v2\n', b'ctorch\nSize\n', b'ccollections\nOrderedDict\n',
    b'cnumpy\ndtype\n', b'cnumpy.core.multiarray\nscalar\n', b'c_codecs\nencode\n', b'ctorch._utils\n_rebuild_parameter\n',
    b'cos\nsystem\n', b'X\x01\0\0\0a', b'C\x08\0\0\0\0\0\0\0\0', b'q\x00', b'q\x01', b'h\x00', b'h\x01', b'.',
]  # fmt: skip
programs = st.lists(st.sampled_from(_INSTRUCTIONS), max_size=30).map(lambda parts: b'\x80\x02' + b''.join(parts) + b'.')


def mapping_program() -> bytes:
  return test_torch_file.pickled({f'img{i}': [1, 0, 1, 0, int(i > 1)] for i in range(3)})


def weights():
  storage = test_torch_file.Storage(np.arange(6, dtype=np.float32), '0')
  return {'labels_weights': test_torch_file.tensor(storage, (3, 2), (2, 1))}, [storage]


def load_mapping(path):
  label_settings.load_mapping(path, ['img0', 'img1', 'img2'], TASKS)


def test_pickles_in_a_zip_file(tmp_path):
  content, storages = test_torch_file.checkpoint()
  seeds = test_torch_file.pickled(content), mapping_program(), test_torch_file.pickled(weights()[0])
  path = tmp_path / 'x.pth'

  def check(program):
    test_torch_file.write_program(path, program, storages)
    return fuzzing.told(torch_file.load, path)

  run(100, st.one_of(programs, fuzzing.files(*seeds)), check)


@pytest.mark.parametrize('read', [torch_file.load, load_mapping], ids=['content', 'mapping'])
def test_whole_pytorch_files(tmp_path, read):
  path, seeds = tmp_path / 'x.pth', []
  contents = [weights(), ({f'img{i}': [1, 0, 1, 0, 1] for i in range(3)},)] + [test_torch_file.checkpoint()] * (
    read is torch_file.load
  )
  for write in (test_torch_file.write_zip, test_torch_file.write_legacy):
    seeds += [write(path, *content).read_bytes() for content in contents]

  def check(data):
    path.write_bytes(data)
    return fuzzing.told(read, path)

  run(50, fuzzing.files(*seeds), check)


def test_mappings_in_pickles(tmp_path):
  path = tmp_path / 'x.pth'

  def check(program):
    test_torch_file.write_program(path, program, weights()[1])
    return fuzzing.told(load_mapping, path)

  run(50, fuzzing.files(mapping_program(), test_torch_file.pickled(weights()[0])), check)


def test_mappings_in_text(tmp_path):
  csv = [b'image,tasks\nimg0,semseg;depth\nimg1,\n', b'image,semseg,depth\nimg0,1,0\n"img1",0,1\n']
  rows = {'img0': ['semseg', 'depth'], 'img1': []}
  kinds = st.one_of(
    st.tuples(st.just('m.csv'), fuzzing.files(*csv)),
    st.tuples(
      st.just('m.csv'), st.sampled_from([b'image,tasks\nimg0,' + b'x' * 200_000, b'\0\n\0', b'"', b'image,a\r\ra'])
    ),
    st.tuples(st.just('m.json'), fuzzing.as_json(rows)),
  )

  def check(named):
    path = tmp_path / named[0]
    path.write_bytes(named[1])
    return fuzzing.told(load_mapping, path)

  run(100, kinds, check)


# --- The folder data set ---------------------------------------------------------------------


def test_descriptions(tmp_path):
  path = tmp_path / 'dataset.json'

  def check(data):
    path.write_bytes(data)
    return fuzzing.told(folder.read_description, path)

  run(80, fuzzing.as_json(DESCRIPTION), check)


LABELS = {
    'semseg': [
        ('png', encoded(pattern(np.uint8, 2), 'png')), ('npy', encoded(pattern(np.int8, 2), 'npy')),
        ('npy', encoded(np.asfortranarray(pattern(np.int64, 2)), 'npy')),
    ],
    'saliency': [('png', encoded(pattern(np.uint8, 1), 'png')), ('npy', encoded(pattern(bool, 1), 'npy'))],
    'normals': [
        ('png', encoded(pattern(np.uint8, 200, 3), 'png')), ('npy', encoded(pattern(np.float64, 9, 3), 'npy')),
        ('png', cv2.imencode('.png', pattern(np.uint16, 60_000, 3))[1].tobytes()),
    ],
    'depth': [('png', encoded(pattern(np.uint16, 5000), 'png')), ('npy', encoded(pattern(np.float16, 9), 'npy'))],
}  # fmt: skip
IMAGES = [
  ('png', 'png'),
  ('jpeg', 'jpg'),
  ('bmp', 'bmp'),
  ('tiff', 'tif'),
  ('webp', 'webp'),
  ('ppm', 'png'),
  ('gif', 'jpg'),
]


def write_folder(root: pathlib.Path):
  (root / 'train/images').mkdir(parents=True)
  (root / 'dataset.json').write_text(json.dumps(DESCRIPTION))
  (root / 'train/images/a.png').write_bytes(encoded(pattern(np.uint8, 255, 3), 'png'))


def open_folder(root):
  source = folder.open_folder(str(root), 'train')
  for example in (source[i] for i in range(len(source))):
    assert example['image'].dtype == np.uint8
    for task in source.tasks:
      if task.name in example['labels']:
        label = example['labels'][task.name]
        assert label.dtype == task.label_dtype and label.shape == (*example['image'].shape[:2], task.label_channels)
        assert np.isfinite(label).all()


def test_label_files(tmp_path):
  root = tmp_path / 'data'
  write_folder(root)
  kinds = [
    st.tuples(st.just(task), st.just(kind), fuzzing.files(data))
    for task, found in LABELS.items()
    for kind, data in found
  ]

  def check(case):
    task, kind, data = case
    path = root / f'train/labels/{task}/a.{kind}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
      return fuzzing.told(lambda _: open_folder(root), tmp_path / 'x', path.name, f'labels/{task}')
    finally:
      shutil.rmtree(root / 'train/labels')

  run(100, st.one_of(kinds), check)


def test_image_files(tmp_path):
  root = tmp_path / 'data'
  write_folder(root)
  (root / 'train/images/a.png').unlink()
  (root / 'train/labels/semseg').mkdir(parents=True)
  (root / 'train/labels/semseg/a.png').write_bytes(LABELS['semseg'][0][1])
  exif = Image.Exif()
  exif[0x0112] = 6
  seeds = [
    st.tuples(st.just(suffix), fuzzing.files(encoded(pattern(np.uint8, 255, 3), kind, **options)))
    for kind, suffix in IMAGES
    for options in ([{}, {'exif': exif}] if kind in ('jpeg', 'png', 'tiff', 'webp') else [{}])
  ]

  def check(case):
    suffix, data = case
    path = root / f'train/images/a.{suffix}'
    path.write_bytes(data)
    try:
      return fuzzing.told(lambda _: open_folder(root), tmp_path / 'x', path.name)
    finally:
      path.unlink()

  run(100, st.one_of(seeds), check)


NAMES = st.one_of(
  st.sampled_from(
    ['a', 'a ', 'a.b', '...', '..png', '-rf', '%s', '$(x)', '{0}', 'con', 'x' * 200, '\u202ea', '\n', '\udcff', '\x1b']
  ),
  st.text(st.characters(exclude_characters='/\0'), min_size=1, max_size=5),
)


def test_names_of_files(tmp_path):
  counter = itertools.count()

  def check(case):
    names, kinds = case
    root = tmp_path / f'data{next(counter)}'
    write_folder(root)
    (root / 'train/labels/semseg').mkdir(parents=True)
    (root / 'train/labels/semseg/a.png').write_bytes(LABELS['semseg'][0][1])
    for name, kind in zip(names, kinds):
      place = root / 'train' / ('labels' if kind == 'task' else 'images')
      path = place / (name if kind == 'task' else f'{name}.png')
      try:
        if kind == 'link':
          path.symlink_to(root / 'nowhere')
        elif kind == 'outside':
          path.symlink_to('/dev/zero')
        elif kind in ('folder', 'task'):
          path.mkdir()
        else:
          shutil.copy(root / 'train/images/a.png', path)
          shutil.copy(root / 'train/labels/semseg/a.png', root / f'train/labels/semseg/{name}.png')
      except (OSError, UnicodeEncodeError):
        pass  # no such name on this disk
    return fuzzing.told(lambda _: open_folder(root), tmp_path / 'x', 'data')

  kinds = st.sampled_from(['file', 'file', 'file', 'link', 'outside', 'folder', 'task'])
  run(30, st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.lists(kinds, min_size=3, max_size=3)), check)


# --- Raw benchmark files ---------------------------------------------------------------------


def test_mtan_files(tmp_path):
  arrays = {
      'image': pattern(np.float32, 1, 3), 'label': pattern(np.float64, 5) - 1, 'depth': pattern(np.float32, 9, 1),
      'normal': pattern(np.float32, 2, 3) - 1,
  }  # fmt: skip
  for name, array in arrays.items():
    (tmp_path / 'train' / name).mkdir(parents=True)
    np.save(tmp_path / f'train/{name}/0.npy', array)
  wider = {name: encoded(array.astype(np.float64), 'npy') for name, array in arrays.items()}
  seeds = [
    st.tuples(st.just(name), fuzzing.files(encoded(array, 'npy'), wider[name])) for name, array in arrays.items()
  ]

  def check(case):
    path = tmp_path / f'train/{case[0]}/0.npy'
    whole = path.read_bytes()
    path.write_bytes(case[1])

    def read(_):
      example = mtan.encode(tmp_path, ('train', '0'), tuple(arrays), 13)
      assert example['image'].dtype == np.uint8 and np.isfinite(example['depth']).all()
      assert np.abs(example['normals'].astype(int)).max() <= mtan.STEPS

    try:
      return fuzzing.told(read, tmp_path / 'x', '0.npy')
    finally:
      path.write_bytes(whole)

  run(60, st.one_of(seeds), check)


def test_pascal_files(tmp_path):
  root = raw_trees.pascal_tree(tmp_path)
  paths = [root / file for file in pascal.files(root, '2008_b')]
  seeds = [st.tuples(st.just(path), fuzzing.files(path.read_bytes())) for path in paths]

  def check(case):
    path, data = case
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
      return fuzzing.told(lambda _: pascal.encode(root, '2008_b'), tmp_path / 'x', path.name)
    finally:
      path.write_bytes(whole)

  run(60, st.one_of(seeds), check)


def test_pascal_ids(tmp_path):
  path = tmp_path / 'train.txt'

  def check(data):
    path.write_bytes(data)
    return fuzzing.told(pascal.read_ids, path)

  traversal = st.sampled_from([b'../../etc/passwd\n', b'/etc/passwd', b'a\0b', b'a/b', b'..', b'.'])
  run(30, st.one_of(traversal, fuzzing.files(b'2008_000001\n2008_000002\n')), check)
  for name in ('../../x', '/etc/passwd', 'a/b', '..'):
    path.write_text(name)
    with pytest.raises(UserError, match='which is no id'):
      pascal.read_ids(path)
