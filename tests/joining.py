"""A folder to import into, and a COCO file."""

import json
import pathlib

import numpy as np
from PIL import Image

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
