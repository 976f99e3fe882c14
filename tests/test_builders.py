"""Builders on raw trees in the true file formats, with labels worked out by hand."""

import hashlib
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from ml_collections import ConfigDict
from PIL import Image

from datasets import cityscapes_mt, mtan, nyud_mt, pascal_mt, raw
from datasets.pascal_mt import labels
from dmtl_jax import prepare as job
from dmtl_jax.errors import UserError
from dmtl_jax.prepare import prepare

MAPPINGS = Path(__file__).resolve().parents[2] / 'shared' / 'label_mappings'
WALL, SKY, UNKNOWN, TVMONITOR = 440, 360, 431, 427  # Context classes; NYUv2 has the first


def config(name, tmp_path, raw_data, **options):
  fields = dict(name=name, dir=str(tmp_path / 'tfds'), raw=str(raw_data), size=(4, 6), labels='full', workers=1)
  return ConfigDict(dict(data=fields | options))


def structs(items):
  """A MATLAB struct array [1,N], as scipy writes and reads it; [] is MATLAB's 0x0 double."""
  if not items:
    return np.zeros((0, 0))
  array = np.zeros((1, len(items)), [(name, object) for name in items[0]])
  for i, item in enumerate(items):
    for name, value in item.items():
      array[name][0, i] = value
  return array


def thing(class_ind, parts, size):
  """An object of PASCAL-Part; parts: [(name, rows and columns)]."""

  def mask(where):
    array = np.zeros(size, np.uint8)
    array[where] = 1
    return array

  parts = structs([dict(part_name=name, mask=mask(where)) for name, where in parts])
  return {'class': 'x', 'class_ind': float(class_ind), 'mask': mask(np.s_[:]), 'parts': parts}


def write_pascal(root, id, image, label_map, things, normals, saliency, voc=None, context=None):
  """The raw files of one image of PASCAL_MT."""
  for folder in ('JPEGImages', 'human_parts', 'pascal-context/trainval', 'normals_distill', 'sal_distill'):
    (root / folder).mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(root / f'JPEGImages/{id}.jpg', quality=95)
  anno = structs([dict(imname=id, objects=structs(things))])
  scipy.io.savemat(root / f'human_parts/{id}.mat', dict(anno=anno), do_compression=True)
  scipy.io.savemat(root / f'pascal-context/trainval/{id}.mat', dict(LabelMap=label_map.astype(np.uint16)))
  Image.fromarray(normals).save(root / f'normals_distill/{id}.png')
  Image.fromarray(saliency).save(root / f'sal_distill/{id}.png')
  for folder, label in (('VOC12', voc), ('pascal-context', context)):
    (root / 'semseg' / folder).mkdir(parents=True, exist_ok=True)
    if label is not None:
      picture = Image.fromarray(label)
      picture.putpalette(bytes(range(256)) * 3)  # a palette PNG, as VOC's: indices are the classes
      picture.save(root / f'semseg/{folder}/{id}.png')


def write_lists(root, train, val):
  (root / 'ImageSets/Context').mkdir(parents=True, exist_ok=True)
  (root / 'ImageSets/Context/train.txt').write_text('\n'.join(train) + '\n')
  (root / 'ImageSets/Context/val.txt').write_text('\n'.join(val) + '\n')


def grey(height, width, value):
  return np.full((height, width), value, np.uint8)


