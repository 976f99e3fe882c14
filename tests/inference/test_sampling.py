"""The mean of several noise draws, and how far they differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.inference import forward
from dmtl_jax.models import build_model
from tests.predicting import photo, SAMPLES, softmax, unit
from tests.tiny import SIZE, TASKS, tiny_config

pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def draws(predictor):
  """Raw maps {task: [K, h, w, C]} of a photo of the training size, by the step that evaluation uses."""
  step = jax.jit(forward.make_forward_fn(predictor.model, predictor.seed))
  image = transforms.pad_image(photo(*SIZE), SIZE, (0, 0))[None]
  maps = [step(predictor.variables, image, jnp.full(1, k, jnp.int32))['final'] for k in range(SAMPLES)]
  return {task.name: np.stack([np.asarray(draw[task.name][0], np.float64) for draw in maps]) for task in TASKS}


def by_hand(task, draws):
  """Mean prediction (class distributions for classes) and uncertainty of draws [K, h, w, C], as README says."""
  if task.classes:
    p = softmax(draws).mean(0)
    return p, -(p * np.log(p)).sum(-1) / np.log(len(task.classes))
  if task.kind == 'normals':
    vectors = unit(draws)
    angles = np.degrees(np.arccos(np.clip((vectors * unit(vectors.mean(0))).sum(-1), -1, 1)))
    return unit(vectors.mean(0)), np.sqrt((angles**2).mean(0))
  values = {'saliency': lambda: softmax(draws)[..., 1], 'boundary': lambda: 1 / (1 + np.exp(-draws[..., 0])),
            'depth': lambda: draws[..., 0]}[task.kind]()  # fmt: skip
  return values.mean(0), values.std(0)


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.name)
def test_mean_and_spread_against_plain_arithmetic(task):
  raw = 2 * np.random.default_rng(0).standard_normal((5, 6, 4, task.channels))
  mean, spread = by_hand(task, raw)
  average, variation = jax.jit(lambda x: (task.mean(x), task.sample_spread(x)))(np.float32(raw))
  if task.classes or task.kind == 'saliency':
    average = softmax(np.asarray(average, np.float64))
    average = average if task.classes else average[..., 1]
  elif task.kind == 'boundary':
    average = 1 / (1 + np.exp(-np.asarray(average, np.float64)[..., 0]))
  else:
    average = unit(np.asarray(average)) if task.kind == 'normals' else np.asarray(average)[..., 0]
  np.testing.assert_allclose(average, mean, atol=1e-5)
  np.testing.assert_allclose(variation[..., 0], spread, atol=1e-3 if spread.max() > 1 else 1e-5)


def test_spread_of_extreme_draws():
  """Draws that agree; that know nothing; that are sure of opposites; at right angles."""
  spreads = {task.kind: jax.jit(task.sample_spread) for task in TASKS}

  def spread(kind, *draws):
    return np.asarray(spreads[kind](jnp.float32(draws)[:, None, None]))

  same = np.random.default_rng(0).standard_normal(3)
  np.testing.assert_allclose(spread('parsing', [0, 0, 0], [0, 0, 0]), 1, atol=1e-6)
  np.testing.assert_allclose(spread('parsing', [99, 0, 0], [99, 0, 0]), 0, atol=1e-6)
  np.testing.assert_allclose(spread('parsing', [99, 0, 0], [0, 99, 0]), np.log(2) / np.log(3), atol=1e-6)
  np.testing.assert_allclose(spread('saliency', [99, 0], [0, 99]), 0.5, atol=1e-6)
  np.testing.assert_allclose(spread('boundary', [9], [9]), 0, atol=1e-6)
  np.testing.assert_allclose(spread('normals', [1, 0, 0], [0, 2, 0]), 45, atol=1e-3)
  np.testing.assert_allclose(spread('normals', same, same), 0, atol=1e-4)
  np.testing.assert_allclose(spread('depth', [3], [5]), 1, atol=1e-6)


def test_samples_are_the_mean_of_the_draws_of_evaluation(predictor, draws):
  raw = predictor.raw(photo(*SIZE), SAMPLES)
  assert set(raw.stages) == {'final', 'initial', 'uncertainty'}
  for task in TASKS:
    mean, spread = by_hand(task, draws[task.name])
    assert np.ptp(draws[task.name], 0).max() > 1e-3, f'{task.name}: equal draws prove nothing'
    if task.classes:
      np.testing.assert_allclose(softmax(raw.maps['final', task.name]), mean, atol=1e-4)
    np.testing.assert_allclose(
      raw.maps['uncertainty', task.name][..., 0], spread, atol=1e-4 * max(spread.max(), 1), err_msg=task.name
    )
  maps, uncertainty = predictor.sample(photo(30, 47), SAMPLES)
  for task in TASKS:
    assert uncertainty[task.name].shape == (30, 47)
    assert uncertainty[task.name].dtype == np.float32
    assert uncertainty[task.name].min() >= 0
    assert maps[task.name].shape[:2] == (30, 47)


def test_one_sample_is_the_prediction(predictor):
  image = photo(30, 47)
  maps, uncertainty = predictor.sample(image, 1)
  assert uncertainty is None
  jax.tree.map(np.testing.assert_array_equal, maps, predictor(image))


@pytest.mark.parametrize('method', ['mtl_baseline', 'no_diffusion'])
def test_methods_without_noise_say_so(method):
  config = tiny_config(f'method={method}')
  with pytest.raises(UserError, match='--samples=4: this method adds no noise'):
    forward.make_sample_fn(build_model(config, TASKS), 4, config.seed)
