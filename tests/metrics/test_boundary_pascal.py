"""PASCAL's boundary protocol: the original's own maps and counts, closed forms, and slow independent code."""

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest
from scipy import ndimage
from scipy.io import loadmat
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.boundary import Boundary, pascal
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import make_task
from tests.metrics.maps import encoded, lines8, soft8
from tests.tiny import shared

TASK = make_task('boundary', 'boundary')
SETS = {
  'synth': 'syn_375x500 syn_333x500 syn_500x400 syn_500x375 syn_281x500 syn_500x334 mini_97x131 mini_120x90'.split(),
  'bsds': '2018 3063 5096 6046 8068'.split(),
}
SCORES = pytest.mark.parametrize('name, expected', [('synth', (69.4959, 71.2812)), ('bsds', (61.4813, 69.1800))])
IMAGES = [(name, id) for name, ids in SETS.items() for id in ids]
DETAILED = ['mini_97x131', 'mini_120x90', 'syn_281x500', 'syn_500x334']  # with maps between the steps
FRAME = np.array([0, 1, 2, 3, 4], np.float32) / np.float32(5)


# The original's numbers.


@pytest.fixture(scope='module')
def original():
  return np.load(shared('edge_protocol/edge_protocol.npz'))


@pytest.fixture(scope='module')
def inputs(original):
  """{id: map uint8, LabelMap, truth bool, expected counts [101, 4]}."""
  found = {}
  for place, id in enumerate(SETS['synth']):
    maps = (original[f'{name}_{id}'] for name in ('prob', 'label', 'truth'))
    found[id] = (*maps, original['counts_nms_synth'][:, place])
  for place, id in enumerate(SETS['bsds']):
    annotator = loadmat(shared(f'bsds_bench/{id}.mat'))['groundTruth'].ravel()[0]
    segments, boundaries = (annotator[name][0, 0] for name in ('Segmentation', 'Boundaries'))
    probability = cv2.imread(str(shared(f'bsds_bench/{id}.png')), cv2.IMREAD_UNCHANGED)
    found[id] = probability, segments, boundaries != 0, original['counts_nms_bsds'][:, place]
  return found


@pytest.fixture(scope='module')
def ours(inputs):
  """{id: our counts} of all images at all thresholds."""
  return {id: pascal.counts(probability, truth) for id, (probability, _, truth, _) in inputs.items()}


def test_the_reference_holds_what_these_tests_take_it_to_hold(original):
  assert list(original['synth_ids']) == SETS['synth']
  assert list(original['bsds_ids']) == SETS['bsds']
  assert list(original['count_columns']) == ['cntR', 'sumR', 'cntP', 'sumP']
  assert (original['threshold_text'].astype(np.float32) == pascal.THRESHOLDS).all()
  assert original['maxdist_fraction'] == pascal.TOLERANCE


@pytest.mark.parametrize('id', [id for _, id in IMAGES])
def test_truth_is_the_originals(inputs, original, id):
  _, label_map, truth, _ = inputs[id]
  assert (pascal.truth(label_map) == truth).all()
  assert truth.any()
  if id in SETS['synth']:
    assert (pascal.changes(label_map) == original[f'seg2bmap_{id}']).all()


@pytest.mark.parametrize('id', DETAILED)
def test_smoothing_orientation_and_suppression_are_the_originals(inputs, original, id):
  probability = inputs[id][0]
  smoothed = pascal.smooth(probability.astype(np.float32) / np.float32(255))
  angle = pascal.orientation(smoothed)
  if f'smooth_{id}' in original:
    assert (smoothed == original[f'smooth_{id}']).all()
    assert abs(angle - original[f'orient_{id}']).max() <= 2.4e-7  # one step of float32
  else:
    assert abs(np.rint(angle / np.pi * 65535) - original[f'orient16_{id}'].astype(int)).max() <= 1
  assert smoothed.dtype == angle.dtype == np.float32
  assert (pascal.suppress(probability) == original[f'nms_{id}']).all()
  for threshold in ('0.001', '0.10', '0.30'):
    mask = pascal.suppress(probability) > np.float32(threshold)
    assert (thin(mask) == original[f'thin_{threshold}_{id}']).all()


