"""Schedule, q(x_s | x_0), posterior and step embedding against closed forms and numpy."""

import numpy as np
import pytest

from dmtl_jax.models.parts.diffusion import Posterior, Schedule, step_embedding


def test_two_steps_have_the_papers_numbers():
  schedule = Schedule(2)
  np.testing.assert_allclose(schedule.beta, [1e-3, 1e-2], rtol=1e-12)
  np.testing.assert_allclose(schedule.alpha_bar, [0.999, 0.98901], rtol=1e-12)


def test_betas_are_linear_in_their_square_root():
  root = np.sqrt(Schedule(7).beta)
  np.testing.assert_allclose(np.diff(root), np.full(6, (0.1 - 1e-3**0.5) / 6), rtol=1e-9)


def test_decay_has_the_stated_mean_and_variance():
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(200_000)
  decayed = np.asarray(Schedule(2).decay(3.0, noise))
  assert abs(decayed.mean() - 3 * 0.98901**0.5) < 1e-3
  assert abs(decayed.var() - (1 - 0.98901)) < 2e-4


def test_composed_single_steps_equal_the_closed_form():
  """Variance of x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) eps, step by step."""
  schedule = Schedule(5)
  mean, variance = 1.0, 0.0
  for beta in schedule.beta:
    mean *= np.sqrt(1 - beta)
    variance = variance * (1 - beta) + beta
  np.testing.assert_allclose([mean**2, variance], [schedule.alpha_bar[-1], 1 - schedule.alpha_bar[-1]], rtol=1e-12)


@pytest.mark.parametrize('s', [2, 3, 4])
def test_posterior_by_bayes_rule(s):
  """q(x_{s-1} | x_s, x_0) as the product of the two Gaussians, x_0 = 0.7 and x_s = -1.3."""
  schedule = Schedule(4)
  beta = schedule.beta[s - 1]
  before = schedule.alpha_bar[s - 2]
  x0, xs = 0.7, -1.3
  precision = 1 / (1 - before) + (1 - beta) / beta
  mean = (np.sqrt(before) * x0 / (1 - before) + np.sqrt(1 - beta) * xs / beta) / precision
  posterior = Posterior(*(values[s - 1] for values in schedule.posterior()))
  np.testing.assert_allclose(posterior.sample(x0, xs, 0), mean, rtol=1e-10)
  np.testing.assert_allclose(posterior.sigma**2, 1 / precision, rtol=1e-10)


def test_posterior_of_the_first_step_is_x0():
  np.testing.assert_allclose([values[0] for values in Schedule(3).posterior()], [1, 0, 0], atol=1e-12)


def test_step_embedding_against_a_plain_loop():
  expected = np.zeros((2, 256))
  for row, step in enumerate([1, 7]):
    for i in range(128):
      angle = step * 10_000 ** (-i / 128)
      expected[row, i], expected[row, 128 + i] = np.cos(angle), np.sin(angle)
  np.testing.assert_allclose(step_embedding(np.array([1, 7])), expected, atol=2e-6)
