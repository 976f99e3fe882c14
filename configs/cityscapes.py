"""Cityscapes at 128x256: segmentation (7 classes) and inverse depth, as MTAN and MTPSL use it.

  python main.py --mode=prepare --config=configs/cityscapes.py --config.data.raw=PATH
  python main.py --config=configs/cityscapes.py:method=feature,labels=one --workdir=runs/cityscapes

The paper (ResNet-18, one label per image): Feature Diffusion reaches mIoU 75.67, absErr 0.0130,
Delta_m -2.13; Prediction Diffusion 74.90, 0.0131, -2.79.
"""

from dmtl_jax.configs import common

DATA_FIELDS = common.PREPARED_FIELDS


def get_config(arg=None):
  config = common.mtpsl(arg, 'cityscapes', cross_task_weight=1.0, flip_view=True, film=1e-5)
  config.data.size = (128, 256)
  config.train.batch = 8
  config.optim.lr = 1e-4
  return config
