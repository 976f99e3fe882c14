"""What to label next: picks with a known answer, and measurements against the predictor's own maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import dmtl_jax
from dmtl_jax.datasets.source import Source
from dmtl_jax.inference import ranking
from dmtl_jax.inference.ranking import Measured, rank
from dmtl_jax.models import inputs
from tests.tiny import SIZE, TASKS, Tiny


def measured(positions, uncertainty=None, tasks=1):
  """Images on a line."""
  features = np.array(positions, np.float32)[:, None]
  if uncertainty is None:
    uncertainty = np.ones((len(features), tasks))
  return Measured(features, np.array(uncertainty, np.float32).reshape(len(features), tasks))


def mask(count, tasks, *pairs):
  labelled = np.zeros((count, tasks), bool)
  for pair in pairs:
    labelled[pair] = True
  return labelled


def ranked(measured, labelled, count=99, candidates=None, seed=0):
  candidates = ~labelled if candidates is None else candidates
  return [(pick.image, pick.task) for pick in rank(measured, labelled, candidates, count, seed)]


def test_images_are_drawn_by_their_squared_distance():
  """At distances 1 and 3 from the labelled image the first pick is the far one in 9 of 10 draws."""
  firsts = [ranked(measured([0, 1, -3]), mask(3, 1, (0, 0)), 1, seed=seed)[0][0] for seed in range(1000)]
  assert firsts.count(2) == pytest.approx(900, abs=4 * np.sqrt(1000 * 0.9 * 0.1))


def test_distances_are_from_the_nearest_labelled_image_of_the_task():
  labelled = mask(4, 2, (0, 0), (3, 1))
  picks = rank(measured([0, 1, 4, 10], tasks=2), labelled, mask(4, 2, (1, 0), (1, 1)), 1, 0)
  assert [(pick.image, pick.task) for pick in picks] == [(1, 0)]
  spread = 2 * np.abs(np.array([0, 1, 4, 10]) - 3.75).max()
  assert picks[0].distance == pytest.approx(1 / spread)


@pytest.mark.parametrize('seed', range(5))
def test_a_photograph_is_not_suggested_twice(seed):
  """The copies of a labelled image and of a suggested one come last."""
  picks = ranked(measured([0, 10, 10, 4, 7, 0]), mask(6, 1, (0, 0)), seed=seed)
  assert {image for image, _ in picks[-2:]} in ({1, 5}, {2, 5})


def test_equal_photographs_are_all_suggested_in_the_end():
  assert sorted(ranked(measured([3, 3, 3]), mask(3, 1))) == [(0, 0), (1, 0), (2, 0)]


def test_the_same_seed_picks_the_same_pairs():
  rng = np.random.default_rng(0)
  data = Measured(rng.standard_normal((20, 3)), rng.random((20, 2)))
  labelled = rng.random((20, 2)) < 0.3
  assert ranked(data, labelled, seed=1) == ranked(data, labelled, seed=1)
  assert ranked(data, labelled, seed=1) != ranked(data, labelled, seed=2)


def test_tasks_with_the_fewest_labels_come_first():
  labelled = mask(6, 2, (0, 0), (1, 0), (2, 0))
  assert [task for _, task in ranked(measured(range(6), tasks=2), labelled, 5)] == [1, 1, 1, 0, 1]


def test_an_image_is_suggested_for_a_second_task_only_when_no_other_is_left():
  picks = ranked(measured([0, 5, 9], tasks=2), mask(3, 2))
  assert sorted(image for image, _ in picks[:3]) == [0, 1, 2]
  assert len(set(picks)) == 6


def test_only_candidates_without_a_label_are_suggested():
  rng = np.random.default_rng(0)
  labelled, candidates = rng.random((2, 20, 3)) < 0.5
  picks = ranked(Measured(rng.standard_normal((20, 4)), rng.random((20, 3))), labelled, candidates=candidates)
  assert sorted(picks) == [tuple(pair) for pair in np.argwhere(candidates & ~labelled).tolist()]


def test_uncertainty_is_told_as_a_share_of_the_candidates():
  picks = rank(measured([0, 1, 2, 10], [9, 1, 2, 3]), mask(4, 1, (0, 0)), mask(4, 1) == 0, 9, 0)
  assert {pick.image: pick.uncertainty for pick in picks} == pytest.approx({1: 1 / 6, 2: 3 / 6, 3: 5 / 6})
  assert [pick.labels for pick in picks] == [1, 2, 3]


def test_distances_are_those_of_scipy(monkeypatch):
  monkeypatch.setattr(ranking, 'BLOCK', 4)
  rng = np.random.default_rng(0)
  features = 0.05 * rng.standard_normal((11, 5), np.float32)
  labelled = rng.random((11, 2)) < 0.4
  found = ranking.distance_to_labelled(features, labelled)
  for t in range(2):
    np.testing.assert_allclose(found[:, t], cdist(features, features[labelled[:, t]]).min(1), atol=1e-5)
  np.testing.assert_array_equal(ranking.distance_to_labelled(features, mask(11, 2)), 1)


@pytest.fixture(scope='module')
def predictor(tiny_run):
  return dmtl_jax.load(tiny_run)


def as_source(images):
  labels = np.zeros((len(images), len(TASKS)), bool)
  return Source(TASKS, list(map(str, range(len(images)))), labels, lambda i, _: {'image': images[i], 'labels': {}})


def test_uncertainty_is_the_mean_over_the_predictors_maps(predictor, monkeypatch):
  """Of images of the training size and of a wide one, which is padded; the last batch is padded too."""
  monkeypatch.setattr(ranking, 'BATCH', 2)
  rng = np.random.default_rng(0)
  wide = (SIZE[0] // 2, SIZE[1])
  images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in (SIZE, SIZE, wide)]
  found = ranking.measure(predictor, as_source(images), predictor.config.data)
  for image, values in zip(images, found.uncertainty):
    raw = predictor.raw(image, 1, 1)
    rows = round(raw.extent[0])
    for task, value in zip(TASKS, values):
      final, initial = (jnp.asarray(raw.maps[stage, task.name]) for stage in ('final', 'initial'))
      expected = ranking.uncertainty_map(task, final, initial)[:rows]
      # Bilinear weights soften the edge of the padding.
      assert value == pytest.approx(float(expected.mean()), rel=1e-3 if rows == SIZE[0] // 8 else 0.05)


def test_features_are_of_the_image_alone(predictor):
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(3)]
  together = ranking.measure(predictor, as_source(images), predictor.config.data)
  alone = ranking.measure(predictor, as_source(images[1:2]), predictor.config.data)
  np.testing.assert_allclose(together.features[1], alone.features[0], rtol=1e-3, atol=1e-4)
  assert np.abs(together.features[0] - together.features[1]).max() > 0.1
  assert together.features.shape == (3, 16)  # the last of two stages, of width 8


def test_a_strip_is_measured_however_thin():
  region = jnp.array([[0, 0, 1, 96]])
  weights = inputs.inside(region, SIZE).astype(jnp.float32)
  assert float(weights.sum()) == 96
  assert float(ranking.mean_inside(jnp.ones((1, 2, 3, 1)), weights)[0, 0]) == pytest.approx(1)


@pytest.mark.parametrize('method', ['mtl_baseline', 'single_task', 'feature'])
def test_methods(method, short_encoder):
  tiny = Tiny(f'method={method}')
  function = ranking.make_measure_fn(tiny.model, 0)
  shapes = jax.eval_shape(function, tiny.variables, tiny.images, np.zeros((4, 4), np.int32))
  encoders = len(TASKS) if method == 'single_task' else 1
  assert shapes['features'].shape == (4, encoders * 16)
  assert shapes['uncertainty'].shape == (4, len(TASKS))


def test_kinds_without_probabilities_are_uncertain_where_denoising_moves_them():
  depth = next(task for task in TASKS if task.name == 'depth')
  final, initial = jnp.array([[2.0], [3.0]]), jnp.array([[2.5], [3.0]])
  np.testing.assert_allclose(ranking.uncertainty_map(depth, final, initial), [0.5, 0])
  np.testing.assert_array_equal(ranking.uncertainty_map(depth, final, None), [0, 0])
