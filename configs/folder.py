"""Your own images, each labelled for some of the tasks, in a folder (see README, Your own data).

  python main.py --config=configs/folder.py:method=prediction --config.data.path=PATH --workdir=runs/mine

`labels=full` (default here) trains on every label file there is; `labels=one` or `random`
hides labels to study partial supervision.
"""

from dmtl_jax.configs import common


def get_config(arg=None):
  config = common.base(arg)
  if 'labels=' not in (arg or ''):
    config.data.labels = 'full'
  config.data.name = 'folder'
  config.data.path = ''
  config.data.size = (192, 256)
  config.data.augment = 'light'
  config.model.width = 32
  config.model.channels = 64
  if config.model.initial_weights == 'paper':
    config.model.initial_weights = 'identity'
  config.train.batch = 8
  config.train.epochs = 20
  config.optim.lr = 2e-3
  config.optim.denoiser_fan_in = 32
  config.optim.schedule = 'cosine'
  config.optim.warmup = 50
  config.loss_weights = dict(semseg=2.0, parsing=2.0, saliency=5.0, normals=3.0, boundary=25.0, depth=1.0)
  return config
