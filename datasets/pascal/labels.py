"""Converts the raw files of PASCAL_MT to label maps, by the rules of the benchmark (ASTMT).

Raw layout below `root`, for the image ID:

  JPEGImages/ID.jpg                 image
  semseg/VOC12/ID.png               VOC classes 0..20, 255 ignored; if missing,
  semseg/pascal-context/ID.png      the same classes, annotated by PASCAL-Context
  human_parts/ID.mat                PASCAL-Part annotation (`anno`)
  pascal-context/trainval/ID.mat    `LabelMap`: Context classes 1..459
  normals_distill/ID.png            normals predicted by a network: RGB = 255 * (xyz + 1) / 2
  sal_distill/ID.png                saliency predicted by a network: 0..255
  ImageSets/Context/{train,val}.txt ids
"""

from pathlib import Path
import re
import zlib

import cv2
import numpy as np
import scipy.io

from dmtl_jax.basics import files as files_lib
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.metrics.boundary import pascal as protocol
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import IGNORE

MAT_COMPRESSED = 15  # type of an element of a .mat file
MAT_BYTES = 1 << 28  # limit for an unpacked annotation; the largest have a few dozen megabytes
PERSON = 15  # VOC class
CLASSES = tuple(
  'background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,'
  'motorbike,person,pottedplant,sheep,sofa,train,tvmonitor'.split(',')
)
PARTS = {  # group: names in PASCAL-Part (l, r: left and right)
  'head': 'head hair lear rear lebrow rebrow leye reye nose mouth',
  'torso': 'torso neck',
  'upper arm': 'luarm ruarm',
  'lower arm': 'llarm rlarm lhand rhand',
  'upper leg': 'luleg ruleg',
  'lower leg': 'llleg rlleg lfoot rfoot',
}
PART_IDS = {name: id for id, names in enumerate(PARTS.values(), 1) for name in names.split()}

# Context classes that NYUv2 has under the same name, and tvmonitor (NYUv2's television). The network that predicted the
# normals was trained only on these.
NORMALS_CLASSES = [
  int(id)
  for id in """
  3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51
  53 55 56 59 61 62 65 66 68 69 72 73 78 83 84 85 87 88 95 96 101 104 105 107
  111 113 115 122 124 135 141 142 143 146 150 154 157 158 159 165 172 174 181 183
  184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232 233 238 239
  242 243 246 250 251 252 255 260 261 263 269 272 273 275 281 283 284 285 286 287
  288 290 291 292 293 295 304 307 309 310 314 315 319 323 329 330 331 336 342 345
  349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 401 403 405 407 408
  411 412 413 414 417 419 421 423 427 429 430 432 440 441 442 443 444 446 454 457
""".split()
]


def read_ids(path: Path) -> list[str]:
  """Reads the image ids in a list of ImageSets; raises UserError if one is unsuitable as a file name."""
  try:
    ids = files_lib.read_text(path).split()
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: not a readable list of ids ({sanitize(str(error))}); replace it') from error
  invalid = [id for id in ids if not re.fullmatch(r'\w[\w-]*', id, re.ASCII)]
  if invalid or len(set(ids)) < len(ids):
    problem = f"'{sanitize(invalid[0])}', which is not an id" if invalid else 'an id twice'
    raise UserError(f'{path}: contains {problem}; replace it')
  return ids


def read_scored(path: Path) -> frozenset[str]:
  """Reads the ids of the images whose boundaries are scored, the evaluator's test_new.txt."""
  ids = read_ids(path)
  if len(ids) != protocol.LISTED:
    raise UserError(f'{path}: contains {len(ids)} ids, expected {protocol.LISTED}; replace it')
  return frozenset(ids)


def files(root: Path, id: str) -> list[str]:
  """The raw files of an image, relative to root; prefers VOC12's segmentation to that of pascal-context."""
  voc, context = f'semseg/VOC12/{id}.png', f'semseg/pascal-context/{id}.png'
  return [
    f'JPEGImages/{id}.jpg',
    voc if (root / voc).is_file() else context,
    f'human_parts/{id}.mat',
    f'pascal-context/trainval/{id}.mat',
    f'normals_distill/{id}.png',
    f'sal_distill/{id}.png',
  ]


def encode(root: Path, id: str) -> dict:
  """Encodes the files of an image: the JPEG file unchanged, and a PNG file per label.

  Returns:
    id, and bytes of files: image (JPEG), semseg, parsing, saliency, boundary, boundary_truth (grey PNG
    of ids), normals (RGB PNG; 0, 0, 0 is unlabelled). Labels have the image's size.

  Raises:
    UserError: names the file that cannot be read or has wrong content.
  """
  image, semseg, parts, context, normals, saliency = (root / file for file in files(root, id))
  size = read_image(image, 3).shape[:2]
  label_map = read_label_map(context)
  maps = dict(
    semseg=segmentation(semseg),
    parsing=parsing(read_mat(parts, 'anno'), parts, size),
    saliency=(read_image(saliency, 2) > 127).astype(np.uint8),  # v / 255 > 0.5
    normals=mask_normals(read_image(normals, 3), label_map),
    boundary=boundary(label_map),
    boundary_truth=protocol.truth(label_map).astype(np.uint8),
  )
  stored = {name: files_lib.encode_png(fit(label, size)) for name, label in maps.items()}
  return dict(id=id, image=image.read_bytes()) | stored


