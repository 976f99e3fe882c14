"""TFDS builder of PASCAL-Context with the five tasks of the benchmark (PASCAL_MT)."""

import functools
import io
from pathlib import Path

import tensorflow_datasets as tfds

from dmtl_jax.basics.files import decode_image
from dmtl_jax.datasets import raw
from dmtl_jax.datasets.pascal import labels
from dmtl_jax.tasks import IGNORE


class Builder(raw.RawBuilder):
  """Splits `train` (4998 images) and `val` (5105), in the order of ImageSets/Context.

  `info.metadata` has 'ids' and 'people', {split: positions of images with a body part}.
  """

  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = {'1.0.0': 'First release.', '1.1.0': 'Adds the boundaries that the benchmark scores against.'}
  MARKER = 'ImageSets/Context/train.txt'
  IMAGES = {'train': 4998, 'val': 5105}
  USUAL = (375, 500)
  OFFICIAL = {'one': 'onelabel.pth', 'random': 'randomlabels.pth'}

  def _info(self) -> tfds.core.DatasetInfo:
    grey = functools.partial(tfds.features.Image, shape=(None, None, 1), encoding_format='png')
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
          'semseg': grey(doc='VOC class; 255: unlabelled'),
          'parsing': grey(doc='group of human parts; 255: unlabelled'),
          'saliency': grey(doc='1: salient'),
          'normals': tfds.features.Image(
            shape=(None, None, 3), encoding_format='png', doc='255 (xyz + 1) / 2; 0, 0, 0: unlabelled'
          ),
          'boundary': grey(doc='1: boundary'),
          'boundary_truth': grey(doc='1: boundary that the benchmark scores against'),
        }
      ),
      homepage='https://github.com/facebookresearch/astmt',
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,  # position in the split = line of the list of ids
    )

  def _split_generators(self, dl_manager):
    root = raw.find_root(Path(dl_manager.manual_dir), self.MARKER)
    raw.require_files(root, [f'ImageSets/Context/{split}.txt' for split in self.IMAGES])
    splits = {split: labels.read_ids(root / f'ImageSets/Context/{split}.txt') for split in self.IMAGES}
    raw.require_files(root, [file for ids in splits.values() for id in ids for file in labels.files(root, id)])
    self.info.metadata.update(ids=splits, people={split: [] for split in splits})
    return {split: self._generate_examples(root, splits, split) for split in splits}

  def _generate_examples(self, root, splits, split):
    for position, example in raw.encode_split(labels.encode, root, splits, split, self.processes):
      if (decode_image(example['parsing']) != IGNORE).any():
        self.info.metadata['people'][split].append(position)
      yield position, example | {name: io.BytesIO(example[name]) for name in self.files}
