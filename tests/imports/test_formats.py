"""Every format against the same drawing, and what each has of its own."""

import json
import pathlib
import re

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.imports import find, masks
from tests import exports
from tests.exports import draw, write_json


@pytest.mark.parametrize('kind', exports.KINDS)
def test_every_format_gives_the_same_label(kind, tmp_path):
  with find.opened(str(exports.write(tmp_path / 'export', kind))) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
    assert {'road', 'car'} <= set(export.classes)
    assert export.images[0].size in (None, (exports.WIDTH, exports.HEIGHT))
    assert export.images[0].split == 'train'


@pytest.mark.parametrize(
  ('kind', 'what'), [('labelme', 'boxes'), ('label studio', 'boxes'), ('cvat', 'boxes'), ('yolo', 'boxes')]
)
def test_boxes_are_no_masks(kind, what, tmp_path):
  with find.opened(str(exports.write(tmp_path / 'export', kind))) as export:
    assert [(name.split(',')[0], n) for name, n in export.notes.items()] == [(what, 1)]


@pytest.mark.parametrize('kind', ['coco', 'labelme', 'cvat', 'yolo'])
def test_an_image_with_boxes_is_not_empty(kind, tmp_path):
  """One without anything may be."""
  exports.write(tmp_path / 'boxes', kind)
  exports.write(tmp_path / 'nothing', kind)
  if kind == 'coco':
    box = {'image_id': 5, 'category_id': 3, 'bbox': [1, 1, 3, 3]}
    write_json(tmp_path / 'boxes/instances.json', exports.coco(annotations=[box]))
    write_json(tmp_path / 'nothing/instances.json', exports.coco(annotations=[]))
  elif kind == 'labelme':
    name = next((tmp_path / 'boxes').iterdir()).name
    write_json(tmp_path / 'boxes' / name, exports.labelme() | {'shapes': exports.labelme()['shapes'][2:]})
    write_json(tmp_path / 'nothing' / name, exports.labelme() | {'shapes': []})
  elif kind == 'cvat':
    name = next((tmp_path / 'boxes').iterdir()).name
    head, *_, box, tail = re.split(r'(?=<mask|<polygon|<box|</image>)', exports.cvat())
    (tmp_path / 'boxes' / name).write_text(head + box + tail)
    (tmp_path / 'nothing' / name).write_text(head.rstrip() + tail)
  else:
    (tmp_path / 'boxes/labels/train/a.txt').write_text('1 0.5 0.5 0.1 0.1\n')
    (tmp_path / 'nothing/labels/train/a.txt').write_text('\n')
  for name in ('boxes', 'nothing'):
    with find.opened(str(tmp_path / name)) as export:
      assert export.images[0].label is None
      assert export.images[0].may_be_empty == (name == 'nothing')


def test_pixels_that_are_not_drawn_are_the_rest(tmp_path):
  with find.opened(str(exports.write(tmp_path / 'export', 'coco'))) as export:
    np.testing.assert_array_equal(draw(export, rest=7), exports.truth(rest=7))


def test_nyu_has_photographs_depths_and_labels(tmp_path):
  pytest.importorskip('h5py')
  exports.nyu(tmp_path / 'nyu.mat')
  with find.opened(str(tmp_path / 'nyu.mat')) as export:
    assert export.classes == ['road', 'car']
    assert len(export.images) == 2
    np.testing.assert_array_equal(draw(export, 1), exports.truth())
    photographs = np.random.default_rng(0).integers(0, 255, (2, 3, exports.WIDTH, exports.HEIGHT), np.uint8)
    np.testing.assert_array_equal(export.images[1].pixels(), photographs[1].transpose(2, 1, 0))
    np.testing.assert_array_equal(export.images[1].depth(), np.full((exports.HEIGHT, exports.WIDTH), 2.5))


def test_nyu_takes_the_classes_with_the_most_pixels(tmp_path):
  pytest.importorskip('h5py')
  exports.nyu(tmp_path / 'nyu.mat', names=['road', 'car', *(f'thing{i}' for i in range(98))])
  with find.opened(str(tmp_path / 'nyu.mat')) as export:
    assert export.classes[:2] == ['road', 'car']
    assert len(export.classes) == 40
    assert list(export.notes.values()) == [60]
  with find.opened(str(tmp_path / 'nyu.mat'), classes=['thing3']) as export:
    assert len(export.classes) == 100


