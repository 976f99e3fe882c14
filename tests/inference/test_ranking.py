"""What to label next: picks with a known answer, and measurements against the predictor's own maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dmtl_jax
from dmtl_jax.datasets.source import Source
from dmtl_jax.inference import ranking
from dmtl_jax.inference.ranking import rank
from dmtl_jax.models import inputs
from tests.tiny import SIZE, TASKS, Tiny


def mask(count, tasks, *pairs):
  labelled = np.zeros((count, tasks), bool)
  for pair in pairs:
    labelled[pair] = True
  return labelled


def ranked(labelled, count=99, candidates=None, seed=0):
  candidates = ~labelled if candidates is None else candidates
  picks = rank(np.ones(labelled.shape), labelled.sum(0), candidates, count, seed)
  return [(pick.image, pick.task) for pick in picks]


def test_images_are_equally_likely():
  firsts = [ranked(mask(4, 1, (0, 0)), 1, seed=seed)[0][0] for seed in range(900)]
  counts = np.bincount(firsts, minlength=4)
  assert counts[0] == 0
  np.testing.assert_allclose(counts[1:], 300, atol=4 * np.sqrt(900 * 2 / 9))


def test_the_same_seed_picks_the_same_pairs():
  rng = np.random.default_rng(0)
  labelled = rng.random((20, 2)) < 0.3
  assert ranked(labelled, seed=1) == ranked(labelled, seed=1)
  assert ranked(labelled, seed=1) != ranked(labelled, seed=2)


def test_tasks_with_the_fewest_labels_come_first():
  labelled = mask(6, 2, (0, 0), (1, 0), (2, 0))
  assert [task for _, task in ranked(labelled, 5)] == [1, 1, 1, 0, 1]


def test_an_image_is_suggested_for_a_second_task_only_when_no_other_is_left():
  picks = ranked(mask(3, 2))
  assert sorted(image for image, _ in picks[:3]) == [0, 1, 2]
  assert len(set(picks)) == 6


def test_only_candidates_are_suggested():
  candidates = np.random.default_rng(0).random((20, 3)) < 0.5
  picks = ranked(mask(20, 3), candidates=candidates)
  assert sorted(picks) == [tuple(pair) for pair in np.argwhere(candidates).tolist()]


def test_uncertainty_is_told_as_a_share_of_the_candidates():
  picks = rank(np.array([[9], [1], [2], [3]]), [1], ~mask(4, 1, (0, 0)), 9, 0)
  assert {pick.image: pick.uncertainty for pick in picks} == pytest.approx({1: 1 / 6, 2: 3 / 6, 3: 5 / 6})
  assert [pick.labels for pick in picks] == [1, 2, 3]


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
  for image, values in zip(images, found):
    raw = predictor.raw(image, 1, 1)
    rows = round(raw.extent[0])
    for task, value in zip(TASKS, values):
      final, initial = (jnp.asarray(raw.maps[stage, task.name]) for stage in ('final', 'initial'))
      expected = ranking.uncertainty_map(task, final, initial)[:rows]
      # Bilinear weights soften the edge of the padding.
      assert value == pytest.approx(float(expected.mean()), rel=1e-3 if rows == SIZE[0] // 8 else 0.05)


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
  assert shapes.shape == (4, len(TASKS))


def test_kinds_without_probabilities_are_uncertain_where_denoising_moves_them():
  depth = next(task for task in TASKS if task.name == 'depth')
  final, initial = jnp.array([[2.0], [3.0]]), jnp.array([[2.5], [3.0]])
  np.testing.assert_allclose(ranking.uncertainty_map(depth, final, initial), [0.5, 0])
  np.testing.assert_array_equal(ranking.uncertainty_map(depth, final, None), [0, 0])
