"""What an import writes, alone and joined to what is there."""

import json
import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import folder
from dmtl_jax.imports import find, write
from dmtl_jax.imports.classes import Options
from dmtl_jax.jobs import import_labels
from tests import exports


class Place:
  """A folder with photographs, exports and the data set they become."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.photos = root / 'photos'
    self.data = root / 'mydata'
    exports.photo(self.photos)

  def join(self, content=None, name='x.json', colors=None, **options) -> write.Summary:
    """Imports a COCO file, or the file or folder of that name if no content is given."""
    if content is not None:
      (self.root / name).write_text(json.dumps(content))
    with find.opened(str(self.root / name), colors) as export:
      holds_photos = all(image.pixels for image in export.images)
      photos = import_labels.open_photos(export, None if holds_photos else str(self.photos), self.data)
      return write.join(self.data, export, photos, Options(**options), name)

  def label(self, task='semseg', name='a.png', split='train') -> np.ndarray:
    return np.asarray(Image.open(self.data / split / 'labels' / task / name))

  def tasks(self) -> dict:
    return json.loads((self.data / 'dataset.json').read_text())['tasks']

  def files(self) -> dict[str, bytes]:
    """All files of the data set, hidden ones too."""
    return {str(path.relative_to(self.data)): path.read_bytes() for path in self.data.rglob('*') if path.is_file()}


@pytest.fixture
def place(tmp_path):
  return Place(tmp_path)


def coco(
  *names: str, image: str = 'a.jpg', size=(exports.WIDTH, exports.HEIGHT), rings=(exports.ROAD, exports.CAR)
) -> dict:
  """A COCO file with a region for each class."""
  content = exports.coco()
  content['images'][0] |= {'file_name': image, 'width': size[0], 'height': size[1]}
  content['categories'] = [{'id': i, 'name': name} for i, name in enumerate(names)]
  content['annotations'] = [
    {'image_id': 5, 'category_id': i, 'segmentation': [exports.flat(ring)]} for i, ring in zip(range(len(names)), rings)
  ]
  return content


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
  assert summary.missing == ['../../etc/passwd']
  assert set(place.files()) == {'dataset.json', 'train/images/a.jpg', 'train/images/b.jpg', 'train/labels/semseg/a.png'}


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


def test_a_label_is_not_listed_anew_in_silence(place):
  place.join(exports.coco(), annotated=('all',))
  with pytest.raises(UserError, match=r'a.png: is there with other annotated classes; choose'):
    place.join(exports.coco(), annotated=('road',))
  place.join(exports.coco(), force=True)
  assert not (place.data / 'train/labels/semseg/annotated.json').exists()


def test_chosen_classes_alone_are_taken_and_others_cover_them(place):
  place.join(exports.coco(), classes=('road',), background='other')
  np.testing.assert_array_equal(place.label(), exports.truth(road=1, car=0, rest=0))


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


# --- Names -----------------------------------------------------------------------------------


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


def test_masks_among_the_photographs_are_no_photographs(place):
  (place.photos / 'masks').mkdir()
  (place.photos / 'masks/a.png').write_bytes(exports.png(exports.truth()))
  colors = place.root / 'colors.json'
  colors.write_text('{"road": 0, "car": 1, "ignore": 255}')
  assert place.join(name='photos/masks', colors=str(colors)).images == {'linked': 1}
  assert [path.name for path in (place.data / 'train/images').iterdir()] == ['a.jpg']
  place.photos = place.photos / 'masks'
  with pytest.raises(UserError, match=r'photos/masks: holds only the masks of --from; give the folder of the photogr'):
    place.join(name='photos/masks', colors=str(colors), task='second')


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
