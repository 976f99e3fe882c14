"""JTR against numbers of the authors' PyTorch code, and its parts against Pillow, SciPy and closed forms.

references/jtr.npz: torch 2.13 on a CPU, float32, `SegNet_JTR([4, 1, 3])` of github.com/KentoNishi/JTR-CVPR-2024 at
f6a2279 in training mode, with the weights of `torch_state(..., SEED)`. `compute_losses` of one image of 64x96 and
recon_dist_weight 2; maps and labels as `draw_view` draws them, normals divided by their length; the Gumbel noise of
each draw as `NOISE` names it (Y and the target of Y2 draw only if segmentation has no label). CASE/{dist,recon}: the
losses; /gradnorm/MODULE: the norm of the gradients of the parameters in that module, without biases before a norm;
/gradient{1,2}/TASK: the norm of that of a view's raw maps. Of `forward` of rng('stack').random([1, 8, 64, 96]), NHWC:
embedding[..., ::8] and reconstruction[::8, ::8].
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest
import scipy.stats

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model, Forward, jtr, losses, Output
from dmtl_jax.models.parts import rand_augment, regularizer, views
from tests.tiny import random_variables, rng, TASKS, tiny_config, torch_state

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
THREE = (SEMSEG, DEPTH, NORMALS)
KEY = jax.random.key(0)
SEED, SIZE = 21, (64, 96)
REFERENCE = np.load(pathlib.Path(__file__).parent / 'references' / 'jtr.npz')
NOISE = ('y1', 'yhat1', 'y2', 'target_y2', 'target_yhat2')  # in the order in which ours are drawn
CASES = {'semseg': [1, 0, 0], 'depth_normals': [0, 1, 1]}
WIDTHS = (64, 128, 256, 512, 512)
MODULES = {
  'encoder_block': ('encoder', 0),
  'conv_block_enc': ('encoder', 1),
  'decoder_block': ('decoder', 0),
  'conv_block_dec': ('decoder', 1),
}


def draw_view(view: int) -> tuple[dict, dict]:
  """Raw maps and labels of a view, in our layout and encoding."""
  r, shape = rng(f'view{view}', SEED), (1, 1, *SIZE)

  def nhwc(x):
    return np.float32(x).transpose(0, 2, 3, 1)

  semseg, depth, normals = (
    r.standard_normal((1, 4, *SIZE)), 2 + r.standard_normal(shape), r.standard_normal((1, 3, *SIZE))
  )  # fmt: skip
  maps = {'semseg': nhwc(semseg), 'depth': nhwc(depth), 'normals': nhwc(normals)}
  labels = {'semseg': r.integers(0, 4, shape[1:])[..., None].astype(np.uint8)}
  labels['semseg'] = np.where(r.random(shape[1:])[..., None] < 0.1, np.uint8(255), labels['semseg'])
  labels['depth'] = nhwc(np.where(r.random(shape) < 0.1, 0, r.uniform(1, 5, shape)))
  vectors = r.standard_normal((1, 3, *SIZE))
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  labels['normals'] = nhwc(np.where(r.random(shape) < 0.1, 0, vectors))
  return maps, labels


def layers() -> dict[str, tuple[str, int, int]]:
  """{our layer: (PyTorch name of its first number, channels in, out)} of SegNet_JTR([4, 1, 3])."""
  named = {}
  inputs = [8, *WIDTHS[:4]]
  outputs = [WIDTHS[0], *WIDTHS[:4]]
  for i, width in enumerate(WIDTHS):
    for ours, theirs, start, end in (('encoder', 'enc', inputs[i], width), ('decoder', 'dec', width, outputs[i])):
      named[f'{ours}{i}_0'] = (f'{ours}_block.{i}', start, end)
      for j in range(regularizer.ENCODER_CONVS[i] - 1):
        inner = f'.{j}' if i > 1 else ''
        named[f'{ours}{i}_{j + 1}'] = (f'conv_block_{theirs}.{i}{inner}', end, end)
  return named


@functools.cache
def weights() -> dict:
  """The network's parameters by the recipe."""
  params = {}
  for ours, (theirs, inputs, outputs) in layers().items():
    shapes = {f'{theirs}.0.weight': (outputs, inputs, 3, 3)}
    shapes |= {f'{theirs}.1.weight': (outputs,), f'{theirs}.1.bias': (outputs,)}
    kernel, scale, bias = torch_state(shapes, SEED).values()
    params[ours] = {'conv': {'kernel': kernel.transpose(2, 3, 1, 0)}, 'norm': {'scale': scale, 'bias': bias}}
  for i, (outputs, size) in enumerate(((64, 3), (8, 1))):
    shapes = {f'pred_layer.{i}.weight': (outputs, 64, size, size), f'pred_layer.{i}.bias': (outputs,)}
    kernel, bias = torch_state(shapes, SEED).values()
    params[f'output{i}'] = {'kernel': kernel.transpose(2, 3, 1, 0), 'bias': bias}
  return params