def colour(height, width, value):
  return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def pascal_raw(tmp_path):
  """2008_b (everything, 6x8), 2008_a (no person, 5x7) and three more to train, 2008_c (6x8) to validate."""
  root = tmp_path / 'PASCAL_MT'
  label_map = np.full((6, 8), WALL)
  label_map[:, 3], label_map[:, 4:] = (WALL + SKY) / 2, SKY
  voc = grey(6, 8, 15)
  voc[0], voc[1] = 255, 0
  row = dict(
      head=0, hair=0, nose=0, neck=1, torso=1, luarm=2, rlarm=3, rhand=3, ruleg=4, llleg=5, rfoot=5
  )  # part: row; its column is its place in this list
  person = thing(15, [(part, np.s_[r, column % 8]) for column, (part, r) in enumerate(row.items())], (6, 8))
  front = thing(15, [('torso', np.s_[5, 5:])], (6, 8))
  dog = thing(12, [('head', np.s_[:, 0])], (6, 8))
  normals = colour(6, 8, 0)
  normals[:] = 255, 0, 255
  saliency = grey(6, 8, 127)
  saliency[2:4] = 128
  noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
  write_pascal(root, '2008_b', noise, label_map, [person, dog, front], normals, saliency, voc, grey(6, 8, 3))
  flat = np.full((5, 7), TVMONITOR)
  flat[0], flat[1] = UNKNOWN, 187  # unknown is in both lists of names, but not a class; 187 is grass
  faint = colour(5, 7, 0)
  faint[:] = 128, 128, 255
  write_pascal(root, '2008_a', colour(5, 7, 90), flat, [], faint, grey(5, 7, 255), context=grey(5, 7, 20))
  armless = thing(15, [], (6, 8))
  write_pascal(root, '2008_c', colour(6, 8, 9), label_map, [armless, dog], normals, saliency, context=grey(6, 8, 1))
  things = [thing(15, [('torso', np.s_[:])], (5, 7))]
  others = ['2007_z', '2010_x', '2009_y']
  for id in others:
    write_pascal(root, id, colour(5, 7, 9), flat, things, faint, grey(5, 7, 0), voc=grey(5, 7, 0))
  write_lists(root, ['2008_b', '2008_a', *others], ['2008_c'])
  return root


@pytest.fixture
def pascal(tmp_path, pascal_raw):
  """The prepared data set: (config, {id: raw example}, {id: decoded example})."""
  c = config('pascal', tmp_path, pascal_raw)
  prepare(c)
  builder = pascal_mt.builder(c.data)
  stored = {}
  for split in ('train', 'val'):
    source = builder.as_data_source(split)
    ids = [source[i]['id'].decode() for i in range(len(source))]
    assert ids == list(builder.info.metadata['ids'][split])
    stored |= dict(zip(ids, (source[i] for i in range(len(source)))))
  assert list(stored) == ['2008_b', '2008_a', '2007_z', '2010_x', '2009_y', '2008_c']  # in the lists' order
  return c, stored, {id: pascal_mt.decode(example) for id, example in stored.items()}


def test_pascal_labels(pascal, pascal_raw):
  _, stored, decoded = pascal
  b, a, c = (decoded[id]['labels'] for id in ('2008_b', '2008_a', '2008_c'))
  for example in decoded.values():
    assert list(example['labels']) == [task.name for task in pascal_mt.TASKS]
    for task in pascal_mt.TASKS:
      label = example['labels'][task.name]
      blank = task.blank(*example['image'].shape[:2])
      assert label.shape == blank.shape and label.dtype == blank.dtype

  # The JPEG file is kept byte for byte; sizes differ between images.
  assert stored['2008_b']['image'] == (pascal_raw / 'JPEGImages/2008_b.jpg').read_bytes()
  with Image.open(pascal_raw / 'JPEGImages/2008_b.jpg') as image:
    assert np.abs(np.asarray(image, int) - decoded['2008_b']['image']).max() <= 3  # decoders differ in rounding
  assert decoded['2008_a']['image'].shape == (5, 7, 3)

  # VOC12's segmentation where there is one (15, 255 and 0), else pascal-context's (20).
  assert b['semseg'][:, 0, 0].tolist() == [255, 0, 15, 15, 15, 15]
  assert np.unique(a['semseg']).tolist() == [20] and np.unique(c['semseg']).tolist() == [1]

  # Saliency: 127 / 255 < 0.5 < 128 / 255.
  assert b['saliency'][:, 0, 0].tolist() == [0, 0, 1, 1, 0, 0] and a['saliency'].all()

  # Boundary: the class ids are 440 440 440 400 360 360 360 360 along each row. The Laplacian there is
  # 0 0 -40 0 40 0 0 0: two lines one pixel wide, which thinning leaves as they are.
  assert b['boundary'][..., 0].tolist() == [[0, 0, 1, 0, 1, 0, 0, 0]] * 6


