"""The compared methods: shapes, gradients, hidden labels, and their losses in closed form."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import DictKey
import numpy as np
import optax
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.models import build_model, find, Forward, METHODS, Network, Output, register, xtc
from dmtl_jax.models.inputs import init_variables, model_inputs, variable_shapes
from dmtl_jax.models.invpt import MessageAttention
from dmtl_jax.models.mti_net import Distillation
from dmtl_jax.models.parts import encoder, rand_augment, regularizer
from dmtl_jax.models.parts.pairs import DensePairs
from dmtl_jax.runs.state import TrainState
from dmtl_jax.training.setup import train_step
from dmtl_jax.training.step import RunningState
from tests.tiny import random_labels, random_variables, TASKS, tiny_config

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
TWO = (SEMSEG, NORMALS)
SIZE = (64, 64)
STRIDES = {'ss': 8, 'xtc': 8, 'jtr': 8, 'mti_net': 4, 'invpt': 2, 'task_prototype': 8, 'single_task': 8}
KEY = jax.random.key(0)


@pytest.fixture(scope='module', autouse=True)
def short_networks():
  """The fewest stages the methods work with, of one block or convolution, to compile in less time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(encoder.STAGES, 'resnet18', (1, 1, 1))
    patch.setattr(xtc, 'STAGE_CONVS', (1, 1, 1, 1, 1))
    patch.setattr(regularizer, 'ENCODER_CONVS', (1, 1))
    patch.setattr(regularizer, 'DECODER_CONVS', (1, 1))
    patch.setattr(rand_augment, 'OPERATIONS', (rand_augment.brightness, rand_augment.posterize))
    yield


EVEN = [(method, (64, 96)) for method in STRIDES]


@pytest.mark.parametrize('method, size', [*EVEN, ('mti_net', (50, 70)), ('invpt', (50, 70))])
def test_shapes(method, size):
  model = build_model(tiny_config(f'method={method}'), TWO)
  images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  output, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x), images)
  for task in TWO:
    assert output.final[task.name].shape[3] == task.channels
    if size == (64, 96):
      assert output.final[task.name].shape[:3] == (2, 64 // STRIDES[method], 96 // STRIDES[method])
  again = jax.eval_shape(model.apply, variables, images)
  assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, output)


def test_xtc_needs_two_tasks():
  with pytest.raises(UserError, match='xtc compares tasks'):
    build_model(tiny_config('method=xtc'), (SEMSEG,))


class Trained:
  """Loss and gradients of one method on two images and two tasks, as the train step takes them; compiled once."""

  def __init__(self, method):
    config = tiny_config(f'method={method}')
    config.loss_weights.normals = 10.0
    model = build_model(config, TWO)
    self.uses_unlabelled = find(method).uses_unlabelled

    def keep_alive(path, x):
      """A gate of MTI-Net has a single hidden unit at this width: its bias must be positive."""
      return np.full_like(x, 3) if path[-2:] == (DictKey('squeeze'), DictKey('bias')) else x

    variables = jax.tree_util.tree_map_with_path(keep_alive, random_variables(model, SIZE))
    rng = np.random.default_rng(0)
    step = train_step(config, model, None, pair_count=4, groups=1)
    images = rng.standard_normal((2, *SIZE, 3)).astype(np.float32)
    self.labels = {task.name: random_labels(rng, 2, SIZE)[task.name] for task in TWO}

    def run(params, labels, mask):
      batch = {'image': images, 'labels': labels, 'label_mask': mask, 'position': jnp.arange(2)}
      grads, _, scalars = step.gradients(params, RunningState(variables['batch_stats'], None), batch, KEY)
      return scalars['loss/total'], grads

    self.params = variables['params']
    self._run = jax.jit(run)

  def run(self, labels, mask, params=None):
    return jax.device_get(self._run(params or self.params, labels, mask))


by_method = functools.cache(Trained)


@pytest.fixture(scope='module', params=['prediction', 'ss', 'xtc', 'jtr', 'mti_net', 'invpt', 'task_prototype'])
def trained(request):
  return by_method(request.param)


def test_every_part_learns_from_one_label_an_image(trained):
  loss, grads = trained.run(trained.labels, np.array([[1, 0], [0, 1]], bool))
  assert 0 < loss < np.inf
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert 0 < np.abs(grad).max() < np.inf, jax.tree_util.keystr(path)


