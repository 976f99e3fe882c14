"""TFDS builder of NYUD-v2 as MTAN preprocessed it."""

from dmtl_jax.datasets import mtan


class Builder(mtan.MtanBuilder):
  """Splits `train` (795 images) and `val` (654), in the order of the file numbers."""

  FOLDERS = ('image', 'label', 'depth', 'normal')
  CLASSES = tuple('bed,books,ceiling,chair,floor,furniture,objects,picture,sofa,table,tv,wall,window'.split(','))
  IMAGES = {'train': 795, 'val': 654}
  USUAL = (288, 384)
  OFFICIAL = {'one': 'onelabel.pth', 'random': 'randomlabels.pth'}
