"""Normalisation on the device."""

import jax.numpy as jnp
import numpy as np

from dmtl_jax.data import transforms
from dmtl_jax.models import inputs


def test_every_value_is_normalised_as_prediction_does_it():
  """The formula for devices against the table for processors, which have the same float32 constants."""
  image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  np.testing.assert_allclose(inputs.normalize(jnp.asarray(image)), transforms.normalize_image(image), atol=5e-7)


def test_padding_is_zero_after_normalising():
  """As in the authors' code, which pads normalised images: black pixels of a photograph are not 0."""
  region = np.array([[0, 0, 6, 8], [1, 2, 4, 5], [0, 0, 0, 0]], np.int32)
  images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3)).astype(np.uint8)
  batch = {'image': jnp.asarray(images), 'region': jnp.asarray(region), 'index': jnp.arange(3)}
  ready = inputs.normalize_batch(batch)
  assert ready.keys() == {'image', 'index'}
  assert ready['image'].dtype == jnp.float32
  for image, (top, left, height, width), got in zip(images, region, ready['image']):
    window = image[top : top + height, left : left + width]
    expected = transforms.pad_image(window, (6, 8), (top, left)) if height else np.zeros((6, 8, 3))
    np.testing.assert_allclose(got, expected, atol=5e-7)