def test_pascal_human_parts(pascal):
  decoded = pascal[2]
  # Columns: head hair nose neck torso luarm rlarm rhand | ruleg llleg rfoot (columns 0, 1, 2 again).
  # The dog's head is no person's; the person in front covers row 5 from column 5.
  expected = np.zeros((6, 8), int)
  expected[0, :3] = 1  # head
  expected[1, 3:5] = 2  # torso
  expected[2, 5] = 3  # upper arm
  expected[3, 6:] = 4  # lower arm
  expected[4, 0] = 5  # upper leg
  expected[5, 1:3] = 6  # lower leg
  expected[5, 5:] = 2
  assert decoded['2008_b']['labels']['parsing'][..., 0].tolist() == expected.tolist()
  # Nobody there; somebody without annotated parts.
  assert (decoded['2008_a']['labels']['parsing'] == 255).all()
  assert (decoded['2008_c']['labels']['parsing'] == 255).all()


def test_the_24_parts_of_a_person_are_grouped_as_the_benchmark_does():
  groups = {1: 'head hair lear lebrow leye mouth nose rear rebrow reye', 2: 'neck torso', 3: 'luarm ruarm'}
  groups |= {4: 'lhand llarm rhand rlarm', 5: 'luleg ruleg', 6: 'lfoot llleg rfoot rlleg'}
  assert labels.PART_IDS == {part: id for id, parts in groups.items() for part in parts.split()}
  assert len(labels.PART_IDS) == 24
  assert pascal_mt.TASKS[1].classes[1:] == ('head', 'torso', 'upper arm', 'lower arm', 'upper leg', 'lower leg')


def test_pascal_normals(pascal):
  decoded = pascal[2]
  normals = decoded['2008_b']['labels']['normals']
  # 255, 0, 255 is 1, -1, 1 and valid on the wall, columns 0 to 2; 400 (tap) and 360 (sky) NYUv2 has not.
  assert np.allclose(normals[:, :3], np.array([1, -1, 1]) / 3**0.5, atol=1e-6)
  assert not normals[:, 3:].any()
  # 128, 128, 255 is 1/255, 1/255, 1; tvmonitor is valid, unknown and grass are not.
  faint = decoded['2008_a']['labels']['normals']
  assert np.allclose(faint[2:], [0.0039215, 0.0039215, 0.9999846], atol=1e-6)
  assert not faint[:2].any()


def test_normals_classes_are_those_of_both_data_sets():
  assert len(labels.NORMALS_CLASSES) == len(set(labels.NORMALS_CLASSES)) == 170
  # bed, bicycle, bottle, cat, chair, door, person, sofa, table, tvmonitor, wall, window
  assert {18, 23, 34, 65, 72, 115, 284, 368, 397, 427, 440, 454} <= set(labels.NORMALS_CLASSES)
  # aeroplane, bird, building, cow, grass, ground, motorbike, road, sky, train, tree, unknown, water
  assert not {2, 25, 44, 98, 187, 189, 258, 324, 360, 416, 420, 431, 445} & set(labels.NORMALS_CLASSES)


def test_wide_boundaries_are_thinned_to_one_pixel():
  label_map = np.full((9, 12), 5)
  label_map[:, 6:] = 9  # the Laplacian is not 0 in columns 5 and 6
  line = labels.boundary(label_map)
  assert not np.delete(line, [5, 6], axis=1).any()
  assert (line[1:-1].sum(1) == 1).all()


