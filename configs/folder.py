"""Your own images, each labelled for some of the tasks, in a folder (see docs/your_own_data.md).

  python main.py --config=configs/folder.py:method=prediction --config.data.path=PATH --workdir=runs/mine

`labels=full` (default here) trains on every label file there is; `labels=one` or `random`
hides labels to study partial supervision.
"""

from dmtl_jax.configs import common
from dmtl_jax.configs.fields import defaults, Field

DATA_FIELDS = dict(
  path=Field('', 'folder of your images', is_path=True, schemes=('gs',)),
  predicted_labels=Field(
    False, 'also learn from the classes and masks in PATH/train/predicted (--mode=predict --save=labels)'
  ),
  predicted_weight=Field(0.3, 'weight of the loss on a predicted label; on your own it is 1', 0, 1),
)


def get_config(arg=None):
  config = common.small(arg, 'folder', token_stride=2)
  if 'labels=' not in (arg or ''):
    config.data.labels = 'full'
  config.data.update(defaults(DATA_FIELDS))
  config.data.size = (192, 256)
  config.train.batch = 8
  config.train.epochs = 20
  config.eval.resolution = 'image'
  config.optim.lr = 2e-3
  return config
