"""What Label Studio has of its own."""

import base64
import io

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.imports import find
from tests import exports
from tests.exports import draw, write_json


@pytest.mark.parametrize(
  ('address', 'name'),
  [
    ('/data/upload/3/0a1b2c3d-my%20photo.jpg', '/data/upload/3/0a1b2c3d-my photo.jpg'),
    ('/data/local-files/?d=sets/cam1/x.png', 'sets/cam1/x.png'),
    ('s3://bucket/a/x.JPG', 's3://bucket/a/x.JPG'),
  ],
)
def test_names_in_label_studio(address, name, tmp_path):
  content = exports.label_studio()
  content[0]['data'] = {'image': address, 'text': 'none'}
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    assert name in export.images[0].names


def test_the_last_of_several_annotations_counts(tmp_path):
  content = exports.label_studio()
  last = content[0]['annotations'][0]
  content[0]['annotations'] = [{'result': []}, last, last | {'was_cancelled': True, 'result': []}]
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
    assert export.notes['images with several annotations, of which the last is read'] == 1


def test_an_empty_annotation_of_label_studio_was_looked_at(tmp_path):
  """It shows none of the classes; an image without an annotation, or with one for another purpose, is unlabelled."""
  choice = {'type': 'choices', 'value': {'choices': ['day']}}
  annotations = [[{'result': []}], [], [{'result': [], 'was_cancelled': True}], [{'result': [choice]}]]
  content = [exports.label_studio()[0] | {'annotations': given} for given in annotations]
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    assert [image.label is not None for image in export.images] == [True, False, False, False]
    np.testing.assert_array_equal(draw(export, rest=7), np.full((exports.HEIGHT, exports.WIDTH), 7))


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_bitmasks_of_label_studio_are_what_is_not_transparent(mode, tmp_path):
  """Black on transparent."""
  car = exports.truth(rest=0) == 1
  if mode == 'P':
    image, options = Image.fromarray(car.astype(np.uint8)).convert('P'), {'transparency': 0}
  else:
    image, options = Image.fromarray(np.where(car, 255, 0).astype(np.uint8)), {}
    image = Image.merge(mode, [Image.new('L', image.size)] * (len(mode) - 1) + [image])
  stream = io.BytesIO()
  image.save(stream, 'PNG', **options)
  address = 'data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode()
  content = exports.label_studio()
  result = content[0]['annotations'][0]['result'][1]
  result |= {'type': 'bitmasklabels', 'value': {'imageDataURL': address, 'bitmasklabels': ['car']}}
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    np.testing.assert_array_equal(draw(export), exports.truth())
  result |= {'original_width': exports.WIDTH + 1}
  content[0]['annotations'][0]['result'] = [result]
  with find.opened(write_json(tmp_path / 'x.json', content)) as export:
    with pytest.raises(UserError, match='its mask cannot be read .it is smaller than the image'):
      export.images[0].label.draw((exports.HEIGHT, exports.WIDTH + 1), {'car': 0}, 255, export.notes)
  result['value']['imageDataURL'] = 'data:image/png;base64,?'
  path = write_json(tmp_path / 'x.json', content)
  with pytest.raises(UserError, match='"imageDataURL" is not base64'), find.opened(path):
    pass


def test_masks_that_label_studio_names_by_its_own_numbers_are_refused(tmp_path):
  (tmp_path / 'task-1-annotation-100-by-1-tag-car-0.png').write_bytes(exports.png(exports.truth()))
  with pytest.raises(UserError, match='do not name their photographs; export the project as JSON'):
    with find.opened(str(tmp_path)):
      pass