def test_labels_of_another_size_take_their_images_size(tmp_path):
  root = tmp_path / 'raw'
  half = np.zeros((4, 4), int)
  half[:, 2:] = 7
  person = thing(15, [('head', np.s_[:2])], (4, 4))
  write_pascal(
      root, 'x', colour(8, 8, 1), half, [person], colour(4, 4, 255), grey(4, 4, 255), voc=half.astype(np.uint8)
  )
  example = pascal_mt.decode(labels.encode(root, 'x'))
  assert {label.shape[:2] for label in example['labels'].values()} == {(8, 8)}
  assert example['labels']['semseg'][0, :, 0].tolist() == [0, 0, 0, 0, 7, 7, 7, 7]
  assert example['labels']['parsing'][:, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_decode_reads_only_the_tasks_asked_for(pascal):
  example = dict(pascal[1]['2008_b'], saliency=b'not a PNG')
  visible = [task for task in pascal_mt.TASKS if task.name != 'saliency']
  assert list(pascal_mt.decode(example, visible)['labels']) == ['semseg', 'parsing', 'normals', 'boundary']
  assert pascal_mt.decode(example, [])['labels'] == {}


def test_tfds_decodes_pascal_by_itself_too(pascal):
  import tensorflow_datasets as tfds

  c, _, decoded = pascal
  plain = tfds.core.GeneratorBasedBuilder.as_data_source(pascal_mt.builder(c.data), 'train')[0]
  assert (plain['semseg'] == decoded['2008_b']['labels']['semseg']).all()
  assert plain['image'].shape == (6, 8, 3)


def test_pascal_tells_missing_and_broken_files(tmp_path, pascal_raw):
  c = config('pascal', tmp_path, pascal_raw)
  kept = (pascal_raw / 'sal_distill/2008_c.png').read_bytes()
  for file in ('sal_distill/2008_c.png', 'semseg/pascal-context/2008_a.png'):
    (pascal_raw / file).unlink()
  with pytest.raises(UserError, match=r'2 of 36 files are missing: semseg/.*/2008_a\.png, sal_distill/2008_c\.png'):
    prepare(c)

  # One in train and one in val: one run tells both.
  Image.fromarray(grey(5, 7, 21)).save(pascal_raw / 'semseg/pascal-context/2008_a.png')
  (pascal_raw / 'sal_distill/2008_c.png').write_bytes(kept[:40])
  with pytest.raises(UserError) as error:
    prepare(c)
  assert '2 images have broken files' in str(error.value)
  assert '2008_a.png: holds class 21' in str(error.value)
  assert '2008_c.png: not a readable image' in str(error.value)
  with pytest.raises(UserError, match='not prepared'):
    pascal_mt.builder(c.data)


@pytest.mark.parametrize(
    'file, content, message',
    [
        ('human_parts/2008_b.mat', dict(anno=structs([dict(imname='x')])), 'not an annotation of PASCAL-Part'),
        ('human_parts/2008_b.mat', dict(other=1), "no readable .mat file with 'anno'"),
        ('pascal-context/trainval/2008_b.mat', b'MATLAB 5.0 MAT-file', "no readable .mat file with 'LabelMap'"),
        ('JPEGImages/2008_b.jpg', b'\xff\xd8\xff', 'not a readable image'),
    ],
)
def test_broken_files_are_named(pascal_raw, file, content, message):
  if isinstance(content, bytes):
    (pascal_raw / file).write_bytes(content)
  else:
    scipy.io.savemat(pascal_raw / file, content)
  with pytest.raises(UserError, match=message) as error:
    labels.encode(pascal_raw, '2008_b')
  assert file in str(error.value)


def test_an_unknown_part_is_broken(pascal_raw):
  anno = structs([dict(imname='x', objects=structs([thing(15, [('tail', np.s_[:])], (6, 8))]))])
  scipy.io.savemat(pascal_raw / 'human_parts/2008_b.mat', dict(anno=anno))
  with pytest.raises(UserError, match="KeyError: 'tail'"):
    labels.encode(pascal_raw, '2008_b')


def write_mtan(root, folder, split, id, image, label, depth, normal=None):
  arrays = {'image': image, folder: label, 'depth': depth} | ({} if normal is None else {'normal': normal})
  for name, array in arrays.items():
    (root / split / name).mkdir(parents=True, exist_ok=True)
    np.save(root / split / name / f'{id}.npy', array)


@pytest.fixture
def nyud_raw(tmp_path):
  """Eleven images to train (so that 10 sorts after 2), one to validate; 4x6 pixels, image i is i/20 grey."""
  root = tmp_path / 'nyuv2'
  label = np.full((4, 6), -1.0)
  label[1], label[2] = 0, 12
  depth = np.full((4, 6, 1), 2.7182817, np.float32)
  depth[0] = 0
  normal = np.zeros((4, 6, 3), np.float32)
  normal[1:] = 0.6, 0, -0.8
  normal[3] = 0, 0.25, 0  # shortened by resizing
  for split, count in (('train', 11), ('val', 1)):
    for i in range(count):
      image = np.full((4, 6, 3), i / 20, np.float32)
      write_mtan(root, 'label', split, i, image, label, depth, normal)
  return root


def test_nyud(tmp_path, nyud_raw, capsys):
  c = config('nyud', tmp_path, nyud_raw.parent)  # the folder above will do
  prepare(c)
  output = capsys.readouterr()
  assert output.out.startswith(f'{tmp_path}/tfds/nyud_mt/1.0.0: 11 images in train, 1 images in val')
  assert 'preparing train 11/11 (100%)' in output.err
  builder = nyud_mt.builder(c.data)
  source = builder.as_data_source('train')
  assert len(source) == 11 and len(builder.as_data_source('val')) == 1
  assert list(builder.info.metadata['ids']['train']) == [str(i) for i in range(11)]
  for i in range(11):
    assert source[i]['id'] == str(i).encode()
    assert (nyud_mt.decode(source[i])['image'] == round(i / 20 * 255)).all()
  example = nyud_mt.decode(source[10])
  assert example['image'].dtype == np.uint8 and example['image'][0, 0].tolist() == [128, 128, 128]
  assert example['labels']['semseg'][:, 0].tolist() == [[255], [0], [12], [255]]
  assert example['labels']['depth'][:, 0, 0].tolist() == [0, *[np.float32(2.7182817)] * 3]  # not a bit is lost
  expected = [[0, 0, 0], [0.6, 0, -0.8], [0.6, 0, -0.8], [0, 1, 0]]
  assert np.abs(example['labels']['normals'][:, 0] - expected).max() < 1 / 65000
  for task in nyud_mt.TASKS:
    blank = task.blank(4, 6)
    assert example['labels'][task.name].shape == blank.shape and example['labels'][task.name].dtype == blank.dtype
  assert [task.channels for task in nyud_mt.TASKS] == [13, 1, 3]


def test_cityscapes_keeps_inverse_depth(tmp_path):
  root = tmp_path / 'cityscapes2'
  label = np.full((4, 6), -1)
  label[:, 3:] = 6
  depth = np.array([-0.01, 0, 1e-4, 0.1, 0.4, 0.4922]).reshape(1, 6, 1).repeat(4, 0)  # float64, as MTAN's
  for split in ('train', 'val'):
    write_mtan(root, 'label_7', split, 0, np.zeros((4, 6, 3)), label, depth)
  c = config('cityscapes', tmp_path, root)
  prepare(c)
  example = cityscapes_mt.decode(cityscapes_mt.builder(c.data).as_data_source('train')[0])
  assert example['labels']['semseg'][0, :, 0].tolist() == [255] * 3 + [6] * 3
  assert np.allclose(example['labels']['depth'][0, :, 0], [0, 0, 1e-4, 0.1, 0.4, 0.4922], rtol=1e-6, atol=0)
  assert [(task.name, task.channels) for task in cityscapes_mt.TASKS] == [('semseg', 7), ('depth', 1)]


def test_nyud_tells_missing_and_broken_files(tmp_path, nyud_raw):
  c = config('nyud', tmp_path, nyud_raw)
  (nyud_raw / 'train/depth/3.npy').rename(tmp_path / 'kept.npy')
  shutil.rmtree(nyud_raw / 'val/normal')
  with pytest.raises(UserError, match=r'2 of 48 files are missing: train/depth/3\.npy, val/normal/0\.npy'):
    prepare(c)
  (tmp_path / 'kept.npy').rename(nyud_raw / 'train/depth/3.npy')
  (nyud_raw / 'val/normal').mkdir()
  np.save(nyud_raw / 'val/normal/0.npy', np.full((4, 6, 3), np.nan))
  np.save(nyud_raw / 'train/label/4.npy', np.full((4, 6), 13))
  np.save(nyud_raw / 'train/image/7.npy', np.full((4, 6, 3), 200))
  np.save(nyud_raw / 'train/depth/8.npy', np.ones((5, 6, 1)))
  (nyud_raw / 'train/depth/9.npy').write_bytes(b'\x93NUMPY')
  for i in range(2):
    np.save(nyud_raw / f'train/label/{i}.npy', np.array([{}], object))  # a pickle is not unpickled
  with pytest.raises(UserError) as error:
    prepare(c)
  for part in ('7 images have broken files', 'label/0.npy: not a readable .npy', 'label/4.npy: holds class 13',
               'image/7.npy: values from 200 to 200', 'depth/8.npy: shape [5, 6, 1], expected [4, 6, 1]',
               'and 2 more'):  # fmt: skip
    assert part in str(error.value)


def test_another_size_than_the_configs_is_told(tmp_path, nyud_raw):
  with pytest.raises(UserError, match=r'0\.npy: 4x6 pixels, but config\.data\.size is 8x12; .*size=4,6'):
    prepare(config('nyud', tmp_path, nyud_raw, size=(8, 12)))


def test_wrong_raw_paths_are_told(tmp_path):
  with pytest.raises(UserError, match='give the folder, archive or address.*nyud_mt/README.md'):
    prepare(config('nyud', tmp_path, ''))
  with pytest.raises(UserError, match='nowhere does not exist'):
    prepare(config('nyud', tmp_path, tmp_path / 'nowhere'))
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'empty' / 'file').touch()
  with pytest.raises(UserError, match="empty: found no 'ImageSets/Context/train.txt'"):
    prepare(config('pascal', tmp_path, tmp_path / 'empty'))
  with pytest.raises(UserError, match="raw_sha256: give the sha256 of https://example.org/PASCAL_MT.tgz"):
    prepare(config('pascal', tmp_path, 'https://example.org/PASCAL_MT.tgz'))
  with pytest.raises(UserError, match="'scenes' needs no preparation"):
    prepare(config('scenes', tmp_path, ''))


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path, nyud_raw, monkeypatch):
  c = config('nyud', tmp_path, nyud_raw)
  killed = tmp_path / 'tfds/nyud_mt/incomplete.ABCDEF_1.0.0'  # what SIGKILL leaves
  killed.mkdir(parents=True)
  (killed / 'nyud_mt-train.array_record-00000-of-00001').write_bytes(b'half')
  true_encode, calls = mtan.encode, []

  def interrupted(*args, **options):
    calls.append(args)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return true_encode(*args, **options)

  with monkeypatch.context() as patch:
    patch.setattr(mtan, 'encode', interrupted)
    with pytest.raises(KeyboardInterrupt):
      prepare(c)
  with pytest.raises(UserError, match='not prepared; run main.py --mode=prepare --config=configs/nyud.py'):
    nyud_mt.builder(c.data)
  folder = prepare(c)
  assert len(nyud_mt.builder(c.data).as_data_source('train')) == 11
  assert {path.name for path in folder.parent.iterdir()} == {'.lock', '1.0.0'}
  written = folder.stat().st_mtime_ns
  shutil.rmtree(nyud_raw)
  assert prepare(c) == folder and folder.stat().st_mtime_ns == written  # built once is enough


