"""Which photograph an export means, and which one our folder has already."""

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


def test_photographs_of_one_name_are_told_apart_by_their_folders(place):
  for i, cam in enumerate(('cam1', 'cam2')):
    exports.photo(place.photos / cam, 'x.jpg', seed=i)
  place.join(coco('road', 'car', image='set/cam2/x.jpg'))
  assert place.label(name='cam2_x.png').shape == (exports.HEIGHT, exports.WIDTH)
  with pytest.raises(UserError, match=r'cam1/x.jpg, .*cam2/x.jpg have its name'):
    place.join(coco('road', 'car', image='x.jpg'), 'y.json')


@pytest.mark.parametrize('kind', ['labelme', 'masks', 'yolo'])
def test_labels_lie_in_folders_of_the_same_names_as_the_photographs(kind, place):
  """A folder for each patient, in each of which the numbers begin anew."""
  place.photos.joinpath('a.jpg').unlink()
  for seed, patient in enumerate(('p1', 'p2')):
    exports.photo(place.photos / patient, seed=seed)
  label = place.root / 'export' / ('labels/p2' if kind == 'yolo' else 'p2')
  label.mkdir(parents=True)
  colors = None
  if kind == 'labelme':
    (label / 'a.json').write_text(json.dumps(exports.labelme() | {'imagePath': 'a.jpg'}))
  elif kind == 'yolo':
    (label.parent.parent / 'classes.txt').write_text('road')
    (label / 'a.txt').write_text('0 0 0.5 1 0.5 1 1 0 1')
  else:
    colors = place.root / 'colors.json'
    colors.write_text('{"road": 0, "car": 1, "ignore": 255}')
    (label / 'a.png').write_bytes(exports.png(exports.truth()))
  place.join(name='export', colors=colors and str(colors))
  assert [path.name for path in (place.data / 'train/labels/semseg').iterdir()] == ['p2_a.png']


@pytest.mark.parametrize('name', ['images/0a1b2c3d-a.jpg', '0a1b2c3d-my_photo_1.jpg', 'x/0a1b2c3d-my photo (1).jpg'])
def test_names_of_uploads_to_label_studio_match(name, place):
  """It puts eight digits before the name, and leaves out blanks and signs."""
  exports.photo(place.photos, 'my photo (1).jpg', seed=1)
  assert place.join(coco('road', 'car', image=name)).missing == []
  with pytest.raises(UserError, match='none of its images is among --images'):
    place.join(coco('road', 'car', image='my_photo_1.jpg'), task='second')


def test_a_photograph_keeps_its_name_whatever_else_is_given(place):
  """Names depend on --images: with a second folder, those of the first would be cam1_x."""
  place.photos.joinpath('a.jpg').unlink()
  for seed, cam in enumerate(('cam1', 'cam2')):
    exports.photo(place.photos / cam, 'x.jpg', seed=seed)
  photos = place.photos
  place.photos = photos / 'cam1'
  place.join(coco('road', image='x.jpg'))
  place.photos = photos
  summary = place.join(coco('road', image='cam1/x.jpg'), task='second')
  assert summary.images == {'already there': 1, 'linked': 1}
  assert {path.name for path in (place.data / 'train/images').iterdir()} == {'x.jpg', 'cam2_x.jpg'}
  assert (place.data / 'train/labels/second/x.png').exists()
  place.photos = photos / 'cam2'
  place.join(coco('road', image='x.jpg'), task='third')
  assert (place.data / 'train/labels/third/cam2_x.png').exists()


def test_letters_of_any_script_are_readable_in_dataset_json(place):
  place.join(coco('B\u00e4ume', '\u9053\u8def'))
  text = (place.data / 'dataset.json').read_text(encoding='utf-8')
  assert '"B\u00e4ume"' in text
  assert '"\u9053\u8def"' in text


def test_masks_among_the_photographs_are_no_photographs(place):
  (place.photos / 'masks').mkdir()
  (place.photos / 'masks/a.png').write_bytes(exports.png(exports.truth()))
  colors = place.root / 'colors.json'
  colors.write_text('{"road": 0, "car": 1, "ignore": 255}')
  assert place.join(name='photos/masks', colors=str(colors)).images == {'linked': 1}
  assert [path.name for path in (place.data / 'train/images').iterdir()] == ['a.jpg']
  place.photos = place.photos / 'masks'
  with pytest.raises(UserError, match=r'photos/masks: holds only labels; give the folder of the photogr'):
    place.join(name='photos/masks', colors=str(colors), task='second')


