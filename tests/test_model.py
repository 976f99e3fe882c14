"""DiffusionMTL: the scan against an unrolled loop, sparse against dense denoising, hidden labels."""

from conftest import TASKS, Tiny
from flax.core import unfreeze
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.models import losses
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.models.parts.diffusion import Schedule, stride8
from dmtl_jax.models.parts.task_layers import Slots


def test_initial_and_final_maps_have_stride_8(tiny):
  output = jax.eval_shape(tiny.model.apply, tiny.variables, tiny.images, **tiny.inputs())
  for task in TASKS:
    assert output.initial[task.name].shape == output.final[task.name].shape == (4, 8, 12, task.channels)
    assert output.steps[task.name].shape == (3, 4, 8, 12, task.channels)


@pytest.mark.parametrize('size', [(64, 96), (96, 128), (50, 70), (33, 47)])
def test_noise_fits_images_of_any_size(tiny, size):
  def run(images):
    return tiny.model.apply(tiny.variables, images, **model_inputs(tiny.model, images, jax.random.key(0), 6))

  output = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
  assert output.final['depth'].shape == (1, *stride8(size), 1)


def test_scan_equals_an_unrolled_loop(tiny):
  """X_S = decay(P_init); X_{s-1} = Denoiser(X_s, s, F_cond), by calling the parts one by one."""
  from dmtl_jax.models.parts.conditioning import Conditioning
  from dmtl_jax.models.parts.denoiser import Denoiser

  inputs = tiny.inputs()
  output = jax.jit(tiny.model.apply)(tiny.variables, tiny.images, **inputs)
  params, config = unfreeze(tiny.variables['params']), tiny.config.model
  channels = tuple(task.channels for task in TASKS)
  initial = {task.name: output.initial[task.name] for task in TASKS}  # jit sorts the keys of a dict
  fused = Conditioning(config.channels).apply({'params': params['conditioning']}, initial)
  condition = jnp.tile(fused, (len(TASKS), 1, 1))
  slots = Slots(channels)
  x = jnp.concatenate(slots.place(list(initial.values())))
  task = jnp.repeat(jnp.arange(6), 4)
  x = Schedule(2).decay(x, jnp.where(slots.mask(task), inputs['noise'][0], 0))
  denoiser = Denoiser(channels, config.channels, True, config.depth, config.heads)
  for s in (2, 1):
    x = jax.jit(denoiser.apply)({'params': params['denoiser']}, x, jnp.float32(s), condition, None)
  for t, maps in enumerate(slots.split(list(x.reshape(6, 4, *x.shape[1:])))):
    np.testing.assert_allclose(output.final[TASKS[t].name], maps, atol=1e-5)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('method', ['tiny', 'tiny_feature'])
def test_denoising_labelled_pairs_equals_denoising_everything_and_masking(method, groups, request):
  tiny = request.getfixturevalue(method)
  mask = np.random.default_rng(1).random((4, 6)) < 0.4
  mask[3] = False
  pairs = pairs_lib.select(jnp.asarray(mask), int(mask.sum(1).max()) * 4 // groups, groups)
  apply = jax.jit(tiny.model.apply)
  sparse = apply(tiny.variables, tiny.images, **tiny.inputs(pairs))
  dense = apply(tiny.variables, tiny.images, **tiny.inputs(None))
  for t, task in enumerate(TASKS):
    expected = np.where(mask[:, t, None, None, None], dense.final[task.name], 0)
    np.testing.assert_allclose(sparse.final[task.name], expected, atol=2e-5)


def test_selected_pairs_are_those_of_the_mask():
  mask = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
  pairs = pairs_lib.select(jnp.asarray(mask), 5, groups=2)
  found = {
    (g * 2 + int(pairs.image[g, p]), int(pairs.task[g, p])) for g in range(2) for p in range(5) if pairs.valid[g, p]
  }
  assert found == set(zip(*map(lambda a: a.tolist(), np.nonzero(mask))))
  assert pairs.valid.sum() == mask.sum()


@pytest.fixture(scope='module')
def gradient(tiny):
  """(labels, mask) -> loss and gradients of the whole model, at 24 pairs."""

  @jax.jit
  def run(labels, mask):
    inputs = tiny.inputs(pairs_lib.select(mask, 24))

    def loss(params):
      variables = {'params': params, 'batch_stats': tiny.variables['batch_stats']}
      output, _ = tiny.model.apply(variables, tiny.images, train=True, mutable=['batch_stats'], **inputs)
      return losses.total_loss(TASKS, output, labels, mask, jnp.ones(6))[0]

    return jax.value_and_grad(loss)(tiny.variables['params'])

  return run


@settings(max_examples=12, deadline=None)
@given(st.lists(st.booleans(), min_size=24, max_size=24), st.integers(0, 2**31))
def test_a_hidden_label_never_reaches_loss_or_gradients(tiny, gradient, bits, seed):
  mask = np.array(bits).reshape(4, 6)
  rng = np.random.default_rng(seed)
  other = {}
  for t, task in enumerate(TASKS):
    junk = rng.integers(0, 2, tiny.labels[task.name].shape).astype(tiny.labels[task.name].dtype)
    other[task.name] = np.where(mask[:, t, None, None, None], tiny.labels[task.name], junk)
  (loss, grads), (loss2, grads2) = gradient(tiny.labels, mask), gradient(other, mask)
  assert loss == loss2
  jax.tree.map(np.testing.assert_array_equal, grads, grads2)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_no_labelled_pair_at_all_leaves_every_gradient_zero(tiny, gradient):
  loss, grads = gradient(tiny.labels, np.zeros((4, 6), bool))
  assert loss == 0
  assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_the_condition_trains_unlabelled_tasks_decoders_unless_stopped(tiny, gradient):
  mask = np.zeros((4, 6), bool)
  mask[:, 0] = True
  _, grads = gradient(tiny.labels, mask)
  assert any((g != 0).any() for g in jax.tree.leaves(grads['decoders']['depth_block0']))


@pytest.mark.parametrize(
  'arg', ['method=no_condition', 'method=no_diffusion', 'preset=released', 'method=feature,steps=3']
)
def test_variants_run_and_differ_from_the_default(tiny, arg):
  variant = Tiny(arg)
  output = jax.jit(variant.model.apply)(variant.variables, variant.images, **variant.inputs())
  default = jax.jit(tiny.model.apply)(tiny.variables, tiny.images, **tiny.inputs())
  assert np.isfinite(output.final['semseg']).all()
  assert not np.allclose(output.final['semseg'], default.final['semseg'])


def test_noise_of_a_pair_does_not_depend_on_the_other_pairs(tiny):
  mask = np.zeros((4, 6), bool)
  mask[2, 3] = True
  alone = tiny.inputs(pairs_lib.select(jnp.asarray(mask), 1))['noise']
  everything = tiny.inputs(None)['noise']
  np.testing.assert_array_equal(alone[:, 0], everything[:, 3 * 4 + 2])


def test_steps_at_inference_can_differ_from_training(tiny):
  inputs = model_inputs(tiny.model, tiny.images, jax.random.key(1), 6, steps=4)
  output = jax.eval_shape(
    lambda **kw: tiny.model.apply(tiny.variables, tiny.images, steps=4, **kw),
    **{k: v for k, v in inputs.items() if k != 'steps'},
  )
  assert output.steps['depth'].shape[0] == 5
