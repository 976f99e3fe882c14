"""`scenes`, the embedded data set: rendered rooms with six tasks. No download, CPU is enough.

  python main.py --config=configs/scenes.py --workdir=runs/scenes
  python main.py --config=configs/scenes.py:method=feature,labels=random --workdir=runs/feature

A small network (see `model`), 96x128 images. `make demo` runs this config.
"""

from dmtl_jax.configs import common
from dmtl_jax.configs.fields import defaults, Field

DATA_FIELDS = dict(
  dir=common.DATA_DIR,
  train_count=Field(2000, 'training scenes to render', 1, 10**6),
  val_count=Field(200, 'validation scenes to render', 1, 10**6),
)


def get_config(arg=None):
  config = common.small(arg, 'scenes', token_stride=1)
  config.data.update(defaults(DATA_FIELDS), size=(96, 128))
  config.model.width, config.model.channels = 24, 32  # smaller, and more images in the same time, scores higher
  config.train.batch = 8
  config.train.steps = 1250  # three to five minutes on two CPU cores, with compiling
  config.train.eval_every = 1250
  config.optim.lr = 1e-3
  return config
