"""Exports that add to labels that are there, or replace them."""

import json

import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import folder
from tests import exports
from tests.joining import coco, Place


@pytest.fixture
def place(tmp_path):
  return Place(tmp_path)


def test_another_label_of_an_image_is_never_replaced_in_silence(place):
  place.join(exports.coco())
  before = place.files()
  with pytest.raises(UserError, match=r'semseg/a.png: is another label of this image; .* --force; nothing was written'):
    place.join(coco('road', 'car', rings=[exports.CAR, exports.ROAD]), 'y.json')
  assert place.files() == before
  place.join(coco('road', rings=[exports.CAR]), 'y.json', force=True)
  assert (place.label() == 0).sum() == 24
  place.join(exports.coco(), task='second')
  assert set(place.tasks()) == {'semseg', 'second'}


def test_what_is_drawn_no_more_keeps_its_label_until_it_is_replaced(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  images = [{'id': i, 'file_name': name, 'width': exports.WIDTH, 'height': exports.HEIGHT} for i, name in
            [(5, 'a.jpg'), (6, 'b.jpg')]]  # fmt: skip
  drawn = coco('road', 'car')['annotations']
  place.join(coco('road', 'car') | {'images': images, 'annotations': drawn + [drawn[0] | {'image_id': 6}]})
  less = coco('road', 'car') | {'images': images, 'annotations': drawn}
  summary = place.join(less)
  assert summary.kept == ['b']
  assert not summary.notes
  with pytest.raises(
    UserError, match=r'a.png: .*; --force would also remove the labels of images .* \(b\); nothing was'
  ):
    place.join(less | {'annotations': drawn[:1]})
  assert (place.data / 'train/labels/semseg/b.png').exists()
  assert place.join(less, force=True).removed == ['b']
  assert not (place.data / 'train/labels/semseg/b.png').exists()


def test_a_later_export_of_all_labelled_images_replaces_classes_too(place):
  place.join(coco('road', 'car'), background='rest')
  with pytest.raises(UserError, match=r'van of this export may be hidden in the class rest of .*, --force replaces'):
    place.join(coco('road', 'van'), 'y.json', background='rest')
  place.join(coco('road', 'van'), 'y.json', background='rest', force=True)
  assert place.tasks()['semseg']['classes'] == ['rest', 'road', 'van']
  np.testing.assert_array_equal(place.label(), exports.truth(road=1, car=2, rest=0))
  imports = json.loads((place.data / 'dataset.json').read_text())['imports']
  assert [entry['from'] for entry in imports] == ['y.json']
  exports.photo(place.photos, 'b.jpg', seed=1)
  with pytest.raises(UserError, match=r'bus of this export may be hidden in the class rest of task'):
    place.join(coco('road', 'bus', image='b.jpg'), 'z.json', force=True)
  assert place.join(coco('road', 'van', image='b.jpg'), 'z.json', force=True).unnamed == ['a']


@pytest.mark.parametrize('first', ['labelme', 'by hand'])
def test_labels_of_other_tools_are_not_removed(first, place):
  """An export lists all images of a project, also those that somebody has drawn elsewhere."""
  exports.photo(place.photos, 'b.jpg', seed=1)
  exports.write(place.root / 'export', 'labelme')
  place.join(name='export')
  if first == 'by hand':
    (place.data / 'dataset.json').write_text(json.dumps({'tasks': place.tasks()}))
  before = place.label()
  content = coco('van', image='b.jpg')
  content['images'].append(content['images'][0] | {'id': 6, 'file_name': 'a.jpg'})
  for _ in range(2):
    summary = place.join(content, force=True)
    assert (summary.kept, summary.removed) == (['a'], [])
    assert summary.others == [{'labelme': 'LabelMe', 'by hand': 'label files'}[first]]
    np.testing.assert_array_equal(place.label(), before)
    assert place.tasks()['semseg']['classes'] == ['car', 'road', 'van']


def test_classes_stay_where_a_labelled_photograph_is_not_given(place):
  """Its label is not written anew, so that its numbers must keep their meaning."""
  place.join(coco('road', 'car'))
  place.photos.joinpath('a.jpg').unlink()
  exports.photo(place.photos, 'b.jpg', seed=1)
  content = coco('van', image='b.jpg')
  content['images'].append(content['images'][0] | {'id': 6, 'file_name': 'a'})
  assert place.join(content, force=True).unnamed == ['a']
  assert place.tasks()['semseg']['classes'] == ['road', 'car', 'van']


def test_the_same_import_twice_changes_nothing(place):
  place.join(exports.coco(), annotated=('all',))
  before = place.files()
  summary = place.join(exports.coco(), annotated=('all',))
  assert place.files() == before
  assert summary.unchanged == 1
  assert summary.images == {'already there': 1}


@pytest.mark.parametrize(('before', 'labels'), [('images', 'labels'), ('unlabelled', 'train/labels')])
def test_a_photograph_that_the_folder_has_in_another_place_stays_there(before, labels, place):
  """In PATH/images, or in the pool, from which suggested photographs come."""
  place.photos.rename(place.root / 'elsewhere')
  place.photos = place.data / before
  exports.photo(place.photos)
  assert place.join(exports.coco()).images == {'already there': 1}
  assert set(place.files()) == {'dataset.json', f'{before}/a.jpg', f'{labels}/semseg/a.png'}
  source = folder.open_folder(str(place.data), 'train')
  np.testing.assert_array_equal(source[0]['labels']['semseg'][..., 0], exports.truth())


def test_classes_of_a_second_export_are_appended(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(exports.coco())
  before = place.label()
  place.join(coco('sky', 'car', image='b.jpg'), 'y.json')
  assert place.tasks()['semseg']['classes'] == ['road', 'car', 'sky']
  np.testing.assert_array_equal(place.label(name='b.png'), exports.truth(road=2, car=1))
  np.testing.assert_array_equal(place.label(), before)


def test_a_label_is_not_listed_anew_in_silence(place):
  place.join(exports.coco(), annotated=('all',))
  with pytest.raises(UserError, match=r'a.png: is there with other annotated classes; choose'):
    place.join(exports.coco(), annotated=('road',))
  place.join(exports.coco(), force=True)
  assert not (place.data / 'train/labels/semseg/annotated.json').exists()


@pytest.mark.parametrize('first', [{'background': 'rest'}, {}])
def test_a_class_that_may_be_hidden_in_the_background_is_refused(first, place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(coco('background', 'road') if not first else coco('road'), **first)
  with pytest.raises(UserError, match=r'car of this export may be hidden in the class (rest|background) of task'):
    place.join(coco('road', 'car', image='b.jpg'), 'y.json')
  place.join(coco('road', image='b.jpg'), 'y.json')


def test_a_background_that_may_hide_a_class_that_is_there_is_refused(place):
  exports.photo(place.photos, 'b.jpg', seed=1)
  place.join(exports.coco())
  with pytest.raises(UserError, match=r'car of task .* may be hidden in the class rest of this export'):
    place.join(coco('road', image='b.jpg'), 'y.json', background='rest')