def test_the_regularising_network_is_the_authors():
  stack = np.float32(rng('stack', SEED).random((1, 8, *SIZE))).transpose(0, 2, 3, 1)
  result = jax.jit(regularizer.Regularizer(512).apply)({'params': weights()}, stack)
  # Values of about 1 after 27 convolutions; how their sums are rounded depends on the number of cores.
  np.testing.assert_allclose(result.embedding[0, ..., ::8], REFERENCE['embedding'], atol=1e-3)
  np.testing.assert_allclose(result.maps[0, ::8, ::8], REFERENCE['reconstruction'], atol=1e-3)


@functools.cache
def losses_and_gradients(case: str) -> dict:
  """What the reference holds of a case, {'dist', 'dist/gradnorm/MODULE', ...}, by our code."""
  compute = compiled_losses()
  results = {}
  mask = np.array([CASES[case]], bool)
  for name, weight in (('dist', [1.0, 0.0]), ('recon', [0.0, 1.0])):
    loss, (params, maps) = jax.device_get(compute(mask, np.float32(weight)))
    results[name] = loss
    by_module = {}
    for layer, grads in params.items():
      module = 'pred_layer' if 'output' in layer else layers()[layer][0].partition('.')[0]
      by_module.setdefault(module, []).extend(jax.tree.leaves(grads))
    results |= {f'{name}/gradnorm/{module}': norm(grads) for module, grads in by_module.items()}
    for view, grads in enumerate(maps, 1):
      results |= {f'{name}/gradient{view}/{task}': norm([grad]) for task, grad in grads.items()}
  return results


def norm(grads) -> float:
  return np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in grads))


@functools.cache
def compiled_losses():
  """Function (mask, weights of both losses) -> (loss, gradients of the network's parameters and the raw maps)."""
  config = tiny_config('method=jtr,preset=released')
  config.model.channels = 512
  model = build_model(config, THREE)
  (maps1, labels1), (maps2, labels2) = draw_view(1), draw_view(2)
  by_view = iter((labels1, labels2))
  crops = views.View(*(np.zeros(2, np.float32) for _ in range(5)))

  def loss(params, maps, mask, weights):
    def apply(*args, **kwargs):
      return model.apply({'params': {'regularizer': params}}, *args, **kwargs), {}

    output = Output({}, extra={'crops': crops, 'maps': maps})
    batch = {'labels': labels1, 'label_mask': mask}
    losses = jtr.regularization_losses(Forward(apply, batch, output, THREE, None, KEY, model))
    return weights[0] * losses.distance[0] + weights[1] * losses.reconstruction[0]

  def draw_noise(key, shape):
    noise = rng(f'gumbel/{next(names)}', SEED).gumbel(size=(1, 4, *SIZE))
    return np.float32(noise).transpose(0, 2, 3, 1)

  def make_view(tasks, maps, labels, mask, crop):
    own = next(by_view)
    return original(tasks, maps, own, mask, whole)

  names, original = iter(NOISE), jtr.make_view
  whole = views.View(*(np.full(1, value, np.float32) for value in (1, 0, 0, 1, 0)))
  whole = whole.replace(corner=np.zeros((1, 2), np.float32), flip=np.zeros(1, bool))
  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  args = (weights(), [maps1, maps2])
  with pytest.MonkeyPatch.context() as patch:  # while it is traced
    patch.setattr(jtr, 'make_view', make_view)
    patch.setattr(jax.random, 'gumbel', draw_noise)
    run = gradient.lower(*args, np.zeros((1, 3), bool), np.zeros(2, np.float32)).compile()
  return lambda mask, weights: run(*args, mask, weights)