def segmentation(path: Path) -> np.ndarray:
  """Reads class ids [H,W] uint8, 255 for unlabelled, from a palette or grey PNG."""
  label = read_image(path, 2)
  invalid = np.setdiff1d(label, [*range(len(CLASSES)), IGNORE])
  if invalid.size:
    raise UserError(f'{path}: contains class {invalid[0]}; classes are 0..{len(CLASSES) - 1} and {IGNORE}')
  return label


def parsing(annotation: np.ndarray, path: Path, size: tuple[int, int]) -> np.ndarray:
  """Part ids [H,W] uint8 of all persons; 255 everywhere if no part of a person is annotated.

  Args:
    annotation: PASCAL-Part's struct `anno`: objects(class_ind, mask, parts(part_name, mask)).
    path: its file, for error messages.
    size: (H, W) of the image.
  """
  label = np.zeros(size, np.uint8)
  try:
    for thing in annotation['objects'][0, 0].ravel():
      if int(thing['class_ind'].item()) != PERSON:
        continue
      for part in thing['parts'].ravel():  # later parts and persons are in front
        label[fit(part['mask'].astype(np.uint8), size) > 0] = PART_IDS[part['part_name'].item()]
  except Exception as error:  # any of its fields may be of any type
    raise UserError(f'{path}: not a PASCAL-Part annotation ({_describe(error)}); replace it') from error
  return label if label.any() else np.full_like(label, IGNORE)


def boundary(label_map: np.ndarray) -> np.ndarray:
  """Boundaries [H,W] uint8: 1 where the Laplacian of the Context classes (four neighbours) is not 0, thinned."""
  return thin(cv2.Laplacian(label_map.astype(np.float64), cv2.CV_64F) != 0).astype(np.uint8)


def mask_normals(normals: np.ndarray, label_map: np.ndarray) -> np.ndarray:
  """Sets normals [H,W,3] uint8 to 0, 0, 0 (no unit vector) where the Context class is not in `NORMALS_CLASSES`."""
  is_valid = np.isin(fit(label_map, normals.shape[:2]), NORMALS_CLASSES)
  return normals * is_valid[..., None].astype(np.uint8)


def unit_normals(stored: np.ndarray) -> np.ndarray:
  """Decodes stored normals [H,W,3] uint8 to unit vectors float32; 0, 0, 0 stays."""
  channels = cv2.split(stored)  # whole planes take half of the time
  x, y, z = (channel * np.float32(2 / 255) - 1 for channel in channels)
  labelled = (channels[0] | channels[1] | channels[2]) != 0
  scale = labelled / np.sqrt(x * x + y * y + z * z)  # never divides by zero, because 2 v / 255 is never 1
  return cv2.merge([x * scale, y * scale, z * scale])


def fit(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a label to the image's size by nearest neighbour; few raw labels have another size."""
  if label.shape[:2] == tuple(size):
    return label
  return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)


def read_image(path: Path, dimensions: int) -> np.ndarray:
  """Reads an image file as [H,W] (palette indices, not colours) or [H,W,3] uint8."""
  try:
    image = files_lib.open_image(path)
  except ValueError as error:
    raise UserError(f'{path}: {error}; replace it') from error
  array = np.asarray(image.convert('RGB') if dimensions == 3 else image)
  if array.ndim != dimensions or array.dtype != np.uint8:
    raise UserError(f'{path}: expected one 8-bit channel, found {array.dtype} {list(array.shape)}')
  return array


def read_label_map(path: Path) -> np.ndarray:
  """Reads the Context classes [H,W] from a .mat file."""
  label_map = read_mat(path, 'LabelMap')
  if label_map.ndim != 2 or label_map.dtype.kind not in 'uif' or not label_map.size:
    raise UserError(f'{path}: LabelMap is {label_map.dtype.kind} {list(label_map.shape)}, expected numbers [H, W]')
  return label_map


def read_mat(path: Path, name: str) -> np.ndarray:
  """Reads a variable from a .mat file."""
  try:
    with open(path, 'rb') as file:
      _check_compressed(file.read())
    return np.asarray(scipy.io.loadmat(path, variable_names=[name])[name])
  except Exception as error:  # scipy has no common error: zlib's, struct's, ValueError, KeyError...
    raise UserError(f"{path}: not a readable .mat file with '{name}' ({_describe(error)}); replace it") from error


def _check_compressed(data: bytes):
  """Raises ValueError for a .mat file (version 5) larger than any annotation, which scipy would unpack completely."""
  order = 'big' if data[126:128] == b'MI' else 'little'
  position = 128
  remaining = MAT_BYTES
  while position + 8 <= len(data):
    kind, size = (int.from_bytes(data[position + i : position + i + 4], order) for i in (0, 4))
    if kind == MAT_COMPRESSED:
      stream = zlib.decompressobj()
      packed = data[position + 8 : position + 8 + size]
      while packed and remaining >= 0:
        remaining -= len(stream.decompress(packed, 1 << 20))
        packed = stream.unconsumed_tail
    if remaining < 0:
      raise ValueError(f'unpacks to more than {MAT_BYTES >> 20} MB')
    position += 8 + size


def _describe(error: Exception) -> str:
  return f'{type(error).__name__}: {sanitize(str(error))}'