def test_crowds_of_coco_are_unlabelled(tmp_path):
  content = exports.coco_runs()
  content['annotations'][0]['iscrowd'] = 1
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    np.testing.assert_array_equal(draw(export, rest=7), exports.truth(car=255, rest=7))


def test_the_masks_of_cvat_are_no_crowds(tmp_path):
  """CVAT exports what its brush draws with iscrowd 1, and gives every annotation this attribute."""
  content = exports.coco_runs()
  content['annotations'][0] |= {'iscrowd': 1, 'attributes': {'occluded': False}}
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())


def test_two_categories_of_one_name_are_one_class(tmp_path):
  content = exports.coco()
  content['categories'] = [{'id': 3, 'name': 'road'}, {'id': 9, 'name': ' road '}]
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    assert export.classes == ['road']


@pytest.mark.parametrize(
  ('name', 'split'), [('instances_val2017', 'val'), ('instances_train2017', 'train'), ('valet', 'train')]
)
def test_the_split_of_coco_is_in_the_files_name(name, split, tmp_path):
  with find.opened(write_json(tmp_path / f'{name}.json', exports.coco())) as export:
    assert export.images[0].split == split


def test_shapes_of_labelme_to_ignore_are_unlabelled(tmp_path):
  content = exports.labelme()
  content['shapes'][1]['label'] = '__ignore__'
  with find.opened(write_json(tmp_path / 'a.json', content)) as export:
    assert export.classes == ['road']
    np.testing.assert_array_equal(draw(export, rest=7), exports.truth(car=255, rest=7))


@pytest.mark.parametrize('kind', ['coco', 'panoptic', 'label studio', 'cvat', 'yolo', 'labelmap'])
def test_a_class_called_ignore_is_unlabelled(kind, tmp_path):
  exports.write(tmp_path / 'export', kind)
  for path in (tmp_path / 'export').rglob('*.*'):
    if path.suffix in ('.json', '.xml', '.yaml', '.txt'):
      text = path.read_text().replace('ignore:', 'other:').replace('car:', 'ignore:')
      for car in ('"car"', '>car<', '1: car'):
        text = text.replace(car, car.replace('car', 'Ignore'))
      path.write_text(text)
  with find.opened(str(tmp_path / 'export')) as export:
    assert not {'car', 'ignore', 'Ignore'} & set(export.classes)
    label = export.images[0].label.draw((exports.HEIGHT, exports.WIDTH), {'road': 0}, 7, export.notes)
    np.testing.assert_array_equal(label[8:], exports.truth(car=255)[8:])


def test_a_circle_of_labelme(tmp_path):
  content = exports.labelme()
  content['shapes'] = [{'label': 'car', 'points': [[12, 8], [12, 13]], 'shape_type': 'circle'}]
  x, y = np.meshgrid(np.arange(exports.WIDTH) + 0.5, np.arange(exports.HEIGHT) + 0.5)
  with find.opened(write_json(tmp_path / 'a.json', content)) as export:
    np.testing.assert_array_equal(draw(export) == 1, (x - 12) ** 2 + (y - 8) ** 2 < 25)


def test_a_folder_of_labelme_files_has_the_classes_of_all(tmp_path):
  for name, label in (('a', 'tree'), ('b', 'car')):
    content = exports.labelme()
    content['shapes'] = [content['shapes'][0] | {'label': label}]
    write_json(tmp_path / f'{name}.json', content)
  (tmp_path / 'notes.json').write_text('{"more": 1}')
  with find.opened(str(tmp_path)) as export:
    assert export.classes == ['car', 'tree']
    assert len(export.images) == 2
    assert (
      list(export.notes) == ['boxes, lines and points, left out', 'files of another kind, left out (notes.json)'][1:]
    )


@pytest.mark.parametrize(('folder', 'split'), [('val', 'val'), ('valid/patient4', 'val'), ('a/b', 'train')])
def test_the_split_of_labelme_is_a_folder_of_the_export(folder, split, tmp_path):
  (tmp_path / 'test/mine' / folder).mkdir(parents=True)
  write_json(tmp_path / 'test/mine' / folder / 'a.json', exports.labelme())
  with find.opened(str(tmp_path / 'test/mine')) as export:
    assert export.images[0].split == split


