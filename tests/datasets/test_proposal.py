"""The dataset.json that is proposed for labels without one."""

import json

import cv2
from ml_collections import ConfigDict
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import folder
from dmtl_jax.datasets.folder import label_files
from tests import toy


def propose(root):
  return folder.propose(ConfigDict({'path': str(root)}))


def write(root, name, *arrays):
  place = root / 'train/labels' / name
  place.mkdir(parents=True)
  for n, array in enumerate(arrays):
    if array.dtype.kind == 'f':
      np.save(place / f'{n}.npy', array)
    else:
      assert cv2.imwrite(str(place / f'{n}.png'), array)


def grid(*values, dtype=np.uint8):
  """Squares of 8x8 pixels, one for each value."""
  return np.array(values, dtype).repeat(8)[None].repeat(8, 0)


LINE = np.eye(40, dtype=np.uint8)
NAMED = [f'class {n}' for n in range(4)]


@pytest.mark.parametrize('name, arrays, entry', [
    ('semseg', [grid(0, 3), grid(1, 255)], {'classes': NAMED}),
    ('my_seg', [grid(0, 1)], {'kind': 'semseg', 'classes': NAMED[:2]}),
    ('things', [grid(1, 2), grid(3, 255)], {'kind': 'semseg', 'classes': NAMED}),
    ('things', [grid(0, 1, 3, 200)], {'kind': 'semseg', 'ignore': 200, 'classes': NAMED}),
    ('human_parsing', [grid(0, 1, 2)], {'kind': 'parsing', 'classes': NAMED[:3]}),
    ('things', [grid(0, 1)], {'kind': 'saliency'}),
    ('things', [grid(0, 255)], {'kind': 'saliency', 'positive': 255}),
    ('things', [grid(0, 7, 255)], {'kind': 'saliency', 'positive': 7}),
    ('semseg', [grid(0, 255)], {'positive': 255, 'classes': NAMED[:2]}),
    ('things', [np.repeat(grid(0, 255)[..., None], 3, 2)], {'kind': 'saliency', 'positive': 255}),
    ('lines', [LINE], {'kind': 'boundary'}),
    ('lines', [LINE * 255], {'kind': 'boundary', 'positive': 255}),
    ('edges', [grid(0, 1)], {'kind': 'boundary'}),
    ('depth', [grid(0, 900, 1500, dtype=np.uint16)], {}),
    ('far', [np.arange(0, 4000, dtype=np.uint16).reshape(40, 100)], {'kind': 'depth'}),
    ('depth', [grid(0, 900, 65535, dtype=np.uint16)], {'ignore': 65535}),
    ('z', [np.full((4, 4), 2.5, np.float32)], {'kind': 'depth'}),
    ('normals', [np.full((4, 4, 3), (0, 0.6, 0.8), np.float32)], {}),
    ('surface', [np.full((4, 4, 3), (255, 128, 128), np.uint8)], {'kind': 'normals'}),
])  # fmt: skip
def test_an_entry_suits_the_labels_and_reads_them(tmp_path, name, arrays, entry):
  write(tmp_path, name, *arrays)
  proposal = propose(tmp_path)
  assert proposal.entries == {name: entry}
  proposal.write()
  (task,), encodings = folder.read_description(tmp_path / 'dataset.json')
  for path in (tmp_path / 'train/labels' / name).iterdir():
    label = label_files.read_label(path, task, encodings[name])
    assert task.valid(label).any()
  assert propose(tmp_path) is None


@pytest.mark.parametrize('name, array, words', [
    ('depth', np.arange(200, dtype=np.uint8).reshape(10, 20), '8-bit numbers from 0 to 199; if they are depth'),
    ('edges', np.arange(200, dtype=np.uint8).reshape(10, 20), 'holds 200 values'),
    ('things', grid(0, 0), 'every pixel holds 0'),
    ('things', grid(0, 255).astype(np.float32) / 255, 'floating-point numbers from 0 to 1, and class ids are integers'),
    ('things', grid(0, 200, 300, dtype=np.uint16), 'class ids up to 300, and the highest is 254'),
    ('colours', np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8) // 200 * 200, 'neither normals nor opaque grey; --mode=import reads'),
    ('a b', grid(0, 1), 'rename the folder: a name consists of'),
    ('normals', grid(0, 1), 'one channel, and normals have three'),
])  # fmt: skip
def test_what_cannot_be_told_is_not_guessed(tmp_path, name, array, words):
  write(tmp_path, name, array)
  with pytest.raises(UserError, match=words):
    propose(tmp_path)


def test_the_toy_folder_is_described_as_it_is(tmp_path):
  toy.write(tmp_path, 4, 1)
  (tmp_path / 'dataset.json').unlink()
  proposal = propose(tmp_path)
  expected = {name: dict(entry) for name, entry in toy.DESCRIPTION['tasks'].items()}
  expected['semseg']['classes'] = NAMED[:3]
  assert proposal.entries == expected
  assert json.loads(proposal.text()) == {'tasks': expected}
  assert len(proposal.reasons) == len(expected)


def test_labels_that_a_description_lacks_are_added_to_it(tmp_path):
  write(tmp_path, 'depth', grid(0, 900, 1500, dtype=np.uint16))
  write(tmp_path, 'masks', grid(0, 255))
  content = {'tasks': {'masks': {'kind': 'saliency', 'ignore': 255}}, 'owner': 'J\u00fcrgen', 'file': '\udcff'}
  (tmp_path / 'dataset.json').write_text(json.dumps(content))
  proposal = propose(tmp_path)
  assert 'dataset.json: does not describe depth; the labels suggest' in proposal.lines(written=False)[0]
  assert proposal.lines(written=False)[-1].endswith('correct what is wrong in it')
  proposal.write()
  content['tasks']['depth'] = {}
  written = (tmp_path / 'dataset.json').read_text(encoding='utf-8')
  assert json.loads(written) == content
  assert '"J\u00fcrgen"' in written
  assert propose(tmp_path) is None
  write(tmp_path, 'nothing', grid(0, 0))
  with pytest.raises(
    UserError, match='does not describe all labels, and nothing can be proposed: nothing: every pixel'
  ):
    propose(tmp_path)


def test_a_folder_without_labels_is_told_where_they_go(tmp_path):
  (tmp_path / 'train/images').mkdir(parents=True)
  with pytest.raises(
    UserError, match='neither dataset.json nor labels; --mode=import .* is .*train/labels/TASK/NAME.png'
  ):
    propose(tmp_path)
