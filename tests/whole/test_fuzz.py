"""Files that others wrote, mutated: only a sentence may come out, and nothing may run or be written elsewhere.

FUZZ_EXAMPLES=N tries N new inputs a reader instead of the suite's few; tests/fuzz_readers.py fuzzes most of the
readers by coverage, and docs/robustness.md says how many inputs were tried.
tests/basics/test_hostile.py has the smallest input of each bug found.
"""

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

from dmtl_jax.basics import download
from dmtl_jax.datasets import folder, mtan
from dmtl_jax.datasets.pascal import labels as pascal
from tests import fuzzing, raw_trees
from tests.readers import DESCRIPTION, encoded, IMAGES, pattern, READERS, Silent


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(folder.scan, 'Progress', Silent)
  monkeypatch.setattr(download, 'Progress', Silent)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow's, of corrupt EXIF and the like
    yield


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


@pytest.mark.parametrize('name', READERS)
def test_a_file(name, tmp_path):
  reader = READERS[name]
  inputs = fuzzing.files(*reader.seeds) if reader.inputs is None else reader.inputs
  run(reader.few, inputs, lambda data: reader.told(tmp_path, data))


def run_in_tree(few: int, place: pathlib.Path, seeds: dict[pathlib.Path, list[bytes]], read):
  """Fuzzes what reads a tree of files: one of `seeds` at a time has a mutated content, or is there at all."""

  def check(case):
    path, data = case
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
      return fuzzing.told(lambda _: read(), place / 'x', path.name, f'labels/{path.parent.name}')
    finally:
      path.unlink() if before is None else path.write_bytes(before)

  cases = [st.tuples(st.just(path), fuzzing.files(*contents)) for path, contents in seeds.items()]
  run(few, st.one_of(cases), check)


# --- The folder data set ---------------------------------------------------------------------


LABELS = {
    'semseg/a.png': [encoded(pattern(np.uint8, 2), 'png')],
    'semseg/a.npy': [encoded(pattern(np.int8, 2), 'npy'), encoded(np.asfortranarray(pattern(np.int64, 2)), 'npy')],
    'saliency/a.png': [encoded(255 * pattern(np.uint8, 1), 'png')], 'saliency/a.npy': [encoded(pattern(bool, 1), 'npy')],
    'normals/a.png': [
        encoded(pattern(np.uint8, 200, 3), 'png'), cv2.imencode('.png', pattern(np.uint16, 60_000, 3))[1].tobytes()
    ],
    'normals/a.npy': [encoded(pattern(np.float64, 1, 3), 'npy')],
    'depth/a.png': [encoded(pattern(np.uint16, 5000), 'png')], 'depth/a.npy': [encoded(pattern(np.float16, 9), 'npy')],
}  # fmt: skip
LABEL = LABELS['semseg/a.png'][0]


def write_folder(root: pathlib.Path, label: bytes | None = None):
  """A data set of one image, with a label of segmentation if one is given."""
  (root / 'train/images').mkdir(parents=True)
  (root / 'dataset.json').write_text(json.dumps(DESCRIPTION))
  (root / 'train/images/a.png').write_bytes(encoded(pattern(np.uint8, 255, 3), 'png'))
  if label is not None:
    (root / 'train/labels/semseg').mkdir(parents=True)
    (root / 'train/labels/semseg/a.png').write_bytes(label)


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
  seeds = {root / 'train/labels' / name: contents for name, contents in LABELS.items()}
  run_in_tree(100, tmp_path, seeds, lambda: open_folder(root))


def test_image_files(tmp_path):
  root = tmp_path / 'data'
  write_folder(root, LABEL)
  (root / 'train/images/a.png').unlink()
  exif, seeds = Image.Exif(), {}
  exif[0x0112] = 6
  for kind, suffix in IMAGES.items():
    for options in [{}, {'exif': exif}] if kind in ('jpeg', 'png', 'tiff', 'webp') else [{}]:
      data = encoded(pattern(np.uint8, 255, 3), kind, **options)
      seeds.setdefault(root / f'train/images/a.{suffix}', []).append(data)
  run_in_tree(100, tmp_path, seeds, lambda: open_folder(root))


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
    write_folder(root, LABEL)
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
  raw_trees.write_mtan(tmp_path, 'label', 'train', 0, *arrays.values())

  def read():
    example = mtan.encode(tmp_path, ('train', '0'), tuple(arrays), 13)
    assert example['image'].dtype == np.uint8 and np.isfinite(example['depth']).all()
    assert np.abs(example['normals'].astype(int)).max() <= mtan.NORMAL_SCALE

  both = lambda array: [encoded(array, 'npy'), encoded(array.astype(np.float64), 'npy')]
  run_in_tree(60, tmp_path, {tmp_path / f'train/{name}/0.npy': both(array) for name, array in arrays.items()}, read)


def test_pascal_files(tmp_path):
  root = raw_trees.pascal_tree(tmp_path)
  seeds = {root / file: [(root / file).read_bytes()] for file in pascal.files(root, '2008_b')}
  run_in_tree(60, tmp_path, seeds, lambda: pascal.encode(root, '2008_b'))
