"""Inputs of a network, and its initial variables."""

import functools

import jax
import jax.numpy as jnp

from dmtl_jax.basics.photographs import MEAN, STD
from dmtl_jax.models.base import Network
from dmtl_jax.models.parts.diffusion import draw_noise
from dmtl_jax.models.parts.pairs import DensePairs, Pairs


def init_variables(model: Network, key: jax.Array, size: tuple[int, int]) -> dict:
  """Initial variables of the network, traced on one image of `size` (H, W)."""
  noise = {'noise': jnp.zeros(model.noise_shape(DensePairs(1, len(model.tasks)), size))} if model.diffuses else {}
  variables = model.init(key, jnp.zeros((1, *size, 3)), **noise)
  return variables | {'params': model.init_params(variables['params'], key)}


def variable_shapes(model: Network, size: tuple[int, int]) -> dict:
  """Shapes and dtypes of the network's variables, without computing them."""
  return jax.eval_shape(lambda: init_variables(model, jax.random.key(0), size))


def normalize(images: jax.Array) -> jax.Array:
  """Normalises images, uint8 [..., 3] RGB, by ImageNet's mean and standard deviation, to float32."""
  return (images / jnp.float32(255) - MEAN) / STD


def inside(region: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Masks [B, H, W, 1] bool of the regions [B, 4] (top, left, height, width) within `size` (H, W)."""
  top, left, height, width = region.T[:, :, None]
  rows, columns = (jnp.arange(n) for n in size)
  rows = (rows >= top) & (rows < top + height)
  columns = (columns >= left) & (columns < left + width)
  return (rows[:, :, None] & columns[:, None, :])[..., None]


def normalize_padded(images: jax.Array, region: jax.Array) -> jax.Array:
  """Normalises the images of a batch, uint8 [B, H, W, 3], to float32; the padding outside of `region` becomes 0."""
  return jnp.where(inside(region, images.shape[1:3]), normalize(images), 0)


def normalize_batch(batch: dict) -> dict:
  """Normalises the images of a batch on the devices that hold it, and takes away 'region'."""
  batch = dict(batch)
  images = batch['image']
  batch['image'] = _normalizer(images.sharding)(images, batch.pop('region'))
  return batch


@functools.lru_cache(maxsize=8)
def _normalizer(sharding: jax.sharding.Sharding) -> jax.stages.Wrapped:
  """`normalize_padded`, jitted; making it anew took 0.46 ms per step."""
  return jax.jit(normalize_padded, out_shardings=sharding)


def model_inputs(
  model: Network, images, key, tasks: int, pairs: Pairs | None = None, index=None, diffusion_steps=None
) -> dict:
  """Keyword inputs of `model.apply`: pairs and their noise for networks that diffuse, else nothing.

  Args:
    images: [B, H, W, 3].
    key: random key of the noise.
    tasks: T.
    pairs: default all.
    index: [B] numbers of the images, which select their noise; default their positions in the batch.
    diffusion_steps: S of this call; default the model's.
  """
  if not model.diffuses:
    return {}
  pairs = pairs or DensePairs(len(images), tasks)
  shape = model.noise_shape(pairs, images.shape[1:3], diffusion_steps)
  image = pairs.image_index if index is None else index[pairs.image_index]
  inputs = {'pairs': pairs, 'noise': draw_noise(key, shape, image, pairs.task_index)}
  return inputs | ({'diffusion_steps': diffusion_steps} if diffusion_steps else {})
