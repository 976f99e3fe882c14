"""The compared methods: shapes, gradients, hidden labels, and their losses in closed form."""

import functools
import itertools

from conftest import random_labels, random_variables, TASKS, tiny_config
import jax
import jax.numpy as jnp
from jax.tree_util import DictKey
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import auxiliary, build_model, losses, Output
from dmtl_jax.models.invpt import MessageAttention
from dmtl_jax.models.mti_net import Distillation
from dmtl_jax.models.xtc import FiLM

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
TWO = (SEMSEG, NORMALS)
SIZE = (64, 64)
STRIDES = {'ss': 8, 'xtc': 8, 'mti_net': 4, 'invpt': 2, 'single_task': 8}
KEY = jax.random.key(0)


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
  """Loss and gradients of one method on two images and two tasks, compiled once."""

  def __init__(self, method):
    config = tiny_config(f'method={method}')
    model = build_model(config, TWO)
    # A gate of MTI-Net has a single hidden unit at this width: a positive bias keeps it alive.
    alive = lambda path, x: np.full_like(x, 3) if path[-2:] == (DictKey('squeeze'), DictKey('bias')) else x
    variables = jax.tree_util.tree_map_with_path(alive, random_variables(model, SIZE))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *SIZE, 3)).astype(np.float32)
    self.labels = {task.name: random_labels(rng, 2, SIZE)[task.name] for task in TWO}

    @jax.jit
    def run(labels, mask):
      def loss(params):
        apply = functools.partial(
          model.apply,
          {'params': params, 'batch_stats': variables['batch_stats']},
          train=True,
          mutable=['batch_stats'],
        )
        batch = {'image': images, 'labels': labels, 'label_mask': mask}
        output, _ = apply(images)
        weights = jnp.array([1.0, 10.0])
        total, _ = losses.total_loss(TWO, output, labels, mask, weights)
        extra = auxiliary.LOSSES.get(method, lambda *_: jnp.float32(0))
        return total + extra(apply, batch, output, TWO, weights, KEY, config)

      return jax.value_and_grad(loss)(variables['params'])

    self.run = run


@pytest.fixture(scope='module', params=['ss', 'xtc', 'mti_net', 'invpt'])
def trained(request):
  return Trained(request.param)


def test_every_part_learns_from_one_label_an_image(trained):
  loss, grads = trained.run(trained.labels, np.array([[1, 0], [0, 1]], bool))
  assert np.isfinite(loss) and loss > 0
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all() and np.any(g), jax.tree_util.keystr(path)


@pytest.mark.parametrize('mask', [[[1, 0], [0, 1]], [[0, 0], [1, 1]]])
def test_a_hidden_label_has_no_influence(trained, mask):
  mask = np.array(mask, bool)
  junk = {
    'semseg': np.where(mask[:, 0, None, None, None], trained.labels['semseg'], np.uint8(3)),
    'normals': np.where(mask[:, 1, None, None, None], trained.labels['normals'], np.float32(np.nan)),
  }
  shown, hidden = trained.run(trained.labels, mask), trained.run(junk, mask)
  jax.tree.map(np.testing.assert_array_equal, shown, hidden)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(shown))


def test_a_batch_without_labels_teaches_nothing(trained):
  loss, grads = trained.run(trained.labels, np.zeros((2, 2), bool))
  assert loss == 0
  assert all((g == 0).all() for g in jax.tree.leaves(grads))


# --- ss ---


def view(zoom=1.0, corner=(0.0, 0.0), flip=False):
  return {'zoom': jnp.array([zoom]), 'corner': jnp.array([corner]), 'flip': jnp.array([flip])}


def test_a_view_is_a_crop_zoomed_and_flipped():
  ramp = np.tile(np.arange(8.0, dtype=np.float32), (4, 1))[None, :, :, None]
  look = lambda **kwargs: np.asarray(auxiliary.view_maps(view(**kwargs), ramp))[0, 1, :, 0]
  np.testing.assert_allclose(look(), np.arange(8), atol=1e-5)
  np.testing.assert_allclose(look(flip=True), np.arange(8)[::-1], atol=1e-5)
  centres = (np.arange(8) + 0.5) / 2 - 0.5
  at = lambda places: np.interp(places, range(8), range(8))
  np.testing.assert_allclose(look(zoom=2.0), at(centres), atol=1e-5)
  np.testing.assert_allclose(look(zoom=2.0, corner=(0.0, 1.0)), at(centres + 4), atol=1e-5)


def test_a_flip_mirrors_normals_and_a_zoom_brings_depth_nearer():
  normals = np.broadcast_to(np.array([0.6, 0.0, 0.8], np.float32), (1, 4, 4, 3))
  flipped = auxiliary.view_prediction(view(flip=True), NORMALS, normals)
  np.testing.assert_allclose(flipped[0, 0, 0], [-0.6, 0, 0.8], atol=1e-6)
  depth = auxiliary.view_prediction(view(zoom=1.25), DEPTH, np.full((1, 4, 4, 1), 5.0, np.float32))
  np.testing.assert_allclose(depth, 4.0, atol=1e-5)


