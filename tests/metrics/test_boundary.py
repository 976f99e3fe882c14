"""The boundary protocol against the original's printed numbers; each part against slow independent code."""

import json

import cv2
import numpy as np
import pytest
from scipy.ndimage import label as components
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from dmtl_jax.basics.errors import UserError
from dmtl_jax.jobs import boundary as job
from dmtl_jax.metrics import boundary, matching
from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.boundary import folders
from dmtl_jax.metrics.masks import MaskStack, pack, unpack
from dmtl_jax.metrics.thinning import thin, thin_nested
from dmtl_jax.tasks import make_task
from tests.metrics.maps import encoded, lines, padded, soft_map
from tests.tiny import shared

TASK = make_task('boundary', 'boundary')


def distances(mask, truth):
  """Distance of every predicted pixel to every truth pixel."""
  a, b = np.argwhere(mask), np.argwhere(truth)
  return np.hypot(*np.moveaxis(a[:, None] - b[None], -1, 0))


# The original's numbers.


@pytest.fixture(scope='module')
def bench():
  folder = shared('bsds_bench')
  return folders.evaluate(folder, folder, count=5)


def printed(name):
  return np.loadtxt(shared(f'bsds_bench/expected_eval_bdry{name}.txt'))


def test_f_at_every_threshold_is_the_originals(bench):
  threshold, recall, precision, f = printed('_thr').T
  assert bench['curve']['threshold'] == pytest.approx(threshold, abs=1e-6)
  assert bench['curve']['f'] == pytest.approx(f, abs=5e-4)
  assert bench['curve']['recall'] == pytest.approx(recall, abs=5e-4)
  assert bench['curve']['precision'] == pytest.approx(precision, abs=8e-4)  # open among maximum matchings


def test_ods_ois_and_area_are_the_originals(bench):
  threshold, _recall, _precision, f, ois_recall, ois_precision, ois_f, area = printed('')
  assert bench['ods']['threshold'] == pytest.approx(threshold, abs=1e-6)
  assert bench['ods']['f'] == pytest.approx(f, abs=5e-4)
  assert bench['ois']['f'] == pytest.approx(ois_f, abs=5e-4)
  assert bench['ois']['recall'] == pytest.approx(ois_recall, abs=1e-3)
  assert bench['ois']['precision'] == pytest.approx(ois_precision, abs=1e-3)
  assert bench['ap'] == pytest.approx(area, abs=5e-4)


def test_best_f_of_each_image_is_the_originals(bench):
  expected = printed('_img')
  ours = np.array([[best['threshold'], best['f']] for best in bench['images'].values()])
  assert ours[:, 0] == pytest.approx(expected[:, 1], abs=1e-6)
  assert ours[:, 1] == pytest.approx(expected[:, 4], abs=1e-3)


# Matching.


def random_stack(seed):
  """Masks of thresholds, some thick and some empty, against thin lines."""
  r = np.random.default_rng(seed)
  soft = soft_map(seed)
  thinned = [thin(soft >= level) for level in (0.2, 0.5, 0.8, 0.95)]
  masks = [*thinned, soft > 0.9, r.random(soft.shape) < 0.2, np.zeros_like(soft, bool)]
  return np.stack(masks), lines(seed + 1000)


def covered(masks, truth, radius, any_side=False):
  """Covered pixels [T, H, W], by `match` of a stack."""
  stack = MaskStack.from_masks(masks)
  return stack._replace(inside=matching.match(stack, truth, radius, any_side)).to_masks()


@pytest.mark.parametrize('any_side', [False, True])
@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('radius', [0.5, 1, 1.5, 3.2])
def test_counts_equal_a_fresh_maximum_matching_of_each_threshold(seed, radius, any_side):
  masks, truth = random_stack(seed)
  got = covered(masks, truth, radius, any_side)
  assert not (got & ~masks).any()
  for mask, count in zip(masks, got.sum((1, 2))):
    pairs = maximum_bipartite_matching(csr_matrix(distances(mask, truth) <= radius))
    assert count == (pairs >= 0).sum()


