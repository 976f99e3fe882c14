"""Task Prototype's losses and retrieval against closed forms in NumPy."""

import jax
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model, task_prototype
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.models.task_prototype import nearest_entry, prototype_losses, RetrievalBlock, triplet_loss
from tests.tiny import random_variables, rng, TASKS, tiny_config

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
TWO = (SEMSEG, DEPTH)


def test_the_nearest_entry_is_that_of_the_least_distance():
  r = rng('codebook')
  features, codebook = np.float32(r.standard_normal((2, 3, 4, 5))), np.float32(r.standard_normal((7, 5)))
  distance = np.linalg.norm(features[..., None, :] - codebook, axis=-1)
  nearest = jax.jit(nearest_entry)(features, codebook)
  np.testing.assert_array_equal(nearest, codebook[distance.argmin(-1)])
  exported = jax.jit(lambda features: nearest_entry(features, codebook))  # which holds its parameters
  np.testing.assert_array_equal(exported(features), nearest)


def test_the_codebook_learns_through_the_features_it_is_added_to():
  """Each entry's gradient is the number of features that it is nearest to."""
  features, codebook = np.float32([[1, 0], [2, 0], [0, 3]]), np.float32([[1, 0], [0, 1], [-9, -9]])
  grads = jax.grad(lambda codebook: nearest_entry(features, codebook).sum())(codebook)
  np.testing.assert_array_equal(grads, [[2, 2], [1, 1], [0, 0]])


def triplets(features, counted):
  """The definition, in loops."""
  unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
  batch, tasks = features.shape[:2]
  losses = np.zeros(batch)
  for b in np.flatnonzero(counted):
    for t in range(tasks):
      distances = {
        (i, s): ((unit[b, t] - unit[i, s]) ** 2).sum() for i in np.flatnonzero(counted) for s in range(tasks)
      }
      same = max(distance for (_, s), distance in distances.items() if s == t)
      other = min(distance for (_, s), distance in distances.items() if s != t)
      losses[b] += max(same - other + task_prototype.MARGIN, 0) / tasks
  return losses


@pytest.mark.parametrize('counted', [[1, 1, 1], [1, 0, 1], [0, 1, 0]])
def test_triplet_loss(counted):
  features = np.float32(rng('triplets').standard_normal((3, 4, 5)))
  losses = triplet_loss(features, np.array(counted, bool))
  np.testing.assert_allclose(np.where(counted, losses, 0), triplets(features, counted), atol=1e-5)


def test_features_that_are_apart_by_task_cost_nothing():
  features = np.float32(np.tile(np.eye(3), (2, 1, 1)))
  np.testing.assert_allclose(triplet_loss(features, np.ones(2, bool)), 0, atol=1e-6)


def test_losses_are_means_over_images_of_which_some_do_not_count():
  r = rng('losses')
  images = np.float32(r.standard_normal((3, 4, 4, 3)))
  extra = {
    'image': images + np.float32([0.5, 3, 9])[:, None, None, None],  # smooth L1: x^2 / 2 up to 1, then |x| - 1/2
    'affinity': np.float32(r.uniform(-1, 1, (3, 2, 2, 2, 2))),
    'features': np.float32(r.standard_normal((3, 2, 5))),
  }
  counted = np.array([True, True, False])
  losses = prototype_losses(images, extra, counted)
  assert losses.autoencoder == pytest.approx((0.125 + 2.5) / 3, rel=1e-5)
  log = extra['affinity'] - np.log(np.exp(extra['affinity']).sum(-1, keepdims=True))
  by_image = -np.stack([log[:, t, ..., t] for t in range(2)]).mean((0, 2, 3))
  assert losses.task_knowledge == pytest.approx(by_image[:2].sum() / 3, rel=1e-5)
  assert losses.contrast == pytest.approx(triplets(extra['features'], counted).sum() / 3, rel=1e-5)


def test_retrieval_reads_the_prototypes():
  """Other retrieved tokens change the result, and permuted ones do not."""
  r = rng('retrieval')
  x, retrieved = (np.float32(r.standard_normal((2, 6, 8))) for _ in range(2))
  block = RetrievalBlock(heads=2)
  variables = jax.jit(block.init)(jax.random.key(0), x, retrieved)
  apply = jax.jit(block.apply)
  result = apply(variables, x, retrieved)
  np.testing.assert_allclose(apply(variables, x, retrieved[:, ::-1]), result, atol=1e-5)
  assert np.abs(apply(variables, x, 2 * retrieved[:, :1]) - result).max() > 1e-3


@pytest.fixture(scope='module')
def output_and_model(short_encoder):
  model = build_model(tiny_config('method=task_prototype'), TWO)
  images = np.float32(rng('images').standard_normal((2, 36, 44, 3)))
  return jax.jit(model.apply)(random_variables(model, (36, 44)), images), model


def test_the_decoder_makes_an_image_of_any_size(output_and_model):
  output, _ = output_and_model
  assert output.extra['image'].shape == (2, 36, 44, 3)


def test_affinities_are_cosines(output_and_model):
  affinity = output_and_model[0].extra['affinity']
  assert affinity.shape[1::3] == (2, 2)
  assert np.abs(affinity).max() <= 1 + 1e-6
  assert affinity.min() < 0 < affinity.max()


def test_the_published_codebook_has_4096_entries(output_and_model):
  model = output_and_model[1].clone(channels=512)
  shapes = variable_shapes(model, (32, 32))['params']
  assert shapes['codebook']['vectors'].shape == (4096, 512)
  assert shapes['prototypes']['vectors'].shape == (2, 512)


@pytest.mark.parametrize('fields, tasks, message', [
    ({}, (SEMSEG,), 'task_prototype tells tasks apart'), (dict(heads=3), TWO, 'config.model.heads: 16 channels'),
])  # fmt: skip
def test_what_does_not_fit_is_refused(fields, tasks, message):
  config = tiny_config('method=task_prototype')
  config.model.update(fields)
  with pytest.raises(UserError, match=message):
    build_model(config, tasks)
