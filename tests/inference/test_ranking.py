"""What to label next: picks with a known answer, and measurements against the predictor's own maps."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import dmtl_jax
from dmtl_jax.datasets.source import Source
from dmtl_jax.inference import ranking
from dmtl_jax.inference.ranking import Measured, rank
from tests.tiny import SIZE, TASKS


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


def ranked(measured, labelled, count=99, candidates=None):
  candidates = ~labelled if candidates is None else candidates
  return [(pick.image, pick.task) for pick in rank(measured, labelled, candidates, count)]


def test_equally_uncertain_images_come_farthest_first():
  assert ranked(measured([0, 1, 2, 10, 5]), mask(5, 1, (0, 0))) == [(3, 0), (4, 0), (2, 0), (1, 0)]


def test_of_equally_distant_images_the_more_uncertain_comes_first():
  assert ranked(measured([0, 3, -3], [9, 0.1, 0.2]), mask(3, 1, (0, 0)))[0] == (2, 0)


def test_the_score_is_rank_times_distance():
  """Of two candidates the ranks are 1/4 and 3/4; with distances 2 and 1 that is 2/4 against 3/4, with 4 and 1, 4/4."""
  labelled = mask(3, 1, (0, 0))
  assert ranked(measured([0, 2, -1], [0, 0.1, 0.2]), labelled)[0] == (2, 0)
  assert ranked(measured([0, 4, -1], [0, 0.1, 0.2]), labelled)[0] == (1, 0)


def test_a_photograph_is_not_suggested_twice():
  """The copy of the farthest image comes last, though it is the second most uncertain."""
  picks = ranked(measured([0, 10, 10, 4, 7], [0, 5, 4, 1, 2]), mask(5, 1, (0, 0)))
  assert picks[0] == (1, 0)
  assert picks[-1] == (2, 0)


def test_tasks_with_the_fewest_labels_come_first():
  labelled = mask(6, 2, (0, 0), (1, 0), (2, 0))
  assert [task for _, task in ranked(measured(range(6), tasks=2), labelled, 5)] == [1, 1, 1, 0, 1]


def test_an_image_is_suggested_for_a_second_task_only_when_no_other_is_left():
  picks = ranked(measured([0, 5, 9], tasks=2), mask(3, 2))
  assert sorted(image for image, _ in picks[:3]) == [0, 1, 2]
  assert len(set(picks)) == 6


def test_the_scale_of_a_tasks_uncertainty_does_not_matter():
  rng = np.random.default_rng(0)
  features, uncertainty = rng.standard_normal((20, 3)), rng.random((20, 2))
  labelled = rng.random((20, 2)) < 0.3
  assert ranked(Measured(features, uncertainty), labelled) == ranked(
    Measured(features, uncertainty * (1000, 0.001)), labelled
  )


def test_only_candidates_without_a_label_are_suggested():
  rng = np.random.default_rng(0)
  labelled, candidates = rng.random((2, 20, 3)) < 0.5
  picks = ranked(Measured(rng.standard_normal((20, 4)), rng.random((20, 3))), labelled, candidates=candidates)
  assert sorted(picks) == [tuple(pair) for pair in np.argwhere(candidates & ~labelled).tolist()]


def test_reasons():
  first, second, *_ = rank(measured([0, 1, 2, 10], [9, 1, 2, 3]), mask(4, 1, (0, 0)), mask(4, 1) == 0, 9)
  assert (first.labels, second.labels) == (1, 2)
  assert first.uncertainty == pytest.approx(5 / 6)  # of three the most uncertain
  assert first.distance == pytest.approx(2 / 3)  # both others are closer
  assert first.score > second.score


def test_distances_are_those_of_scipy(monkeypatch):
  monkeypatch.setattr(ranking, 'BLOCK', 4)
  rng = np.random.default_rng(0)
  features = 0.1 * rng.standard_normal((11, 5))
  labelled = rng.random((11, 2)) < 0.4
  found = ranking._distance_to_labelled(features, labelled)
  for t in range(2):
    np.testing.assert_allclose(found[:, t], cdist(features, features[labelled[:, t]]).min(1), atol=1e-7)
  np.testing.assert_array_equal(ranking._distance_to_labelled(features, mask(11, 2)), 1)


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


def test_kinds_without_probabilities_are_uncertain_where_denoising_moves_them():
  depth = next(task for task in TASKS if task.name == 'depth')
  final, initial = jnp.array([[2.0], [3.0]]), jnp.array([[2.5], [3.0]])
  np.testing.assert_allclose(ranking.uncertainty_map(depth, final, initial), [0.5, 0])
  np.testing.assert_array_equal(ranking.uncertainty_map(depth, final, None), [0, 0])
