"""Builders on raw trees in the true file formats, with labels worked out by hand."""

import io
from pathlib import Path
import pickle

import numpy as np
from PIL import Image
import pytest
import scipy.io
import tensorflow_datasets as tfds

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import cityscapes, mtan, nyud, raw, stored
from dmtl_jax.datasets import pascal as pascal_data
from dmtl_jax.datasets.pascal import labels
from dmtl_jax.jobs import prepare
from dmtl_jax.metrics.boundary.pascal import LISTED
from tests.raw_trees import colour, config, grey, pascal_tree, structs, thing, write_mtan, write_pascal


@pytest.fixture(scope='module')
def pascal(tmp_path_factory):
  """The prepared data set: (config, {id: raw example}, {id: decoded example})."""
  folder = tmp_path_factory.mktemp('pascal')
  c = config('pascal', folder, pascal_tree(folder))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(raw.RawBuilder, 'url_infos', {})
    prepare.run(c)
  builder = stored.prepared(pascal_data.Builder, c.data)
  found = {}
  for split in ('train', 'val'):
    source = builder.as_data_source(split)
    ids = [source[i]['id'].decode() for i in range(len(source))]
    assert ids == list(builder.info.metadata['ids'][split])
    found |= dict(zip(ids, (source[i] for i in range(len(source)))))
  assert list(found) == ['2008_b', '2008_a', '2007_z', '2010_x', '2009_y', '2008_c']  # in the lists' order
  return c, found, {id: pascal_data.decode(example) for id, example in found.items()}


def test_pascal_labels(pascal):
  c, stored, decoded = pascal
  raw_image = Path(c.data.raw, 'JPEGImages/2008_b.jpg')
  b, a, last = (decoded[id]['labels'] for id in ('2008_b', '2008_a', '2008_c'))
  for example in decoded.values():
    assert list(example['labels']) == [task.name for task in pascal_data.TASKS]
    for task in pascal_data.TASKS:
      label = example['labels'][task.name]
      blank = task.blank(*example['image'].shape[:2])
      assert label.shape == blank.shape
      assert label.dtype == blank.dtype

  # The JPEG file is kept byte for byte; sizes differ between images.
  assert stored['2008_b']['image'] == raw_image.read_bytes()
  with Image.open(raw_image) as image:
    off = np.abs(np.asarray(image, int) - decoded['2008_b']['image'])
  assert off.max() <= 3  # decoders differ in rounding
  assert decoded['2008_a']['image'].shape == (5, 7, 3)

  # VOC12's segmentation where there is one (15, 255 and 0), else pascal-context's (20).
  assert b['semseg'][:, 0, 0].tolist() == [255, 0, 15, 15, 15, 15]
  assert np.unique(a['semseg']).tolist() == [20]
  assert np.unique(last['semseg']).tolist() == [1]

  # Saliency: 127 / 255 < 0.5 < 128 / 255.
  assert b['saliency'][:, 0, 0].tolist() == [0, 0, 1, 1, 0, 0]
  assert a['saliency'].all()

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
  assert {part: id for id, parts in groups.items() for part in parts.split()} == labels.PART_IDS
  assert len(labels.PART_IDS) == 24
  names = pascal_data.TASKS[1].classes
  assert names == ('background', 'head', 'torso', 'upper arm', 'lower arm', 'upper leg', 'lower leg')


def test_parsing_alone_trains_on_images_with_people(pascal):
  c, _, decoded = pascal
  c = c.copy_and_resolve_references()
  whole = {split: list(source_lib.open_source(c.data, split).ids) for split in ('train', 'val')}
  people = [id for id in whole['train'] if (decoded[id]['labels']['parsing'] != 255).any()]
  for tasks, split, expected in (
    (('parsing',), 'train', people),
    (('parsing',), 'val', whole['val']),
    (('semseg', 'parsing'), 'train', whole['train']),
  ):
    c.data.tasks = tasks
    source = source_lib.open_source(c.data, split)
    assert list(source.ids) == expected
    assert len(source.label_mask) == len(source) == len(expected)
    first = source[0]['labels']['parsing']
    np.testing.assert_array_equal(first, decoded[expected[0]]['labels']['parsing'])
  assert people
  assert people != whole['train']


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


def test_boundaries_are_scored_against_the_evaluators_own(pascal):
  """Of changes between columns 2, 3 and 4 it marks the west of each, thinned; only images that are listed count."""
  c, stored_examples, _ = pascal
  val, train = (pascal_data.open_split(c.data, split) for split in ('val', 'train'))
  with pytest.raises(UserError, match='boundary_ids.txt: the list of images .* is missing; run --mode=prepare'):
    val.truth(0)
  place = Path(c.data.dir, 'pascal_mt/1.1.0/label_mappings/boundary_ids.txt')
  place.parent.mkdir()
  place.write_text('\n'.join(['2008_c', *(f'2008_{i}' for i in range(2497))]))
  truth = val.truth(0)['boundary']
  assert truth.dtype == bool
  assert not np.delete(truth, [2, 3], axis=1).any()
  assert (truth[1:-1].sum(1) == 1).all()
  assert train.truth(0) == {'boundary': None}
  assert pickle.loads(pickle.dumps(val)).truth(0)['boundary'].any()  # for worker processes
  assert stored_examples['2008_c']['boundary'] != stored_examples['2008_c']['boundary_truth']


