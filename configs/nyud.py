"""NYUD-v2 at 288x384: segmentation, depth and normals, as MTAN and MTPSL use it.

  python main.py --mode=prepare --config=configs/nyud.py --config.data.raw=PATH
  python main.py --config=configs/nyud.py:method=feature,labels=one --workdir=runs/nyud

The paper (ResNet-18, one label per image): Feature Diffusion reaches mIoU 44.47, absErr 0.5059,
mErr 25.84, Delta_m -2.27; Prediction Diffusion 44.97, 0.5137, 26.17, -2.86.
"""

from dmtl_jax.configs import common


def get_config(arg=None):
  config = common.benchmark(arg, 'nyud')
  config.data.size = (288, 384)
  config.data.augment = 'mtan'
  config.train.batch = 4
  config.train.epochs = 200
  config.eval.protocol = 'mtpsl'
  config.eval.weights = 'best'  # MTPSL reports its best epoch by evaluation
  config.optim.lr = 2e-5
  if config.method == 'xtc':  # MTPSL's code
    config.model.cross_task_weight = 2.0  # of XTC's consistency
    config.optim.part_lr = dict(film=1e-3)
  return config