@pytest.mark.parametrize('case', CASES)
def test_losses_are_the_authors(case):
  results = losses_and_gradients(case)
  assert results['dist'] == pytest.approx(REFERENCE[f'{case}/dist'], rel=1e-4)
  # The code's loss of normals is 1 - (cosines / N), ours (1 - cosine) / N over pixels of the mask, for Y2 and Yhat2.
  assert results['recon'] + constant(case) == pytest.approx(REFERENCE[f'{case}/recon'], rel=1e-4)


def constant(case: str) -> float:
  """2 - mask / count of both normals' losses: targets have three numbers a pixel, all but labels' non-zero."""
  _, labels = draw_view(2)
  is_valid = {'semseg': labels['semseg'] != 255, 'depth': labels['depth'] > 0}
  is_valid['normals'] = (labels['normals'] != 0).any(-1, keepdims=True)
  labelled = [task.name for task, has_label in zip(THREE, CASES[case]) if has_label]
  mask = np.logical_and.reduce([is_valid[name] for name in labelled]).sum()
  count = 3 * SIZE[0] * SIZE[1]
  return 2 - mask / count - mask / (3 * is_valid['normals'].sum() if 'normals' in labelled else count)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('loss', ['dist', 'recon'])
def test_gradients_are_the_authors(case, loss):
  results = losses_and_gradients(case)
  for name in (name for name in REFERENCE.files if name.startswith(f'{case}/{loss}/')):
    assert results[name.removeprefix(f'{case}/')] == pytest.approx(REFERENCE[name], rel=2e-3, abs=1e-7), name


def test_only_unlabelled_tasks_and_the_network_get_a_gradient():
  results = losses_and_gradients('semseg')
  assert results['dist/gradient1/semseg'] == 0
  assert results['dist/gradient1/depth'] > 0
  assert results['dist/gradient2/depth'] == results['recon/gradient2/depth'] == 0


# --- the losses by default ---


def view_of(maps: dict, labels: dict, mask, tasks=THREE) -> jtr.MaskedView:
  tasks = tuple(task for task in tasks if task.name in maps)
  batch = len(mask)
  crop = views.View(jnp.ones(batch), jnp.zeros((batch, 2)), jnp.zeros(batch, bool), jnp.ones(batch), jnp.zeros(batch))
  return jtr.make_view(tasks, maps, labels, jnp.asarray(mask, bool), crop)


def test_reconstruction_is_a_mean_over_the_mask():
  """Depth: L1 of the sigmoid to the normal CDF; normals: one minus the cosine; classes: binary cross-entropies."""
  maps, labels = draw_view(1)
  view = view_of(maps, labels, [[1, 0, 0]])
  g = rng('reconstructed', SEED).standard_normal((1, *SIZE, 8)).astype(np.float32)
  targets = view.reconstructed_y(KEY)
  result = jax.jit(lambda maps, targets: jtr.reconstruction_loss(view, maps, targets, False))(g, targets)
  mask = labels['semseg'][..., 0] != 255
  sigmoid = 1 / (1 + np.exp(-g.astype(np.float64)))
  one_hot = np.eye(4)[np.minimum(labels['semseg'][..., 0], 3)]
  semseg = -(one_hot * np.log(sigmoid[..., :4]) + (1 - one_hot) * np.log(1 - sigmoid[..., :4])).sum(-1)
  depth = np.abs(sigmoid[..., 4] - scipy.stats.norm.cdf(maps['depth'][..., 0], 2.3618, 1.5876))
  unit = maps['normals'] / np.linalg.norm(maps['normals'], axis=-1, keepdims=True)
  cosine = (g[..., 5:] * unit).sum(-1) / np.linalg.norm(g[..., 5:], axis=-1)
  assert result[0] == pytest.approx((semseg + depth + 1 - cosine)[mask].mean(), rel=1e-5)


