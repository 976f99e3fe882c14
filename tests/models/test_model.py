"""DiffusionMTL: the scan against an unrolled loop, sparse against dense pairs, initial weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.models.inputs import init_variables, model_inputs
from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.models.parts.denoiser import Conditioning, Denoiser
from dmtl_jax.models.parts.diffusion import Schedule
from dmtl_jax.models.parts.task_layers import Slots
from tests.tiny import TASKS as ALL
from tests.tiny import Tiny

TASKS = (ALL[0], ALL[3], ALL[5])  # not in alphabetical order, in which jit sorts
T = len(TASKS)
TASK_INDEX = jnp.repeat(jnp.arange(T), 4)  # of all pairs of four images
SLOTS = Slots(tuple(task.channels for task in TASKS))
pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def tiny(short_encoder):
  return Tiny('method=prediction', TASKS, depth=2, token_stride=2)


@pytest.fixture(scope='module')
def tiny_feature(short_encoder):
  return Tiny('method=feature', TASKS, depth=2)


@pytest.mark.parametrize('size, stride8', [((64, 96), (8, 12)), ((50, 70), (6, 9)), ((33, 47), (4, 6))])
def test_maps_of_images_of_any_size_have_stride_8(tiny, size, stride8):
  def run(images):
    return tiny.model.apply(tiny.variables, images, **model_inputs(tiny.model, images, jax.random.key(0), T))

  output = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
  for task in TASKS:
    assert output.initial[task.name].shape == (1, *stride8, task.channels)
    assert output.final[task.name].shape == (1, *stride8, task.channels)
    assert output.trajectory[task.name].shape == (3, 1, *stride8, task.channels)


class Parts:
  """The parts of a tiny Prediction Diffusion, to call one by one on all pairs."""

  def __init__(self, tiny: Tiny):
    self.inputs = tiny.inputs()
    self.output = tiny.apply(tiny.variables, tiny.images, **self.inputs)
    self.config = tiny.config.model
    self.params = tiny.variables['params']
    self.initial = {task.name: self.output.initial[task.name] for task in TASKS}  # jit sorts the keys of a dict
    self.x_init = jnp.concatenate(SLOTS.place(list(self.initial.values())))
    conditioning = Conditioning(self.config.channels, self.config.token_stride)
    self.tokens = conditioning.apply({'params': self.params['conditioning']}, self.initial)

  @functools.cached_property
  def denoise(self):
    config = self.config
    denoiser = Denoiser(SLOTS.channels, config.channels, True, config.depth, config.heads, config.token_stride)
    condition = jnp.tile(self.tokens, (T, 1, 1))
    return jax.jit(lambda x, s: denoiser.apply({'params': self.params['denoiser']}, x, s, condition, TASK_INDEX))

  def assert_final(self, x):
    for task, maps in zip(TASKS, SLOTS.split(list(x.reshape(T, 4, *x.shape[1:])))):
      np.testing.assert_allclose(self.output.final[task.name], maps, atol=1e-5)


def test_scan_equals_an_unrolled_loop(tiny):
  """X_S = decay(P_init); X_{s-1} = Denoiser(X_s, s, F_cond)."""
  parts = Parts(tiny)
  assert parts.tokens.shape[1] == 24  # maps of 8x12 at stride 2
  x2 = Schedule(2).decay(parts.x_init, jnp.where(SLOTS.mask(TASK_INDEX), parts.inputs['noise'][0], 0))
  parts.assert_final(parts.denoise(parts.denoise(x2, 2.0), 1.0))


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('method', ['tiny', 'tiny_feature'])
def test_denoising_labelled_pairs_equals_denoising_everything_and_masking(method, groups, request):
  tiny = request.getfixturevalue(method)
  mask = np.random.default_rng(1).random((4, T)) < 0.5
  mask[3] = False
  pairs = pairs_lib.select(jnp.asarray(mask), int(mask.sum(1).max()) * 4 // groups, groups)
  sparse = tiny.apply(tiny.variables, tiny.images, **tiny.inputs(pairs))
  dense = tiny.apply(tiny.variables, tiny.images, **tiny.inputs(None))
  for t, task in enumerate(TASKS):
    expected = np.where(mask[:, t, None, None, None], dense.final[task.name], 0)
    np.testing.assert_allclose(sparse.final[task.name], expected, atol=2e-5)


def test_selected_pairs_are_those_of_the_mask():
  mask = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
  pairs = pairs_lib.select(jnp.asarray(mask), 5, groups=2)
  valid = pairs.valid.reshape(-1)
  images, tasks = np.nonzero(mask)
  np.testing.assert_array_equal(pairs.image_index[valid], images)
  np.testing.assert_array_equal(pairs.task_index[valid], tasks)


@pytest.mark.parametrize(
  'arg', ['method=no_condition', 'method=no_diffusion', 'preset=released', 'method=feature,diffusion_steps=3']
)
def test_variants_run_and_differ_from_the_default(tiny, arg):
  variant = Tiny(arg, TASKS, depth=2, token_stride=2)
  output = variant.apply(variant.variables, variant.images, **variant.inputs())
  default = tiny.apply(tiny.variables, tiny.images, **tiny.inputs())
  assert np.isfinite(output.final['semseg']).all()
  assert not np.allclose(output.final['semseg'], default.final['semseg'])


RELEASED_PREDICTION = ['method=no_diffusion,preset=released', 'method=prediction,preset=released,diffusion_steps=3']


@pytest.fixture(scope='module', params=RELEASED_PREDICTION)
def tiny_released(request, short_encoder):
  return Tiny(request.param, TASKS)


def test_training_on_every_pair_computes_what_inference_does(tiny_released):
  """From one step to the next as well, where the released preset draws from the posterior."""
  tiny = tiny_released
  pairs = pairs_lib.select(jnp.ones((4, T), bool), 4 * T)
  trained = tiny.apply(tiny.variables, tiny.images, **tiny.inputs(pairs))
  inferred = tiny.apply(tiny.variables, tiny.images, **tiny.inputs(None))
  for task in TASKS:
    scale = np.abs(inferred.trajectory[task.name]).max()
    np.testing.assert_allclose(trained.trajectory[task.name], inferred.trajectory[task.name], atol=1e-5 * scale)


def test_slots_of_other_tasks_stay_zero_through_all_steps(tiny_released):
  tiny = tiny_released
  task = jnp.array([0, 1, 2, 1])
  pairs = pairs_lib.SparsePairs(jnp.arange(4)[None], task[None], jnp.ones((1, 4), bool), 4, T)

  @jax.jit
  def denoise(inputs):
    capture = dict(capture_intermediates=lambda _, method: method == '_denoise', mutable=['intermediates'])
    _, captured = tiny.model.apply(tiny.variables, tiny.images, **inputs, **capture)
    return captured['intermediates']['_denoise'][0]

  trajectory = denoise(tiny.inputs(pairs)).trajectory
  assert len(trajectory) == tiny.model.diffusion_steps + 1
  assert (np.abs(trajectory) > 0).any((0, 1, 2, 3)).all()
  assert (np.where(SLOTS.mask(task), 0, trajectory) == 0).all()


def test_refinement_without_noise_passes_on_the_posteriors_mean():
  """Nothing decays; X_1 is the mean of q(x_1 | x_2 = P_init, x_0 = denoised), by Bayes' rule."""
  parts = Parts(Tiny(RELEASED_PREDICTION[0], TASKS))
  x2 = parts.x_init
  beta = np.array([1e-3, 1e-2])
  forward = (1 - beta[1]) / beta[1]  # precision of x_2 = sqrt(1 - beta_2) x_1 + ...
  before = 1 / beta[0]  # precision of x_1
  x0 = parts.denoise(x2, 1.0)
  x1 = (forward * x2 / np.sqrt(1 - beta[1]) + before * np.sqrt(1 - beta[0]) * x0) / (forward + before)
  parts.assert_final(parts.denoise(x1, 0.0))


