"""What an import writes."""

import json
import os

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import folder
from dmtl_jax.imports.classes import Options
from tests import exports
from tests.joining import coco, Place


@pytest.fixture
def place(tmp_path):
  return Place(tmp_path)


def test_the_folder_data_set_reads_what_was_written(place):
  summary = place.join(exports.coco())
  source = folder.open_folder(str(place.data), 'train')
  np.testing.assert_array_equal(source[0]['labels']['semseg'][..., 0], exports.truth())
  assert source.tasks[0].classes == ('road', 'car')
  assert source.ids == ['a']
  assert summary.pixels == {255: 192, 0: 168, 1: 24}
  assert summary.labels == {'semseg': 1}


def test_photographs_are_linked(place):
  place.join(exports.coco())
  assert os.path.samefile(place.data / 'train/images/a.jpg', place.photos / 'a.jpg')


def test_photographs_are_copied_where_links_are_impossible(place, monkeypatch):
  def refuse(*_):
    raise OSError(18, 'Invalid cross-device link')

  monkeypatch.setattr(os, 'link', refuse)
  assert place.join(exports.coco()).images == {'copied': 1}
  assert (place.data / 'train/images/a.jpg').read_bytes() == (place.photos / 'a.jpg').read_bytes()


def test_photographs_without_labels_come_too_and_missing_ones_are_named(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  content = exports.coco()
  content['images'].append({'id': 6, 'file_name': '../../etc/passwd', 'width': 3, 'height': 3})
  summary = place.join(content)
  assert summary.images == {'linked': 2}
  assert summary.missing == ['etc/passwd']
  assert set(place.files()) == {'dataset.json', 'train/images/a.jpg', 'train/images/b.jpg', 'train/labels/semseg/a.png'}


def test_an_empty_image_shows_none_of_the_classes_if_asked(place):
  content = coco('road', 'car') | {'annotations': []}
  place.join(content, background='rest', empty=True)
  assert (place.label() == 0).all()
  box = {'image_id': 5, 'category_id': 0, 'bbox': [1, 1, 3, 3]}
  with pytest.raises(UserError, match='no label can be made of the export'):
    place.join(content | {'annotations': [box]}, task='saliency', empty=True)
  place.join(content, task='saliency', empty=True)
  assert (place.label('saliency') == 0).all()
  with pytest.raises(UserError, match='--empty: say what pixels are that were not drawn, with --background=NAME'):
    Options(empty=True)


def test_areas_are_no_boundaries(place):
  with pytest.raises(UserError, match=r'100% of what is drawn in the export are areas, and a boundary is a thin line'):
    place.join(coco('road', 'car'), task='boundary')
  assert not place.data.exists()
  line = [[0, 0], [2, 0], [24, 14], [24, 16], [22, 16], [0, 2]]
  place.join(coco('edge', rings=[line]), task='boundary')
  assert (place.label('boundary') == 1).sum() == 76


def test_a_class_with_a_comma_is_given_in_quotes(place):
  with pytest.raises(UserError, match='did you mean "road, wet"?'):
    place.join(coco('road, wet', 'car'), classes=('road',))


def test_what_is_not_drawn_is_background_only_if_asked(place):
  place.join(exports.coco(), background='other')
  np.testing.assert_array_equal(place.label(), exports.truth(road=1, car=2, rest=0))
  assert place.tasks()['semseg']['classes'] == ['other', 'road', 'car']


def test_annotated_classes_are_listed_with_the_label(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(coco('road'), annotated=('all',))
  place.join(coco('car', 'tree', image='b.jpg', rings=[exports.CAR, exports.ROAD]), 'y.json', annotated=('car',))
  np.testing.assert_array_equal(place.label(), exports.truth(road=0, car=0, rest=254))
  np.testing.assert_array_equal(place.label(name='b.png'), exports.truth(road=2, car=1, rest=254))
  listed = json.loads((place.data / 'train/labels/semseg/annotated.json').read_text())
  assert listed == {'a': ['road'], 'b': ['car']}


def test_pixels_of_no_class_are_unlabelled_until_another_export_adds_classes(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  summary = place.join(exports.coco(), annotated=('all',))
  assert summary.remarks[0].startswith('pixels of none of these classes stay unlabelled until')
  source = folder.open_folder(str(place.data), 'train')
  np.testing.assert_array_equal(source[0]['labels']['semseg'][..., 0], exports.truth())
  place.join(coco('sky', 'tree', image='b.jpg'), 'y.json', annotated=('all',))
  source = folder.open_folder(str(place.data), 'train')
  np.testing.assert_array_equal(source[0]['labels']['semseg'][..., 0], exports.truth(rest=4))
  assert source.tasks[0].id_names[4] == 'not road/car'


def test_chosen_classes_alone_are_taken_and_others_cover_them(place):
  place.join(exports.coco(), classes=('road',), background='other')
  np.testing.assert_array_equal(place.label(), exports.truth(road=1, car=0, rest=0))


def test_saliency_is_what_is_drawn(place):
  place.join(exports.coco(), task='salient', kind='saliency', classes=('car',))
  np.testing.assert_array_equal(place.label('salient'), exports.truth(road=0, car=1, rest=0))
  assert place.tasks() == {'salient': {'kind': 'saliency'}}
  assert folder.open_folder(str(place.data), 'train').tasks[0].kind == 'saliency'


def test_an_image_without_a_region_gets_no_label(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  content = exports.coco()
  content['images'].append({'id': 6, 'file_name': 'b.jpg', 'width': exports.WIDTH, 'height': exports.HEIGHT})
  summary = place.join(content, background='other')
  assert summary.labels == {'semseg': 1}
  assert summary.notes == {'images without a drawn region, left unlabelled': 1}


def test_splits_of_the_export_are_kept_and_known_images_stay(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(exports.coco(), 'val.json')
  assert place.label(split='val').shape == (exports.HEIGHT, exports.WIDTH)
  assert (place.data / 'train/images/b.jpg').exists()
  place.join(exports.coco(), 'train.json', task='second')
  assert (place.data / 'val/labels/second/a.png').exists()
  with pytest.raises(
    UserError, match=r'no label can be made .* images in a folder or file called test, left out: 1; nothing'
  ):
    place.join(exports.coco(), 'test.json', task='third')


def test_photographs_of_a_test_split_stay_out(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  exports.write(place.root / 'yolo', 'yolo')
  (place.root / 'yolo/labels/test').mkdir()
  (place.root / 'yolo/labels/test/b.txt').write_text('0 0 0 1 0 1 1')
  assert place.join(name='yolo').notes['images in a folder or file called test, left out'] == 1
  assert not (place.data / 'train/images/b.jpg').exists()


def test_nyu_writes_photographs_labels_and_depth(place):
  pytest.importorskip('h5py')
  exports.nyu(place.root / 'nyu.mat')
  summary = place.join(name='nyu.mat')
  source = folder.open_folder(str(place.data), 'train')
  assert summary.images == {'written': 2}
  assert summary.labels == {'semseg': 2, 'depth': 2}
  np.testing.assert_array_equal(source[1]['labels']['semseg'][..., 0], exports.truth())
  np.testing.assert_allclose(source[1]['labels']['depth'], 2.5)
  assert source.ids == ['nyu_0001', 'nyu_0002']


# --- EXIF ------------------------------------------------------------------------------------


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_label_of_the_stored_pixels_is_turned_with_the_photograph(orientation, place):
  """The photograph is the label itself, so what training reads of both must agree."""
  stored = np.repeat(exports.truth()[..., None], 3, -1)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(stored).save(place.photos / 'a.png', exif=exif)
  (place.photos / 'a.jpg').unlink()
  summary = place.join(exports.coco())
  source = folder.open_folder(str(place.data), 'train')
  agrees = np.array_equal(source[0]['image'][..., 0], source[0]['labels']['semseg'][..., 0])
  is_sideways = orientation > 4
  assert agrees == (is_sideways or orientation == 1)  # of 2 to 4 the size does not tell
  assert summary.turned == (['a'] if is_sideways else [])
  assert summary.ambiguous == (['a'] if orientation in (2, 3, 4) else [])


def test_a_label_as_viewers_show_the_photograph_stays(place):
  exports.photo(place.photos, 'a.jpg', (exports.HEIGHT, exports.WIDTH), orientation=6)
  assert place.join(exports.coco()).turned == []
  np.testing.assert_array_equal(place.label(), exports.truth())


def test_a_label_of_another_size_is_refused(place):
  with pytest.raises(UserError, match=r'48x32 pixels in the export, but .*a.jpg has 24x16; give the photographs'):
    place.join(coco('road', size=(48, 32)))
  assert not place.data.exists()


# --- What is there ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    ([], 'must be an object'),
    ({}, '"tasks" is missing'),
    ({'tasks': {'semseg': []}}, '"semseg" is [] and must be an object'),
    ({'tasks': {'semseg': {'kind': 'parsing'}}}, 'is of kind parsing, not semseg'),
    ({'tasks': {'semseg': {'classes': ['a', 3]}}}, '"classes"[1] is 3'),
    ({'tasks': {'semseg': {'classes': ['a', 'b'], 'ignore': 0}}}, 'its labels have "ignore"'),
    ({'tasks': {}, 'imports': 1}, '"imports" is 1'),
  ],
)
def test_a_wrong_description_is_refused(content, reason, place):
  place.data.mkdir()
  (place.data / 'dataset.json').write_text(json.dumps(content))
  with pytest.raises(UserError) as caught:
    place.join(exports.coco())
  assert reason in str(caught.value)
  assert json.loads((place.data / 'dataset.json').read_text()) == content


def test_other_fields_of_the_description_stay(place):
  place.data.mkdir()
  (place.data / 'dataset.json').write_text('{"tasks": {"depth": {"scale": 0.01}}, "owner": "me"}')
  place.join(exports.coco())
  content = json.loads((place.data / 'dataset.json').read_text())
  assert content['owner'] == 'me'
  assert content['tasks']['depth'] == {'scale': 0.01}
  assert content['imports'] == [{'from': 'x.json', 'format': 'COCO', 'task': 'semseg'}]


@pytest.mark.parametrize('step', range(4))
def test_an_interrupted_import_leaves_the_folder_as_it_was(step, place, monkeypatch):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(exports.coco())
  before = place.files()
  opened, real = [], atomic.atomic_path

  def stop(*args, **kwargs):
    opened.append(args)
    if len(opened) > step:
      raise KeyboardInterrupt
    return real(*args, **kwargs)

  exports.photo(place.photos, 'c.jpg', seed=2)
  monkeypatch.setattr(atomic, 'atomic_path', stop)
  with pytest.raises(KeyboardInterrupt):
    place.join(coco('sky', 'car', image='b.jpg'), 'y.json', annotated=('all',))
  assert place.files() == before


# --- Options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('options', 'reason'),
  [
    ({'kind': 'depth'}, "--kind: 'depth' is none of"),
    ({'task': 'a b'}, '--task: '),
    ({'background': 'x', 'annotated': ('all',)}, 'exclude each other'),
    ({'task': 'saliency', 'background': 'x'}, 'of saliency, what was not drawn is 0 anyway'),
    ({'background': '\n'}, "--background: '' cannot name a class"),
    ({'classes': ('rode',)}, "--classes: 'rode' is none of road, car; did you mean road?"),
    ({'annotated': ('rode',)}, "--annotated: 'rode' is none of all, road, car"),
    ({'task': 'parsing'}, 'its class 0 is what belongs to no part'),
  ],
)
def test_options_that_do_not_fit_are_refused(options, reason, place):
  with pytest.raises(UserError) as caught:
    place.join(exports.coco(), **options)
  assert reason in str(caught.value)
  assert not place.data.exists()


def test_too_many_classes_are_refused(place):
  content = exports.coco()
  content['categories'] += [{'id': 100 + i, 'name': f'thing{i}'} for i in range(300)]
  with pytest.raises(UserError, match='302 classes, and a task has at most 254; choose with --classes'):
    place.join(content)
  assert place.join(content, classes=('road', 'car')).classes == ('road', 'car')