@pytest.mark.parametrize('name, id', IMAGES)
def test_kept_pixels_and_pixels_above_each_threshold_are_the_originals(inputs, original, name, id):
  ridges = pascal.suppress(inputs[id][0])
  if name == 'synth':
    assert ((ridges > 0) == original[f'kept_{id}']).all()
  above = [np.count_nonzero(ridges > threshold) for threshold in pascal.THRESHOLDS]
  assert (above == original[f'ntie_{id}' if name == 'synth' else f'ntie_bsds_{id}'][:, 0]).all()


@pytest.mark.parametrize('id', [id for _, id in IMAGES])
def test_counts_are_the_originals(inputs, ours, id):
  """At all thresholds. The original itself moves by up to 7 matches from threshold to threshold of equal maps."""
  found, expected = ours[id], inputs[id][3].astype(np.int64)
  off = found - expected
  print(
    f'{id}: matched {off[:, 0].min():+d}..{off[:, 0].max():+d}, mean {off[:, 0].mean():+.2f}; '
    f'predicted at most {abs(off[:, 3]).max()} off'
  )
  assert not off[:, 1].any()
  assert (abs(off[:, 3]) <= 1e-3 * expected[:, 3]).all()
  assert abs(off[:, [0, 2]]).max() <= 5
  assert abs(off[:, 0].mean()) < 0.7  # 1.6 were a largest matching taken as it is


@SCORES
def test_scores_are_the_originals(inputs, ours, name, expected):
  """The whole metric; maps come as probabilities in the middle of their 8-bit values, to be cut off."""
  metric, total = pascal.Pascal(TASK), None
  for id in SETS[name]:
    if id == '3063':  # one through the metric, the others as counted before: they take their time
      probability, _, truth, _ = inputs[id]
      state = metric.image((probability + np.float32(0.5)) / np.float32(255), encoded(truth))
    else:
      state = {'counts': ours[id], 'best': pascal.best(ours[id])}
    total = merge(total, state) if total else state
  scores = metric.compute(total)
  print(f'{name}: ' + ', '.join(f'{key} {value:.4f}' for key, value in scores.items()))
  assert scores['odsF'] == pytest.approx(expected[0], abs=0.05)
  assert scores['oisF'] == pytest.approx(expected[1], abs=0.05)


@SCORES
def test_scores_of_the_originals_counts(original, name, expected):
  """The arithmetic behind the counts, to all printed digits."""
  tables = np.moveaxis(original[f'counts_nms_{name}'], 1, 0).astype(np.int64)
  scores = pascal.Pascal(TASK).compute({'counts': tables.sum(0), 'best': sum(map(pascal.best, tables))})
  assert (scores['odsF'], scores['oisF']) == pytest.approx(expected, abs=6e-5)


# The truth.


def changes_slowly(label_map):
  """By the original's rules to the letter: regions first, then pixel by pixel."""
  regions, count = np.zeros(label_map.shape, int), 0
  for value in np.unique(label_map):
    found, more = ndimage.label(label_map == value)
    regions[found > 0] = found[found > 0] + count
    count += more
  height, width = label_map.shape
  out = np.zeros(label_map.shape, bool)
  for y, x in np.ndindex(height, width):
    east, south = x + 1 < width, y + 1 < height
    near = [(y, x + 1)] * east + [(y + 1, x)] * south + [(y + 1, x + 1)] * (east and south)
    out[y, x] = any(regions[place] != regions[y, x] for place in near)
  return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays.arrays(np.int16, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2)))
def test_changes_follow_the_rules_to_the_letter(label_map):
  found = pascal.changes(label_map)
  assert (found == changes_slowly(label_map)).all()
  assert not found[-1, -1]
  assert (pascal.changes(label_map.T) == found.T).all()
  assert (pascal.changes(label_map.astype(np.float64) * 59) == found).all()  # as .mat files hold them


def test_truth_of_two_halves_is_one_line_on_the_side_before_the_change():
  label_map = np.repeat([3, 7], [4, 6])[None].repeat(8, 0)
  expected = np.zeros((8, 10), bool)
  expected[:, 3] = True
  assert (pascal.truth(label_map) == expected).all()
  oblique = np.add.outer(np.arange(9), np.arange(12)) < 9  # its changes are two pixels wide
  assert pascal.changes(oblique).sum() > 1.5 * pascal.truth(oblique).sum() > 0
  corner = np.array([[1, 1], [1, 2]])
  assert (pascal.changes(corner) == [[True, True], [True, False]]).all()


