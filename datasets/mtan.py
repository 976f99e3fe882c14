"""MTAN's NYUv2 and Cityscapes: numbered .npy files with the same encoding in both data sets.

Raw layout: `{train,val}/{image,label or label_7,depth,normal}/i.npy` with i = 0, 1, ...:

  image   [H,W,3] float, 0..1
  label   [H,W] class ids, -1 is ignored
  depth   [H,W,1] float, 0 is invalid (NYUv2: metres; Cityscapes: inverse depth, from disparity)
  normal  [H,W,3] float, unit vectors, 0, 0, 0 is invalid

Stored as tensors, which are cheap to read: image uint8 (rounding error at most 1/510), semseg uint8 with 255 for
unlabelled, depth float32 unchanged, normals int16 in units of 1/32767.
"""

from collections.abc import Mapping, Sequence
import functools
from pathlib import Path
import re

import numpy as np
import tensorflow_datasets as tfds

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import raw, stored
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import IGNORE, Task

SPLITS = ('train', 'val')
NORMAL_SCALE = 32767  # a stored normal's component of 1


def ids(root: Path, folders: Sequence[str]) -> dict[str, list[str]]:
  """{split: ['0', '1', ...]} up to the highest number in any folder; raises UserError if a folder lacks some."""
  splits = {}
  for split in SPLITS:
    stems = [path.stem for folder in folders for path in (root / split / folder).glob('*.npy')]
    numbers = [int(stem) for stem in stems if re.fullmatch(r'0|[1-9]\d*', stem)]
    last = max(numbers, default=0)
    if last > 100 * len(numbers):  # a single file name must not make the list of ids huge
      raise UserError(f'{root / split}: has {len(numbers)} files, one numbered {last}; remove it or add the others')
    splits[split] = [str(number) for number in range(last + 1)]
  files = [f'{split}/{folder}/{id}.npy' for split in SPLITS for folder in folders for id in splits[split]]
  raw.require_files(root, files)
  return splits


def encode(root: Path, file: tuple[str, str], folders: Sequence[str], classes: int) -> dict:
  """Encodes the files of an image.

  Args:
    file: (split, id).
    folders: of image, label, depth and, if the data set has them, normals, in this order.

  Raises:
    UserError: names the file that cannot be read or has wrong content.
  """
  split, id = file
  paths = [root / split / folder / f'{id}.npy' for folder in folders]
  image = read(paths[0], 3)
  size = image.shape[:2]
  image, *invalid = encode_image(image, paths[0])
  example = dict(id=id, image=image)
  for (name, channels, encode_label), path in zip(LABELS, paths[1:]):
    example[name], count = encode_label(read(path, channels, size), path, classes)
    invalid.append(count)
  return example | {'invalid': {folder: count for folder, count in zip(folders, invalid) if count}}


def encode_image(image: np.ndarray, path: Path) -> tuple[np.ndarray, int]:
  """Converts an image in 0..1 to uint8, clipped and with 0 for nan; also returns the number of such values."""
  outside = _check_few((image < -1e-3) | (image > 1 + 1e-3), image, path, 'values from 0 to 1')
  invalid = outside | np.isnan(image)
  return np.rint(np.nan_to_num(image, nan=0).clip(0, 1) * 255).astype(np.uint8), int(invalid.sum())


def encode_class_ids(label: np.ndarray, path: Path, classes: int) -> tuple[np.ndarray, int]:
  """Converts class ids to uint8, with 255 for -1 and invalid ids; also returns the number of invalid ids."""
  invalid = _check_few(~np.isin(label, np.arange(-1, classes)), label, path, f'classes 0 to {classes - 1} and -1')
  return np.where(invalid | (label < 0), IGNORE, label).astype(np.uint8), int(invalid.sum())


def encode_depth(depth: np.ndarray, _path: Path, _classes: int) -> tuple[np.ndarray, int]:
  """Converts to float32 with 0 for invalid; also returns the number of invalid values, not counting negative ones."""
  invalid = np.isnan(depth) | (depth > np.finfo(np.float32).max)
  return np.where(invalid, 0, np.maximum(depth, 0)).astype(np.float32), int(invalid.sum())


