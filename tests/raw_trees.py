"""Small raw trees in the true file formats of the benchmarks, for tests."""

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import scipy.io

WALL, SKY, UNKNOWN, TVMONITOR = 440, 360, 431, 427  # Context classes; NYUv2 has the first


def config(name, folder, raw_data, **options):
  """Of a data set below `folder`, prepared from `raw_data` in this process."""
  fields = dict(name=name, dir=str(folder / 'tfds'), raw=str(raw_data), size=(4, 6), labels='full', workers=1)
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


def pascal_tree(folder):
  """To train 2008_b (everything, 6x8), 2008_a (no person, 5x7) and three more; to validate 2008_c (6x8)."""
  root = folder / 'PASCAL_MT'
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
  plain = grey(6, 8, 1)
  write_pascal(root, '2008_c', colour(6, 8, 9), label_map, [armless, dog], normals, saliency, context=plain)
  things = [thing(15, [('torso', np.s_[:])], (5, 7))]
  others = ['2007_z', '2010_x', '2009_y']
  for id in others:
    write_pascal(root, id, colour(5, 7, 9), flat, things, faint, grey(5, 7, 0), voc=grey(5, 7, 0))
  write_lists(root, ['2008_b', '2008_a', *others], ['2008_c'])
  return root


def write_mtan(root, folder, split, id, image, label, depth, normal=None):
  arrays = {'image': image, folder: label, 'depth': depth} | ({} if normal is None else {'normal': normal})
  for name, array in arrays.items():
    (root / split / name).mkdir(parents=True, exist_ok=True)
    np.save(root / split / name / f'{id}.npy', array)


def nyud_tree(folder):
  """Eleven images to train (so that 10 sorts after 2), one to validate; 4x6 pixels, image i is i/20 grey."""
  root = folder / 'nyuv2'
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