def test_a_higher_z_order_of_cvat_covers(tmp_path):
  (tmp_path / 'x.xml').write_text(exports.cvat().replace('z_order="0"></polygon', 'z_order="2"></polygon'))
  with find.opened(str(tmp_path / 'x.xml')) as export:
    np.testing.assert_array_equal(draw(export), exports.truth(car=0))


def test_the_subset_of_cvat_is_the_split(tmp_path):
  (tmp_path / 'x.xml').write_text(exports.cvat().replace('name="a.jpg"', 'name="a.jpg" subset="Validation"'))
  with find.opened(str(tmp_path / 'x.xml')) as export:
    assert export.images[0].split == 'val'


def test_the_palette_and_lists_of_voc(tmp_path):
  """Stored as ids, with VOC's palette; ids 7 and 2 are car and bicycle."""
  colors = [color for color, name in sorted(masks.voc_colors().items(), key=lambda pair: _voc_id(pair[1]))]
  palette = [channel for color in colors[:21] for channel in color] + [0] * 3 * 234 + list(masks.VOC_BORDER)
  exports.masks(tmp_path / 'VOC2012', exports.truth(road=2, car=7), palette)
  lists = tmp_path / 'VOC2012' / 'ImageSets' / 'Segmentation'
  lists.mkdir(parents=True)
  (lists / 'val.txt').write_text('a\n')
  with find.opened(str(tmp_path)) as export:
    plane = export.images[0].label.draw((exports.HEIGHT, exports.WIDTH), {'bicycle': 0, 'car': 1}, 9, export.notes)
    np.testing.assert_array_equal(plane, exports.truth())
    assert export.classes == masks.VOC
    assert export.images[0].split == 'val'


def _voc_id(name: str | None) -> int:
  return 255 if name is None else masks.VOC.index(name)


def test_the_colors_of_voc_are_the_published_ones():
  table = masks.voc_colors()
  assert table[0, 0, 0] == 'background'
  assert table[128, 0, 0] == 'aeroplane'
  assert table[192, 128, 128] == 'person'
  assert table[0, 64, 128] == 'tvmonitor'


@pytest.mark.parametrize(
  ('array', 'colors'),
  [
    (exports.truth(road=3, car=9, rest=0), {'road': 3, 'car': 9, 'ignore': 0}),
    (exports.truth(road=3, car=9, rest=0), {'road': [3, 3, 3], 'car': [9, 9, 9], 'ignore': [0, 0, 0]}),
    (
      np.stack([exports.truth(road=3, car=9, rest=0)] * 3, -1),
      {'road': [3, 3, 3], 'car': [[9, 9, 9], [8, 8, 8]], 'ignore': [0, 0, 0]},
    ),
  ],
)
def test_masks_with_colors_or_ids(array, colors, tmp_path):
  (tmp_path / 'masks').mkdir()
  (tmp_path / 'masks' / 'a_mask.png').write_bytes(exports.png(array))
  with find.opened(str(tmp_path / 'masks'), write_json(tmp_path / 'colors.json', colors)) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
    assert export.images[0].names[1].endswith('/masks/a')


def test_a_color_without_a_name_is_refused(tmp_path):
  (tmp_path / 'masks').mkdir()
  (tmp_path / 'masks' / 'a.png').write_bytes(exports.png(exports.truth(road=3, car=9, rest=0)))
  with find.opened(str(tmp_path / 'masks'), write_json(tmp_path / 'c.json', {'road': 3, 'ignore': 0})) as export:
    with pytest.raises(UserError, match=r'a.png: 6.25% of the pixels have id 9, which .*c.json does not name; add'):
      draw(export)


def test_train_ids_of_cityscapes_are_read_where_there_are_no_label_ids(tmp_path):
  (tmp_path / 'a_gtFine_labelTrainIds.png').write_bytes(exports.png(exports.truth(road=0, car=13)))
  with find.opened(str(tmp_path)) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
    assert export.images[0].names[0] == 'a_leftImg8bit'
    assert len(export.classes) == 19


