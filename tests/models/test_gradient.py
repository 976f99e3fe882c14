"""The training gradient in bfloat16 against float32, and against the benchmarks' PyTorch network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmtl_jax.basics import target
from dmtl_jax.models import build_model, losses
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.models.parts.task_layers import Slots
from tests.tiny import random_labels, random_variables, SIZE, TASKS, tiny_config

TWO = (TASKS[0], TASKS[3])  # segmentation and normals
MASK = np.array([[True, False], [True, True], [False, True], [False, True]])
PAIRS = 5
CONFIG = tiny_config('method=prediction')
CONFIG.model.depth = 2
IMAGES = np.random.default_rng(0).standard_normal((4, *SIZE, 3)).astype(np.float32)
LABELS = random_labels(np.random.default_rng(1), 4)


@pytest.fixture(scope='module')
def steps(short_encoder):
  """{dtype: (gradient, (losses [B, T] of the final maps, loss, new statistics))} at one state."""
  return {dtype: step(dtype) for dtype in ('float32', 'bfloat16')}


def network(dtype: str):
  config = CONFIG.copy_and_resolve_references()
  config.dtype = dtype
  model = build_model(config, TWO)
  return model, random_variables(model)


def inputs_of(model) -> dict:
  """The pairs and their noise."""
  return model_inputs(model, IMAGES, jax.random.key(1), 2, pairs_lib.select(MASK, PAIRS))


def step(dtype: str):
  model, variables = network(dtype)
  inputs = inputs_of(model)

  def loss(params):
    output, updated = model.apply(
      {'params': params, 'batch_stats': variables['batch_stats']}, IMAGES, **inputs, train=True, mutable=['batch_stats']
    )
    total, parts = losses.total_loss(TWO, output, LABELS, MASK, jnp.ones(2))
    return total, (parts['final'], total, updated)

  return jax.jit(jax.grad(loss, has_aux=True))(variables['params'])


@pytest.mark.parametrize('platform', ['gpu', 'tpu'])
def test_the_operations_of_all_platforms_give_one_gradient(steps, platform):
  """GPUs have the plain ones, TPUs loops over tasks and blocks; both run here."""
  with target.compiling_for(platform):
    plain, (expected, _, expected_stats) = step('float32')
  gradient, (ours, _, stats) = steps['float32']
  np.testing.assert_allclose(ours, expected, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, expected_stats)
  scale = optax.tree.norm(plain)
  difference = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, plain))
  assert 0 < difference < 1e-5 * scale


def test_losses_agree(steps):
  """Each pair's loss within 2%, half of bfloat16's error after the few dozen layers a pair passes."""
  (_, (exact, *_)), (_, (rounded, *_)) = steps['float32'], steps['bfloat16']
  assert (np.asarray(exact) > 0).tolist() == MASK.tolist()
  np.testing.assert_allclose(rounded, exact, rtol=0.02)
  assert np.abs(np.asarray(rounded) - exact).max() > 1e-6  # bfloat16 was really used


def test_the_gradient_points_the_same_way(steps):
  """Random labels are the hard case: most of the gradient cancels."""
  exact, rounded = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)]) for grads, _ in steps.values())
  cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
  assert cosine > 0.95
  assert np.linalg.norm(rounded) == pytest.approx(np.linalg.norm(exact), rel=0.05)


def test_parameters_and_statistics_stay_float32(steps):
  assert {x.dtype for x in jax.tree.leaves(steps['bfloat16'])} == {jnp.dtype('float32')}


def test_torch_has_the_same_gradient(steps):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed; only the benchmark uses it')
  from benchmarks import torch_step

  model, variables = network('float32')
  batch = {'image': IMAGES, 'labels': {task.name: LABELS[task.name] for task in TWO}, 'label_mask': MASK}
  contestant = torch_step.TrainStep(CONFIG, TWO, variables, batch, 'float32', compiled=False, device='cpu')
  slots = Slots(tuple(task.channels for task in TWO))
  noise = np.asarray(inputs_of(model)['noise'])
  torch_noise = {}
  for n, (b, t) in enumerate(zip(*np.nonzero(MASK))):  # the pairs' order: image by image
    torch_noise[TWO[t].name, b] = torch.tensor(np.moveaxis(noise[:, n : n + 1, ..., slots.channel_slice(t)], -1, 2))
  loss = contestant.loss(torch_noise)
  loss.backward()
  grads, (_, expected, _) = steps['float32']
  assert loss.item() == pytest.approx(float(expected), rel=1e-5)
  squares = sum(float((p.grad**2).sum()) for p in contestant.net.parameters() if p.grad is not None)
  assert squares**0.5 == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
