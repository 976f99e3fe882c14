"""Metrics against the released meters' numbers, closed forms and direct computation on the whole set."""

import numpy as np
import pytest

from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.normals import angles
from dmtl_jax.tasks import make_task
from tests import tiny
from tests.predicting import softmax
from tests.tiny import shared

SEMSEG = make_task('semseg', 'semseg', ('sky', 'tree', 'road'))
_, _, SALIENCY, NORMALS, BOUNDARY, DEPTH = tiny.TASKS
TASKS = (SEMSEG, SALIENCY, NORMALS, BOUNDARY, DEPTH)
rng = np.random.default_rng


def classes(count):
  return tuple(f'class {i}' for i in range(count))


def score(task, pairs, **options):
  """Scores of a set of (prediction, label) pairs."""
  metric = task.scorer(**options)
  state = metric.empty()
  for prediction, label in pairs:
    state = merge(state, metric.image(prediction, label))
  return metric.compute(state)


def draw(task, seed, shape=(16, 20), ignored=0.2):
  """A random (prediction, label) pair, part of it without a label."""
  r = rng(seed)
  holes = r.random(shape) < ignored
  if task.kind == 'normals':
    prediction = r.standard_normal((*shape, 3)).astype(np.float32)
    label = r.standard_normal((*shape, 3))
    label /= np.linalg.norm(label, axis=-1, keepdims=True)
  elif task.kind == 'depth':
    prediction = r.uniform(0.5, 5, shape).astype(np.float32)
    label = r.uniform(0.5, 5, (*shape, 1))
  elif task.kind == 'semseg':
    prediction = r.integers(0, 3, shape).astype(np.uint8)
    label = r.integers(0, 3, (*shape, 1))
  else:
    prediction = r.random(shape).astype(np.float32)
    label = (r.random((*shape, 1)) < 0.3).astype(int)
  label[holes] = task.unlabelled
  return prediction, label.astype(task.label_dtype)


@pytest.fixture(scope='module')
def parity():
  with np.load(shared('parity/metrics.npz')) as arrays:
    return dict(arrays)


def ids(label):
  return label[..., None].astype(np.uint8)


def parity_pairs(parity, name):
  """The (prediction, label) pairs of one task of metrics.npz in this project's encoding."""
  for i in range(2):
    if name in ('normals', 'depth'):
      prediction, label = parity[f'{i}/{name}_pred'][0], parity[f'{i}/{name}_gt'][0]
      label = np.where(parity[f'{i}/{name}_invalid'][0], 0, label).astype(np.float32)
      yield (prediction[..., 0] if name == 'depth' else prediction), label
    elif name == 'sal':
      yield softmax(parity[f'{i}/sal_logits'][0])[..., 1], ids(parity[f'{i}/sal_gt'][0])
    else:
      yield parity[f'{i}/{name}_logits'][0].argmax(-1), ids(parity[f'{i}/{name}_gt'][0])


@pytest.mark.parametrize(
  'name, task, expected',
  [
    ('semseg', make_task('semseg', 'semseg', classes(21)), {'mIoU': 'semseg_mIoU'}),
    ('parts', make_task('parsing', 'parsing', classes(7)), {'mIoU': 'parts_mIoU'}),
    ('sal', SALIENCY, {'maxF': 'sal_maxF'}),
    ('normals', NORMALS, {'mErr': 'normals_mean'}),
    (
      'depth',
      DEPTH,
      {
        'absErr': 'depth_abs_err',
        'relErr': 'depth_abs_rel',
        'sqRel': 'depth_sq_rel',
        'RMSE': 'depth_rmse',
        'logRMSE': 'depth_log_rmse',
      },
    ),
  ],
)
def test_scores_equal_the_released_meters(parity, name, task, expected):
  scores = score(task, parity_pairs(parity, name), protocol='pascal')
  for ours, theirs in expected.items():
    assert scores[ours] == pytest.approx(float(parity[f'expected/released_{theirs}']), rel=1e-5), ours


def test_scores_equal_the_mtpsl_meters(parity):
  pairs = []
  for i in range(2):
    label = parity[f'{i}/semseg_gt'][0]
    label = ids(np.where(label == 255, 255, label % 13))
    pairs.append((parity[f'{i}/semseg_logits'][0][..., :13].argmax(-1), label))
  semseg = score(make_task('semseg', 'semseg', classes(13)), pairs, protocol='mtpsl')
  depth = score(DEPTH, parity_pairs(parity, 'depth'), protocol='mtpsl')
  normals = score(NORMALS, parity_pairs(parity, 'normals'), protocol='mtpsl')
  got = {
    'semseg13_mIoU': semseg['mIoU'],
    'semseg13_acc': semseg['pixelAcc'],
    'depth_l1': depth['absErr'],
    'depth_rmse': depth['RMSE'],
    'depth_log_rmse': depth['logRMSE'],
    'normals_mean': normals['mErr'],
    'normals_rmse': normals['RMSE'],
    'normals_11.25': normals['11.25'],
    'normals_22.5': normals['22.5'],
    'normals_30': normals['30'],
  }
  for name, value in got.items():
    assert value == pytest.approx(float(parity[f'expected/mtpsl_{name}']), rel=1e-5), name


