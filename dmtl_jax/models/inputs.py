"""What a network is called with besides images, and its first variables."""

import jax
import jax.numpy as jnp

from dmtl_jax.models.base import Network
from dmtl_jax.models.parts.diffusion import draw_noise
from dmtl_jax.models.parts.pairs import DensePairs, Pairs


def init_variables(model: Network, key: jax.Array, size: tuple[int, int]) -> dict:
  """The network's variables for one image of zeros of `size`."""
  noise = {'noise': jnp.zeros(model.noise_shape(DensePairs(1, len(model.tasks)), size))} if model.diffuses else {}
  variables = model.init(key, jnp.zeros((1, *size, 3)), **noise)
  return variables | {'params': model.init_params(variables['params'], key)}


def variable_shapes(model: Network, size: tuple[int, int]) -> dict:
  """Shapes and dtypes of the network's variables; nothing is computed."""
  return jax.eval_shape(lambda: init_variables(model, jax.random.key(0), size))


def model_inputs(
  model: Network, images, key, tasks: int, pairs: Pairs | None = None, index=None, diffusion_steps=None
) -> dict:
  """Keyword inputs of `model.apply`: pairs and their noise, for networks that diffuse; else nothing.

  Args:
    pairs: default all.
    index: [B] what an image's noise is drawn by; default its position in the batch.
  """
  if not model.diffuses:
    return {}
  pairs = pairs or DensePairs(len(images), tasks)
  shape, image = model.noise_shape(pairs, images.shape[1:3], diffusion_steps), pairs.image_index
  noise = draw_noise(key, shape, image if index is None else index[image], pairs.task_index)
  return {'pairs': pairs, 'noise': noise} | ({'diffusion_steps': diffusion_steps} if diffusion_steps else {})
