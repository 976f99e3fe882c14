"""MTAN's NYUv2 and Cityscapes: numbered .npy files, encoded the same way in both data sets.

Raw layout: `{train,val}/{image,label or label_7,depth,normal}/i.npy` with i = 0, 1, ...:

  image   [H,W,3] float, 0..1
  label   [H,W] class ids, -1 is ignored
  depth   [H,W,1] float, 0 is invalid (NYUv2: metres; Cityscapes: inverse depth, from disparity)
  normal  [H,W,3] float, unit vectors, 0, 0, 0 is invalid

Stored as tensors that cost next to nothing to read: image uint8 (off by at most 1/510), semseg
uint8 with 255 for unlabelled, depth float32 as it is, normals int16 in 1/32767.
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
STEPS = 32767  # of a stored normal's component


def ids(root: Path, folders: Sequence[str]) -> dict[str, list[str]]:
  """{split: ['0', '1', ...]} up to the highest number in any folder; raises UserError where a folder lacks some."""
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
    file: (split, id).
    folders: of image, label, depth and, if the data set has them, normals, in this order.

  Raises:
    UserError: naming the file that cannot be read or holds what it must not.
  """
  split, id = file
  paths = [root / split / folder / f'{id}.npy' for folder in folders]
  image = read(paths[0], 3)
  size = image.shape[:2]
  image, *bad = pixels(image, paths[0])
  example = dict(id=id, image=image)
  for (name, channels, convert), path in zip(LABELS, paths[1:]):
    example[name], count = convert(read(path, channels, size), path, classes)
    bad.append(count)
  return example | {'invalid': {folder: count for folder, count in zip(folders, bad) if count}}


def pixels(image: np.ndarray, path: Path) -> tuple[np.ndarray, int]:
  """uint8 of an image in 0..1; what is outside is clipped, what is no number black. And how many values that are."""
  outside = _outside((image < -1e-3) | (image > 1 + 1e-3), image, path, 'values from 0 to 1')
  bad = outside | np.isnan(image)
  return np.rint(np.nan_to_num(image, nan=0).clip(0, 1) * 255).astype(np.uint8), int(bad.sum())


def class_ids(label: np.ndarray, path: Path, classes: int) -> tuple[np.ndarray, int]:
  """Class ids uint8 with 255 for -1 and for what is no class; and the number of the latter."""
  bad = _outside(~np.isin(label, np.arange(-1, classes)), label, path, f'classes 0 to {classes - 1} and -1')
  return np.where(bad | (label < 0), IGNORE, label).astype(np.uint8), int(bad.sum())


def depths(depth: np.ndarray, path: Path, classes: int) -> tuple[np.ndarray, int]:
  """float32 with 0 for invalid; and the number of values that are no depth, of which negative ones are known."""
  del path, classes
  bad = np.isnan(depth) | (depth > np.finfo(np.float32).max)
  return np.where(bad, 0, np.maximum(depth, 0)).astype(np.float32), int(bad.sum())


def normals(vectors: np.ndarray, path: Path, classes: int) -> tuple[np.ndarray, int]:
  """int16 unit vectors in 1 / STEPS with 0, 0, 0 for invalid; and the number of those that are no unit vectors."""
  del classes
  outside = _outside((np.abs(vectors) > 1.01).any(-1), vectors, path, 'unit vectors')
  bad = outside | np.isnan(vectors).any(-1)
  return np.rint(unit(np.where(bad[..., None], 0, vectors)) * STEPS).astype(np.int16), int(bad.sum())


def _outside(bad: np.ndarray, values: np.ndarray, path: Path, expected: str) -> np.ndarray:
  """`bad`, unless most of a file is: then it is another file than one thinks."""
  if bad.mean() > 0.5:
    raise UserError(f'{path}: holds values from {np.nanmin(values):g} to {np.nanmax(values):g}, expected {expected}')
  return bad


# Feature, channels and converter of the folders after the image's.
LABELS = (('semseg', 1, class_ids), ('depth', 1, depths), ('normals', 3, normals))


def unit(vectors: np.ndarray) -> np.ndarray:
  """Unit vectors [H,W,3]; resizing has made some shorter. Zero stays zero."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.where(length > 0, length, 1)).clip(-1, 1)


def read(path: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
  """[H,W,channels] of numbers, also NaN; of the given size (H, W) if one is given."""
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
  """What the builders of both data sets share; they set the constants."""

  FOLDERS: tuple[str, ...]  # image, label, depth and perhaps normals
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
    invalid = self.info.metadata.setdefault('invalid', {})
    for position, example in raw.examples(encoder, root, files, split, self.processes):
      for folder, count in example.pop('invalid').items():
        invalid[f'{split}/{folder}'] = invalid.get(f'{split}/{folder}', 0) + count
      yield position, example


def open_split(
  builder: type[MtanBuilder], tasks: Sequence[Task], data_config, split: str, units: Mapping[str, str] = {}
) -> Source:
  """The prepared split 'train' or 'val' of a data set; raises UserError where it is not prepared."""
  return stored.open_split(stored.prepared(builder, data_config), split, tasks, decode, units=units)


def decode(example: dict, tasks: Sequence[Task]) -> dict:
  """One example of `as_data_source(split)`, its labels encoded as `dmtl_jax.tasks` says.

  Arrays may be read-only: they are the record's own memory.
  """
  labels = {task.name: example[task.name] for task in tasks}
  if 'normals' in labels:
    labels['normals'] = labels['normals'] * np.float32(1 / STEPS)
  return dict(image=example['image'], labels=labels)
