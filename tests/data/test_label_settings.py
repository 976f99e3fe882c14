"""Label settings: what is drawn, what mappings say, and the official files' counts (docs/paper.md)."""

import dataclasses
import hashlib
import json
import pathlib
import unicodedata

import numpy as np
import pytest

from dmtl_jax.basics import torch_file
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.data.label_settings import apply_labels, check_same, load_mapping, save_mapping
from dmtl_jax.datasets import cityscapes, pascal
from dmtl_jax.tasks import make_task
from tests.tiny import shared

TASKS = tuple(make_task(kind, kind) for kind in ('saliency', 'normals', 'boundary', 'depth'))
PASCAL = pascal.TASKS


@dataclasses.dataclass(frozen=True, eq=False)
class Fake:
  """Ids and a mask: all that label settings look at."""

  ids: list
  tasks: tuple
  label_mask: np.ndarray
  official: dict = dataclasses.field(default_factory=dict)
  part_of: None = None
  predicted: None = None


def fake(count=60, tasks=TASKS, exists=None, **fields):
  mask = np.ones((count, len(tasks)), bool) if exists is None else exists
  return Fake([f'img{i}' for i in range(count)], tasks, mask, **fields)


def partly(count=60, seed=0):
  """A mask with about half of the labels, some images with none."""
  return np.random.default_rng(seed).random((count, len(TASKS))) < 0.5


def test_full_shows_all_there_is():
  exists = partly()
  np.testing.assert_array_equal(apply_labels(fake(exists=exists), 'full').label_mask, exists)


def test_one_is_exactly_one_and_balanced():
  mask = apply_labels(fake(62), 'one').label_mask
  assert (mask.sum(1) == 1).all()
  assert sorted(mask.sum(0)) == [15, 15, 16, 16]


def test_one_takes_existing_labels_only():
  exists = partly()
  mask = apply_labels(fake(exists=exists), 'one').label_mask
  assert not (mask & ~exists).any()
  np.testing.assert_array_equal(mask.sum(1), exists.any(1))


def test_one_gives_scarce_tasks_their_share():
  # Half of the images have saliency alone; the others must not take it as well.
  exists = np.zeros((40, 4), bool)
  exists[:, 0] = True
  exists[20:, 1] = True
  np.testing.assert_array_equal(apply_labels(fake(40, exists=exists), 'one').label_mask.sum(0), [20, 20, 0, 0])


def test_random_is_uniform_over_non_empty_subsets():
  mask = apply_labels(fake(3000), 'random').label_mask
  subsets, counts = np.unique(mask, axis=0, return_counts=True)
  assert len(subsets) == 15
  assert subsets.any(1).all()
  # 200 expected each, standard deviation 13.7
  assert counts.min() > 140
  assert counts.max() < 260
  exists = partly()
  some = apply_labels(fake(exists=exists), 'random').label_mask
  assert not (some & ~exists).any()
  np.testing.assert_array_equal(some.any(1), exists.any(1))


@pytest.mark.parametrize('setting', ['one', 'random'])
def test_draws_depend_on_seed_and_id_not_on_order(setting):
  source, order = fake(), np.random.default_rng(1).permutation(60)
  shuffled = dataclasses.replace(source, ids=[source.ids[i] for i in order])
  mask = apply_labels(source, setting, 3).label_mask
  np.testing.assert_array_equal(apply_labels(shuffled, setting, 3).label_mask, mask[order])
  assert (apply_labels(source, setting, 4).label_mask != mask).any()


def test_draws_are_the_same_everywhere():
  # Worked out by hand with sha256 alone: the subset of an image is 1 + hash % 15, bit t for task t.
  source = fake(3)
  for i, row in enumerate(apply_labels(source, 'random', 7).label_mask):
    number = 1 + int(hashlib.sha256(f'7/img{i}'.encode()).hexdigest()[:16], 16) % 15
    assert [int(x) for x in row] == [int(x) for x in f'{number:04b}'[::-1]]


