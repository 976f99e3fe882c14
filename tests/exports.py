"""The same drawing in every format that is imported: a road across the lower half of an image, and a car on it."""

import base64
import io
import json
import pathlib

import numpy as np
from PIL import Image

from dmtl_jax.imports.export import Export

WIDTH, HEIGHT = 24, 16
IDS = {'road': 0, 'car': 1}
ROAD = [[0, 8], [24, 8], [24, 16], [0, 16]]
CAR = [[4, 9], [10, 9], [10, 13], [4, 13]]
# Label Studio's own encoder on a mask of 9x6 pixels: rows 1 to 3 of columns 2 to 6, and row 4 of column 8.
BRUSH = [
    0, 0, 0, 216, 57, 27, 254, 43, 0, 194, 127, 247, 192, 48, 159, 253, 240, 12, 39, 255, 137, 192, 35, 255, 196, 96, 0,
]  # fmt: skip


def truth(road: int = 0, car: int = 1, rest: int = 255) -> np.ndarray:
  plane = np.full((HEIGHT, WIDTH), rest, np.uint8)
  plane[8:] = road
  plane[9:13, 4:10] = car
  return plane


def photo(folder: pathlib.Path, name: str = 'a.jpg', size=(WIDTH, HEIGHT), orientation: int = 1, seed: int = 0):
  """Writes a photograph of noise, with an EXIF orientation."""
  folder.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(pixels).save(folder / name, exif=exif)
  return folder / name


def png(array: np.ndarray, palette: list[int] | None = None) -> bytes:
  image = Image.fromarray(array)
  if palette:
    image.putpalette(palette)
  stream = io.BytesIO()
  image.save(stream, 'PNG')
  return stream.getvalue()


def flat(ring) -> list[float]:
  return [float(number) for point in ring for number in point]


def pack_brush(mask: np.ndarray) -> list[int]:
  """Label Studio's format of a mask [H, W] of 0 and 255: every pixel as a block of four equal words."""
  bits = f'{mask.size * 4:032b}{7:05b}' + ''.join(f'{size - 1:04b}' for size in (3, 4, 8, 16))
  for value in mask.ravel().tolist():
    bits += f'1{0:02b}{3:03b}{value:08b}'
  bits += '0' * (-len(bits) % 8)
  return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def coco(**more) -> dict:
  """The car comes first: smaller regions cover larger ones."""
  road, car = ({'image_id': 5, 'category_id': k, 'iscrowd': 0} for k in (3, 9))
  return {
    'images': [{'id': 5, 'file_name': 'a.jpg', 'width': WIDTH, 'height': HEIGHT}],
    'categories': [{'id': 3, 'name': 'road'}, {'id': 9, 'name': 'car'}],
    'annotations': [car | {'segmentation': [flat(CAR)]}, road | {'segmentation': [flat(ROAD)]}],
  } | more


def coco_runs() -> dict:
  """The road as runs by columns, compressed (by pycocotools), and the car as plain ones."""
  content = coco()
  inside = (truth(rest=0) == 1).T.ravel()
  ends = np.flatnonzero(np.diff(inside)) + 1
  counts = np.diff([0, *ends, inside.size]).tolist()
  content['annotations'][0]['segmentation'] = {'size': [HEIGHT, WIDTH], 'counts': counts}
  content['annotations'][1]['segmentation'] = {'size': [HEIGHT, WIDTH], 'counts': COMPRESSED_ROAD}
  return content


COMPRESSED_ROAD = '888' + '0' * 45  # by pycocotools


def labelme() -> dict:
  shapes = [{'label': 'road', 'points': ROAD, 'shape_type': 'polygon'}]
  mask = np.ones((4, 6), np.uint8) * 255
  text = base64.b64encode(png(mask)).decode()
  shapes.append({'label': 'car', 'points': [[4, 9], [9, 12]], 'shape_type': 'mask', 'mask': text})
  shapes.append({'label': 'road', 'points': [[0, 0], [3, 3]], 'shape_type': 'rectangle'})
  return {
    'version': '5.5.0',
    'shapes': shapes,
    'imagePath': '..\\pictures\\a.jpg',
    'imageWidth': WIDTH,
    'imageHeight': HEIGHT,
  }


def cvat() -> str:
  """The car's z_order lifts it over the road that follows; its mask is stored by rows."""
  points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in ROAD)
  labels = ''.join(f'<label><name>{name}</name><type>any</type></label>' for name in ('road', 'car'))
  return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>
