"""Mutated files of others: each is read or refused in a sentence; none runs code or writes elsewhere.

FUZZ_EXAMPLES=N tries N new inputs per reader instead of the suite's few; tests/fuzz_readers.py fuzzes most readers by
coverage. tests/basics/test_hostile.py has the smallest input of each bug found.
"""

import collections
import contextlib
import itertools
import pathlib
import warnings

import cv2
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import progress
from dmtl_jax.datasets import mtan
from dmtl_jax.datasets.pascal import labels as pascal
from tests import fuzzing, raw_trees
from tests.readers import encoded, IMAGES, LABEL, open_folder, pattern, READERS, write_folder


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))  # the one place outside of the data that is written
  monkeypatch.setattr(progress, 'silent', True)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow's, of corrupt EXIF and the like
    yield


@pytest.mark.parametrize('name', READERS)
def test_a_file(name, tmp_path):
  reader = READERS[name]
  inputs = fuzzing.files(*reader.seeds) if reader.inputs is None else reader.inputs
  fuzzing.run(reader.few, inputs, lambda data: reader.accepts(tmp_path, data))


def run_in_tree(few: int, place: pathlib.Path, seeds: dict[pathlib.Path, list[bytes]], read):
  """Fuzzes what reads a tree of files, to which one of `seeds` at a time is added, mutated, or in which it is mutated."""

  def accepts(case):
    path, data = case
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
      return fuzzing.accepts(lambda _: read(), place / 'x', path.name, f'labels/{path.parent.name}')
    finally:
      path.unlink() if before is None else path.write_bytes(before)

  cases = [st.tuples(st.just(path), fuzzing.files(*contents)) for path, contents in seeds.items()]
  fuzzing.run(few, st.one_of(cases), accepts)


# --- The folder data set ---------------------------------------------------------------------


LABELS = {
    'semseg/a.png': [LABEL],
    'semseg/a.npy': [encoded(pattern(np.int8, 2), 'npy'), encoded(np.asfortranarray(pattern(np.int64, 2)), 'npy')],
    'saliency/a.png': [encoded(255 * pattern(np.uint8, 1), 'png')], 'saliency/a.npy': [encoded(pattern(bool, 1), 'npy')],
    'normals/a.png': [
        encoded(pattern(np.uint8, 200, 3), 'png'), cv2.imencode('.png', pattern(np.uint16, 60_000, 3))[1].tobytes()
    ],
    'normals/a.npy': [encoded(pattern(np.float64, 1, 3), 'npy')],
    'depth/a.png': [encoded(pattern(np.uint16, 5000), 'png')], 'depth/a.npy': [encoded(pattern(np.float16, 9), 'npy')],
}  # fmt: skip


def test_label_files(tmp_path):
  root = tmp_path / 'data'
  write_folder(root)
  seeds = {root / 'train/labels' / name: contents for name, contents in LABELS.items()}
  run_in_tree(100, tmp_path, seeds, lambda: open_folder(root))


def test_image_files(tmp_path):
  root = tmp_path / 'data'
  write_folder(root, LABEL)
  (root / 'train/images/a.png').unlink()
  exif = Image.Exif()
  exif[0x0112] = 6  # rotated
  seeds = collections.defaultdict(list)
  for kind, suffix in IMAGES.items():
    for options in [{}, {'exif': exif}] if kind in ('jpeg', 'png', 'tiff', 'webp') else [{}]:
      seeds[root / f'train/images/a.{suffix}'].append(encoded(pattern(np.uint8, 255, 3), kind, **options))
  run_in_tree(100, tmp_path, seeds, lambda: open_folder(root))


NAMES = st.one_of(
    st.sampled_from(['a', 'a ', 'a.b', '...', '..png', '-rf', '%s', '$(x)', '{0}', 'con', 'x' * 200, '\u202ea', '\n', '\udcff', '\x1b']),
    st.text(st.characters(exclude_characters='/\0'), min_size=1, max_size=5),
)  # fmt: skip
KINDS = {  # of what goes by a strange name: (its place, what makes it)
  'file': ('images/{}.png', lambda path: path.write_bytes(encoded(pattern(np.uint8, 255, 3), 'png'))),
  'label': ('labels/semseg/{}.png', lambda path: path.write_bytes(LABEL)),
  'link': ('images/{}.png', lambda path: path.symlink_to('nowhere')),
  'outside': ('images/{}.png', lambda path: path.symlink_to('/dev/zero')),
  'folder': ('images/{}.png', pathlib.Path.mkdir),
  'task': ('labels/{}', pathlib.Path.mkdir),
}


def test_names_of_files(tmp_path):
  roots = (tmp_path / f'data{number}' for number in itertools.count())

  def accepts(case):
    root = next(roots)
    write_folder(root, LABEL)
    for name, kinds in case:
      for place, make in (KINDS[kind] for kind in kinds):
        with contextlib.suppress(OSError, UnicodeEncodeError):  # no such name on this disk
          make(root / 'train' / place.format(name))
    return fuzzing.accepts(lambda _: open_folder(root), tmp_path / 'x', 'data')

  kinds = st.sampled_from([('file', 'label')] * 3 + [('link',), ('outside',), ('folder',), ('task',)])
  fuzzing.run(30, st.lists(st.tuples(NAMES, kinds), min_size=1, max_size=3), accepts)


# --- Raw benchmark files ---------------------------------------------------------------------


def test_mtan_files(tmp_path):
  arrays = {
      'image': pattern(np.float32, 1, 3), 'label': pattern(np.float64, 5) - 1, 'depth': pattern(np.float32, 9, 1),
      'normal': pattern(np.float32, 2, 3) - 1,
  }  # fmt: skip
  raw_trees.write_mtan(tmp_path, 'label', 'train', 0, *arrays.values())

  def read():
    example = mtan.encode(tmp_path, ('train', '0'), tuple(arrays), 13)
    assert example['image'].dtype == np.uint8
    assert np.isfinite(example['depth']).all()
    assert np.abs(example['normals'].astype(int)).max() <= mtan.NORMAL_SCALE

  seeds = {
    tmp_path / f'train/{name}/0.npy': [encoded(values, 'npy') for values in (array, array.astype(np.float64))]
    for name, array in arrays.items()
  }
  run_in_tree(60, tmp_path, seeds, read)


def test_pascal_files(tmp_path):
  root = raw_trees.pascal_tree(tmp_path)
  seeds = {root / file: [(root / file).read_bytes()] for file in pascal.files(root, '2008_b')}
  run_in_tree(60, tmp_path, seeds, lambda: pascal.encode(root, '2008_b'))
