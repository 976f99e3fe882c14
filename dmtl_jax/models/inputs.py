"""What a network is called with besides images, and its first variables."""

import jax
import jax.numpy as jnp

from dmtl_jax.models import draw_noise
from dmtl_jax.models.parts import pairs as pairs_lib


def init_variables(model, key: jax.Array, size: tuple[int, int]) -> dict:
  """The model's variables for one image of zeros of `size`."""
  extra = {}
  if hasattr(model, 'noise_shape'):
    extra['noise'] = jnp.zeros(model.noise_shape(1, size))
  return model.init(key, jnp.zeros((1, *size, 3)), **extra)


def model_inputs(model, images, key, tasks: int, pairs=None, index=None, steps=None) -> dict:
  """Keyword inputs of `model.apply`: pairs and their noise, for models that diffuse; else nothing.

  Args:
    index: [B] what an image's noise is drawn by; default its position in the batch.
  """
  if not hasattr(model, 'noise_shape'):
    return {}
  batch = images.shape[0]
  image = pairs_lib.image_index(batch, tasks, pairs)
  task = pairs_lib.task_index(batch, tasks, pairs)
  shape = model.noise_shape(batch, images.shape[1:3], pairs, steps)
  noise = draw_noise(key, shape, image if index is None else index[image], task)
  return {'pairs': pairs, 'noise': noise} | ({'steps': steps} if steps else {})
