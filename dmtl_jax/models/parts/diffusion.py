"""The diffusion process of docs/paper.md, Model 3: noise schedule, q(x_s | x_0), posterior.

Steps count s = 1..S as in the paper; arrays over steps hold step s at index s - 1.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Posterior(NamedTuple):
  """q(x_{s-1} | x_s, x_0) = N(weight_x0 x_0 + weight_xs x_s, sigma^2), eq. 6-7 of Ho et al. 2020."""

  weight_x0: jax.Array | np.ndarray
  weight_xs: jax.Array | np.ndarray
  sigma: jax.Array | np.ndarray

  def sample(self, x0: jax.Array, xs: jax.Array, noise: jax.Array) -> jax.Array:
    """x_{s-1}, given standard normal noise."""
    return self.weight_x0 * x0 + self.weight_xs * xs + self.sigma * noise


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Noise schedule over S >= 1 diffusion steps: beta from 1e-3 to 1e-2, linear in its square root."""

  diffusion_steps: int

  @property
  def beta(self) -> np.ndarray:
    """beta_s [S] float64; S = 2 gives [1e-3, 1e-2]."""
    return np.linspace(1e-3**0.5, 1e-2**0.5, self.diffusion_steps) ** 2

  @property
  def alpha_bar(self) -> np.ndarray:
    """Product of (1 - beta) up to s [S] float64; S = 2 ends at 0.98901."""
    return np.cumprod(1 - self.beta)

  def decay(self, initial: jax.Array, noise: jax.Array) -> jax.Array:
    """X_S = sqrt(alpha_bar_S) X_init + sqrt(1 - alpha_bar_S) eps, any shape."""
    alpha_bar = self.alpha_bar[-1]
    return float(alpha_bar**0.5) * initial + float((1 - alpha_bar) ** 0.5) * noise

  def posterior(self) -> Posterior:
    """The posterior of every step, [S] float64 each; at s = 1 it is x_0 itself: 1, 0 and 0."""
    beta = self.beta
    alpha_bar = self.alpha_bar
    before = np.append(1.0, alpha_bar[:-1])
    return Posterior(
      weight_x0=beta * np.sqrt(before) / (1 - alpha_bar),
      weight_xs=(1 - before) * np.sqrt(1 - beta) / (1 - alpha_bar),
      sigma=np.sqrt(beta * (1 - before) / (1 - alpha_bar)),
    )


def step_embedding(step: jax.Array) -> jax.Array:
  """Sinusoidal embedding [..., 256] float32 of step index [...]: cosines first, then sines."""
  half = 128
  frequencies = jnp.exp(-np.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
  angles = jnp.asarray(step, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def stride8(size: tuple[int, int]) -> tuple[int, int]:
  """Size of the maps inside the network for images of `size`: half of the stride-4 stage."""
  height, width = size
  return math.ceil(height / 4) // 2, math.ceil(width / 4) // 2


def draw_noise(key: jax.Array, shape: tuple[int, ...], image: jax.Array, task: jax.Array) -> jax.Array:
  """Standard normal noise [K, N, ...]; what a pair gets depends only on key, image and task.

  So a pair gets the same noise whatever else is denoised, and on any number of devices.

  Args:
    shape: [K, N, ...].
    image: [N] position of each pair's image in the global batch.
    task: [N] task of each pair.
  """

  def draw(i, t):
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), t), (shape[0], *shape[2:]))

  return jnp.swapaxes(jax.vmap(draw)(image, task), 0, 1)