def test_two_runs_at_once_are_refused(tmp_path, nyud_raw):
  c = config('nyud', tmp_path, nyud_raw)
  with job._alone(tmp_path / 'tfds/nyud_mt'):
    with pytest.raises(UserError, match='another process prepares'):
      prepare(c)


def test_archives_are_taken(tmp_path, nyud_raw, pascal_raw):
  archive = tmp_path / 'nyuv2.zip'
  with zipfile.ZipFile(archive, 'w') as file:
    for path in nyud_raw.rglob('*.npy'):
      file.write(path, path.relative_to(nyud_raw.parent))
  tgz = tmp_path / 'PASCAL_MT.tgz'
  with tarfile.open(tgz, 'w:gz') as file:
    file.add(pascal_raw, 'PASCAL_MT')
  shutil.rmtree(nyud_raw)
  shutil.rmtree(pascal_raw)
  with pytest.raises(UserError, match='nyuv2.zip: sha256 is'):
    prepare(config('nyud', tmp_path, archive, raw_sha256='0' * 64))
  prepare(config('nyud', tmp_path, archive, raw_sha256=hashlib.sha256(archive.read_bytes()).hexdigest()))
  c = config('pascal', tmp_path, tgz)
  prepare(c)
  assert len(pascal_mt.builder(c.data).as_data_source('train')) == 5