def test_values_that_are_reconstructed_of_yhat_are_encoded_once_more_in_the_code():
  maps, labels = draw_view(1)
  view = view_of(maps, labels, [[0, 0, 0]])
  paper, released = (view.reconstructed_yhat(KEY, released) for released in (False, True))
  np.testing.assert_allclose(paper['depth'], maps['depth'], rtol=1e-6)
  np.testing.assert_allclose(released['depth'], scipy.stats.norm.cdf(maps['depth'], 2.3618, 1.5876), atol=1e-6)
  np.testing.assert_allclose(released['normals'], (paper['normals'] + 1) / 2, atol=1e-6)
  np.testing.assert_array_equal(released['semseg'], paper['semseg'])


def test_the_distance_of_embeddings_is_one_minus_the_cosine():
  """Opposite, orthogonal and equal vectors; a vector of zeros has no direction."""
  a = np.array([[[[1, 0], [0, 2], [3, 3], [0, 0]]]], np.float32)
  b = np.array([[[[-2, 0], [1, 0], [1, 1], [1, 1]]]], np.float32)
  assert losses.embedding_distance(a, b)[0] == pytest.approx((2 + 1 + 0 + 1) / 4, abs=1e-6)


@pytest.mark.parametrize('task, unlabelled', [(SEMSEG, 0), (SALIENCY, 0), (BOUNDARY, 0), (NORMALS, 0.5)])
def test_a_pixel_without_a_label_is_encoded(task, unlabelled):
  encoded = jtr.encode_label(task, jnp.asarray(task.blank(2, 2))[None])
  assert encoded.shape == (1, 2, 2, task.channels)
  assert (encoded == unlabelled).all()


def test_predictions_are_masked_where_one_of_the_labels_is_missing():
  """Pixel 0 lacks the depth, pixel 1 the class; both stay as labels where they have one."""
  maps = {'semseg': np.zeros((1, 1, 3, 4), np.float32), 'depth': np.full((1, 1, 3, 1), 9, np.float32)}
  labels = {'semseg': np.uint8([[[[1], [255], [2]]]]), 'depth': np.float32([[[[0], [2], [3]]]])}
  view = view_of(maps, labels, [[1, 1]])
  assert view.mask[0, 0].tolist() == [False, False, True]
  assert view.encoded(KEY)['semseg'][0, 0].sum(-1).tolist() == [0, 0, 1]
  assert view.targets(KEY)['semseg'][0, 0].sum(-1).tolist() == [1, 0, 1]
  expected = scipy.stats.norm.cdf([0, 2, 3], 2.3618, 1.5876)
  np.testing.assert_allclose(view.targets(KEY)['depth'][0, 0, :, 0], expected, atol=1e-6)


def test_one_task_cannot_be_regularised():
  with pytest.raises(UserError, match='jtr regularises tasks jointly'):
    build_model(tiny_config('method=jtr'), (SEMSEG,))


# --- pooling and views ---


def test_unpooling_returns_maxima_to_their_places():
  x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)[:, ::-1]
  maxima, place = regularizer.pool(x)
  np.testing.assert_array_equal(maxima[0, ..., 0], [[13, 15], [5, 7]])
  expected = np.where(np.isin(x, [5, 7, 13, 15]), x, 0)
  np.testing.assert_array_equal(regularizer.unpool(maxima, place), expected)


def test_first_kernels_are_xavier_normal():
  """Variance 2 / (fan-in + fan-out) and the kurtosis of a normal distribution; other parameters stay as they are."""
  params = {'conv': {'kernel': jnp.zeros((3, 3, 40, 80))}, 'norm': {'scale': jnp.ones(3)}}
  drawn = jax.device_get(jax.jit(regularizer.init_params)(params, KEY))
  kernel = drawn['conv']['kernel']
  assert kernel.std() == pytest.approx((2 / (9 * 120)) ** 0.5, rel=0.02)
  assert scipy.stats.kurtosis(kernel, axis=None) == pytest.approx(0, abs=0.1)
  assert (drawn['norm']['scale'] == 1).all()


