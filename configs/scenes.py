"""`scenes`, the embedded data set: rendered rooms with six tasks. No download, CPU is enough.

  python main.py --config=configs/scenes.py --workdir=runs/scenes
  python main.py --config=configs/scenes.py:method=feature,labels=random --workdir=runs/feature

A small network (see `model`), 96x128 images. `make demo` runs this config.
"""

from dmtl_jax.configs import common


def get_config(arg=None):
  config = common.small(arg, 'scenes', token_stride=1)
  config.data.dir = 'runs/data'  # where the rendered images are kept
  config.data.size = (96, 128)
  config.data.train_count = 2000  # training images to render
  config.data.val_count = 200  # validation images to render
  config.model.width, config.model.channels = 24, 32  # smaller, and more images in the same time, scores higher
  config.train.batch = 8
  config.train.steps = 1250  # some five minutes on two CPU cores, with compiling
  config.train.eval_every = 1250
  config.eval.workers = 2  # the boundary protocol takes half a second per image
  config.optim.lr = 1e-3
  return config