def test_noise_of_a_pair_does_not_depend_on_the_other_pairs(tiny):
  mask = np.zeros((4, T), bool)
  mask[2, 2] = True
  one_pair = tiny.inputs(pairs_lib.select(jnp.asarray(mask), 1))['noise']
  all_pairs = tiny.inputs()['noise']
  np.testing.assert_array_equal(one_pair[:, 0], all_pairs[:, 2 * 4 + 2])


def test_steps_at_inference_can_differ_from_training(tiny):
  def run(images):
    inputs = model_inputs(tiny.model, images, jax.random.key(1), T, diffusion_steps=4)
    return tiny.model.apply(tiny.variables, images, **inputs)

  assert jax.eval_shape(run, tiny.images).trajectory['depth'].shape[0] == 5


# --- initial weights of preset=released ---

C = 48
RELEASED = {  # layer: (distribution, its standard deviation or bound, whether the bias is random too)
  'step_embed/fc1': ('normal', 0.02, False),
  'step_embed/fc2': ('normal', 0.02, False),
  'attn/q': ('uniform', (6 / (C + C)) ** 0.5, False),
  'attn/kv': ('uniform', (6 / (C + 2 * C)) ** 0.5, False),
  'attn/proj': ('uniform', (6 / (C + C)) ** 0.5, False),
  'fc1': ('uniform', (6 / (C + 4 * C)) ** 0.5, False),
  'fc2': ('uniform', (6 / (C + 4 * C)) ** 0.5, False),
  'heads/conv0': ('uniform', C**-0.5, True),
  'heads/conv': ('uniform', (9 * C) ** -0.5, True),
  'embed': ('uniform', (9 * C) ** -0.5, True),
  'head': ('uniform', C**-0.5, True),
  'predict': ('uniform', C**-0.5, True),
  'conditioning': ('normal', (2 / (9 * C)) ** 0.5, False),
}


