"""Losses that compare predictions, of second views (ss) and across tasks (xtc), against closed forms."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmtl_jax.models import build_model, find, Forward, Output, xtc
from dmtl_jax.models.parts import views
from dmtl_jax.models.xtc import FiLM
from tests.tiny import random_labels, TASKS, tiny_config

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
TWO, THREE = (SEMSEG, NORMALS), (SEMSEG, NORMALS, DEPTH)
KEY = jax.random.key(0)


# --- second views, ss ---


def view(zoom=1.0, corner=(0.0, 0.0), flip=False):
  fields = dict(zoom=zoom, corner=corner, flip=flip, contrast=1.0, brightness=0.0)
  return views.View(**{name: np.array([value]) for name, value in fields.items()})


view_maps = jax.jit(views.View.maps)
view_label = jax.jit(views.View.label, static_argnums=1)
view_prediction = jax.jit(views.View.prediction, static_argnums=1)


CENTRES = (np.arange(8) + 0.5) / 2 - 0.5  # of the pixels of a view of zoom 2


@pytest.mark.parametrize('fields, expected', [
    ({}, np.arange(8)),
    (dict(flip=True), np.arange(8)[::-1]),
    (dict(zoom=2.0), np.clip(CENTRES, 0, 7)),
    (dict(zoom=2.0, corner=(0.0, 1.0)), np.clip(CENTRES + 4, 0, 7)),
])  # fmt: skip
def test_a_view_is_a_crop_zoomed_and_flipped(fields, expected):
  ramp = np.tile(np.arange(8.0, dtype=np.float32), (4, 1))[None, :, :, None]
  np.testing.assert_allclose(view_maps(view(**fields), ramp)[0, 1, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize('fields, expected', [
    ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
    (dict(flip=True), [7, 6, 5, 4, 3, 2, 1, 0]),
    (dict(zoom=2.0), [0, 0, 1, 1, 2, 2, 3, 3]),
    (dict(zoom=1.5), [0, 1, 1, 2, 3, 3, 4, 5]),
    (dict(zoom=2.0, corner=(0.0, 1.0)), [4, 4, 5, 5, 6, 6, 7, 7]),
])  # fmt: skip
def test_labels_are_viewed_like_images_but_not_mixed(fields, expected):
  classes = np.tile(np.arange(8, dtype=np.uint8), (8, 1))[None, :, :, None]
  np.testing.assert_array_equal(view_label(view(**fields), SEMSEG, classes)[0, 1, :, 0], expected)


def test_the_first_coordinate_of_a_corner_is_vertical():
  rows = np.tile(np.arange(8, dtype=np.uint8)[:, None], (1, 4))[None, :, :, None]
  corner = view_label(view(zoom=2.0, corner=(1.0, 0.0)), SEMSEG, rows)[0, :, 0, 0]
  np.testing.assert_array_equal(corner, [4, 4, 5, 5, 6, 6, 7, 7])


@pytest.mark.parametrize('view_values', [view_prediction, view_label])
def test_a_flip_mirrors_normals_and_a_zoom_divides_depths(view_values):
  normals = np.broadcast_to(np.array([0.6, 0.0, 0.8], np.float32), (1, 4, 4, 3))
  np.testing.assert_allclose(view_values(view(flip=True), NORMALS, normals)[0, 0, 0], [-0.6, 0, 0.8], atol=1e-6)
  depth = np.full((1, 4, 4, 1), 5.0, np.float32)
  np.testing.assert_allclose(view_values(view(zoom=1.25), DEPTH, depth), 4.0, atol=1e-5)


def test_drawn_crops_have_the_zooms_of_mtpsl():
  crops = jax.device_get(jax.jit(lambda: views.draw_crops(KEY, 64, False))())
  assert {round(float(zoom), 4) for zoom in crops.zoom} == {1.0, 1.2, 1.5}
  assert not crops.flip.any()
  assert (crops.contrast == 1).all()
  assert (crops.brightness == 0).all()


def test_drawn_views_differ_from_image_to_image():
  drawn = jax.device_get(jax.jit(lambda: views.draw(KEY, 64))())
  assert 0 < drawn.flip.sum() < 64
  assert len(set(drawn.zoom.tolist())) > 60
  assert 1 <= drawn.zoom.min() < drawn.zoom.max() <= 1.5


@pytest.mark.parametrize('name, share', [('nyud', 0), ('cityscapes', 0.5)])
def test_second_views_are_flipped_as_mtpsl_does_on_each_data_set(name, share, monkeypatch):
  """For 1024 images a share of 0.5 has a standard error of 0.016."""
  config = importlib.import_module(f'dmtl_jax.configs.{name}').get_config('method=xtc')
  drawn = []
  draw_crops = views.draw_crops

  def record(*args):
    drawn.append(draw_crops(*args))
    return drawn[-1]

  monkeypatch.setattr(views, 'draw_crops', record)
  count = 1024
  batch = {'image': jnp.zeros((count, 1, 1, 3)), 'label_mask': jnp.zeros((count, 2), bool)}
  batch['labels'] = {task.name: jnp.zeros((count, 1, 1, 1), task.label_dtype) for task in (SEMSEG, DEPTH)}
  maps = {task.name: jnp.zeros((count, 1, 1, task.channels)) for task in (SEMSEG, DEPTH)}

  def apply(image_or_maps, task=None, pair=None, method=None):
    features = jnp.ones((count, 1, 1, 3))
    return (jnp.ones((2 * count, 1, 1, 3)) if method else Output(maps, extra={'features': features})), {}

  find('xtc').loss(Forward(apply, batch, None, (SEMSEG, DEPTH), None, KEY, build_model(config, (SEMSEG, DEPTH))))
  assert np.mean(drawn[0].flip) == pytest.approx(share, abs=0.06)


SURE, UNSURE = np.log(99), np.log(9)  # logits of 0.99 and 0.9


@functools.partial(jax.jit, static_argnums=0)
def distance_and_gradient(task, student, teacher):
  target = task.soft_prediction(teacher) * (0.9 if task is NORMALS else 1)  # shorter, as between two directions
  return jax.value_and_grad(lambda student: task.consistency(student, target)[0, 0, 0])(student)


@pytest.mark.parametrize('task, student, teacher, expected', [
    (SEMSEG, [0, 0, 0, 0], [9, 0, 0, 0], np.log(4)),  # 0.9996 sure
    (SEMSEG, [0, 0, 0, 0], [UNSURE, 0, 0, 0], 0),
    (SALIENCY, [0, SURE], [SURE, 0], SURE + np.log1p(1 / 99)),  # 0.99 sure, and student of the contrary
    (SALIENCY, [0, SURE], [UNSURE, 0], 0),
    (BOUNDARY, [0], [SURE], np.log(2)),
    (BOUNDARY, [0], [-SURE], np.log(2)),
    (BOUNDARY, [0], [UNSURE], 0),
    (NORMALS, [1, 0, 0], [2, 0.8, 0], 1 - 1 / np.hypot(1, 0.4)),  # 0.07
    (NORMALS, [1, 0, 0], [2, 2, 0], 0),  # 0.29
    (DEPTH, [3], [3.05], 0.05),
    (DEPTH, [3], [3.2], 0),
    (DEPTH, [1, 1, 1], [1.06, 1, 1.03], 0.03),  # as any other value would be, of three channels
])  # fmt: skip
def test_consistency_counts_where_the_target_is_certain(task, student, teacher, expected):
  value, gradient = distance_and_gradient(task, np.float32([[[student]]]), np.float32([[[teacher]]]))
  assert value == pytest.approx(expected, abs=1e-5)
  assert np.isfinite(gradient).all()
  assert (np.abs(gradient).max() > 0) == (expected > 0)


def constant(task, values):
  """Maps [B, 4, 4, C_t] with one value per image."""
  values = jnp.array(values, jnp.float32)
  return jnp.broadcast_to(values[:, None, None], (len(values), 4, 4, task.channels))


@jax.jit
def consistency(student, teacher, mask, weights):
  """Loss of constant saliency and boundary maps, which are the same in every view."""
  tasks = (SALIENCY, BOUNDARY)

  def output(values):
    return Output({task.name: constant(task, value) for task, value in zip(tasks, values)})

  def apply(images):
    return output(student), {}

  batch = {'image': jnp.zeros((2, 32, 32, 3)), 'label_mask': jnp.array(mask, bool)}
  return find('ss').loss(Forward(apply, batch, output(teacher), tasks, jnp.array(weights), KEY, None))


def test_consistency_of_unlabelled_tasks_in_closed_form():
  """Certain teachers and uniform students: ln 2 per task. Image 0 lacks boundary, image 1 saliency."""
  blank = ([[0.0, 0], [0, 0]], [[0.0], [0]])
  sure = ([[SURE, 0], [SURE, 0]], [[SURE], [SURE]])
  mask = [[1, 0], [0, 1]]
  assert consistency(blank, blank, mask, [1.0, 1]) == 0
  assert consistency(blank, sure, mask, [2.0, 5]) == pytest.approx((5 + 2) * np.log(2) / 2, rel=1e-4)
  assert consistency(blank, sure, [[1, 1], [1, 1]], [2.0, 5]) == 0
  assert consistency(blank, sure, [[0, 0], [0, 1]], [2.0, 5]) == pytest.approx((2 + 5 + 2) * np.log(2) / 2, rel=1e-4)


# --- xtc ---


E0, E1, E2 = np.eye(3, dtype=np.float32)


LABELS = {t.name: random_labels(np.random.default_rng(0), 2, (32, 32))[t.name] for t in THREE}
AGREE = np.tile(E2, (2, 6, 1))
APART = np.stack([np.tile(E0, (6, 1)), np.tile(E1, (6, 1))])


def cross_task(vectors, mask, labels=LABELS, weight=2.0):
  """Loss of two images where mapped predictions (0) and labels (1) are vectors [2, pairs, 3], and features E2."""
  return float(_cross_task(vectors, np.array(mask, bool), labels, weight))


@functools.partial(jax.jit, static_argnames='weight')
def _cross_task(vectors, mask, labels, weight):
  config = tiny_config('method=xtc')
  config.model.cross_task_weight = weight
  final = {task.name: np.ones((2, 4, 4, task.channels), np.float32) for task in THREE}
  second = Output(final, extra={'features': np.broadcast_to(E2, (2, 4, 4, 3))})

  def apply(maps, task=None, pair=None, method=None):
    if method is None:  # the second view
      return second, {}
    assert method == 'map_pair'
    assert maps.shape == (4, 32, 32, 8)  # two predictions, then two labels
    mapped = jnp.concatenate([vectors[0, pair[:2]], vectors[1, pair[2:]]])
    return jnp.broadcast_to(mapped[:, None, None], (4, 2, 2, 3)), {}

  batch = {'image': np.zeros((2, 32, 32, 3)), 'labels': labels, 'label_mask': mask}
  return find('xtc').loss(Forward(apply, batch, None, THREE, None, KEY, build_model(config, THREE)))


def test_cross_task_loss_is_zero_where_everything_agrees():
  assert cross_task(AGREE, [[1, 0, 0], [0, 1, 0]]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
  'mask, pairs',
  [
    ([[1, 0, 0], [0, 0, 1]], 2),  # one label: two unlabelled sources per image
    ([[1, 1, 0], [1, 0, 1]], 2),  # two labels: two targets, one unlabelled source
    ([[1, 1, 1], [1, 1, 1]], 6),  # all labels: every pair
    ([[1, 1, 1], [0, 0, 0]], 3),  # the second image has none
    ([[0, 0, 0], [0, 0, 0]], 0),
  ],
)
def test_cross_task_loss_counts_pairs(mask, pairs):
  """All at right angles: 1 + 0.5 (1 + 1) a pair, times 2; mean over images."""
  assert cross_task(APART, mask) == pytest.approx(2 * 2 * pairs, abs=1e-4)


def test_the_config_weights_the_cross_task_loss():
  mask = [[1, 0, 0], [0, 0, 1]]
  assert cross_task(APART, mask, weight=1.0) == pytest.approx(cross_task(APART, mask, weight=2.0) / 2)


@pytest.mark.parametrize('name, weight, rate', [('nyud', 2, 1e-3), ('cityscapes', 1, 1e-5)])
def test_weight_and_rate_of_xtc_are_the_data_sets(name, weight, rate):
  config = importlib.import_module(f'dmtl_jax.configs.{name}').get_config('method=xtc')
  assert config.model.cross_task_weight == weight
  assert config.optim.part_lr.film == rate


def test_cross_task_pairs_are_those_of_source_and_target():
  """Target task 1; the angle between prediction and label differs for each of the six pairs."""
  angles = np.array([0.3, 0.7, 1.1, 1.5, 1.9, 2.3])
  order = list(itertools.permutations(range(3), 2))
  predictions = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
  loss = cross_task(np.float32([predictions, np.tile(E0, (6, 1))]), [[0, 1, 0], [0, 1, 0]])
  chosen = [angles[order.index((source, 1))] for source in (0, 2)]
  assert loss == pytest.approx(2 * sum(1 - np.cos(a) + 1 for a in chosen), rel=1e-4)


def test_a_label_without_a_valid_pixel_is_no_target():
  labels = {task.name: np.stack([task.blank(32, 32)] * 2) for task in THREE}
  assert cross_task(APART, [[1, 0, 0], [0, 1, 1]], labels=labels) == 0


def test_predictions_labels_and_features_are_those_of_the_second_view(monkeypatch):
  """The view is a flip: the network gets the flipped image, and the mapping the flipped label."""
  flips = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), view(flip=True))
  monkeypatch.setattr(views, 'draw_crops', lambda *_: flips)
  seen = {}
  image = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  labels = {'semseg': LABELS['semseg'], 'normals': np.stack([NORMALS.blank(32, 32)] * 2)}
  maps = {'semseg': np.ones((2, 4, 4, 4), np.float32), 'normals': np.full((2, 4, 4, 3), 2, np.float32)}

  def apply(maps_or_image, task=None, pair=None, method='image'):
    jax.debug.callback(lambda x: seen.update({method: np.asarray(x)}), maps_or_image)
    output = Output(maps, extra={'features': np.broadcast_to(E2, (2, 4, 4, 3))})
    return (output if method == 'image' else jnp.ones((4, 2, 2, 3))), {}

  batch = {'image': image, 'labels': labels, 'label_mask': np.array([[1, 0], [1, 0]], bool)}
  run = Forward(apply, batch, None, TWO, None, KEY, build_model(tiny_config('method=xtc'), TWO))
  jax.jit(lambda: find('xtc').loss(run))().block_until_ready()
  jax.effects_barrier()
  np.testing.assert_allclose(seen['image'], image[:, :, ::-1], atol=1e-5)
  prediction, label = np.split(seen['map_pair'], 2)
  one_hot = np.eye(256)[labels['semseg'][..., 0]][..., :4]
  np.testing.assert_array_equal(label[..., :4], one_hot[:, :, ::-1])
  np.testing.assert_allclose(prediction[..., 4:], (3**-0.5 + 1) / 2, atol=1e-5)


@pytest.mark.parametrize('task, label, encoded', [
    (SEMSEG, [[2], [255]], [[0, 0, 1, 0], [0, 0, 0, 0]]),
    (BOUNDARY, [[1], [255]], [[1], [0]]),
    (DEPTH, [[2], [8], [0]], [[0.25], [1], [0]]),
    (NORMALS, [[0.6, -0.8, 0], [0, 0, 0]], [[0.8, 0.1, 0.5], [0, 0, 0]]),
])  # fmt: skip
def test_labels_are_encoded_in_the_range_of_predictions(task, label, encoded):
  labels = {task.name: np.array([[label]], task.label_dtype)}
  slots = xtc.encode_labels((task,), labels, np.ones((1, 1), bool), np.zeros(1, int))
  np.testing.assert_allclose(slots, [[encoded]], atol=1e-6)


def test_class_predictions_are_drawn_with_their_probabilities_and_pass_the_gradient():
  logits = np.log(np.broadcast_to(np.float32([0.1, 0.2, 0.3, 0.4]), (1, 100, 100, 4)))
  drawn = np.asarray(jax.jit(SEMSEG.encode_prediction)(logits, KEY))
  np.testing.assert_allclose(np.sort(drawn, -1), np.broadcast_to([0, 0, 0, 1], drawn.shape), atol=1e-6)
  np.testing.assert_allclose(drawn.mean((0, 1, 2)), [0.1, 0.2, 0.3, 0.4], atol=0.02)
  gradient = jax.jit(jax.grad(lambda x: SEMSEG.encode_prediction(x, KEY)[..., 0].sum()))(logits)
  assert (np.asarray(gradient)[..., 0] > 0).all()


def test_a_pairs_film_changes_only_that_pair():
  film = {'gamma': np.ones((6, 4), np.float32), 'beta': np.zeros((6, 4), np.float32)}
  film['gamma'][4] = 3
  film['beta'][4] = 0.5
  x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype(np.float32)
  params = film | {'norm': {'scale': np.ones(4), 'bias': np.zeros(4)}}
  out = FiLM(6).apply({'params': params}, x, jnp.array([4, 1]))
  normed = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-6)
  np.testing.assert_allclose(out[0], 3 * normed[0] + 0.5, atol=1e-4)
  np.testing.assert_allclose(out[1], normed[1], atol=1e-4)