@pytest.mark.parametrize('method', ['jtr', 'task_prototype'])
def test_a_step_along_the_gradient_lowers_the_loss(method):
  """A step for which the slope foretells 2% less."""
  trained, mask = by_method(method), np.array([[1, 0], [0, 1]], bool)
  loss, grads = trained.run(trained.labels, mask)
  rate = 0.02 * loss / sum((g**2).sum() for g in jax.tree.leaves(grads))
  params = jax.tree.map(lambda x, g: x - rate * g, trained.params, grads)
  assert trained.run(trained.labels, mask, params)[0] < 0.995 * loss


@pytest.mark.parametrize('mask', [[[1, 0], [0, 1]], [[0, 0], [1, 1]]])
def test_a_hidden_label_has_no_influence(trained, mask):
  mask = np.array(mask, bool)
  junk = {
    'semseg': np.where(mask[:, 0, None, None, None], trained.labels['semseg'], np.uint8(3)),
    'normals': np.where(mask[:, 1, None, None, None], trained.labels['normals'], np.float32(np.nan)),
  }
  result = trained.run(trained.labels, mask)
  jax.tree.map(np.testing.assert_array_equal, trained.run(junk, mask), result)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


def test_a_batch_without_labels_teaches_nothing(trained):
  loss, grads = trained.run(trained.labels, np.zeros((2, 2), bool))
  if trained.uses_unlabelled:
    assert loss > 0
    return
  assert loss == 0
  assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_the_condition_trains_unlabelled_tasks_decoders():
  trained = by_method('prediction')
  _, grads = trained.run(trained.labels, np.array([[1, 0], [1, 0]], bool))
  assert any((g != 0).any() for g in jax.tree.leaves(grads['decoders']['normals_block0']))


@pytest.mark.parametrize('method', ['prediction', 'feature', 'mtl_baseline', 'mti_net', 'invpt'])
def test_maps_of_a_bfloat16_network_are_not_rounded_to_it(method):
  """One in 65536 numbers of float32 is also one of bfloat16; in a rounded map all are."""
  config = tiny_config(f'method={method}')
  config.dtype = 'bfloat16'
  model = build_model(config, TWO)
  images = np.random.default_rng(0).standard_normal((1, *SIZE, 3)).astype(np.float32)
  inputs = model_inputs(model, images, KEY, len(TWO))
  output = jax.jit(lambda variables: model.apply(variables, images, **inputs))(random_variables(model, SIZE))
  for maps in jax.tree.leaves(jax.device_get([output.final, output.initial, output.trajectory])):
    assert maps.dtype == np.float32
    assert (maps == maps.astype(jnp.bfloat16)).mean() < 0.01


# --- names and parts ---


class Mine(Network):
  """A user's method: one convolution, and a loss that pulls its maps towards a field of the config."""

  target: float = 0.0

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.channels, (3, 3), strides=8)(images))
    return Output({task.name: nn.Conv(task.channels, (1, 1), name=task.name)(x) for task in self.tasks})


def test_a_method_from_outside_trains_a_step():
  """A class, a loss and `register` are all it needs."""

  def distance_to_target(run):
    return sum(((maps - run.model.target) ** 2).mean() for maps in run.output.final.values())

  register('mine', Mine, 'Mine', loss=distance_to_target, defaults=dict(target=100.0))
  register('mine_without_loss', Mine, 'Mine, without a loss', defaults=dict(target=100.0))
  losses = {}
  for method in ('mine', 'mine_without_loss'):
    config = tiny_config(f'method={method}')
    model = build_model(config, TWO)
    tx = optax.sgd(1e-3)
    rng = np.random.default_rng(0)
    assert model.target == config.model.target == 100
    variables = random_variables(model, SIZE)
    state = TrainState(jnp.int32(0), variables['params'], variables['batch_stats'], tx.init(variables['params']))
    batch = {'image': rng.standard_normal((2, *SIZE, 3)).astype(np.float32), 'label_mask': np.eye(2, dtype=bool)}
    batch['labels'] = {task.name: random_labels(rng, 2, SIZE)[task.name] for task in TWO}
    step = jax.jit(train_step(config, model, tx, 2, 1))
    state, first = step(state, batch, 1)
    _, second = step(state, batch, 2)
    assert second['loss/total'] < first['loss/total']
    losses[method] = first['loss/total']
    del METHODS[method]
  assert losses['mine'] - losses['mine_without_loss'] == pytest.approx(2 * 100**2, rel=0.1)