def test_the_mapping_lies_beside_the_data(tmp_path, nyud_raw, monkeypatch):
  import tensorflow_datasets as tfds

  mapping = b'official'
  info = lambda content: tfds.download.checksums.UrlInfo(8, hashlib.sha256(content).hexdigest(), 'onelabel.pth')  # noqa: E731
  monkeypatch.setattr(nyud_mt.Builder, 'url_infos', {'http://127.0.0.1:9/onelabel.pth': info(mapping)})
  c = config('nyud', tmp_path, nyud_raw, labels='one')
  with pytest.raises(UserError, match=r'the data set is ready in .*, but not its label mapping: .*save the file as'):
    prepare(c)
  place = tmp_path / 'tfds/nyud_mt/1.0.0/label_mappings/onelabel.pth'
  place.parent.mkdir(exist_ok=True)
  place.write_bytes(b'another')
  with pytest.raises(UserError, match='onelabel.pth: sha256 is'):
    prepare(c)
  place.write_bytes(mapping)
  prepare(c)
  c.data.labels = 'random'
  with pytest.raises(UserError, match="no official 'random' mapping"):
    prepare(c)


def test_checksums_of_the_mappings_are_the_official_ones():
  if not MAPPINGS.exists():
    pytest.skip(f'{MAPPINGS} is not here')
  for name, module in dict(pascal=pascal_mt, nyud=nyud_mt, cityscapes=cityscapes_mt).items():
    infos = {info.filename: info for info in module.Builder.url_infos.values()}
    files = {path.name.removeprefix(f'{name}_'): path.read_bytes() for path in MAPPINGS.glob(f'{name}_*.pth')}
    assert set(infos) == set(files)
    for file, content in files.items():
      assert (infos[file].size, infos[file].checksum) == (len(content), hashlib.sha256(content).hexdigest())


def test_several_processes_keep_the_order(tmp_path):
  ids = [str(i) for i in range(100)]
  encoded = list(raw.examples(os.path.join, tmp_path, dict(train=ids), 'train', 2))
  assert encoded == [(i, f'{tmp_path}/{i}') for i in range(100)]


@pytest.mark.parametrize('processes', [1, 2])
def test_all_that_is_broken_is_found_in_one_run(tmp_path, processes):
  (tmp_path / 'a').mkdir()  # find_root of 'a' works, of others it raises UserError
  splits = dict(earlier=['x'], train=['a', 'first', *['a'] * 30], val=['a', 'second'])
  with pytest.raises(UserError, match="2 images have broken files: .*no 'first'.*no 'second'"):
    list(raw.examples(raw.find_root, tmp_path, splits, 'train', processes))
  stream = raw.examples(raw.find_root, tmp_path, splits, 'train', processes)
  assert [next(stream)[0] for _ in range(31)] == [0, *range(2, 32)]
  with pytest.raises(UserError):
    next(stream)  # val is only checked