KINDS = [(task, {}) for task in TASKS] + [(BOUNDARY, dict(quick=True)), (BOUNDARY, dict(protocol='pascal'))]


@pytest.mark.parametrize('task, options', KINDS, ids=lambda of: getattr(of, 'kind', str(of)))
def test_what_is_true_of_every_metric(task, options):
  """Shards merge to the whole set; what is not labelled adds nothing; of nothing all is nan."""
  pairs = [draw(task, seed, shape=(12, 10 + seed)) for seed in range(5)]
  metric = task.scorer(**options)
  states = [metric.image(*pair) for pair in pairs]
  left = merge(merge(states[4], states[0]), states[2])
  right = merge(states[3], states[1])
  whole = metric.compute(merge(left, right))
  assert whole == pytest.approx(score(task, pairs, **options), rel=1e-12)
  assert all(np.isfinite(value) for value in whole.values())

  prediction, label = pairs[0]
  blank = metric.image(prediction, task.blank(*label.shape[:2]))
  assert not any(np.any(count) for count in blank.values())
  assert metric.compute(merge(states[0], blank)) == metric.compute(states[0])
  assert all(np.isnan(value) for value in metric.compute(metric.empty()).values())

  holes = ~task.valid(label)
  other = np.where(holes[..., None] if prediction.ndim == 3 else holes, draw(task, 9, label.shape[:2])[0], prediction)
  assert (other != prediction).any()
  assert metric.compute(metric.image(other, label)) == metric.compute(states[0])


def test_miou_by_hand_and_an_absent_class_by_protocol():
  label = np.array([[0, 0, 0, 1], [1, 1, 1, 255]], np.uint8)[..., None]
  prediction = np.array([[0, 0, 1, 1], [1, 1, 0, 2]], np.uint8)  # class 2 only where nothing is labelled
  first, second = 2 / 4, 3 / 5
  pascal, mtpsl = (score(SEMSEG, [(prediction, label)], protocol=p) for p in ('pascal', 'mtpsl'))
  assert pascal['mIoU'] == pytest.approx(100 * (first + second) / 3)
  assert mtpsl['mIoU'] == pytest.approx(100 * (first + second) / 2)
  assert pascal['pixelAcc'] == mtpsl['pixelAcc'] == pytest.approx(100 * 5 / 7)
  metric = SEMSEG.scorer()
  by_class = metric.per_class(metric.image(prediction, label))
  assert by_class['sky'] == 50
  assert by_class['tree'] == pytest.approx(60)
  assert np.isnan(by_class['road'])


def test_saliencys_headline_follows_the_protocol():
  """The released code's second sigmoid leaves few thresholds: it cannot tell 0.5 from 0.55."""
  probability = np.array([[0.55, 0.5]], np.float32)
  label = np.array([[[1], [0]]], np.uint8)
  plain, released = (score(SALIENCY, [(probability, label)], protocol=p) for p in ('plain', 'pascal'))
  assert plain['maxF'] == released['maxF_plain'] == 100
  assert released['maxF'] == plain['maxF_released'] == pytest.approx(100 * 1.3 * 0.5 / (0.3 * 0.5 + 1))


def test_depth_predictions_are_positive_before_every_error():
  scores = score(DEPTH, [(np.full((1, 1), -3, np.float32), np.full((1, 1, 1), 2, np.float32))])
  assert scores['absErr'] == pytest.approx(2)
  assert scores['RMSE'] == pytest.approx(2)
  assert scores['relErr'] == pytest.approx(1)


def test_miou_is_of_the_set_not_a_mean_over_images():
  wrong = np.ones((1, 1), np.uint8), np.zeros((1, 1, 1), np.uint8)
  right = np.zeros((1, 9), np.uint8), np.zeros((1, 9, 1), np.uint8)
  assert score(SEMSEG, [wrong, right], protocol='mtpsl')['mIoU'] == pytest.approx(100 * (0.9 + 0) / 2)