<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">
<mask label="car" source="manual" occluded="0" rle="0, 24" left="4" top="9" width="6" height="4" z_order="1"></mask>
<polygon label="road" source="manual" occluded="0" points="{points}" z_order="0"></polygon>
<box label="car" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0"></box>
</image></annotations>"""


def label_studio() -> list:
  size = {'original_width': WIDTH, 'original_height': HEIGHT, 'image_rotation': 0}
  percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ROAD]
  car = np.where(truth(rest=0) == 1, 255, 0)
  result = [
    size | {'type': 'polygonlabels', 'value': {'points': percent, 'closed': True, 'polygonlabels': ['road']}},
    size | {'type': 'brushlabels', 'value': {'format': 'rle', 'rle': pack_brush(car), 'brushlabels': ['car']}},
    size | {'type': 'rectanglelabels', 'value': {'x': 1, 'y': 1, 'width': 9, 'height': 9, 'rectanglelabels': ['car']}},
    {'type': 'choices', 'value': {'choices': ['day']}},
  ]
  return [
    {'id': 1, 'data': {'image': '/data/upload/1/0a1b2c3d-a.jpg'}, 'annotations': [{'id': 1, 'result': result}]},
  ]


def yolo(folder: pathlib.Path):
  """The car comes first: smaller regions cover larger ones."""
  (folder / 'labels' / 'train').mkdir(parents=True)
  (folder / 'data.yaml').write_text('path: .\ntrain: images/train\nnames:\n  0: road\n  1: car\n')
  lines = [
    ' '.join([str(k), *(f'{x / WIDTH:.6f} {y / HEIGHT:.6f}' for x, y in ring)]) for k, ring in ((1, CAR), (0, ROAD))
  ]
  (folder / 'labels' / 'train' / 'a.txt').write_text('\n'.join([*lines, '1 0.5 0.5 0.1 0.1', '']))


def masks(folder: pathlib.Path, array: np.ndarray, palette: list[int] | None = None):
  (folder / 'SegmentationClass').mkdir(parents=True)
  (folder / 'SegmentationClass' / 'a.png').write_bytes(png(array, palette))


def labelmap(folder: pathlib.Path):
  """CVAT's segmentation masks."""
  colors = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)
  image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
  plane = truth()
  image[plane < 2] = colors[plane[plane < 2]]
  masks(folder, image)
  lines = ['# label:color_rgb:parts:actions', 'ignore:0,0,0::', 'road:128,64,128::', 'car:0,0,142::']
  (folder / 'labelmap.txt').write_text('\n'.join(lines))


def cityscapes(folder: pathlib.Path, kind: str):
  """Label ids, or polygons."""
  place = folder / 'gtFine' / 'train' / 'aachen'
  place.mkdir(parents=True)
  if kind == 'ids':
    (place / 'a_gtFine_labelIds.png').write_bytes(png(truth(road=7, car=26, rest=3)))
    return
  objects = [{'label': 'static', 'polygon': [[0, 0], [24, 0], [24, 8], [0, 8]]}]
  objects += [{'label': 'road', 'polygon': ROAD}, {'label': 'cargroup', 'polygon': CAR}]
  (place / 'a_gtFine_polygons.json').write_text(
    json.dumps({'imgWidth': WIDTH, 'imgHeight': HEIGHT, 'objects': objects})
  )


def panoptic(folder: pathlib.Path):
  """Segments 1 and 70000, of red + 256 green + 65536 blue."""
  plane = truth()
  numbers = np.select([plane == 0, plane == 1], [1, 70_000], 0)
  image = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8)
  content = coco()
  segments = [{'id': 1, 'category_id': 3, 'iscrowd': 0}, {'id': 70_000, 'category_id': 9, 'iscrowd': 0}]
  content['annotations'] = [{'image_id': 5, 'file_name': 'a.png', 'segments_info': segments}]
  (folder / 'panoptic').mkdir()
  (folder / 'panoptic' / 'a.png').write_bytes(png(image))
  (folder / 'panoptic.json').write_text(json.dumps(content))


def nyu(path: pathlib.Path, frames: int = 2, names=('road', 'car')):
  """As MATLAB writes it: columns first, and names as references to arrays of letters."""
  import h5py

  plane = np.where(truth() == 255, 0, truth() + 1).astype(np.uint16)
  with h5py.File(path, 'w') as file:
    file['labels'] = np.stack([plane.T] * frames)
    file['depths'] = np.full((frames, WIDTH, HEIGHT), 2.5, np.float32)
    file['images'] = np.random.default_rng(0).integers(0, 255, (frames, 3, WIDTH, HEIGHT), np.uint8)
    letters = [
      file.create_dataset(f'#refs#/{i}', data=np.array([[ord(c)] for c in name], np.uint16))
      for i, name in enumerate(names)
    ]
    file['names'] = np.array([[text.ref for text in letters]], h5py.ref_dtype)


def write(folder: pathlib.Path, kind: str) -> pathlib.Path:
  """Writes the export of a kind into a new folder; returns what --from is."""
  folder.mkdir(parents=True)
  texts = {
    'coco': ('instances.json', coco),
    'coco runs': ('instances.json', coco_runs),
    'labelme': ('a.json', labelme),
    'label studio': ('project-1.json', label_studio),
  }
  if kind in texts:
    name, content = texts[kind]
    (folder / name).write_text(json.dumps(content()))
    return folder / name
  match kind:
    case 'cvat':
      (folder / 'annotations.xml').write_text(cvat())
    case 'labelmap':
      labelmap(folder)
    case 'cityscapes ids' | 'cityscapes polygons':
      cityscapes(folder, kind.split()[1])
    case 'panoptic':
      panoptic(folder)
    case 'yolo':
      yolo(folder)
  return folder


KINDS = [
    'coco', 'coco runs', 'labelme', 'label studio', 'cvat', 'labelmap', 'cityscapes ids', 'cityscapes polygons', 'panoptic', 'yolo'
]  # fmt: skip


def draw(export: Export, index: int = 0, rest: int = 255) -> np.ndarray:
  """Draws the label of an image of an export, with the values `IDS`."""
  label = export.images[index].label
  return label.draw((HEIGHT, WIDTH), IDS, rest, export.notes)


def write_json(path: pathlib.Path, content) -> str:
  path.write_text(json.dumps(content))
  return str(path)