def test_a_network_can_change_its_initial_weights():
  class Marked(Mine):
    def init_params(self, params, key):
      return params | {'mark': jnp.zeros(())}

  params = jax.eval_shape(lambda: init_variables(Marked(TWO, channels=4), KEY, SIZE))['params']
  assert {'mark', 'Conv_0'} <= set(params)


@pytest.mark.parametrize('add_noise', [False, True])
@pytest.mark.parametrize('posterior', [False, True])
def test_noise_is_drawn_where_some_is_added(add_noise, posterior):
  config = tiny_config('method=feature,diffusion_steps=3')
  config.model.update(add_noise=add_noise, posterior=posterior)
  model = build_model(config, TWO)
  assert model.draws_noise == add_noise
  assert model.noise_shape(DensePairs(2, 2), (64, 96))[0] == add_noise * (3 if posterior else 1)
  assert not build_model(tiny_config('method=ss'), TWO).draws_noise


@pytest.mark.parametrize('name, close', [('prediktion', 'prediction'), ('singletask', 'single_task')])
def test_an_unknown_method_names_the_closest_one(name, close):
  config = tiny_config()
  config.method = name
  message = f"config.method: '{name}' is none of .*; did you mean {close}"
  with pytest.raises(UserError, match=message):
    common.base(f'method={name}')
  with pytest.raises(UserError, match=message):
    build_model(config, TWO)


def test_every_method_has_a_title_and_a_place():
  methods = METHODS.values()
  assert len(methods) == 12
  assert len({method.title for method in methods}) == 12
  assert len({method.row for method in methods}) == 12
  assert [method.name for method in methods if method.reference] == ['single_task']
  diffusing = {method.name for method in methods if method.network.diffuses}
  assert diffusing == {'prediction', 'feature', 'no_diffusion', 'no_condition'}


@pytest.mark.parametrize('method, parts', [
    ('single_task', {'semseg', 'normals'}), ('xtc', {'film', ''}), ('prediction', {'denoiser', ''}), ('ss', {''}),
])  # fmt: skip
def test_parts_of_a_network(method, parts):
  model = build_model(tiny_config(f'method={method}'), TWO)
  leaves = jax.tree_util.tree_leaves_with_path(variable_shapes(model, SIZE)['params'])
  paths = [tuple(key.key for key in path) for path, _ in leaves]
  assert {model.part(path) for path in paths} == parts
  if method == 'xtc':  # MTPSL has its own rate only for the pairs' scales and shifts
    film = [path for path in paths if model.part(path) == 'film']
    assert all('film' in '/'.join(path) for path in film)
    assert len(film) == 2 * len(xtc.STAGE_CONVS)
  assert model.clips_parts == (method == 'single_task')


# --- weights of the losses on initial maps ---


@pytest.mark.parametrize(
  'method, weight, times', [('prediction', 0.5, 1.5), ('invpt', 1, 2), ('mti_net', 1, 5), ('prediction', 0.25, 1.25)]
)
def test_initial_maps_weigh_as_published_or_configured(method, weight, times):
  """Logits of 0 cost ln 4 in 4 classes: the final map's, and half or all of each initial map's."""

  def maps(size):
    return {'semseg': np.zeros((2, size, size, 4), np.float32)}

  config = common.base(f'method={method}')
  if weight == 0.25:
    config.initial_loss = weight
  assert config.initial_loss == weight
  extra = {'scales': [maps(4), maps(2), maps(1)]} if method == 'mti_net' else {}
  labels = {'semseg': np.zeros((2, 32, 32, 1), np.uint8)}
  batch = {'labels': labels, 'label_mask': np.array([[True], [False]])}
  output = Output(maps(8), initial=maps(8), extra=extra)
  run = Forward(None, batch, output, (SEMSEG,), np.array([2.0]), KEY, None)
  loss, parts = jax.jit(lambda: find(method).total_loss(run, config.initial_loss))()
  assert loss == pytest.approx(times * 2 * np.log(4) / 2, rel=1e-4)
  assert set(parts) == {'final', 'initial'}


