"""Calibration: fits of logits whose true parameters are known, its error by hand, its file, and what predictions take."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import dmtl_jax
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import calibration as calibration_lib
from dmtl_jax.inference import calibration_fit, tiles
from dmtl_jax.inference.calibration_fit import Evidence, Parameters, Pixels, Sample
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.tasks import make_task
from tests import calibrations
from tests.tiny import SIZE, TASKS

SEMSEG, PARSING, SALIENCY, NORMALS, BOUNDARY, DEPTH = TASKS
MANY = 10**9  # images, so that the prior does not count


def drawn(rng, scale, bias, count=20_000, spread=3.0) -> Pixels:
  """Pixels whose labels are drawn from softmax(scale * logits + bias), so that these are the true parameters."""
  logits = spread * rng.standard_normal((count, len(bias)))
  noisy = scale * logits + bias + rng.gumbel(size=logits.shape)
  return Pixels(logits, np.eye(len(bias), dtype=bool)[noisy.argmax(1)], np.full(count, 1 / count), MANY)


def centred(x):
  return np.asarray(x) - np.mean(x)


# --- The fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize('bias', [(0.5, -1.0, 0.0, 2.0), (0.0, -3.0)])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
def test_known_parameters_are_found(temperature, bias):
  found = calibration_fit.minimize(drawn(np.random.default_rng(0), 1 / temperature, bias))
  assert 1 / found.scale == pytest.approx(temperature, rel=0.05)
  np.testing.assert_allclose(centred(found.bias), centred(bias), atol=0.1)


def test_the_gradient_of_another_library_vanishes_there():
  pixels = drawn(np.random.default_rng(1), 0.4, (0.0, 1.0, -1.0), count=3000)._replace(images=5)
  found = calibration_fit.minimize(pixels)

  def objective(scale, bias):
    loss = optax.softmax_cross_entropy(scale * jnp.asarray(pixels.logits) + bias, jnp.asarray(pixels.possible))
    away = (scale - 1) ** 2 + (bias**2).sum()
    return loss.mean() + away / 2 / (calibration_fit.INDEPENDENT * 5)

  for gradient in jax.grad(objective, (0, 1))(found.scale, jnp.asarray(found.bias, jnp.float32)):
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_a_constant_map_becomes_the_share_of_positives():
  """Closed form: the bias is the logit of the share."""
  labels = (np.arange(1000) < 130).astype(np.uint8)
  pixels = calibration_fit.join(BOUNDARY, [Sample(np.zeros((1000, 1), np.float32), labels, 1.0)])._replace(images=MANY)
  found = calibration_fit.minimize(pixels)
  assert found.bias[1] - found.bias[0] == pytest.approx(special.logit(0.13), abs=1e-4)
  assert found.scale == pytest.approx(1)


def test_labels_that_leave_several_classes_possible_are_fitted_by_their_union():
  """Half of the pixels only tell that they are none of the classes 0 and 1."""
  full = drawn(np.random.default_rng(2), 0.5, (0.0, 1.0, -1.0, 0.5))
  partly = np.arange(len(full.weights)) % 2 == 0
  outside = partly & ~full.possible[:, :2].any(1)
  possible = np.where(outside[:, None], [False, False, True, True], full.possible)
  found = calibration_fit.minimize(full._replace(possible=possible))
  assert found.scale == pytest.approx(0.5, rel=0.04)
  np.testing.assert_allclose(centred(found.bias), centred([0, 1, -1, 0.5]), atol=0.1)
  dropped = calibration_fit.minimize(
    full._replace(weights=np.where(outside, 0, 1 / (~outside).sum()))
  )  # as if they were unlabelled
  assert abs(centred(dropped.bias) - centred([0, 1, -1, 0.5])).max() > 0.3


def test_a_pixel_of_a_partly_annotated_label_leaves_the_other_classes_possible():
  task = dataclasses.replace(SEMSEG, annotated=((0,),))
  count = len(task.classes)
  sample = Sample(np.zeros((2, count), np.float32), np.array([1, count], np.uint8), 1.0)
  np.testing.assert_array_equal(
    calibration_fit.join(task, [sample]).possible, [np.arange(count) == 1, np.arange(count) > 0]
  )


def test_a_class_that_no_label_shows_does_not_run_off():
  rng = np.random.default_rng(3)
  logits = rng.standard_normal((5000, 3))
  possible = np.eye(3, dtype=bool)[rng.integers(0, 2, 5000)]  # never class 2
  pixels = Pixels(logits, possible, np.full(5000, 1 / 5000), 1)
  one, hundred = (calibration_fit.minimize(pixels._replace(images=n)).bias[2] for n in (1, 100))
  assert -2 < one < -0.5  # one image without it says little
  assert -8 < hundred < one - 1


def test_an_image_weighs_as_much_as_the_share_of_it_that_is_labelled():
  samples = [
    Sample(np.zeros((4, 1), np.float32), np.full(4, label, np.uint8), share) for label, share in ((1, 0.2), (0, 0.6))
  ]
  pixels = calibration_fit.join(BOUNDARY, samples)
  assert pixels.weights @ pixels.possible[:, 1] == pytest.approx(0.25)


# --- Its error -------------------------------------------------------------------------------


def brute_force_ece(confidence, hit, bins=15) -> float:
  total = 0.0
  for k in range(bins):
    inside = [i for i, c in enumerate(confidence) if k / bins <= c and (c < (k + 1) / bins or k == bins - 1)]
    if inside:
      total += len(inside) * abs(np.mean([confidence[i] for i in inside]) - np.mean([hit[i] for i in inside]))
  return 100 * total / len(confidence)


def test_the_calibration_error_by_hand():
  """Of the class with the highest raw logit; of a binary task, of the positive class."""
  rng = np.random.default_rng(4)
  for task, count in ((SEMSEG, 4), (BOUNDARY, 2)):
    pixels = drawn(rng, 0.7, np.linspace(0, 1, count), count=500)
    got = calibration_fit.reliability(task, [(pixels, Parameters(0.5, np.linspace(-1, 1, count)))])
    p = special.softmax(0.5 * pixels.logits + np.linspace(-1, 1, count), axis=1)
    chosen = pixels.logits.argmax(1) if task is SEMSEG else np.ones(500, int)
    rows = np.arange(500)
    assert got.ece == pytest.approx(brute_force_ece(p[rows, chosen], pixels.possible[rows, chosen]), rel=1e-9)
    assert got.nll == pytest.approx(-np.log(p[pixels.possible]).mean(), rel=1e-9)
    assert sum(b.share for b in got.bins) == pytest.approx(1)


def fit_halves(*positives: int):
  """Fits constant maps of two halves of 20 images, of whose 50 pixels so many are positive."""
  evidence = Evidence([BOUNDARY], 40, 0)
  images = []
  for count in positives:
    labels = (np.arange(50) < count).astype(np.uint8)
    images += [Sample(np.full((50, 1), -1.0, np.float32), labels, 1.0)] * 20
  evidence.samples['boundary'] = dict(enumerate(images))
  return calibration_fit.fit({'final': evidence}, 7, 2).tasks['boundary']


def test_it_is_measured_on_the_half_that_the_fit_has_not_seen():
  """Closed form: the cross-entropy of one half's share of positives under the other's (but for the weak prior)."""
  fitted = fit_halves(5, 10)
  wanted = np.mean([-a * np.log(b) - (1 - a) * np.log(1 - b) for a, b in ((0.1, 0.2), (0.2, 0.1))])
  assert fitted.held_out
  assert fitted.calibrated.nll == pytest.approx(wanted, rel=0.02)


def test_a_fit_that_makes_unseen_images_less_likely_is_not_used():
  """The two halves of the images contradict each other."""
  fitted = fit_halves(0, 50)
  assert (fitted.temperature, fitted.bias) == (1, (0,))
  assert fitted.calibrated == fitted.raw


# --- What evaluation collects ----------------------------------------------------------------


def test_pixels_are_those_of_the_enlarged_map():
  maps = np.random.default_rng(5).standard_normal((6, 8, 3)).astype(np.float32)
  rows, columns = np.indices((30, 44)).reshape(2, -1)
  for extent, origin in (((6, 8), (0, 0)), ((4.5, 6.2), (1.0, 0.5))):
    large = tiles.enlarge(maps, extent, (30, 44), slice(None), origin)
    got = tiles.values_at(maps, extent, (30, 44), rows, columns, origin)
    np.testing.assert_allclose(got, large.reshape(-1, 3), atol=1e-6)


def test_only_labelled_pixels_are_drawn_and_memory_is_bounded():
  label = np.full((*SIZE, 1), 255, np.uint8)
  label[3, :5] = 2
  maps = {'semseg': np.zeros((*SIZE, 4), np.float32)}
  maps['semseg'][3, :5] = [0, 1, 2, 3]
  evidence = Evidence([SEMSEG, DEPTH], 10, 0)
  evidence.add(3, maps, {'semseg': label}, SIZE)
  evidence.add(4, maps, {'semseg': SEMSEG.blank(*SIZE)}, SIZE)
  evidence.add(5, maps, {}, SIZE)
  (index, sample), *rest = evidence.samples['semseg'].items()
  assert (index, rest) == (3, [])
  assert set(evidence.samples) == {'semseg'}
  assert (sample.labels == 2).all()
  np.testing.assert_array_equal(sample.logits, np.tile([0, 1, 2, 3], (len(sample.labels), 1)))
  assert sample.share == pytest.approx(5 / (SIZE[0] * SIZE[1]))
  many = Evidence([make_task('semseg', 'semseg', tuple(f'c{i}' for i in range(200)))], 100_000, 0)
  assert many._count['semseg'] * 100_000 * 200 <= max(calibration_fit.MOST_VALUES, 100_000 * 200)


def test_without_labels_or_on_one_image_nothing_is_calibrated():
  evidence = Evidence([SEMSEG, SALIENCY], 1, 0)
  fitted = calibration_fit.fit({'final': evidence}, 7, 2)
  assert not fitted.tasks
  assert calibration_fit.as_text(fitted, TASKS[:1]).endswith('not calibrated: no validation image is labelled for it')
  logits = {'saliency': np.random.default_rng(0).standard_normal((*SIZE, 2)).astype(np.float32)}
  evidence.add(0, logits, {'saliency': np.ones((*SIZE, 1), np.uint8)}, SIZE)
  one = calibration_fit.fit({'final': evidence}, 7, 2).tasks
  assert list(one) == ['saliency']
  assert not one['saliency'].held_out
  assert one['saliency'].threshold is None
  assert (one['saliency'].temperature, one['saliency'].bias) == (1, (0,))


@pytest.mark.parametrize('task', [SALIENCY, BOUNDARY])
def test_the_operating_point_is_the_best_threshold(task):
  rng = np.random.default_rng(6)
  probability = np.clip(rng.normal(0.8, 0.15, (40, 40)), 0, 1).astype(np.float32)
  label = (rng.random((40, 40, 1)) < np.where(probability > 0.9, 0.8, 0.02)[..., None]).astype(np.uint8)
  point = task.scorer().operating_point(task.scorer().image(probability, label))
  score = {'saliency': 'maxF', 'boundary': 'odsF'}[task.name]
  assert point.f == pytest.approx(task.scorer().compute(task.scorer().image(probability, label))[score], rel=0.02)
  at_half = task.scorer().image(np.where(probability >= 0.5, 1, 0).astype(np.float32), label)
  assert point.f_at_half == pytest.approx(task.scorer().compute(at_half)[score], rel=1e-9)
  chosen = task.scorer().image(np.where(probability >= point.threshold, 1, 0).astype(np.float32), label)
  assert point.f == pytest.approx(task.scorer().compute(chosen)[score], rel=1e-9)
  assert task.scorer().operating_point(task.scorer().empty()) is None
  pascal = task.scorer('pascal')
  assert pascal.operating_point(pascal.image(probability, label)) == point


def test_the_mask_of_the_calibrated_map_is_that_of_the_raw_one():
  rng = np.random.default_rng(7)
  evidence = Evidence([SALIENCY], 2, 0)
  logits = rng.normal(0, 2, (*SIZE, 2)).astype(np.float32)
  label = (rng.random((*SIZE, 1)) < 0.1).astype(np.uint8)
  evidence.add(0, {'saliency': logits}, {'saliency': label}, SIZE)
  raw = special.softmax(logits, -1)[..., 1]
  evidence.operating_points['saliency'] = SALIENCY.scorer().operating_point(SALIENCY.scorer().image(raw, label))
  fitted = calibration_fit.fit({'final': evidence}, 7, 2)
  got = fitted.mask(SALIENCY, np.asarray(SALIENCY.activate(jnp.asarray(fitted.apply(SALIENCY, logits)))))
  want = raw >= evidence.operating_points['saliency'].threshold
  assert (got != want).sum() <= 1  # rounding
  assert want.any()
  low = np.full((10, 10), fitted.threshold(SALIENCY) / 4)
  assert fitted.limits(SALIENCY, low) == (0, min(2 * fitted.threshold(SALIENCY), 1))
  assert fitted.limits(SALIENCY, np.full((10, 10), 0.9)) == (0, max(0.9, min(2 * fitted.threshold(SALIENCY), 1)))
  assert fitted.limits(BOUNDARY, got) is None
  lines = np.zeros((9, 9), np.float32)
  lines[3:6, 1:8] = 1
  assert 0 < fitted.mask(BOUNDARY, lines).sum() < 10  # three pixels wide before


# --- Applying it -----------------------------------------------------------------------------


@pytest.mark.parametrize('task', TASKS)
def test_logits_are_scaled_and_moved(task):
  made = calibrations.calibration(TASKS)
  logits = np.random.default_rng(8).standard_normal((5, 6, task.channels)).astype(np.float32)
  got = made.apply(task, logits)
  np.testing.assert_allclose(jax.jit(lambda x: made.apply(task, x))(logits), got, atol=1e-6)
  if task in (NORMALS, DEPTH):
    np.testing.assert_array_equal(got, logits)
    return
  moved = logits / 2 + (0.5 * np.arange(1, task.channels + 1) if task.classes else np.eye(2)[1, -task.channels :] / 2)
  np.testing.assert_allclose(got, moved, atol=1e-6)
  if task.classes:
    np.testing.assert_array_equal(made.decide(task, logits), logits)


@pytest.mark.parametrize('task', TASKS)
def test_confidence_is_the_calibrated_probability_of_what_is_predicted(task):
  logits = np.random.default_rng(8).standard_normal((5, 6, task.channels)).astype(np.float32)
  made = calibrations.calibration(TASKS)
  raw = RawMaps((task,), {('final', task.name): logits}, (5, 6), 1, calibration=made)
  if task in (NORMALS, DEPTH):
    with pytest.raises(ValueError, match='has no probabilities'):
      raw.confidence(task, (5, 6))
    return
  moved = made.apply(task, logits)
  if task.classes:
    p = np.take_along_axis(special.softmax(moved, -1), logits.argmax(-1)[..., None], -1)[..., 0]
    assert (logits.argmax(-1) != moved.argmax(-1)).any()
  else:
    p = special.expit(moved[..., -1] - (moved[..., 0] if task.channels == 2 else 0))
    p = np.maximum(p, 1 - p)
  np.testing.assert_allclose(raw.confidence(task, (5, 6)), p, atol=1e-6)


@pytest.fixture(scope='module')
def predictors(tiny_run):
  """The same weights without and with a calibration; three draws of noise."""
  raw = dmtl_jax.load(tiny_run)
  calibration_lib.write(tiny_run, calibrations.calibration(TASKS))
  return raw, dmtl_jax.load(tiny_run)


def test_a_predictor_gives_calibrated_probabilities_and_the_same_classes(predictors, capsys):
  raw, calibrated = predictors
  image = np.random.default_rng(9).integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
  before, after = raw(image), calibrated(image)
  for task in TASKS:
    want = before[task.name]
    if task.binary:
      want = special.expit(special.logit(want.astype(np.float64)) / 2 + 0.5)
      assert abs(want - before[task.name]).max() > 0.05
    np.testing.assert_allclose(after[task.name], want, atol=1e-5, err_msg=task.name)
  maps = calibrated.raw(image)
  large = jax.image.resize(jnp.asarray(maps.calibrated(SEMSEG)), (*SIZE, 4), 'bilinear', antialias=False)
  p = np.take_along_axis(special.softmax(large, -1), after['semseg'][..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(maps.confidence(SEMSEG, SIZE), p, atol=1e-4)


def test_a_task_can_be_predicted_by_its_initial_maps(tiny_run, capsys):
  calibration_lib.write(tiny_run, dataclasses.replace(calibrations.calibration([]), initial=('depth', 'semseg')))
  predictor = dmtl_jax.load(tiny_run)
  image = np.random.default_rng(9).integers(0, 256, (*SIZE, 3), np.uint8)
  for samples in (1, 2):
    raw = predictor.raw(image, samples)
    for task in TASKS:
      final, initial = (raw.prediction(stage, task, SIZE) for stage in ('final', 'initial'))
      assert np.allclose(final, initial, atol=1e-6) == (task.name in ('depth', 'semseg')), task.name
  (tiny_run / 'calibration.json').unlink()
  assert raw.prediction('uncertainty', DEPTH, SIZE).max() < 1e-5  # draws do not change initial maps


def test_a_fit_is_of_the_maps_that_are_predicted_by():
  final, initial = Evidence([BOUNDARY], 40, 0), Evidence([BOUNDARY], 40, 0)
  for evidence, count in ((final, 5), (initial, 25)):
    labels = (np.arange(50) < count).astype(np.uint8)
    evidence.samples['boundary'] = {i: Sample(np.full((50, 1), -1.0, np.float32), labels, 1.0) for i in range(40)}
  stages = {'final': final, 'initial': initial}
  for chosen, share in (((), 0.1), (('boundary',), 0.5)):
    fitted = calibration_fit.fit(stages, 7, 2, chosen)
    assert fitted.initial == chosen
    assert special.expit(fitted.apply(BOUNDARY, np.float32([-1.0])))[0] == pytest.approx(share, abs=0.02)


def test_samples_spread_as_the_calibrated_draws_do(predictors):
  raw, calibrated = predictors
  image = np.random.default_rng(10).integers(0, 256, (*SIZE, 3), np.uint8)
  maps, spread = calibrated.sample(image, 2)
  mean, _ = raw.sample(image, 2)
  want = special.expit(special.logit(mean['boundary'].astype(np.float64)) / 2 + 0.5)
  np.testing.assert_allclose(maps['boundary'], want, atol=1e-4)
  first = raw.raw(image).maps['final', 'boundary']
  second = special.logit(
    2 * special.expit(raw.raw(image, 2).maps['final', 'boundary'].astype(np.float64)) - special.expit(first)
  )
  draws = special.expit(np.stack([first, second]) / 2 + 0.5)
  got = calibrated.raw(image, 2).maps['uncertainty', 'boundary']
  np.testing.assert_allclose(got, draws.std(0), atol=1e-4)
  assert spread['boundary'].shape == SIZE


# --- The file --------------------------------------------------------------------------------


def test_the_file_holds_the_calibration(tmp_path):
  made = dataclasses.replace(calibrations.calibration(TASKS), initial=('depth',))
  calibration_lib.write(tmp_path, made)
  assert calibration_lib.read(tmp_path) == made
  assert calibration_lib.load(tmp_path, 7, 2, TASKS) == made
  assert calibration_lib.read(tmp_path / 'none') is None


@pytest.mark.parametrize(
  'step, steps, tasks, words',
  [
    (8, 2, TASKS, 'is for step 7 with 2 denoising steps, not for step 8 with 2; --mode=evaluate'),
    (7, 3, TASKS, 'not for step 7 with 3'),
    (7, 2, (*TASKS, make_task('edges', 'boundary')), 'probabilities of edges are not calibrated: no validation image'),
  ],
)
def test_what_is_not_calibrated_is_said(tmp_path, capsys, step, steps, tasks, words):
  calibration_lib.write(tmp_path, calibrations.calibration(TASKS))
  loaded = calibration_lib.load(tmp_path, step, steps, tasks)
  assert words in capsys.readouterr().out
  assert bool(loaded.tasks) == (tasks is not TASKS)


def test_a_run_without_a_calibration_says_how_to_get_one(tmp_path, capsys):
  assert not calibration_lib.load(tmp_path, 7, 2, TASKS).tasks
  assert f'--mode=evaluate --workdir={tmp_path} --step=7 fits them' in capsys.readouterr().out
  calibration_lib.load(tmp_path, 7, 2, (DEPTH,))
  assert not capsys.readouterr().out


def changed(**fields) -> dict:
  values = {'step': 7, 'diffusion_steps': 2}
  made = calibrations.calibration([SALIENCY]).tasks['saliency']
  entry = json.loads(json.dumps(calibration_lib._to_json(made)))
  return values | {'tasks': {'saliency': entry | fields}}


@pytest.mark.parametrize(
  'content, words',
  [
    (changed(kind='semseg'), 'saliency is semseg with 1 biases there, saliency with 1 in this run'),
    (changed(bias=[1, 2]), 'saliency with 2 biases there, saliency with 1'),
    (changed(temperature=0), '0 is not a number from 0.01 to 100'),
    (changed(temperature=float('nan')), 'not a number from'),
    (changed(bias=[10**400]), 'not what evaluation writes'),
    (changed(bias='12'), 'bias must be a list'),
    (changed(threshold=1.5), '1.5 is not a number from 0 to 1'),
    (changed(held_out=1), 'held_out true or false'),
    (changed(images=-1), '-1 is no count'),
    (changed(raw=[]), 'not what evaluation writes'),
    (changed(raw={'ece': 1, 'nll': 1, 'bins': [[0, 0, 0]] * 99}), 'more than 15 bins'),
    (changed(extra=1), 'a task needs bias, calibrated'),
    ({'step': True, 'diffusion_steps': 2, 'tasks': {}}, 'True is no count'),
    ([], 'not what evaluation writes'),
    (changed() | {'initial': 'depth'}, 'initial must be a list of tasks'),
    (changed() | {'initial': ['\x1b[2Jdept']}, 'dept is no task of this run'),
    ({'step': 7, 'diffusion_steps': 2, 'tasks': {'\x1b[2J': changed()['tasks']['saliency']}}, 'has no probabilities in this run'),
  ],
)  # fmt: skip
def test_a_hostile_file_is_refused_in_a_sentence(tmp_path, content, words):
  (tmp_path / 'calibration.json').write_text(json.dumps(content))
  with pytest.raises(UserError, match='calibration.json: ') as error:
    calibration_lib.load(tmp_path, 7, 2, TASKS)
  assert words in str(error.value)
  assert 'run --mode=evaluate again, or delete it' in str(error.value)
  assert '\x1b' not in str(error.value)


def test_a_file_too_large_to_be_one_is_not_parsed(tmp_path):
  (tmp_path / 'calibration.json').write_text('[' * (calibration_lib.MAX_BYTES + 1))
  with pytest.raises(UserError, match='more than'):
    calibration_lib.read(tmp_path)


def test_the_fields_in_the_file_are_those_of_the_class():
  assert set(changed()['tasks']['saliency']) == {
    field.name for field in dataclasses.fields(calibration_lib.TaskCalibration)
  }