@pytest.mark.parametrize('any_side', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_searches_that_follow_few_pairs_at_a_time_find_as_many(seed, any_side, monkeypatch):
  masks, truth = random_stack(seed)
  whole = covered(masks, truth, 3.2, any_side).sum((1, 2))
  monkeypatch.setattr(matching, 'SEARCH_PAIRS', 50)
  graph = matching.build(MaskStack.from_masks(masks), slice(0, len(masks)), truth, 3.2)
  parts = [len(member) for member, _ in graph.predicted.pairs(np.arange(len(graph.row)))]
  assert max(parts) < 50 + 37  # the pairs of one pixel
  assert sum(parts) == len(graph.matched)
  assert (covered(masks, truth, 3.2, any_side).sum((1, 2)) == whole).all()


@pytest.mark.parametrize('seed', range(3))
def test_groups_of_thresholds_do_not_change_what_is_covered(seed, monkeypatch):
  masks, truth = random_stack(seed)
  masks = np.concatenate([masks] * 10)  # more than the bits of a word
  stack = MaskStack.from_masks(masks)
  assert [group.stop for group in matching.groups(stack, truth, 2)] == [64, 70]
  whole = covered(masks, truth, 2)
  monkeypatch.setattr(matching, 'GROUP_CELLS', 1)
  assert len(list(matching.groups(stack, truth, 2))) == 70
  assert (covered(masks, truth, 2) == whole).all()


@pytest.mark.parametrize('radius', [0.5, 3.2])
def test_groups_have_as_many_pairs_as_there_is_room_for(radius, monkeypatch):
  masks, truth = random_stack(0)
  stack = MaskStack.from_masks(masks)
  whole = covered(masks, truth, radius)

  def count_pairs(group: slice) -> int:
    return len(matching.build(stack, group, truth, radius).matched)

  room = count_pairs(slice(0, 2))
  monkeypatch.setattr(matching, 'GROUP_PAIRS', room)
  found = list(matching.groups(stack, truth, radius))
  assert [group.start for group in found] == [0, *(group.stop for group in found[:-1])]
  assert found[-1].stop == len(masks)
  for group in found:
    assert count_pairs(group) <= room or group.stop - group.start == 1
    assert group.stop == len(masks) or count_pairs(slice(group.start, group.stop + 1)) > room
  assert 1 < len(found) < len(masks)
  assert (covered(masks, truth, radius) == whole).all()


@pytest.mark.parametrize('count', [1, 9, 63, 64])
def test_words_keep_their_bits(count):
  bits = np.random.default_rng(count).random((5, count)) < 0.5
  assert (pack(bits) >> np.uint64(count - 1) == bits[:, -1]).all()
  assert (unpack(pack(bits), count) == bits).all()


def test_counts_are_those_of_each_threshold_on_its_own():
  prediction, truth = soft_map(0), lines(9)
  state = boundary.counts(prediction, [truth], tolerance=0.03, count=9)
  radius = 0.03 * np.hypot(*truth.shape)
  for k, level in enumerate(boundary.levels(9)):
    mask = thin(prediction >= level)
    pairs = maximum_bipartite_matching(csr_matrix(distances(mask, truth) <= radius))
    assert state['predicted'][k] == mask.sum()
    assert state['recalled'][k] == (pairs >= 0).sum()


def test_matching_prefers_the_larger_to_the_nearer():
  mask, truth = np.zeros((1, 1, 9), bool), np.zeros((1, 9), bool)
  mask[0, 0, [2, 4]], truth[0, [4, 6]] = True, True  # nearest first would spend truth 4 on prediction 4
  assert covered(mask, truth, 2).sum() == 2
  mask[0, 0, 3] = True  # now three compete for two, and the nearest win
  assert list(np.flatnonzero(covered(mask, truth, 2))) == [3, 4]


def test_empty_truth_and_empty_predictions_match_nothing():
  nothing, something = np.zeros((7, 9), bool), lines(0, (7, 9))
  assert not covered(something[None], nothing, 2).any()
  assert not covered(nothing[None], something, 2).any()


# Thinning.


def thin_slowly(mask):
  """Guo and Hall's two passes, pixel by pixel, from the conditions as printed in Lam, Lee and Suen (1992)."""
  image = np.pad(mask.astype(int), 1)
  while True:
    before = image.copy()
    for odd in (True, False):
      out = image.copy()
      for i, j in np.argwhere(image):
        north_west, north, north_east, west, _, east, south_west, south, south_east = image[
          i - 1 : i + 2, j - 1 : j + 2
        ].ravel()
        ring = [east, north_east, north, north_west, west, south_west, south, south_east, east]
        crossings = sum(1 for k in (0, 2, 4, 6) if not ring[k] and (ring[k + 1] or ring[k + 2]))
        here = sum(ring[k] or ring[k + 1] for k in (0, 2, 4, 6))
        there = sum(ring[k + 1] or ring[k + 2] for k in (0, 2, 4, 6))
        kept = (north_east or north or not south_east) and east
        if not odd:
          kept = (south_west or south or not north_west) and west
        if crossings == 1 and 2 <= min(here, there) <= 3 and not kept:
          out[i, j] = 0
      image = out
    if (image == before).all():
      return image[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize('seed', range(4))
def test_thinning_equals_pixel_by_pixel_code(seed):
  for mask in (soft_map(seed, (20, 30)) > 0.4, np.random.default_rng(seed).random((16, 16)) < 0.6):
    assert (thin(mask) == thin_slowly(mask)).all()


@pytest.mark.parametrize('shape', [(40, 60), (1, 9), (9, 1)])
def test_nested_masks_are_thinned_as_each_on_its_own(shape):
  depth = (soft_map(3, shape) * 70).round().astype(int)  # more masks than a word has bits, some equal, some empty
  for k, mask in enumerate(thin_nested(depth, 80).to_masks()):
    assert (mask == thin(depth > k)).all()


def test_a_threshold_that_is_a_value_of_the_map_and_undefined_values():
  values = np.array([[0.2, 0.5, np.nan, 0.7]])
  reached, again = boundary.nested_masks(values, np.array([0.4, 0.5, 0.6]), 'right', thinning=False)
  assert reached.to_masks()[again].tolist() == [[[False, True, False, True]]] * 2 + [[[False, False, False, True]]]
  exceeded, again = boundary.nested_masks(values, np.array([0.4, 0.5, 0.6]), 'left', thinning=False)
  assert exceeded.to_masks()[again].tolist() == [[[False, True, False, True]]] + [[[False, False, False, True]]] * 2


def test_thinning_keeps_pieces_and_lines():
  mask = soft_map(7) > 0.3
  thinned = thin(mask)
  eight = np.ones((3, 3))
  assert components(thinned, eight)[1] == components(mask, eight)[1]
  assert thinned.sum() < mask.sum() / 2
  assert not (thinned & ~mask).any()
  assert (thin(thinned) == thinned).all()
  line = np.zeros((9, 9), bool)
  line[4, 1:8] = True
  assert (thin(line) == line).all()


# The metric.


def score(pairs, metric=None):
  metric = metric or TASK.scorer()
  state = metric.empty()
  for pair in pairs:
    state = merge(state, metric.image(*pair))
  return metric.compute(state)


def test_a_perfect_map_scores_100_and_a_shifted_one_by_its_tolerance():
  truth = np.zeros((60, 80, 1), np.uint8)
  truth[10:50, 30] = 1
  perfect = truth[..., 0].astype(np.float32)
  everything = {'odsF': 100, 'oisF': 100}
  assert score([(perfect, truth)]) == pytest.approx(everything | {'AP': 0})  # one point has no area
  shifted = np.roll(perfect, 1, axis=1)
  assert score([(shifted, truth)], TASK.scorer(tolerance=0.0101))['odsF'] == pytest.approx(100)
  assert score([(shifted, truth)], TASK.scorer(tolerance=0.0099))['odsF'] == 0
  for fast in (True, False):
    assert max(score([(np.zeros_like(perfect), truth)], TASK.scorer(quick=fast)).values()) == 0


def test_pixels_match_one_to_one_unlike_tolf():
  truth, prediction = np.zeros((60, 80, 1), np.uint8), np.zeros((60, 80), np.float32)
  truth[30, 40] = 1
  prediction[30, [39, 41]] = 1  # two pixels near one of the truth
  one, many = (TASK.scorer(tolerance=0.011, quick=fast) for fast in (False, True))
  assert score([(prediction, truth)], one)['odsF'] == pytest.approx(100 * 2 / 3)
  assert score([(prediction, truth)], many)['tolF'] == 100


@pytest.fixture(params=[dict(), dict(quick=True), dict(protocol='pascal')], ids=['plain', 'quick', 'pascal'])
def metric(request):
  return TASK.scorer(tolerance=0.03, **request.param)


def test_padding_changes_nothing_and_what_cannot_be_scored_is_refused(metric):
  prediction, truth = soft_map(3).astype(np.float32), encoded(lines(4))
  small, large = metric.image(prediction, truth), metric.image(padded(prediction, 1), padded(truth, 255))
  assert small.keys() == large.keys()
  assert all((small[name] == large[name]).all() for name in small)
  assert np.max(small.get('counts', small.get('recalled'))) > 50
  with pytest.raises(ValueError, match='differ in size'):
    metric.image(prediction[1:], truth)
  with pytest.raises(ValueError, match='not finite'):
    metric.image(np.where(truth[..., 0] == 1, np.nan, prediction), truth)


def test_the_sets_threshold_and_each_images_own_by_hand():
  """Two thresholds 1/3, 2/3 and two images, of 4 truth pixels each, far from each other."""

  def state(recalled, precise, predicted, best):
    arrays = {'recalled': recalled, 'precise': precise, 'predicted': predicted, 'truth': 4, 'best': best}
    return {name: np.array(value, np.int64) for name, value in arrays.items()}

  first = state([4, 1], [4, 1], [8, 1], [4, 4, 4, 8])  # F 2/3 and 2/5
  second = state([4, 4], [4, 4], [16, 4], [4, 4, 4, 4])  # F 2/5 and 1
  found = boundary.summary(merge(first, second))
  # Set: recall 1, 5/8; precision 1/3, 1. Between them F(d) with recall 1 - 3d/8, precision 1/3 + 2d/3.
  d = np.linspace(0, 1, 100)
  recall, precision = 1 - 3 / 8 * d, 1 / 3 + 2 / 3 * d
  f = 2 * recall * precision / (recall + precision)
  assert found['ods']['f'] == pytest.approx(f.max())
  assert f.max() > max(f[0], f[-1])
  assert found['ods']['threshold'] == pytest.approx((1 + d[f.argmax()]) / 3)
  assert found['ois']['recall'] == 1
  assert found['ois']['precision'] == pytest.approx(8 / 12)
  inside = np.arange(63, 101) / 100  # recalls 5/8..1 on the grid of hundredths
  assert found['ap'] == pytest.approx((1 - (inside - 5 / 8) / (3 / 8) * 2 / 3).sum() / 100)


def test_counts_of_several_annotators():
  prediction = np.zeros((40, 40))
  prediction[10, 5:15] = prediction[30, 5:15] = 1
  upper, both = (prediction > 0) & (np.arange(40)[:, None] < 20), prediction > 0
  state = boundary.counts(prediction, [upper, both], count=3)
  assert (state['truth'], *state['best']) == (30, 30, 30, 20, 20)
  for name, count in (('recalled', 30), ('precise', 20), ('predicted', 20)):
    assert (state[name] == count).all()


# Folders.


@pytest.fixture
def sets(tmp_path):
  for name in ('pred', 'gt'):
    (tmp_path / name).mkdir()
  for seed in range(2):
    cv2.imwrite(str(tmp_path / 'pred' / f'{seed}.png'), (soft_map(seed) * 65535).astype(np.uint16))
    cv2.imwrite(str(tmp_path / 'gt' / f'{seed}.png'), lines(seed + 9).astype(np.uint8) * 255)
  return tmp_path / 'pred', tmp_path / 'gt'


def test_the_job_scores_folders_with_several_processes(sets, capsys):
  pred, gt = sets
  job.run(str(pred), str(gt), out=None, ignore=None, workers=2, count=9, tolerance=0.02)
  result = json.loads((pred / 'boundary.json').read_text())
  direct = [boundary.counts(soft_map(s), [lines(s + 9)], tolerance=0.02, count=9) for s in range(2)]
  assert result['ods']['f'] == pytest.approx(boundary.summary(merge(*direct))['ods']['f'], abs=2e-3)
  assert list(result['images']) == ['0', '1']
  assert len(result['curve']['f']) == 9
  printed = capsys.readouterr()
  assert f'{result["ods"]["f"]:.4f}' in printed.out
  assert 'scoring boundaries 2/2' in printed.err


def test_unlabelled_pixels_of_a_folder_do_not_count(sets):
  pred, gt = sets
  labels = lines(9).astype(np.uint8)
  labels[:, 32:] = 255
  cv2.imwrite(str(gt / '0.png'), labels)
  prediction = folders.read_prediction(pred / '0.png')
  truths, valid = folders.read_truths(gt / '0.png', ignore=255)
  assert (truths[0] == lines(9) * valid).all()
  assert not valid[:, 32:].any()
  assert valid[:, :32].all()
  state = folders._score((pred / '0.png', gt / '0.png'), ignore=255)
  assert state['predicted'][0] == thin(np.where(valid, prediction, 0) >= 0.01).sum()


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda pred, gt: (gt / '1.png').unlink(), r'1\.png has no counterpart'),
    (lambda pred, gt: (pred / '1.png').unlink(), r'1\.png has no counterpart'),
    (lambda pred, gt: cv2.imwrite(str(gt / '0.png'), np.zeros((5, 6), np.uint8)), r'64x48 pixels but .*6x5'),
    (lambda pred, gt: (pred / '0.png').write_text('no image'), r'0\.png cannot be read'),
    (lambda pred, gt: cv2.imwrite(str(pred / '0.png'), np.zeros((48, 64, 3), np.uint8)), 'has 3 channels'),
    (lambda pred, gt: cv2.imwrite(str(gt / '0.png'), np.tile(np.uint8([1, 255]), (48, 32))), '--ignore 255'),
    (lambda pred, gt: (gt / '0.mat').write_text('no mat file'), r'0\.mat is not a BSDS ground truth'),
    (lambda pred, gt: [path.unlink() for path in pred.iterdir()], r'contains no \*\.png'),
    (lambda pred, gt: gt.rename(gt.with_name('elsewhere')), 'is not a folder'),
  ],
)
def test_bad_folders_are_named_in_one_sentence(sets, spoil, message):
  spoil(*sets)
  pred, gt = map(str, sets)
  with pytest.raises(UserError, match=message):
    job.run(pred, gt, out=None, ignore=None, workers=1, count=2)
  assert not (sets[0] / 'boundary.json').exists()
