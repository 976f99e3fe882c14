"""Losses against values worked out by hand; hidden labels have no influence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.basics import target
from dmtl_jax.models import find, Forward, losses
from dmtl_jax.models.base import Output
from dmtl_jax.models.losses import combine, map_losses
from dmtl_jax.tasks.semseg import cross_entropy
from tests.tiny import random_labels, TASKS

BY_NAME = {task.name: task for task in TASKS}
task_loss = jax.jit(losses.task_loss, static_argnums=0)
SIGMOID = (0.95 * np.log1p(np.exp(-2)) + 0.05 * np.log1p(np.exp(-1))) / 2
CLASSES = (np.log(4) + np.log(np.exp([-3, -2, -1, 0]).sum())) / 2


@pytest.mark.parametrize('name, logits, label, expected', [
    ('semseg', [[0, 0, 0, 0], [1, 2, 3, 4], [9, 9, 9, 9]], [0, 3, 255], CLASSES),  # the mean over valid pixels
    ('saliency', [[0, 0]] * 5, [0, 0, 0, 1, 255], np.log(2) * (3 * 0.25 + 1 * 0.75) / 4),  # by the share of negatives
    ('boundary', [[2], [-1], [5]], [1, 0, 255], SIGMOID),
    ('normals', [[3, 0, 4], [7, 7, 7]], [[0, 0, 1], [0, 0, 0]], 0.6 + 0.2),  # normalised, summed over channels
    ('depth', [[1], [5], [9]], [2, 3, 0], 1.5),
])  # fmt: skip
def test_losses_by_hand(name, logits, label, expected):
  """One image of one row."""
  task = BY_NAME[name]
  label = np.array(label, task.label_dtype).reshape(1, 1, -1, task.label_channels)
  np.testing.assert_allclose(task_loss(task, np.array([[logits]], np.float32), label), [expected], rtol=1e-6)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_cross_entropy_and_its_gradient_are_optax_s(platform):
  rng = np.random.default_rng(0)
  logits, ids = rng.standard_normal((2, 3, 5, 7)).astype(np.float32), rng.integers(0, 7, (2, 3, 5))
  with target.compiling_for(platform):
    ours, pull = jax.vjp(lambda x: cross_entropy(x, ids), logits)
    expected, expected_pull = jax.vjp(lambda x: optax.softmax_cross_entropy_with_integer_labels(x, ids), logits)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)
  grad = rng.standard_normal(ours.shape).astype(np.float32)
  np.testing.assert_allclose(*pull(grad), *expected_pull(grad), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.name)
def test_an_image_without_a_labelled_pixel_gives_zero_and_no_nan(task):
  logits = np.random.default_rng(0).standard_normal((1, 4, 5, task.channels)).astype(np.float32)
  loss, grad = jax.jit(jax.value_and_grad(lambda x: task_loss(task, x, task.blank(4, 5)[None]).sum()))(logits)
  assert loss == 0
  np.testing.assert_array_equal(grad, np.zeros_like(logits))


def test_combination_by_hand():
  """Two tasks; image 0 labelled for both, image 1 for the second."""
  losses = jnp.array([[1.0, 2.0], [0.0, 4.0]])
  mask = jnp.array([[True, True], [False, True]])
  weights = jnp.array([10.0, 1.0])
  np.testing.assert_allclose(combine(losses, mask, weights), ((10 + 2) * 2 / 2 + 4 * 2 / 1) / 2)
  np.testing.assert_allclose(combine(losses, mask, weights, balance=False), ((10 + 2) + 4) / 2)


def test_a_label_counts_by_its_weight():
  """Image 0 has a label of its own and a predicted one of weight 0.5, image 1 only two predicted ones."""
  losses = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  mask = jnp.ones((2, 2), bool)
  weights = jnp.array([10.0, 1.0])
  label_weights = jnp.array([[1.0, 0.5], [0.25, 0.25]])
  expected = ((10 + 0.5 * 2) * 2 / 1.5 + (0.25 * 30 + 0.25 * 4) * 2 / 1) / 2  # at least 1 in the divisor
  np.testing.assert_allclose(combine(losses, mask, weights, label_weights=label_weights), expected, rtol=1e-6)


@pytest.mark.parametrize('balance', [True, False])
def test_weight_0_hides_a_predicted_label_and_weight_1_makes_it_one_like_any_other(balance):
  rng = np.random.default_rng(0)
  own = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
  losses, weights = rng.uniform(1, 2, own.shape), rng.uniform(1, 2, 3)
  all_shown = np.ones_like(own)
  with_weight = [combine(losses, all_shown, weights, balance, np.where(own, 1, w)) for w in (0.0, 1.0)]
  expected = [combine(losses * own, own, weights, balance), combine(losses, all_shown, weights, balance)]
  np.testing.assert_allclose(with_weight, expected, rtol=1e-6)


def test_a_methods_loss_weighs_the_labels_of_a_batch():
  rng = np.random.default_rng(0)
  tasks, labels = TASKS[-2:], random_labels(rng, 2, (4, 6))
  output = Output({task.name: rng.standard_normal((2, 4, 6, 1), np.float32) for task in tasks})
  batch = {'image': None, 'labels': labels, 'label_mask': np.ones((2, 2), bool)}

  def loss(**more):
    run = Forward(None, batch | more, output, tasks, np.ones(2, np.float32), None, None)
    return find('mtl_baseline').total_loss(run, 0.5)[0]

  hidden = np.array([[True, False], [True, True]])
  np.testing.assert_allclose(loss(label_weights=hidden * 1.0), loss(label_mask=hidden), rtol=1e-6)
  assert loss() != loss(label_mask=hidden)


@pytest.mark.parametrize('dtype, error', [(np.float32, 1e-4), (np.float16, 2e-3)])
def test_losses_image_by_image_and_their_gradients_are_those_of_the_batch(dtype, error):
  """As on CPUs and elsewhere; images have no label, some, or all. Losses are scaled, as those of float16 are."""
  rng = np.random.default_rng(0)
  labels = random_labels(rng, 3, (96, 128))
  maps = {task.name: rng.standard_normal((3, 48, 64, task.channels)).astype(dtype) for task in TASKS}
  mask = np.array([[0] * 6, [1, 0, 1, 0, 1, 0], [1] * 6], bool)
  grad = 4096 * rng.standard_normal(mask.shape).astype(np.float32)
  results = []
  for platform in ('cpu', 'gpu'):

    @jax.jit
    def value_and_pull(maps):
      value, pull = jax.vjp(lambda maps: map_losses(TASKS, maps, labels, mask), maps)
      return value, pull(grad)

    with target.compiling_for(platform, (None,)):  # one device
      results.append(value_and_pull(maps))
  jax.tree.map(lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=error, atol=1e-4), *results)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_hidden_labels_have_no_influence_whatever_they_hold(platform):
  """Random masks; hidden labels replaced by garbage, NaN included: same values, same gradients."""
  rng = np.random.default_rng(0)
  labels = random_labels(rng, 3, (8, 12))
  maps = {task.name: rng.standard_normal((3, 4, 6, task.channels), np.float32) for task in TASKS}

  @jax.jit
  def value_and_grad(labels, mask):
    return jax.value_and_grad(lambda maps: combine(map_losses(TASKS, maps, labels, mask), mask, jnp.ones(6)))(maps)

  for mask in [*(rng.random((10, 3, 6)) < 0.4), np.zeros((3, 6), bool)]:
    garbage = {}
    for t, task in enumerate(TASKS):
      junk = np.full_like(labels[task.name], np.nan if task.kind in ('normals', 'depth') else 7)
      garbage[task.name] = np.where(mask[:, t, None, None, None], labels[task.name], junk)
    with target.compiling_for(platform, (None,)):  # one device
      loss, grads = value_and_grad(labels, mask)
      with_garbage = value_and_grad(garbage, mask)
    assert np.isfinite(loss)
    jax.tree.map(np.testing.assert_array_equal, with_garbage, (loss, grads))
    for t, task in enumerate(TASKS):
      hidden = np.asarray(grads[task.name])[~mask[:, t]]
      np.testing.assert_array_equal(hidden, np.zeros_like(hidden))