def test_polygons_of_cityscapes_with_other_names(tmp_path):
  exports.cityscapes(tmp_path, 'polygons')
  path = next(tmp_path.rglob('*.json'))
  path.write_text(path.read_text().replace('cargroup', 'tractor'))
  with find.opened(str(tmp_path)) as export:
    assert export.classes == ['road', 'tractor']


def test_a_zip_is_unpacked_for_the_time(tmp_path):
  from tests.archives import Item, zipped

  labels = exports.write(tmp_path / 'export', 'labelmap')
  items = [Item(str(path.relative_to(labels)), path.read_bytes()) for path in labels.rglob('*') if path.is_file()]
  (tmp_path / 'export.zip').write_bytes(zipped(items))
  with find.opened(str(tmp_path / 'export.zip')) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
    path = export.images[0].label.path
  assert not path.exists()


# --- Refusals --------------------------------------------------------------------------------

BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
TEXTS = {
    'x.xml': [
      (BOMB, 'it has a <!DOCTYPE>'), ('<annotations>', 'no element found'), ('<a>' * 200, 'more than 100 levels'),
      ('<annotations><track/></annotations>', 'CVAT for video'), (exports.cvat().replace('0, 24', '0, 23'), 'add up'),
      (exports.cvat().replace('left="4"', 'left="nan"'), "left is 'nan'"),
      (exports.cvat().replace('width="24"', ''), 'width is missing'),
      (exports.cvat().replace('0.00,8.00', 'nan,1'), 'pairs of finite'),
      (exports.cvat().replace('0.00,8.00', '1,2,3'), 'pairs of finite'),
      (exports.cvat().replace('label="car"', 'label="&#10;"'), 'cannot name a class'),
    ],
    'x.json': [
      ('[1', 'not JSON'), ('{}', 'is none of these'), ('[]', 'is none of these'), ('[' * 100_000, 'not JSON'),
    ],
    'x.txt': [('', 'looked for COCO')],
    'x.mat': [('MATLAB 5.0', 'version 7.3|pip install h5py')],
}  # fmt: skip


@pytest.mark.parametrize(('name', 'text', 'reason'), [(name, *case) for name, cases in TEXTS.items() for case in cases])
def test_what_cannot_be_read_is_refused(name, text, reason, tmp_path):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=reason) as caught, find.opened(str(tmp_path / name)) as export:
    draw(export)
  assert name in str(caught.value)


def _changed(content, path: str, value):
  """The content with the value at a path like 'images.0.width'; `...` removes it."""
  *holders, last = [int(part) if part.isdecimal() else part for part in path.split('.')]
  place = content
  for key in holders:
    place = place[key]
  if value is ...:
    del place[last]
  else:
    place[last] = value
  return content


FIELDS = [
    ('coco', 'images.0.width', 'x', '"images"[0]: "width" is \'x\' and must be a whole number'),
    ('coco', 'images.0.width', True, '"width" is True and'), ('coco', 'images.0.width', 0, '"width" is 0 and must be at least 1'),
    ('coco', 'images.0.width', ..., '"width" is missing and must be'), ('coco', 'images.0.file_name', 3, '"file_name" is 3'),
    ('coco', 'images', {}, '"images" is {} and must be a list'), ('coco', 'images.0', 1, '"images"[0] is 1 and must be an object'),
    ('coco', 'categories.0.name', ' \u200b', 'cannot name a class'), ('coco', 'categories.0.name', 'x' * 65, 'has 65 characters'),
    ('coco', 'annotations.0.category_id', 4, '"category_id" 4 is not in'), ('coco', 'annotations.0.image_id', [], '"image_id" is []'),
    ('coco', 'annotations.0.segmentation', [[1, 2, float('nan'), 4, 5, 6]], 'pairs of finite numbers'),
    ('coco', 'annotations.0.segmentation', [[1, 2, 10**400, 4]], 'pairs of finite numbers'),
    ('coco', 'annotations.0.segmentation', 'xyz', 'must be an object'), ('coco', 'annotations.0.segmentation', [['a']], 'pairs of finite'),
    ('coco runs', 'annotations.0.segmentation.size', [8, 8], 'its image has [16, 24]'),
    ('coco runs', 'annotations.0.segmentation.counts', [1, 2], 'do not add up to 24x16'),
    ('coco runs', 'annotations.0.segmentation.counts', [1, None], '"counts"[1] is None'),
    ('labelme', 'shapes.0.label', None, '"label" is None'), ('labelme', 'shapes.1.mask', '!', 'not base64'),
    ('labelme', 'shapes.1.mask', 'AAAA', 'its mask cannot be read'), ('labelme', 'shapes.1.points', [], '"points" is empty'),
    ('labelme', 'shapes.1.points', [[20, 9], [25, 12]], 'reaches out of the image'),
    ('label studio', '0.annotations.0.result.1.value.rle', [1, 2, 300], 'from 0 to 255'),
    ('label studio', '0.annotations.0.result.1.value.rle', [0] * 20, 'has 0 numbers, its image needs 1536'),
    ('label studio', '0.annotations.0.result.1.original_width', 25, 'has 25x16 pixels, before 24x16'),
    ('label studio', '0.annotations.0.result.0.image_rotation', 90, '"image_rotation" is 90'),
    ('label studio', '0.data', {'text': 'x'}, 'names no image'),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'path', 'value', 'reason'), FIELDS)