def test_classes_outside_the_task_and_unequal_sizes_are_errors():
  metric = SEMSEG.scorer()
  with pytest.raises(ValueError, match='label contains class 3, but there are 3 classes'):
    metric.image(np.zeros((2, 2), np.uint8), np.full((2, 2, 1), 3, np.uint8))
  with pytest.raises(ValueError, match='prediction contains class 7'):
    metric.image(np.full((2, 2), 7, np.uint8), np.zeros((2, 2, 1), np.uint8))
  with pytest.raises(ValueError, match='differ in size'):
    metric.image(np.zeros((2, 3), np.uint8), np.zeros((2, 2, 1), np.uint8))
  with pytest.raises(ValueError, match='not finite'):
    DEPTH.scorer().image(np.full((2, 2), np.nan, np.float32), np.ones((2, 2, 1), np.float32))


def test_maxf_equals_direct_thresholding_of_the_set():
  pairs = [draw(SALIENCY, seed) for seed in range(3)]
  ramp = np.arange(256)[None]
  pairs.append(((ramp / 255).astype(np.float32), ids(ramp > 99)))
  probability, truth = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
  probability, truth = probability[truth != 255], truth[truth != 255] == 1

  def best(values, thresholds):
    scores = []
    for threshold in thresholds:
      guess = values >= threshold
      if (guess & truth).any():
        precision, recall = (guess & truth).sum() / guess.sum(), (guess & truth).sum() / truth.sum()
        scores.append(1.3 * precision * recall / (0.3 * precision + recall))
    return 100 * max(scores)

  scores = score(SALIENCY, pairs)
  levels = np.arange(1, 256, dtype=np.float32) / 255
  assert scores['maxF'] == pytest.approx(best(probability, levels), rel=1e-12)
  released = best(1 / (1 + np.exp(-probability.astype(np.float64))), np.arange(1, 20) / 20)
  assert scores['maxF_released'] == pytest.approx(released, rel=1e-12)
  guess = probability >= 0.5
  ious = [(a & b).sum() / (a | b).sum() for a, b in ((guess, truth), (~guess, ~truth))]
  assert scores['mIoU'] == pytest.approx(100 * np.mean(ious), rel=1e-12)


def test_maxf_of_perfect_and_of_hopeless_maps():
  truth = (np.arange(64).reshape(8, 8) % 3 == 0).astype(np.uint8)[..., None]
  assert score(SALIENCY, [(truth[..., 0].astype(np.float32), truth)])['maxF'] == 100
  assert score(SALIENCY, [(np.zeros((8, 8), np.float32), truth)])['maxF'] == 0
  nothing = np.zeros((8, 8, 1), np.uint8)
  assert np.isnan(score(SALIENCY, [(np.full((8, 8), 0.7, np.float32), nothing)])['maxF'])


@pytest.mark.parametrize('degrees', [0, 0.01, 11.2, 45, 90, 179.9, 180])
def test_a_known_rotation_is_the_angular_error(degrees):
  truth = np.zeros((4, 5, 3), np.float32)
  truth[..., 2] = 1
  turned = np.zeros_like(truth)
  turned[..., 0], turned[..., 2] = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
  scores = score(NORMALS, [(3 * turned, truth)])
  for name in ('mErr', 'RMSE'):
    assert scores[name] == pytest.approx(degrees, abs=1e-4)
  assert scores['median'] == pytest.approx(degrees, abs=6e-4)
  for limit in (11.25, 22.5, 30):
    assert scores[f'{limit:g}'] == 100 * (degrees < limit)


def test_the_median_is_that_of_all_pixels():
  for count in (6, 7):  # an even and an odd number of pixels
    pairs = [draw(NORMALS, seed, shape=(1, count), ignored=0) for seed in range(3)]
    everything = np.concatenate([angles(p.reshape(-1, 3), q.reshape(-1, 3)) for p, q in pairs])
    assert score(NORMALS, pairs)['median'] == pytest.approx(np.median(everything), abs=6e-4)


def test_a_prediction_without_direction_is_a_right_angle_off():
  truth = np.zeros((2, 2, 3), np.float32)
  truth[..., 1] = -1
  assert score(NORMALS, [(np.zeros_like(truth), truth)])['mErr'] == 90


def test_depth_of_twice_the_truth():
  truth = rng(0).uniform(1, 9, (6, 7, 1)).astype(np.float32)
  scores = score(DEPTH, [(2 * truth[..., 0], truth)])
  wide = truth.astype(np.float64)
  assert scores['absErr'] == pytest.approx(wide.mean())
  assert scores['RMSE'] == pytest.approx(np.sqrt((wide**2).mean()))
  assert scores['relErr'] == pytest.approx(1)
  assert scores['sqRel'] == pytest.approx(wide.mean())
  assert scores['logRMSE'] == pytest.approx(np.log(2))
  assert np.isfinite(score(DEPTH, [(-truth[..., 0], truth)])['logRMSE'])