# Suppression.


def test_probabilities_are_cut_off_to_8_bits():
  values = np.arange(256)
  for share in (0.01, 0.5, 0.99):
    assert (pascal.quantize((values[:-1] + share) / 255)[None] == values[:-1]).all()
  assert pascal.quantize(np.array([0, 1])).tolist() == [0, 255]
  assert pascal.quantize(np.zeros((2, 3), np.float16)).dtype == np.uint8


@pytest.mark.parametrize('shape', [(24, 31), (10, 10), (13, 200)])
def test_flat_maps_survive_up_to_a_frame_that_fades(shape):
  value = 200
  weights = [np.ones(side, np.float32) for side in shape]
  for side in weights:
    side[:5], side[-5:] = FRAME, FRAME[::-1]
  expected = np.float32(value) / np.float32(255) * np.outer(*weights)
  assert pascal.suppress(np.full(shape, value, np.uint8)) == pytest.approx(expected, abs=1e-7)


def test_neighbours_up_to_one_percent_stronger_suppress_nothing():
  image = np.full((40, 41), 50, np.uint8)
  image[:, 20] = 200  # of which 202 is 1.01 times in float32, to the last bit
  for neighbour, kept in ((202, True), (203, False), (199, True), (197, False)):
    image[:, 21] = neighbour
    image[:, 18:20] = image[:, 22:24] = 100  # a ridge that stands upright
    found = pascal.suppress(image)[8:-8]
    weaker = 20 if neighbour > 200 else 21
    assert ((found[:, weaker] > 0) == kept).all()
    assert (found[:, 41 - weaker] > 0).all()
    assert not found[:, [19, 22]].any()
    assert (found[:, 8:16] > 0).all()  # what is flat


def test_a_level_ridge_counts_as_upright():
  """The original's orientation takes its sign from the mixed derivative, which is 0 here: nothing is suppressed."""
  image = np.full((40, 41), 50, np.uint8)
  image[20] = 200
  assert not pascal.orientation(pascal.smooth(image / np.float32(255))).any()
  assert (pascal.suppress(image)[5:-5, 5:-5] > 0).all()
  assert not pascal.suppress(image.T)[:, [19, 21]].any()


def test_an_orientation_without_a_slope_is_0_and_angles_lie_in_0_to_pi():
  smoothed = np.zeros((9, 9), np.float32)
  smoothed[:, 4] = 2 * pascal.TILT  # 0 / 0 on the ridge
  assert not pascal.orientation(smoothed).any()
  angle = pascal.orientation(pascal.smooth(soft8(0) / np.float32(255)))
  assert 0 <= angle.min() < 0.1
  assert 3 < angle.max() <= np.float32(np.pi)


def suppress_slowly(probability8, angle):
  """Pixel by pixel in float64, from the orientation; and how far each decision is from the other."""
  image = probability8 / 255
  height, width = image.shape
  out, slack = image.copy(), np.full(image.shape, np.inf)
  for y, x in np.argwhere(image):
    for sign in (-1, 1):
      u = min(max(x + sign * np.cos(angle[y, x]), 0), width - 1.001)
      v = min(max(y + sign * np.sin(angle[y, x]), 0), height - 1.001)
      i, j = int(v), int(u)
      sides = np.array([1 - v + i, v - i]), np.array([1 - u + j, u - j])
      difference = sides[0] @ image[i : i + 2, j : j + 2] @ sides[1] - 1.01 * image[y, x]
      slack[y, x] = min(slack[y, x], abs(difference))
      if difference > 0:
        out[y, x] = 0
  for y, x in np.ndindex(height, width):
    for place, side in ((y, height), (x, width)):
      out[y, x] *= min(place, side - 1 - place, 5) / 5
  return out, slack