def test_a_wrong_field_is_named(kind, path, value, reason, tmp_path):
  file = exports.write(tmp_path / 'export', kind)
  file.write_text(json.dumps(_changed(json.loads(file.read_text()), path, value)))
  with pytest.raises(UserError) as caught, find.opened(str(file)) as export:
    draw(export)
  assert reason in str(caught.value)
  assert str(caught.value).startswith(f'{file}: ')


@pytest.mark.parametrize(
  ('file', 'text', 'reason'),
  [
    ('labels/train/a.txt', '2 0 0 1 0 1 1', "line 1: '2' is not the number of a class in"),
    ('labels/train/a.txt', '1 0 0 1 0 x 1', 'line 1 must be pairs of finite numbers'),
    ('labels/train/a.txt', '1 0 0 1 0 1 inf', 'line 1 must be pairs of finite numbers'),
    ('data.yaml', 'names: [road, {}]', '"names"[1] is {} and must be a text'),
    ('data.yaml', 'names: 3', '"names" is 3 and must be an object'),
    ('data.yaml', 'a: &a [*a]', '"names" is missing'),
    ('data.yaml', '[' * 5000, 'cannot be read'),
    ('data.yaml', '!!python/object/apply:os.system [ls]', 'cannot be read'),
    ('classes.txt', 'road\ncar\n', 'there is both'),
  ],
)
def test_wrong_files_of_yolo_are_named(file, text, reason, tmp_path):
  exports.write(tmp_path / 'export', 'yolo')
  (tmp_path / 'export' / file).write_text(text)
  with pytest.raises(UserError) as caught, find.opened(str(tmp_path / 'export')) as export:
    draw(export)
  assert reason in str(caught.value)
  assert file in str(caught.value)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    ({'road': [1, 2]}, 'is neither'), ({'road': -1}, 'is neither'), ({'road': [0, 0, 256]}, 'is neither'), ({}, 'names no class'),
    ({'road': 1, 'car': 1}, 'is already that of road'), ([], 'must be an object'), ({'road': []}, 'is neither'), ({'road': None}, 'is neither'),
  ],
)  # fmt: skip
def test_wrong_colors_are_named(content, reason, tmp_path):
  with pytest.raises(UserError, match=f'colors.json.*{reason}'):
    masks.read_colors(pathlib.Path(write_json(tmp_path / 'colors.json', content)))


def test_two_formats_in_a_folder_are_ambiguous(tmp_path):
  exports.write(tmp_path / 'export', 'coco')
  exports.cityscapes(tmp_path / 'export', 'ids')
  exports.yolo(tmp_path / 'export')
  with pytest.raises(UserError, match='could be YOLO or Cityscapes; give'), find.opened(str(tmp_path / 'export')):
    pass
  exports.write(tmp_path / 'texts', 'coco')
  (tmp_path / 'texts' / 'x.xml').write_text(exports.cvat())
  with pytest.raises(UserError, match='could be COCO or CVAT; give'), find.opened(str(tmp_path / 'texts')):
    pass


def test_masks_without_names_are_refused(tmp_path):
  Image.fromarray(exports.truth()).save(tmp_path / 'a.png')
  with (
    pytest.raises(UserError, match='masks need the names of their classes: --colors=FILE'),
    find.opened(str(tmp_path)),
  ):
    pass