def test_mapping_survives_saving(tmp_path):
  source, mask = fake(), partly()
  save_mapping(tmp_path / 'm.json', source.ids, TASKS, mask)
  np.testing.assert_array_equal(load_mapping(tmp_path / 'm.json', source.ids, TASKS), mask)
  assert [p.name for p in tmp_path.iterdir()] == ['m.json']


def test_mapping_hides_but_cannot_make_labels(tmp_path):
  path = tmp_path / 'm.json'
  path.write_text(json.dumps({'img0': ['depth', 'normals'], 'img2': ['depth']}))
  exists = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool)
  mask = apply_labels(fake(3, exists=exists), str(path)).label_mask
  np.testing.assert_array_equal(mask, [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
  'text',
  [
    'image,tasks\nimg0,depth;normals\nimg2, saliency \nimg1,\n',
    '\ufeffimage,normals,saliency,depth\nimg0,1,0,1\nimg2,0,1,0\nimg1,0,0,0\n',
  ],
)
def test_both_forms_of_csv(tmp_path, text):
  path = tmp_path / 'm.csv'
  path.write_text(text, encoding='utf-8')
  np.testing.assert_array_equal(load_mapping(path, fake(3).ids, TASKS), [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(
  'name, text, words',
  [
    ('m.csv', '', 'must start with a line image,tasks'),
    ('m.csv', 'file,tasks\nimg0,depth\n', 'must start with a line image,tasks'),
    ('m.csv', 'image,tasks\nimg0,depth,normals\n', 'line 2 has more or fewer columns'),
    ('m.csv', 'image,depth,normals\nimg0,1\n', 'line 2 has more or fewer columns'),
    ('m.csv', 'image,depth\nimg0,yes\n', 'line 2 must hold an image and 0 or 1'),
    ('m.csv', 'image,tasks\nimg0,depth\nimg0,normals\n', 'more than one line'),
    ('m.csv', 'image,tasks\nimg9,depth\n', "not in the data set, e.g. 'img9'"),
    ('m.csv', 'image,tasks\nimg0,edges\n', "image 'img0' names task 'edges'"),
    ('m.json', '{', 'not JSON'),
    ('m.json', '{"img0": "depth"}', 'must map each image to a list of task names'),
  ],
)
def test_bad_mapping(tmp_path, name, text, words):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(UserError) as caught:
    apply_labels(fake(3), str(path))
  assert words in str(caught.value)
  assert str(path) in str(caught.value)


def test_a_mapping_names_images_in_any_unicode_form(tmp_path):
  path = tmp_path / 'm.json'
  for form in ('NFC', 'NFD'):
    path.write_text(json.dumps({unicodedata.normalize(form, 'café'): ['depth']}))
    mask = load_mapping(path, [unicodedata.normalize('NFC', 'café')], TASKS)
    np.testing.assert_array_equal(mask, [[False, False, False, True]])


def test_a_mapping_that_names_an_image_in_two_unicode_forms_is_refused(tmp_path):
  rows = {unicodedata.normalize(form, 'café'): [task] for form, task in (('NFC', 'depth'), ('NFD', 'semseg'))}
  (tmp_path / 'm.json').write_text(json.dumps(rows))
  with pytest.raises(UserError, match='two of its images have the same name in two Unicode forms'):
    load_mapping(tmp_path / 'm.json', [unicodedata.normalize('NFC', 'café')], TASKS)


def test_official_mapping_goes_before_drawing(tmp_path):
  path = tmp_path / 'onelabel.json'
  source = fake(3, official={'one': path})
  with pytest.raises(UserError, match="official 'one' mapping is missing; run --mode=prepare"):
    apply_labels(source, 'one')
  path.write_text(json.dumps({i: ['depth'] for i in source.ids}))
  np.testing.assert_array_equal(apply_labels(source, 'one').label_mask.sum(0), [0, 0, 0, 3])
  assert apply_labels(source, 'random').label_mask.any(1).all()  # has none: drawn


def test_random_labels_of_a_benchmark_with_one_mapping_are_its_one_label_setting(tmp_path, caplog):
  path = tmp_path / 'onelabel.json'
  path.write_text(json.dumps({'img0': ['depth']}))
  one, random = (apply_labels(fake(3, official={'one': path, 'random': path}), s) for s in ('one', 'random'))
  np.testing.assert_array_equal(one.label_mask, random.label_mask)
  assert caplog.text.count('this benchmark has one mapping only') == 1
  assert cityscapes.Builder.OFFICIAL['random'] == cityscapes.Builder.OFFICIAL['one']


@pytest.mark.parametrize(
  'name, tasks, images, counts',
  [
    ('pascal_onelabel', PASCAL, 4998, dict(semseg=1000, parsing=999, saliency=1000, normals=1000, boundary=999)),
    ('pascal_randomlabels', PASCAL, 4998, dict(semseg=2450, parsing=847, saliency=2445, normals=2480, boundary=2557)),
    ('nyud_onelabel', ('semseg', 'depth', 'normals'), 795, dict(semseg=265, depth=265, normals=265)),
    ('nyud_randomlabels', ('semseg', 'depth', 'normals'), 795, dict(semseg=392, depth=408, normals=385)),
    ('cityscapes_onelabel', ('semseg', 'depth'), 2975, dict(semseg=1487, depth=1488)),
  ],
)
def test_official_counts(name, tasks, images, counts):
  path = shared(f'label_mappings/{name}.pth')
  checksums = dict(line.split()[::-1] for line in shared('label_mappings/SHA256SUMS').read_text().splitlines())
  assert hashlib.sha256(path.read_bytes()).hexdigest() == checksums[path.name]
  if tasks is PASCAL:
    ids = sorted(torch_file.load(path))
  else:
    ids = [f'train/{i}' for i in range(images)]
    tasks = tuple(task for task in (PASCAL[0], make_task('depth', 'depth'), PASCAL[3]) if task.name in tasks)
  mask = load_mapping(path, ids, tasks)
  assert len(ids) == images
  assert {task.name: int(n) for task, n in zip(tasks, mask.sum(0))} == counts
  if 'onelabel' in name:
    assert (mask.sum(1) == 1).all()


@pytest.mark.parametrize('content, words', [
    ({'labels_weights': np.ones((5, 3))}, r'shape \(5, 3\); the data set has 3 images'),
    *((content, 'neither a mapping of image ids to 5 flags nor labels_weights') for content in ({'img0': [1, 0]}, {1: [1] * 5})),
    *((content, '') for content in ({'labels_weights': [[1, 2], [1]]}, {'a': [[1], [1, 2], 3, 4, 5]}, {'a': 'x'}, [], {})),
])  # fmt: skip
def test_a_torch_file_of_another_data_set_or_kind_is_refused(content, words, monkeypatch):
  monkeypatch.setattr(torch_file, 'load', lambda path: content)
  with pytest.raises(UserError, match=f'm.pth: .*{words}'):
    load_mapping(pathlib.Path('m.pth'), fake(3).ids, TASKS)
  assert tuple(task.name for task in PASCAL) == label_settings.OFFICIAL_PASCAL


def test_labels_that_changed_between_two_starts_are_named(tmp_path):
  mask = np.ones((2, len(TASKS)), bool)
  save_mapping(tmp_path / 'labels.json', ['a', 'b'], TASKS, mask)
  check_same(tmp_path / 'labels.json', ['a', 'b'], TASKS, mask)
  for ids, other, words in (
    (['a', 'b'], np.eye(2, len(TASKS), dtype=bool), '2 images differ, e.g. a: .*;.* -> '),
    (['a', 'c'], mask, '2 images differ, e.g. b: .* -> not there'),
  ):
    with pytest.raises(UserError, match=f'labels.json: this run was started with other labels: {words}'):
      check_same(tmp_path / 'labels.json', ids, TASKS, other)