def test_labels_of_another_size_take_their_images_size(tmp_path):
  root = tmp_path / 'raw'
  half = np.zeros((4, 4), int)
  half[:, 2:] = 7
  person = thing(15, [('head', np.s_[:2])], (4, 4))
  voc, white = half.astype(np.uint8), grey(4, 4, 255)
  write_pascal(root, 'x', colour(8, 8, 1), half, [person], colour(4, 4, 255), white, voc=voc)
  example = pascal_data.decode(labels.encode(root, 'x'))
  assert {label.shape[:2] for label in example['labels'].values()} == {(8, 8)}
  assert example['labels']['semseg'][0, :, 0].tolist() == [0, 0, 0, 0, 7, 7, 7, 7]
  assert example['labels']['parsing'][:, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_rotated_image_stays_on_its_labels(pascal):
  exif, file = Image.Exif(), io.BytesIO()
  exif[0x0112] = 6
  Image.fromarray(colour(6, 8, 9)).save(file, 'jpeg', exif=exif)
  assert pascal_data.decode(pascal[1]['2008_b'] | {'image': file.getvalue()})['image'].shape == (6, 8, 3)
  with pytest.raises(ValueError, match='not a readable image'):
    pascal_data.decode(pascal[1]['2008_b'] | {'image': b'no image'})


def test_decode_reads_only_the_tasks_asked_for(pascal):
  example = dict(pascal[1]['2008_b'], saliency=b'not a PNG')
  visible = [task for task in pascal_data.TASKS if task.name != 'saliency']
  assert list(pascal_data.decode(example, visible)['labels']) == ['semseg', 'parsing', 'normals', 'boundary']
  assert pascal_data.decode(example, [])['labels'] == {}


def test_tfds_decodes_pascal_by_itself_too(pascal):
  c, _, decoded = pascal
  plain = tfds.core.GeneratorBasedBuilder.as_data_source(stored.prepared(pascal_data.Builder, c.data), 'train')[0]
  assert (plain['semseg'] == decoded['2008_b']['labels']['semseg']).all()
  assert plain['image'].shape == (6, 8, 3)


@pytest.mark.parametrize(
  'file, content, message',
  [
    ('human_parts/2008_b.mat', dict(anno=structs([dict(imname='x')])), 'not a PASCAL-Part annotation'),
    ('human_parts/2008_b.mat', dict(other=1), "not a readable .mat file with 'anno'"),
    ('pascal-context/trainval/2008_b.mat', b'MATLAB 5.0', "not a readable .mat file with 'LabelMap'"),
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


def test_nyud(tmp_path, nyud_raw, no_downloads, capsys):
  c = config('nyud', tmp_path, nyud_raw.parent)  # the folder above will do
  prepare.run(c)
  output = capsys.readouterr()
  assert output.out.startswith(f'{tmp_path}/tfds/nyud_mt/1.0.0: 11 images in train, 1 images in val')
  assert 'preparing train 11/11 (100%)' in output.err
  builder = stored.prepared(nyud.Builder, c.data)
  source = builder.as_data_source('train')
  assert len(source) == 11
  assert len(builder.as_data_source('val')) == 1
  assert list(builder.info.metadata['ids']['train']) == [str(i) for i in range(11)]
  for i in range(11):
    assert source[i]['id'] == str(i).encode()
    assert (mtan.decode(source[i], nyud.TASKS)['image'] == round(i / 20 * 255)).all()
  example = mtan.decode(source[10], nyud.TASKS)
  assert example['image'].dtype == np.uint8
  assert example['image'][0, 0].tolist() == [128, 128, 128]
  assert example['labels']['semseg'][:, 0].tolist() == [[255], [0], [12], [255]]
  assert example['labels']['depth'][:, 0, 0].tolist() == [0] + [np.float32(2.7182817)] * 3  # exactly
  expected = [[0, 0, 0], [0.6, 0, -0.8], [0.6, 0, -0.8], [0, 1, 0]]
  assert np.abs(example['labels']['normals'][:, 0] - expected).max() < 1 / 65000
  for task in nyud.TASKS:
    label, blank = example['labels'][task.name], task.blank(4, 6)
    assert label.shape == blank.shape
    assert label.dtype == blank.dtype
  assert [task.channels for task in nyud.TASKS] == [13, 1, 3]


def test_cityscapes_keeps_inverse_depth(tmp_path, no_downloads):
  root = tmp_path / 'cityscapes2'
  label = np.full((4, 6), -1)
  label[:, 3:] = 6
  depth = np.array([-0.01, 0, 1e-4, 0.1, 0.4, 0.4922]).reshape(1, 6, 1).repeat(4, 0)  # float64, as MTAN's
  for split in ('train', 'val'):
    write_mtan(root, 'label_7', split, 0, np.zeros((4, 6, 3)), label, depth)
  c = config('cityscapes', tmp_path, root)
  prepare.run(c)
  example = mtan.decode(stored.prepared(cityscapes.Builder, c.data).as_data_source('train')[0], cityscapes.TASKS)
  assert example['labels']['semseg'][0, :, 0].tolist() == [255] * 3 + [6] * 3
  assert np.allclose(example['labels']['depth'][0, :, 0], [0, 0, 1e-4, 0.1, 0.4, 0.4922], rtol=1e-6, atol=0)
  assert [(task.name, task.channels) for task in cityscapes.TASKS] == [('semseg', 7), ('depth', 1)]


def test_the_list_of_scored_images(tmp_path):
  path = tmp_path / 'list.txt'
  path.write_text(''.join(f'2008_{i:06}\n' for i in range(LISTED)))
  assert labels.read_scored(path) == {f'2008_{i:06}' for i in range(LISTED)}
  for spoilt in ('', path.read_text() + '2008_000000\n', path.read_text()[12:], path.read_text()[:-12] + '2008_000000'):
    path.write_text(spoilt)
    with pytest.raises(UserError, match='expected 2498|an id twice'):
      labels.read_scored(path)
  path.write_bytes(b'\xff\xfe')
  for broken in (path, tmp_path / 'none.txt'):
    with pytest.raises(UserError, match='not a readable list'):
      labels.read_scored(broken)
