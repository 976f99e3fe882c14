"""DiffusionMTL (CVPR 2024) in JAX: dense multi-task learning from partially labelled images.

  import dmtl_jax

  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor(image)  # uint8 [H, W, 3] RGB -> {task: prediction [H, W] or [H, W, 3]}
"""


def load(workdir: str, which: str = 'best'):
  """The predictor of a trained run: see `dmtl_jax.predict.Predictor`."""
  from dmtl_jax import predict  # data sets and metrics import this package without jax's cost

  return predict.load(workdir, which)
