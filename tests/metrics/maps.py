"""Soft maps and thin lines that tests of the boundary protocols score."""

import cv2
import numpy as np

from dmtl_jax.metrics.thinning import thin


def soft_map(seed, shape=(48, 64), scale=2.5):
  """A smooth random map in 0..1 with ridges."""
  noise = np.random.default_rng(seed).standard_normal(shape)
  smooth = cv2.GaussianBlur(noise, (0, 0), scale)
  return np.exp(-((smooth / smooth.std()) ** 2) * 4)


def soft8(seed, shape=(60, 75)):
  """A somewhat smoother one in 8 bits."""
  return (255 * soft_map(seed, shape, 3)).astype(np.uint8)


def lines(seed, shape=(48, 64)):
  return thin(soft_map(seed, shape) > 0.7)


def lines8(seed, shape=(60, 75)):
  return thin(soft8(seed, shape) > 150)


def encoded(truth):
  """Boundaries [H, W] bool as a label."""
  return truth[..., None].astype(np.uint8)


def padded(values, fill, where=(20, 10), size=(100, 90)):
  """Values somewhere in a larger map of `fill`."""
  out = np.full((*size, *values.shape[2:]), fill, values.dtype)
  out[where[0] : where[0] + values.shape[0], where[1] : where[1] + values.shape[1]] = values
  return out