def constant(task, values):
  """Maps [B, 4, 4, C_t] of a constant a batch image."""
  values = jnp.array(values, jnp.float32)
  return jnp.broadcast_to(values[:, None, None], (len(values), 4, 4, task.channels))


@jax.jit
def consistency(student, teacher, mask, weights):
  """Loss of saliency and boundary maps that are the same everywhere, whatever the view."""
  tasks = (SALIENCY, BOUNDARY)
  final = lambda values: Output({t.name: constant(t, v) for t, v in zip(tasks, values)})
  batch = {'image': jnp.zeros((2, 32, 32, 3)), 'label_mask': jnp.array(mask, bool)}
  apply = lambda images: (final(student), {})
  return auxiliary.augmentation_consistency(apply, batch, final(teacher), tasks, jnp.array(weights), KEY, None)


def test_consistency_of_unlabelled_tasks_in_closed_form():
  """Saliency logits (ln 3, 0) are probabilities (3/4, 1/4) against (1/2, 1/2): 2 / 16. A boundary
  logit ln 4 is 4/5 against 1/2: 0.09. Image 0 lacks boundary, image 1 saliency."""
  log3, log4 = np.log(3), np.log(4)
  same = ([[0, 0], [0, 0]], [[0], [0]])
  other = ([[log3, 0], [log3, 0]], [[log4], [log4]])
  mask = [[1, 0], [0, 1]]
  assert consistency(same, same, mask, [1, 1]) == 0
  assert consistency(other, same, mask, [2, 5]) == pytest.approx((5 * 0.09 + 2 * 0.125) / 2, rel=1e-4)
  assert consistency(other, same, [[1, 1], [1, 1]], [2, 5]) == 0
  assert consistency(other, same, [[0, 0], [0, 1]], [2, 5]) == pytest.approx(2 * 0.125 / 2, rel=1e-4)


# --- xtc ---


THREE = (SEMSEG, NORMALS, DEPTH)
E0, E1, E2 = np.eye(3, dtype=np.float32)


def cross_task(mapping, mask, feature=E2, labels=None):
  """Loss of two images with a hand-made mapping: (is it a label?, pair) -> vector [3]."""
  labels = labels or random_labels(np.random.default_rng(0), 2, (32, 32))
  final = {task.name: np.ones((2, 4, 4, task.channels), np.float32) for task in THREE}
  features = np.broadcast_to(feature, (2, 4, 4, 3))
  batch = {'image': np.zeros((2, 32, 32, 3)), 'labels': labels, 'label_mask': np.array(mask, bool)}

  def apply(maps, task, pair, method):
    assert method == 'map_pair' and maps.shape == (4, 32, 32, 8)  # two predictions, then two labels
    of = lambda is_label, pairs: jax.vmap(functools.partial(mapping, is_label))(pairs)
    vectors = jnp.concatenate([of(False, pair[:2]), of(True, pair[2:])])
    return jnp.broadcast_to(vectors[:, None, None], (4, 2, 2, 3)), {}

  output = Output(final, extra={'features': features})
  loss = auxiliary.cross_task_consistency(apply, batch, output, THREE, None, KEY, None)
  return float(loss)


def test_cross_task_loss_is_zero_where_everything_agrees():
  assert cross_task(lambda is_label, pair: E2, [[1, 0, 0], [0, 1, 0]]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
  'mask, pairs',
  [
    ([[1, 0, 0], [0, 0, 1]], 2),  # one label: two unlabelled sources an image
    ([[1, 1, 0], [1, 0, 1]], 2),  # two labels: two targets, one unlabelled source
    ([[1, 1, 1], [1, 1, 1]], 6),  # all labels: every pair
    ([[1, 1, 1], [0, 0, 0]], 3),  # the second image has none
    ([[0, 0, 0], [0, 0, 0]], 0),
  ],
)
def test_cross_task_loss_counts_pairs(mask, pairs):
  """All at right angles: 1 + 0.5 (1 + 1) a pair, times 2; mean over images."""
  loss = cross_task(lambda is_label, pair: jnp.where(is_label, E1, E0), mask)
  assert loss == pytest.approx(2 * 2 * pairs, abs=1e-4)


def test_cross_task_pairs_are_those_of_source_and_target():
  """Target task 1; the angle between prediction and label differs for each of the six pairs."""
  angles = np.array([0.3, 0.7, 1.1, 1.5, 1.9, 2.3])
  order = list(itertools.permutations(range(3), 2))

  def mapping(is_label, pair):
    angle = jnp.where(is_label, 0, jnp.asarray(angles)[pair])
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), 0])

  loss = cross_task(mapping, [[0, 1, 0], [0, 1, 0]])
  chosen = [angles[order.index((source, 1))] for source in (0, 2)]
  assert loss == pytest.approx(2 * sum(1 - np.cos(a) + 1 for a in chosen), rel=1e-4)