def encode_normals(vectors: np.ndarray, path: Path, _classes: int) -> tuple[np.ndarray, int]:
  """Converts unit vectors to int16 times NORMAL_SCALE, 0, 0, 0 if invalid; also returns the number of invalid ones."""
  outside = _check_few((np.abs(vectors) > 1.01).any(-1), vectors, path, 'unit vectors')
  invalid = outside | np.isnan(vectors).any(-1)
  return np.rint(unit(np.where(invalid[..., None], 0, vectors)) * NORMAL_SCALE).astype(np.int16), int(invalid.sum())


def _check_few(invalid: np.ndarray, values: np.ndarray, path: Path, expected: str) -> np.ndarray:
  """Returns `invalid`; raises UserError if it covers most of a file, which then holds something else."""
  if invalid.mean() > 0.5:
    raise UserError(f'{path}: holds values from {np.nanmin(values):g} to {np.nanmax(values):g}, expected {expected}')
  return invalid


# Feature, channels and encoder for each folder after the image's.
LABELS = (('semseg', 1, encode_class_ids), ('depth', 1, encode_depth), ('normals', 3, encode_normals))


def unit(vectors: np.ndarray) -> np.ndarray:
  """Scales vectors [H,W,3] to unit length, which resizing has reduced; zero stays zero."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.where(length > 0, length, 1)).clip(-1, 1)


def read(path: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
  """Reads an array of numbers [H,W,channels], which may be NaN; raises UserError for another shape than `size`."""
  try:
    array = files.read_npy(path)
  except ValueError as error:
    raise UserError(f'{path}: {error}; replace it') from error
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or array.shape[2] != channels or size not in (None, array.shape[:2]) or not array.size:
    expected = [*(size or ('H', 'W')), channels]
    raise UserError(f'{path}: shape {list(array.shape)}, expected {expected}'.replace("'", ''))
  return array


class MtanBuilder(raw.RawBuilder, skip_registration=True):
  """Base of the builders of both data sets, which set the constants."""

  FOLDERS: tuple[str, ...]  # image, label, depth and, if there are any, normals
  CLASSES: tuple[str, ...]
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}
  HOMEPAGE = 'https://github.com/lorenmt/mtan'
  MARKER = 'train/image'

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
      features['normals'] = tensor(3, np.int16, 'bytes', f'{NORMAL_SCALE} xyz; 0, 0, 0: unlabelled')
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
    height, width = read(first, 3).shape[:2]
    if self.size not in (None, (height, width)):
      raise UserError(
        f'{first}: {height}x{width} pixels, but config.data.size is {self.size[0]}x{self.size[1]}; '
        f"take the benchmark's archive (README.md) or set --config.data.size={height},{width}"
      )
    return {split: self._generate_examples(root, splits, split) for split in splits}

  def _generate_examples(self, root, splits, split):
    encoder = functools.partial(encode, folders=self.FOLDERS, classes=len(self.CLASSES))
    files = {name: [(name, id) for id in numbers] for name, numbers in splits.items()}
    invalid = self.info.metadata.setdefault('invalid', {})
    for position, example in raw.encode_split(encoder, root, files, split, self.processes):
      for folder, count in example.pop('invalid').items():
        invalid[f'{split}/{folder}'] = invalid.get(f'{split}/{folder}', 0) + count
      yield position, example


def open_split(
  builder: type[MtanBuilder], tasks: Sequence[Task], data_config, split: str, units: Mapping[str, str] = {}
) -> Source:
  """Opens the prepared split 'train' or 'val' of a data set; raises UserError if it is not prepared."""
  return stored.open_split(stored.prepared(builder, data_config), split, tasks, decode, units=units)


def decode(example: dict, tasks: Sequence[Task]) -> dict:
  """Decodes an example of `as_data_source(split)`, with labels encoded as in tasks/base.py.

  Arrays may be read-only, as they use the record's own memory.
  """
  labels = {task.name: example[task.name] for task in tasks}
  if 'normals' in labels:
    labels['normals'] = labels['normals'] * np.float32(1 / NORMAL_SCALE)
  return dict(image=example['image'], labels=labels)
