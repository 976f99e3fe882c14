"""MTAN's NYUv2 and Cityscapes: numbered .npy files, encoded the same way in both data sets.

Raw layout: `{train,val}/{image,label or label_7,depth,normal}/i.npy` with i = 0, 1, ...:

  image   [H,W,3] float, 0..1
  label   [H,W] class ids, -1 is ignored
  depth   [H,W,1] float, 0 is invalid (NYUv2: metres; Cityscapes: inverse depth, from disparity)
  normal  [H,W,3] float, unit vectors, 0, 0, 0 is invalid

Stored as tensors that cost next to nothing to read: image uint8 (off by at most 1/510), semseg
uint8 with 255 for unlabelled, depth float32 as it is, normals int16 in 1/32767.
"""

from collections.abc import Sequence
import functools
from pathlib import Path
import re

import numpy as np
import tensorflow_datasets as tfds

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import raw
from dmtl_jax.tasks import IGNORE, Task

SPLITS = ('train', 'val')
STEPS = 32767  # of a stored normal's component


def ids(root: Path, folders: Sequence[str]) -> dict[str, list[str]]:
  """{split: ['0', '1', ...]} up to the highest number in any of the folders.

  Raises:
    UserError: numbers are missing in a folder, or a folder is missing or empty.
  """
  splits = {}
  for split in SPLITS:
    found = [path.stem for folder in folders for path in (root / split / folder).glob('*.npy')]
    numbers = [int(stem) for stem in found if re.fullmatch(r'0|[1-9]\d*', stem)]
    last = max(numbers, default=0)
    if last > 100 * len(numbers):  # never make a list as long as a file's name says
      raise UserError(f'{root / split}: has {len(numbers)} files, one numbered {last}; remove it or add the others')
    splits[split] = [str(number) for number in range(last + 1)]
  files = [f'{split}/{folder}/{id}.npy' for split in SPLITS for folder in folders for id in splits[split]]
  raw.require(root, files)
  return splits


def encode(root: Path, file: tuple[str, str], folders: Sequence[str], classes: int) -> dict:
  """What is stored of an image.

  Args:
    root: of the raw data.
    file: (split, id).
    folders: of image, label, depth and, if the data set has them, normals, in this order.
    classes: number of classes.

  Raises:
    UserError: naming the file that cannot be read or holds what it must not.
  """
  split, id = file
  paths = [root / split / folder / f'{id}.npy' for folder in folders]
  image = read(paths[0], 3)
  size = image.shape[:2]
  if image.min() < -1e-3 or image.max() > 1 + 1e-3:
    raise UserError(f'{paths[0]}: values from {image.min():g} to {image.max():g}, expected 0 to 1')
  example = dict(
    id=id,
    image=np.rint(image.clip(0, 1) * 255).astype(np.uint8),
    semseg=class_ids(read(paths[1], 1, size), classes, paths[1]),
    depth=depths(read(paths[2], 1, size), paths[2]),
  )
  if len(paths) > 3:
    example['normals'] = np.rint(unit(read(paths[3], 3, size)) * STEPS).astype(np.int16)
  return example


def class_ids(label: np.ndarray, classes: int, path: Path) -> np.ndarray:
  """Class ids uint8 with 255 for -1."""
  strange = np.setdiff1d(label, np.arange(-1, classes))
  if strange.size:
    raise UserError(f'{path}: holds class {strange[0]:g}; classes are 0..{classes - 1} and -1')
  return np.where(label < 0, IGNORE, label).astype(np.uint8)


def depths(depth: np.ndarray, path: Path) -> np.ndarray:
  """float32 with 0 for invalid."""
  if depth.max() > np.finfo(np.float32).max:
    raise UserError(f'{path}: holds {depth.max():g}, which is no depth')
  return np.maximum(depth, 0).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Unit vectors [H,W,3]; resizing has made some shorter. Zero stays zero."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.where(length > 0, length, 1)).clip(-1, 1)


def read(path: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
  """[H,W,channels] of finite numbers; of the given size (H, W) if one is given."""
  try:
    array = files.read_npy(path)
  except ValueError as error:
    raise UserError(f'{path}: {error}; replace it') from error
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or array.shape[2] != channels or size not in (None, array.shape[:2]) or not array.size:
    expected = [*(size or ('H', 'W')), channels]
    raise UserError(f'{path}: shape {list(array.shape)}, expected {expected}'.replace("'", ''))
  if array.dtype.kind not in 'fiu' or not np.isfinite(array).all():
    raise UserError(f'{path}: holds values that are not finite numbers')
  return array


class MtanBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """What the builders of both data sets share; they set the constants."""

  FOLDERS: tuple[str, ...]  # image, label, depth and perhaps normals
  CLASSES: tuple[str, ...]
  IMAGES: dict[str, int]  # of the benchmark
  HOMEPAGE = 'https://github.com/lorenmt/mtan'
  MARKER = 'train/image'

  processes = 0  # that encode; 0: one a core
  size = None  # (H, W) the raw images must have; None: any

  def _info(self) -> tfds.core.DatasetInfo:
    def tensor(channels, dtype, encoding, doc):
      return tfds.features.Tensor(shape=(None, None, channels), dtype=dtype, encoding=encoding, doc=doc)

    features = {
      'id': tfds.features.Text(),
      'image': tensor(3, np.uint8, 'bytes', 'RGB'),
      'semseg': tensor(1, np.uint8, 'zlib', 'class; 255: unlabelled'),
      'depth': tensor(1, np.float32, 'bytes', '0: unlabelled'),
    }
    if len(self.FOLDERS) > 3:
      features['normals'] = tensor(3, np.int16, 'bytes', f'{STEPS} xyz; 0, 0, 0: unlabelled')
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features),
      homepage=self.HOMEPAGE,
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,  # position in the split = number of the raw file
    )

  def _split_generators(self, dl_manager):
    root = raw.find_root(Path(dl_manager.manual_dir), self.MARKER)
    splits = ids(root, self.FOLDERS)
    self.info.metadata['ids'] = splits
    first = root / 'train' / self.FOLDERS[0] / '0.npy'
    found = read(first, 3).shape[:2]
    if self.size not in (None, found):
      raise UserError(
        f'{first}: {found[0]}x{found[1]} pixels, but config.data.size is {self.size[0]}x{self.size[1]}; '
        f"take the benchmark's archive (README.md) or set --config.data.size={found[0]},{found[1]}"
      )
    return {split: self._generate_examples(root, splits, split) for split in splits}

  def _generate_examples(self, root, splits, split):
    encoder = functools.partial(encode, folders=self.FOLDERS, classes=len(self.CLASSES))
    files = {name: [(name, id) for id in numbers] for name, numbers in splits.items()}
    return raw.examples(encoder, root, files, split, self.processes)


def decode(example: dict, tasks: Sequence[Task]) -> dict:
  """One example of `builder(...).as_data_source(split)`, its labels encoded as `dmtl_jax.tasks` says.

  Arrays may be read-only: they are the record's own memory.
  """
  labels = {task.name: example[task.name] for task in tasks}
  if 'normals' in labels:
    labels['normals'] = labels['normals'] * np.float32(1 / STEPS)
  return dict(image=example['image'], labels=labels)
