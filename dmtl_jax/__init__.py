"""DiffusionMTL (CVPR 2024) in JAX: dense multi-task learning from partially labelled images.

  import dmtl_jax

  config = dmtl_jax.get_config('scenes:method=prediction,labels=one')
  metrics = dmtl_jax.train(config, 'runs/scenes')
  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor('photo.jpg')  # {task: array at the image's size}
  many = predictor(['a.jpg', 'b.jpg'])  # a list of such dicts
  maps, uncertainty = predictor.sample('photo.jpg', 8)  # mean of 8 noise draws, and how far they differ

The names below are what programs may rely on; docs/api.md describes them. Predictions by kind of task:

  task              maps                              uncertainty, float32 [H, W]
  semseg, parsing   uint8 [H, W], class id            entropy, 0 (sure) to 1 (uniform)
  saliency          float32 [H, W], probability *     standard deviation, 0 to 0.5
  boundary          float32 [H, W], probability *     standard deviation, 0 to 0.5
  normals           float32 [H, W, 3], unit vector    root mean square angle to the mean, degrees
  depth             float32 [H, W], labels' unit      standard deviation, the same unit

  * calibrated on the validation labels, where the run has a calibration.json for these weights
"""

import importlib
from typing import TYPE_CHECKING

__version__ = '0.1.0'
__all__ = [
  'Predictor',
  'UserError',
  '__version__',
  'app',
  'check',
  'evaluate',
  'get_config',
  'import_labels',
  'load',
  'open_data',
  'predict',
  'predict_labels',
  'publish',
  'suggest',
  'train',
]

if TYPE_CHECKING:
  from dmtl_jax.api import (
    app,
    check,
    evaluate,
    get_config,
    import_labels,
    open_data,
    predict,
    predict_labels,
    publish,
    suggest,
    train,
  )
  from dmtl_jax.basics.errors import UserError
  from dmtl_jax.inference.prediction import load, Predictor
else:

  def __getattr__(name: str):
    """Imports a public name at its first use, since JAX and the data libraries take seconds to import."""
    if name not in __all__:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    modules = {'UserError': 'basics.errors', 'load': 'inference.prediction', 'Predictor': 'inference.prediction'}
    return getattr(importlib.import_module(f'{__name__}.{modules.get(name, "api")}'), name)


def __dir__() -> list[str]:
  return sorted(__all__)
