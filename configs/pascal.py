"""PASCAL-Context with five tasks, the paper's main benchmark.

  python main.py --mode=prepare --config=configs/pascal.py --config.data.raw=PASCAL_MT.tgz
  python main.py --config=configs/pascal.py:method=feature,labels=one --workdir=runs/pascal

The paper (ResNet-18, one label per image): Feature Diffusion reaches mIoU 57.78 (semseg) and 58.98
(parsing), maxF 77.82, mErr 16.11, odsF 64.50, Delta_m +3.65; Prediction Diffusion 59.43, 56.79,
77.57, 16.20, 64.00, +3.23. It trained in 5.7 GB (Prediction) or 7.8 GB (Feature) of GPU memory.
"""

from dmtl_jax.configs import common

DATA_FIELDS = common.PREPARED_FIELDS


def get_config(arg=None):
  config = common.benchmark(arg, 'pascal')
  config.data.size = (512, 512)
  config.data.augment = 'pascal'
  config.train.batch = 6
  config.train.epochs = 100
  config.eval.protocol = 'pascal'
  config.eval.geometry = 'pad'
  config.eval.workers = 4  # both boundary protocols take 0.2 s of a core per image and stage
  config.eval.weights = 'latest'  # the published tables score the last epoch
  config.optim.lr = 2e-5
  config.loss_weights = dict(semseg=1.0, parsing=2.0, saliency=5.0, normals=10.0, boundary=50.0)
  return config
