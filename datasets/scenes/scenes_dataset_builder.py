"""TFDS builder of `scenes`: rendered rooms with exact labels for six tasks."""

import dataclasses
import functools
import io

import numpy as np
import tensorflow_datasets as tfds

from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import raw
from dmtl_jax.datasets.scenes import labels


@dataclasses.dataclass(eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
  """Settings of the data set; each combination has its own folder.

  Attributes:
    height, width: of the images, at least 16.
    train_count, val_count: number of images of the splits, at least 1.
    seed: images of another seed are other images, not negative.

  Raises:
    UserError: a value out of range.
  """

  name: str = ''
  height: int = 96
  width: int = 128
  train_count: int = 1000
  val_count: int = 200
  seed: int = 0

  def __post_init__(self):
    if min(self.height, self.width) < 16:
      raise UserError(f'config.data.size: scenes are at least 16x16 pixels, got {self.height}x{self.width}')
    if min(self.train_count, self.val_count) < 1:
      counts = f'{self.train_count} and {self.val_count}'
      raise UserError(f'config.data.train_count, val_count: at least one image each, got {counts}')
    if self.seed < 0:
      raise UserError(f'config.data.seed: must not be negative, got {self.seed}')
    self.name = f'{self.height}x{self.width}_{self.train_count}_{self.val_count}_seed{self.seed}'


class Builder(raw.FileBuilder):
  """Splits `train` and `val`, image i of a split rendered from (seed, split, i)."""

  VERSION = tfds.core.Version('2.0.0')
  RELEASE_NOTES = {'2.0.0': 'Only simple scenes, of six classes.'}
  BUILDER_CONFIGS = [ScenesConfig()]

  def _info(self) -> tfds.core.DatasetInfo:
    size = (self.builder_config.height, self.builder_config.width)
    grey = functools.partial(tfds.features.Image, shape=(*size, 1), encoding_format='png')
    color = functools.partial(tfds.features.Image, shape=(*size, 3), encoding_format='png')
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': color(),
          'semseg': grey(doc='class'),
          'parsing': grey(doc='part of a figure; 255 in the whole image: there is none'),
          'saliency': grey(doc='1: salient'),
          'normals': color(dtype=np.uint16, doc=f'{labels.NORMAL_STEPS} (xyz + 1), camera coordinates'),
          'boundary': grey(doc='1: boundary'),
          'depth': grey(dtype=np.uint16, doc=f'z-depth, {labels.DEPTH_STEPS} a metre'),
        }
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,  # position in the split = index of the image
    )

  def _split_generators(self, dl_manager):
    counts = dict(train=self.builder_config.train_count, val=self.builder_config.val_count)
    splits = {split: [f'{split}_{index:05d}' for index in range(counts[split])] for split in labels.SPLITS}
    self.info.metadata['ids'] = splits
    return {split: self._generate_examples(splits, split) for split in splits}

  def _generate_examples(self, splits, split):
    config = self.builder_config
    settings = (config.seed, config.height, config.width)
    for position, example in raw.encode_split(labels.encode, settings, splits, split, self.processes):
      yield position, example | {name: io.BytesIO(example[name]) for name in self.files}
