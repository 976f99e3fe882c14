"""RandAugment with operations on colours only, as JTR uses it (Cubuk et al., NeurIPS 2020 workshops).

Each operation takes an image [H, W, 3] of 0..1 and a factor, and is that of torchvision on tensors or, for the three
that round to 8 bits, of Pillow.
"""

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS_PER_IMAGE = 2
MAGNITUDES = 6  # of 31, drawn from the weakest; strengths are those of torchvision's RandAugment
FACTOR_STEP = 0.9 / 30  # of brightness, colour, contrast and sharpness
SOLARIZE_STEP = 255 / 30
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
  """Applies two random operations to each image of [B, H, W, 3], values 0..1."""
  keys = jax.random.split(key, len(images))
  return jax.vmap(_augment_image)(images, keys)


def _augment_image(image: jax.Array, key: jax.Array) -> jax.Array:
  def apply_one(image, key):
    key_operation, key_magnitude, key_sign = jax.random.split(key, 3)
    operation = jax.random.randint(key_operation, (), 0, len(OPERATIONS))
    magnitude = jax.random.randint(key_magnitude, (), 0, MAGNITUDES)
    # A switch under vmap computes every operation and selects one.
    return jax.lax.switch(operation, OPERATIONS, image, magnitude, jax.random.rademacher(key_sign, ())), None

  return jax.lax.scan(apply_one, image, jax.random.split(key, OPERATIONS_PER_IMAGE))[0]


def identity(image, magnitude, sign):
  return image


def brightness(image, magnitude, sign):
  return _blend(image, 0.0, magnitude, sign)


def color(image, magnitude, sign):
  return _blend(image, _grey(image), magnitude, sign)


def contrast(image, magnitude, sign):
  return _blend(image, _grey(image).mean(), magnitude, sign)


def sharpness(image, magnitude, sign):
  """Blends with the image smoothed by a 3x3 kernel, whose outermost pixels stay as they are."""
  inner = image[1:-1, 1:-1]
  height, width = inner.shape[:2]
  total = sum(image[i : i + height, j : j + width] for i in range(3) for j in range(3))
  smooth = image.at[1:-1, 1:-1].set((total + 4 * inner) / 13)
  return _blend(image, smooth, magnitude, sign)


def posterize(image, magnitude, sign):
  """Keeps 8 or, from magnitude 4, 7 bits."""
  dropped = jnp.round(magnitude / 7.5).astype(jnp.int32)
  return ((_bytes(image) >> dropped) << dropped) / 255


def solarize(image, magnitude, sign):
  """Inverts bright values."""
  values = _bytes(image)
  return jnp.where(values >= 255 - SOLARIZE_STEP * magnitude, 255 - values, values) / 255


def autocontrast(image, magnitude, sign):
  """Stretches each channel to 0..1."""
  low, high = image.min((0, 1)), image.max((0, 1))
  is_flat = low == high
  return jnp.clip((image - jnp.where(is_flat, 0, low)) / jnp.where(is_flat, 1, high - low), 0, 1)


def equalize(image, magnitude, sign):
  """Equalises the histogram of each channel."""
  return jax.vmap(_equalize_channel, in_axes=2, out_axes=2)(_bytes(image)) / 255


def _equalize_channel(values: jax.Array) -> jax.Array:
  counts = jnp.zeros(256, jnp.int32).at[values].add(1)
  brightest = counts[values.max()]
  step = (values.size - brightest) // 255
  table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(table, 255)[values], values)


OPERATIONS = (identity, brightness, color, contrast, sharpness, posterize, solarize, autocontrast, equalize)


def _blend(image, other, magnitude, sign):
  factor = 1 + sign * FACTOR_STEP * magnitude
  return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def _grey(image):
  return (image * GREY).sum(-1, keepdims=True)


def _bytes(image):
  return jnp.clip(jnp.round(255 * image), 0, 255).astype(jnp.int32)