@pytest.fixture(scope='module', params=['feature', 'prediction'])
def started(request, short_encoder):
  """The model, and its layers {path: {'kernel', 'bias'}} after init_params of parameters that were all 7."""
  model = Tiny(f'method={request.param},preset=released', TASKS, channels=C, depth=1).model
  shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), (32, 32)))['params']
  params = jax.jit(model.init_params)(jax.tree.map(lambda x: jnp.full(x.shape, 7.0), shapes), jax.random.key(0))
  layers = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    *names, last = [key.key for key in path]
    layers.setdefault('/'.join(names), {})[last] = np.asarray(x)
  return model, layers


def test_released_weights_have_the_moments_of_the_authors(started):
  model, layers = started
  slot_channels = np.repeat(SLOTS.channels, SLOTS.channels)[:, None]
  checked = 0
  for path, layer in layers.items():
    part = path.split('/')[0]
    if part in ('backbone', 'decoders') or 'kernel' not in layer:
      assert all((x == 7).all() for x in layer.values()), path
      continue
    name = next(name for name in RELEASED if name in (path if part != 'conditioning' else part))
    kind, size, random_bias = RELEASED[name]
    kernel = layer['kernel'] / size
    is_slot_embed = path == 'denoiser/embed' and model.predictions
    if is_slot_embed:  # by the fan-in of each task's own slot
      kernel = kernel * (slot_channels / C) ** 0.5
    error = kernel.size**-0.5
    assert abs(kernel.mean()) < 4 * error, path
    assert kernel.std() == pytest.approx(3**-0.5 if kind == 'uniform' else 1, abs=4 * error), path
    assert (np.abs(kernel).max() <= 1) == (kind == 'uniform'), path
    if 'bias' in layer:
      bound = 9**-0.5 if is_slot_embed else size
      largest = np.abs(layer['bias']).max()
      assert largest <= bound, path
      assert (largest > 0.5 * bound) == random_bias, path
    checked += 1
  assert checked == 16 + (len(TASKS) if model.predictions else 0)


def test_no_two_layers_are_drawn_alike(started):
  firsts = [layer['kernel'].ravel()[0] for layer in started[1].values() if 'kernel' in layer]
  drawn = [x for x in firsts if x != 7]
  assert len(drawn) > 10
  assert len(set(np.round(drawn, 12).tolist())) == len(drawn)
