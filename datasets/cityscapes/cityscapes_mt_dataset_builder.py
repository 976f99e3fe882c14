"""TFDS builder of Cityscapes as MTAN preprocessed it."""

from dmtl_jax.datasets import mtan


class Builder(mtan.MtanBuilder):
  """Splits `train` (2975 images) and `val` (500), in the order of the file numbers."""

  FOLDERS = ('image', 'label_7', 'depth')
  CLASSES = tuple('flat,construction,object,nature,sky,human,vehicle'.split(','))
  IMAGES = {'train': 2975, 'val': 500}
  USUAL = (128, 256)
  OFFICIAL = {'one': 'onelabel.pth', 'random': 'onelabel.pth'}  # for two tasks MTPSL has only this one