def test_views_go_through_the_network_with_the_image():
  """The statistics of a batch norm are those of all three: the first view's differ from those of the image alone."""
  model = build_model(tiny_config('method=jtr'), THREE)
  variables = random_variables(model, (32, 32))
  images = np.float32(rng('images').standard_normal((2, 32, 32, 3)))
  same = jtr.AugmentedViews(None, np.repeat(images[:, None], 2, axis=1))
  other = jtr.AugmentedViews(None, np.repeat(images[::-1, None] * 2, 2, axis=1))
  apply = jax.jit(lambda views: model.apply(variables, images, train=True, augmented=views, mutable=['batch_stats'])[0])
  result = apply(same)
  assert result.final['depth'].shape == (2, 4, 4, 1)
  np.testing.assert_array_equal(result.extra['maps'][1]['depth'], result.final['depth'])
  assert np.abs(apply(other).final['depth'] - result.final['depth']).max() > 1e-3


def test_views_are_crops_with_other_colours_within_0_and_1():
  images = np.float32(rng('images').uniform(-2, 2, (16, 8, 8, 3)))
  drawn = jax.device_get(jax.jit(jtr.draw_views)(images, KEY))
  assert drawn.images.shape == (16, 2, 8, 8, 3)
  values = drawn.images * jtr.STD + jtr.MEAN
  assert -1e-6 < values.min() < values.max() < 1 + 1e-6
  assert set(np.round(drawn.crops.zoom.tolist(), 4)) == {1.0, 1.2, 1.5}
  assert not drawn.crops.flip.any()


PHOTO = rng('photo').integers(20, 236, (12, 15, 3)).astype(np.uint8)


def pillow(name: str, magnitude: int, sign: int) -> np.ndarray:
  """The image after Pillow's operation of that name."""
  image, factor = Image.fromarray(PHOTO), 1 + sign * 0.03 * magnitude
  return np.asarray({
    'identity': lambda: image,
    'brightness': lambda: ImageEnhance.Brightness(image).enhance(factor),
    'color': lambda: ImageEnhance.Color(image).enhance(factor),
    'contrast': lambda: ImageEnhance.Contrast(image).enhance(factor),
    'sharpness': lambda: ImageEnhance.Sharpness(image).enhance(factor),
    'posterize': lambda: ImageOps.posterize(image, 8 - round(magnitude / 7.5)),
    'solarize': lambda: ImageOps.solarize(image, 255 - 8.5 * magnitude),
    'autocontrast': lambda: ImageOps.autocontrast(image),
    'equalize': lambda: ImageOps.equalize(image),
  }[name]())  # fmt: skip


@pytest.mark.parametrize('operation', rand_augment.OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize('magnitude, sign', [(5, 1), (5, -1), (2, 1)])
def test_operations_are_pillows(operation, magnitude, sign):
  """Within 1.5 of 255: Pillow rounds after each step."""
  result = jax.jit(operation)(PHOTO / np.float32(255), magnitude, sign)
  tolerance = 1e-3 if operation in (rand_augment.posterize, rand_augment.solarize, rand_augment.equalize) else 1.5
  np.testing.assert_allclose(255 * result, pillow(operation.__name__, magnitude, sign), atol=tolerance)


def test_every_image_gets_two_of_all_operations(monkeypatch):
  """Operation k adds 4 ** k to the first channel, its magnitude to the second and its sign to the third."""

  def add(place, image, magnitude, sign):
    return image + jnp.float32([1, 0, 0]) * place + jnp.float32([0, 1, 0]) * magnitude + jnp.float32([0, 0, 1]) * sign

  places = [4**k for k in range(len(rand_augment.OPERATIONS))]
  monkeypatch.setattr(rand_augment, 'OPERATIONS', [functools.partial(add, place) for place in places])
  drawn, magnitudes, signs = jax.jit(rand_augment.augment)(jnp.zeros((64, 1, 1, 3)), KEY).reshape(64, 3).T
  counts = np.array([[int(x) // place % 4 for place in places] for x in drawn])
  assert set(counts.sum(1)) == {2}
  assert counts.any(0).all()
  assert 0 <= magnitudes.min() < 5 < magnitudes.max() <= 10
  assert set(signs.tolist()) == {-2, 0, 2}