def test_a_label_without_a_valid_pixel_is_no_target():
  labels = {task.name: np.stack([task.blank(32, 32)] * 2) for task in THREE}
  mapping = lambda is_label, pair: jnp.where(is_label, E1, E0)
  assert cross_task(mapping, [[1, 0, 0], [0, 1, 1]], labels=labels) == 0


def test_labels_are_encoded_in_the_range_of_predictions():
  encode = lambda task, label: np.asarray(
    auxiliary.chosen_label((task,), {task.name: label}, np.ones((1, 1), bool), np.zeros(1, int))
  )[0, 0]
  classes = np.array([[[[2], [255]]]], np.uint8)
  np.testing.assert_array_equal(encode(SEMSEG, classes), [[0, 0, 1, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(encode(BOUNDARY, np.array([[[[1], [255]]]], np.uint8)), [[1], [0]])
  depth = np.array([[[[2], [8], [0]]]], np.float32)
  np.testing.assert_allclose(encode(DEPTH, depth), [[0.25], [1], [0]])
  normals = np.array([[[[0.6, -0.8, 0], [0, 0, 0]]]], np.float32)
  np.testing.assert_allclose(encode(NORMALS, normals), [[0.8, 0.1, 0.5], [0, 0, 0]], atol=1e-6)


def test_class_predictions_are_drawn_with_their_probabilities_and_pass_the_gradient():
  logits = jnp.log(jnp.broadcast_to(jnp.array([0.1, 0.2, 0.3, 0.4]), (1, 100, 100, 4)))
  drawn = SEMSEG.encode_prediction(logits, KEY)
  np.testing.assert_allclose(np.sort(drawn, -1), np.broadcast_to([0, 0, 0, 1], drawn.shape), atol=1e-6)
  np.testing.assert_allclose(drawn.mean((0, 1, 2)), [0.1, 0.2, 0.3, 0.4], atol=0.02)
  gradient = jax.grad(lambda x: SEMSEG.encode_prediction(x, KEY)[..., 0].sum())(logits)
  assert (np.asarray(gradient[..., 0]) > 0).all()


def test_a_pairs_film_changes_that_pair_alone():
  film = {'gamma': np.ones((6, 4), np.float32), 'beta': np.zeros((6, 4), np.float32)}
  film['gamma'][4] = 3
  film['beta'][4] = 0.5
  x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype(np.float32)
  params = film | {'norm': {'scale': np.ones(4), 'bias': np.zeros(4)}}
  out = FiLM(6).apply({'params': params}, x, jnp.array([4, 1]))
  normed = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-6)
  np.testing.assert_allclose(out[0], 3 * normed[0] + 0.5, atol=1e-4)
  np.testing.assert_allclose(out[1], normed[1], atol=1e-4)


# --- mti_net ---


def test_deep_supervision_weighs_every_scale_once():
  """Logits of 0 cost ln 4 in 4 classes; total_loss has half of the finest scale's already."""
  maps = lambda n: {'semseg': np.zeros((2, n, n, 4), np.float32)}
  output = Output(maps(8), initial=maps(8), extra={'scales': [maps(4), maps(2), maps(1)]})
  labels = {'semseg': np.zeros((2, 32, 32, 1), np.uint8)}
  batch = {'labels': labels, 'label_mask': np.array([[True], [False]])}
  loss = auxiliary.deep_supervision(None, batch, output, (SEMSEG,), np.array([2.0]), KEY, None)
  total, _ = losses.total_loss((SEMSEG,), output, labels, batch['label_mask'], np.array([2.0]))
  assert loss == pytest.approx(3.5 * 2 * np.log(4) / 2, rel=1e-4)
  assert loss + total == pytest.approx(5 * 2 * np.log(4) / 2, rel=1e-4)


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


def test_a_later_stages_attention_hears_the_earlier_one():
  """With fuse weights that drop this stage's own scores, attention is the softmax of the message."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 2, 4, 4, 4)).astype(np.float32)
  module = MessageAttention(('a', 'b'), 4)
  message = rng.standard_normal((1, 2, 2, 2, 2, 2)).astype(np.float32)  # [B, heads, T, h/2, w/2, L]
  shapes = jax.eval_shape(lambda: module.init(KEY, x, message, False))
  variables = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) ** 2, shapes)
  variables['params']['fuse'] = {'kernel': np.concatenate([np.zeros((2, 2)), np.eye(2)]), 'bias': np.zeros(2)}
  out, scores = module.apply(variables, x, message, False)
  np.testing.assert_allclose(scores, message, atol=1e-5)
  params = variables['params']
  pooled = x.mean((2, 3))  # one key a task
  v = (pooled @ params['v']['kernel'] + params['v']['bias']).reshape(1, 2, 2, 2)
  attention = np.exp(message) / np.exp(message).sum(-1, keepdims=True)
  mixed = np.einsum('bhtyxk,bkhc->btyxhc', attention, v).reshape(1, 2, 2, 2, 4)
  np.testing.assert_allclose(out, mixed @ params['proj']['kernel'] + params['proj']['bias'], atol=1e-4)
