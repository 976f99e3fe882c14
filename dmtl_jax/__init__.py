"""DiffusionMTL (CVPR 2024) in JAX: dense multi-task learning from partially labelled images.

  import dmtl_jax
  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor(image)  # {task: array}
  maps, uncertainty = predictor.sample(image, 8)  # the mean of 8 noise draws, and how far they differ

An image is uint8 [H, W, 3] RGB of any size, a Pillow image or a path; or a list of these, for a list of maps.

  task              maps                              uncertainty, float32 [H, W]
  semseg, parsing   uint8 [H, W], class id            entropy, 0 (sure) to 1 (all classes alike)
  saliency          float32 [H, W], probability       standard deviation, 0 to 0.5
  boundary          float32 [H, W], probability       standard deviation, 0 to 0.5
  normals           float32 [H, W, 3], unit vector    root mean square angle to the mean, degrees
  depth             float32 [H, W], labels' unit      standard deviation, the same unit
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing the package alone is quick
  from dmtl_jax.inference.prediction import Predictor


def load(workdir: str, which: str = 'best') -> 'Predictor':
  """The predictor of a trained run: see `dmtl_jax.inference.prediction.Predictor`."""
  from dmtl_jax.inference import prediction

  return prediction.load(workdir, which)
