"""The diffusion process of docs/paper.md, Model 3: noise schedule, q(x_s | x_0), posterior.

Steps are counted s = 1..S as in the paper; every array here holds step s at index s - 1.
All functions are pure and work on any array shape.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Linear noise schedule over S steps, spaced linearly in sqrt(beta).

  Attributes:
    diffusion_steps: S >= 1.
    beta_first, beta_last: beta_1 and beta_S.

  Raises:
    ValueError: for S < 1.
  """

  diffusion_steps: int
  beta_first: float = 1e-3
  beta_last: float = 1e-2

  def __post_init__(self):
    if self.diffusion_steps < 1:
      raise ValueError(f'a diffusion schedule needs at least one step, got {self.diffusion_steps}')

  @property
  def beta(self) -> np.ndarray:
    """beta_s [S] float64; S = 2 gives [1e-3, 1e-2]."""
    return np.linspace(self.beta_first**0.5, self.beta_last**0.5, self.diffusion_steps) ** 2

  @property
  def alpha_bar(self) -> np.ndarray:
    """Product of (1 - beta) up to s [S] float64; S = 2 ends at 0.98901."""
    return np.cumprod(1 - self.beta)

  def decay(self, initial: jax.Array, noise: jax.Array) -> jax.Array:
    """X_S = sqrt(alpha_bar_S) X_init + sqrt(1 - alpha_bar_S) eps, any shape."""
    alpha_bar = self.alpha_bar[-1]
    return float(alpha_bar**0.5) * initial + float((1 - alpha_bar) ** 0.5) * noise

  def posterior(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q(x_{s-1} | x_s, x_0) = N(a_s x_0 + b_s x_s, sigma_s^2), eq. 6-7 of Ho et al. 2020.

    Returns:
      a, b, sigma: [S] float64 each; at s = 1 they are 1, 0 and 0.
    """
    beta, alpha_bar = self.beta, self.alpha_bar
    before = np.append(1.0, alpha_bar[:-1])
    of_x0 = beta * np.sqrt(before) / (1 - alpha_bar)
    of_xs = (1 - before) * np.sqrt(1 - beta) / (1 - alpha_bar)
    return of_x0, of_xs, np.sqrt(beta * (1 - before) / (1 - alpha_bar))


def step_embedding(step: jax.Array, size: int = 256, max_period: float = 10_000.0) -> jax.Array:
  """Sinusoidal embedding [..., size] float32 of step index [...]: cosines first, then sines."""
  half = size // 2
  frequencies = jnp.exp(-np.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
  angles = jnp.asarray(step, jnp.float32)[..., None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def stride8(size: tuple[int, int]) -> tuple[int, int]:
  """Size of the maps inside the network for images of `size`: half of the stride-4 stage."""
  quarter = lambda n: ((n + 1) // 2 + 1) // 2
  return quarter(size[0]) // 2, quarter(size[1]) // 2


def draw_noise(key: jax.Array, shape: tuple[int, ...], image: jax.Array, task: jax.Array) -> jax.Array:
  """Standard normal noise [K, N, ...]; a pair's draw depends on key, image and task alone.

  So the same pair sees the same noise whatever else is denoised and on however many devices.

  Args:
    image, task: [N] position of the pair's image in the global batch, and its task.
  """
  draw = lambda i, t: jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), t), (shape[0], *shape[2:]))
  return jnp.swapaxes(jax.vmap(draw)(image, task), 0, 1)