@pytest.mark.parametrize('seed', range(3))
def test_suppression_equals_slow_code_in_float64(seed):
  probability8 = soft8(seed, (30, 37))
  image = probability8 / 255
  kernel = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
  smooth = ndimage.convolve1d(ndimage.convolve1d(image, kernel, 0, mode='reflect'), kernel, 1, mode='reflect')
  assert pascal.smooth(image.astype(np.float32)) == pytest.approx(smooth, abs=1e-6)
  y, x = np.gradient(smooth)
  xx, (yy, xy) = np.gradient(x)[1], np.gradient(y)
  angle = np.mod(np.arctan(yy * np.sign(-xy) / (xx + 1e-5)), np.pi)
  near = pascal.orientation(smooth.astype(np.float32))
  assert np.quantile(abs(np.sin(near - angle)), 0.95) < 1e-3  # float32 differs where the map is flat
  expected, slack = suppress_slowly(probability8, pascal.orientation(pascal.smooth(image.astype(np.float32))))
  sure = slack > 1e-5
  assert sure.mean() > 0.9
  assert (expected > 0).sum() > 100
  assert pascal.suppress(probability8)[sure] == pytest.approx(expected[sure], abs=1e-6)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)))
def test_any_map_of_any_size_is_suppressed_to_some_of_its_own_values(probability8):
  before = probability8.copy()
  found = pascal.suppress(probability8)
  assert (probability8 == before).all()
  assert found.dtype == np.float32
  assert found.shape == probability8.shape
  assert np.isfinite(found).all()
  assert (found <= probability8 / np.float32(255)).all()
  assert (found >= 0).all()
  inside = found[5:-5, 5:-5]
  assert ((inside == 0) | (inside == probability8[5:-5, 5:-5] / np.float32(255))).all()
  if min(probability8.shape) > 1:  # maps of one row or column have no frame
    assert not (found[[0, -1]].any() or found[:, [0, -1]].any())


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (2, 2), (9, 4), (3, 200), (5, 5)])
def test_odd_sizes_count(shape):
  probability8 = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  table = pascal.counts(probability8, np.ones(shape, bool))
  assert table.shape == (101, 4)
  assert (table[:, 1] == np.prod(shape)).all()
  assert (table[:, 0] >= 0).all()
  assert (table[:, 0] <= table[:, 3]).all()
  assert (table[:, 0] == table[:, 2]).all()


# Counts.


