"""NYUD-v2 at 288x384: segmentation, depth and normals, as MTAN and MTPSL use it.

  python main.py --mode=prepare --config=configs/nyud.py --config.data.raw=PATH
  python main.py --config=configs/nyud.py:method=feature,labels=one --workdir=runs/nyud

The paper (ResNet-18, one label per image): Feature Diffusion reaches mIoU 44.47, absErr 0.5059,
mErr 25.84, Delta_m -2.27; Prediction Diffusion 44.97, 0.5137, 26.17, -2.86.
"""

from dmtl_jax.configs import common

DATA_FIELDS = common.PREPARED_FIELDS


def get_config(arg=None):
  config = common.mtpsl(arg, 'nyud', cross_task_weight=2.0, flip_view=False, film=1e-3)
  config.data.size = (288, 384)
  config.train.batch = 4
  config.optim.lr = 2e-5
  return config