# --- single_task ---


@functools.cache
def joint_and_single_runs():
  """(gradients, loss) of a batch with uneven labels: of the joint run, and {task: of a run of that task}."""
  size = (32, 32)
  mask = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
  rng = np.random.default_rng(0)
  config = tiny_config('method=single_task')
  config.loss_weights.normals = 10.0
  variables = random_variables(build_model(config, TWO), size)
  images = rng.standard_normal((5, *size, 3)).astype(np.float32)
  labels = random_labels(rng, 5, size)

  def run(tasks):
    step = train_step(config, build_model(config, tasks), None, pair_count=10, groups=1)
    own = {part: {task.name: values[task.name] for task in tasks} for part, values in variables.items()}
    columns = [TWO.index(task) for task in tasks]
    batch = {'image': images, 'label_mask': mask[:, columns], 'position': jnp.arange(5)}
    batch['labels'] = {task.name: labels[task.name] for task in tasks}
    gradients = jax.jit(lambda params, stats: step.gradients(params, RunningState(stats, None), batch, KEY))
    grads, _, scalars = gradients(own['params'], own['batch_stats'])
    return jax.device_get(grads), float(scalars['loss/total'])

  return run(TWO), {task.name: run((task,)) for task in TWO}


@pytest.mark.parametrize('task', [task.name for task in TWO])
def test_a_joint_run_of_single_tasks_trains_each_as_its_own_run_does(task):
  (joint, _), singles = joint_and_single_runs()
  single, _ = singles[task]
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(single[task]), jax.tree.leaves(joint[task])):
    assert np.linalg.norm(b - a) <= 1e-5 * np.linalg.norm(a) + 1e-7, jax.tree_util.keystr(path)


def test_the_loss_of_a_joint_run_of_single_tasks_is_the_sum_of_theirs():
  (_, total), singles = joint_and_single_runs()
  assert total == pytest.approx(sum(loss for _, loss in singles.values()), rel=1e-5)


# --- mti_net ---


def test_distillation_adds_the_other_tasks_attended_features():
  """Kernels that pass a map through: a message is y * sigmoid(y), to other tasks only."""
  rng = np.random.default_rng(0)
  maps = {name: rng.standard_normal((1, 3, 3, 2)).astype(np.float32) for name in 'abc'}
  kernel = np.zeros((3, 3, 2, 8), np.float32)
  kernel[1, 1] = np.tile(np.eye(2), 4)
  params = {f'{name}_messages': {'kernel': kernel} for name in 'abc'}
  out = Distillation().apply({'params': params}, maps)
  message = {name: y / (1 + np.exp(-y)) for name, y in maps.items()}
  np.testing.assert_allclose(out['b'], maps['b'] + message['a'] + message['c'], atol=1e-5)


# --- invpt ---


def test_a_later_stages_attention_uses_the_earlier_scores():
  """With fuse weights that drop this stage's own scores, attention is the softmax of the earlier ones."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 2, 4, 4, 4)).astype(np.float32)
  module = MessageAttention(('a', 'b'), 4)
  message = rng.standard_normal((1, 2, 2, 2, 2, 2)).astype(np.float32)  # [B, heads, T, h/2, w/2, L]
  shapes = jax.eval_shape(lambda: module.init(KEY, x, message, False))
  variables = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) ** 2, shapes)
  variables['params']['fuse'] = {'kernel': np.concatenate([np.zeros((2, 2)), np.eye(2)]), 'bias': np.zeros(2)}
  out, scores = jax.jit(lambda *args: module.apply(*args, False))(variables, x, message)
  np.testing.assert_allclose(scores, message, atol=1e-5)
  params = variables['params']
  pooled = x.mean((2, 3))  # one key a task
  v = (pooled @ params['v']['kernel'] + params['v']['bias']).reshape(1, 2, 2, 2)
  attention = np.exp(message) / np.exp(message).sum(-1, keepdims=True)
  mixed = np.einsum('bhtyxk,bkhc->btyxhc', attention, v).reshape(1, 2, 2, 2, 4)
  np.testing.assert_allclose(out, mixed @ params['proj']['kernel'] + params['proj']['bias'], atol=1e-4)