def test_thresholds_are_the_authors_and_strict():
  assert len(pascal.THRESHOLDS) == 101
  assert pascal.THRESHOLDS.dtype == np.float32
  assert [f'{t:.3f}' for t in pascal.THRESHOLDS[[0, 1, 2, 99, 100]]] == ['0.001', '0.010', '0.020', '0.990', '0.999']
  for level in (51, 102, 153, 204):  # k / 255 of these is a threshold, in float32
    predicted = pascal.counts(np.full((20, 20), level, np.uint8), np.zeros((20, 20), bool))[:, 3]
    assert (predicted[: level * 20 // 51] > 0).all()
    assert not predicted[level * 20 // 51 :].any()


def test_an_empty_prediction_has_precision_1_and_recall_0():
  table = pascal.counts(np.zeros((20, 30), np.uint8), lines8(0, (20, 30)))
  assert not table[:, [0, 2, 3]].any()
  assert (table[:, 1] == lines8(0, (20, 30)).sum()).all()
  curve = pascal.curve(table)
  assert (curve['precision'] == 1).all()
  assert not curve['recall'].any()
  assert not curve['f'].any()
  metric = pascal.Pascal(TASK)
  state = metric.image(np.zeros((20, 30), np.float32), encoded(lines8(0, (20, 30))))
  assert metric.compute(state) == {'odsF': 0, 'oisF': 0}


def test_an_empty_truth_counts_against_the_precision_of_the_set():
  nothing = np.zeros((60, 75), bool)
  table = pascal.counts(soft8(0), nothing)
  assert not table[:, :3].any()
  assert table[0, 3] > 100
  metric = pascal.Pascal(TASK)
  empty, full = (metric.image(soft8(0) / np.float32(255), encoded(t)) for t in (nothing, lines8(0)))
  assert np.isnan(list(metric.compute(empty).values())).all()
  assert metric.compute(merge(empty, full))['odsF'] < metric.compute(full)['odsF'] - 5
  assert (metric.empty()['counts'] == 0).all()
  assert (metric.empty()['best'] == 0).all()


def test_a_perfect_line_scores_100_and_what_lies_in_the_frame_fades():
  truth = np.zeros((60, 80), bool)
  truth[10:50, 30] = True
  sharp = (255 * truth).astype(np.uint8)
  table = pascal.counts(sharp, truth, tolerance=0.01)  # 1 pixel
  assert (table[:100] == 40).all()
  assert table[100, 3] != 0  # 1 > 0.999
  assert pascal.Pascal(TASK).compute({'counts': table, 'best': pascal.best(table)}) == {'odsF': 100, 'oisF': 100}
  for shift, matched in ((1, 40), (2, 0)):
    moved = pascal.counts(np.roll(sharp, shift, 1), truth, tolerance=0.0101)
    assert (moved[:100, 0] == matched).all()
    assert (moved[:100, 3] == 40).all()
  frame = np.roll(sharp, -28, 1)  # at column 2: 0.4 is left
  predicted = pascal.counts(frame, truth)[:, 3]
  assert (predicted[:40] == 40).all()
  assert not predicted[40:].any()


@pytest.mark.parametrize('seed', range(2))
def test_counts_equal_a_fresh_matching_of_each_threshold(seed):
  """Of these few pixels the original loses none."""
  probability8, truth = soft8(seed), lines8(seed + 9)
  table, ridges = pascal.counts(probability8, truth, tolerance=0.02), pascal.suppress(probability8)
  places = np.argwhere(truth)
  for threshold, row in zip(pascal.THRESHOLDS, table):
    mask = thin(ridges > threshold)
    away = ((np.argwhere(mask)[:, None] - places) ** 2).sum(-1)
    near = csr_matrix(away <= 0.02**2 * (60**2 + 75**2))
    largest = (maximum_bipartite_matching(near) >= 0).sum() if mask.any() else 0
    assert row[3] == mask.sum()
    assert row[1] == truth.sum()
    assert largest - 1 <= row[0] <= largest


def test_a_map_that_is_not_8_bits_or_has_another_size_is_refused():
  truth = lines8(0)
  for bad in (soft8(0) / np.float32(255), soft8(0)[:-1], soft8(0).T):
    with pytest.raises(ValueError, match='uint8 map of the size'):
      pascal.counts(bad, truth)


# The metric.


def test_the_best_of_an_image_is_its_first_to_six_decimals():
  table = np.zeros((101, 4), np.int64)
  table[:, 1] = 3_000_000
  for place, matched, predicted in ((10, 1_000_000, 1_000_001), (20, 1_000_000, 1_000_000), (30, 5, 5)):
    table[place] = matched, 3_000_000, matched, predicted
  assert pascal.curve(table)['f'].argmax() == 20
  assert (pascal.best(table) == table[10]).all()


def test_the_threshold_of_the_set_is_one_of_the_list():
  table = np.zeros((101, 4), np.int64)
  table[:, 1] = 8
  table[0], table[1] = (8, 8, 8, 24), (5, 8, 5, 5)  # F 1/2 and 10/13; between them the plain protocol finds more
  scores = pascal.Pascal(TASK).compute({'counts': table, 'best': np.array([8, 8, 8, 16])})
  assert scores == pytest.approx({'odsF': 1000 / 13, 'oisF': 200 / 3})


def test_both_protocols_stand_side_by_side():
  both, plain, alone = pascal.PascalAndPlain(TASK, 0.03), Boundary(TASK, 0.03), pascal.Pascal(TASK, 0.03)
  prediction, label, truth = soft8(2) / np.float32(255), encoded(lines8(3)), encoded(lines8(4))
  state = both.image(prediction, label, truth)
  assert (state['best'] == pascal.best(state['counts'])).all()
  expected = {f'{name}_plain': value for name, value in plain.compute(plain.image(prediction, label)).items()}
  assert both.compute(state) == alone.compute(alone.image(prediction, truth)) | expected
  assert set(expected) == {'odsF_plain', 'oisF_plain', 'AP_plain'}
  by_label = both.compute(both.image(prediction, label))
  assert by_label['odsF'] == alone.compute(alone.image(prediction, label))['odsF']
  assert both.compute(merge(both.empty(), state)) == both.compute(state)
  assert all(np.isnan(value) for value in both.compute(both.empty()).values())