def test_the_object_maps_of_voc_are_no_photographs(place):
  exports.labelmap(place.photos)
  (place.photos / 'SegmentationObject').mkdir()
  (place.photos / 'SegmentationObject/a.png').write_bytes(exports.png(exports.truth()))
  assert place.join(name='photos').images == {'linked': 1}
  assert [path.name for path in (place.data / 'train/images').iterdir()] == ['a.jpg']


def test_labels_of_a_tool_beside_our_photographs_are_no_photographs(place):
  """LabelMe writes its files beside the photographs, which may be those of our folder."""
  place.join(coco('road', 'car'))
  place.photos = place.data / 'train/images'
  (place.photos / 'a.json').write_text(json.dumps(exports.labelme() | {'imagePath': 'a.jpg'}))
  assert place.join(name='mydata/train/images', task='second').images == {'already there': 1}
  with pytest.raises(
    UserError, match='a.json: is not one of .*, import them with --mode=import, then move it elsewhere'
  ):
    folder.open_folder(str(place.data), 'train')


@pytest.mark.parametrize('place_of_labels', ['train/labels/depth', 'train/predicted/depth', 'labels/depth'])
def test_labels_of_our_folder_are_no_photographs(place_of_labels, place):
  place.join(coco('road'))
  exports.photo(place.data / place_of_labels, 'a.png')
  place.photos = place.data
  assert place.join(coco('road'), task='second').images == {'already there': 1}
  place.photos = place.data / place_of_labels
  with pytest.raises(UserError, match='depth: holds only labels; give the folder of the photographs'):
    place.join(coco('road'), task='third')


def test_a_date_before_a_name_is_part_of_it(place):
  """Such a name is no upload of a.jpg to Label Studio, and only one prefix is taken off."""
  for date in ('20240131', '31012024', '01311999'):
    with pytest.raises(UserError, match=f'none of its images is among --images, for instance {date}-a.jpg'):
      place.join(coco('road', image=f'{date}-a.jpg'))
  with pytest.raises(UserError, match='none of its images is among --images'):
    place.join(coco('road', image='0a1b2c3d-' * 3000 + 'a.jpg'))
  assert place.join(coco('road', image='20244031-a.jpg')).missing == []


def test_a_mask_without_a_name_is_that_of_no_photograph(place):
  (place.root / 'a').mkdir()
  for name in ('a', '_mask'):
    (place.root / f'a/{name}.png').write_bytes(exports.png(exports.truth()))
  colors = place.root / 'colors.json'
  colors.write_text('{"road": 0, "car": 1, "ignore": 255}')
  assert place.join(name='a', colors=str(colors)).missing == ['a/_mask']


def test_our_folder_may_lie_among_the_photographs(place):
  place.data = place.photos / 'mydata'
  place.join(coco('road'))
  assert place.join(coco('road'), task='second').images == {'already there': 1}


def test_a_renamed_copy_of_a_photograph_is_the_same_photograph(place):
  place.join(coco('road'))
  copy = place.root / 'tool' / 'task_1.jpg'
  copy.parent.mkdir()
  copy.write_bytes((place.photos / 'a.jpg').read_bytes())
  place.photos = copy.parent
  place.join(coco('road', image='task_1.jpg'), task='second')
  assert (place.data / 'train/labels/second/a.png').exists()
  assert {path.name for path in (place.data / 'train/images').iterdir()} == {'a.jpg'}


@pytest.mark.parametrize('name', ['A.JPG', 'a.png', 'x\\y\\a.jpg', 'file:///a.jpg', 'a'])
def test_a_name_with_another_suffix_or_case_matches(name, place):
  place.join(coco('road', 'car', image=name))
  np.testing.assert_array_equal(place.label(), exports.truth())


def test_another_photograph_of_a_name_that_is_there_is_refused(place):
  place.join(exports.coco())
  (place.photos / 'a.jpg').unlink()  # the data set's is the same file
  exports.photo(place.photos, seed=5)
  with pytest.raises(
    UserError, match=r'photos/a.jpg: .*images/a.jpg has that name and is another photograph; give --images'
  ):
    place.join(exports.coco(), task='second')


def test_an_image_labelled_twice_is_refused(place):
  content = exports.coco()
  content['images'].append(content['images'][0] | {'id': 6})
  content['annotations'].append(content['annotations'][0] | {'image_id': 6})
  with pytest.raises(UserError, match='a is also labelled by'):
    place.join(content)


def test_no_image_among_the_photographs(place):
  with pytest.raises(UserError, match='none of its images is among --images, for instance b.jpg; nothing was written'):
    place.join(coco('road', 'car', image='b.jpg'))
