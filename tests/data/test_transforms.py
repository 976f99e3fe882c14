"""Joint transforms, tested on an image that holds its own coordinates.

The image of `coordinates` stores x in red and y in green, and so do its labels; wherever a
transform moves the image, the labels must tell the same place. The photometric part is off there.
"""

import colorsys
import tracemalloc

import cv2
from ml_collections import ConfigDict
import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import kstest

from dmtl_jax.configs.fields import FIELDS
from dmtl_jax.data import transforms
from dmtl_jax.tasks import make_task

TASKS = (
  make_task('semseg', 'semseg', tuple(f'c{i}' for i in range(250))),
  make_task('boundary', 'boundary'),
  make_task('normals', 'normals'),
  make_task('depth', 'depth'),
)
HEIGHT, WIDTH = 90, 120


def coordinates(height=HEIGHT, width=WIDTH):
  """Red is x, green is y; semseg is x, depth is 1 + y, normals' y is x / 1000 on a known vector."""
  y, x = np.mgrid[:height, :width]
  image = np.stack([x, y, 0 * x], -1).astype(np.uint8)
  normals = np.stack([0.6 + 0 * x, x / 1000, 0.8 + 0 * x], -1).astype(np.float32)
  labels = {'semseg': x[..., None].astype(np.uint8), 'depth': 1 + y[..., None].astype(np.float32), 'normals': normals}
  return {'image': image, 'labels': labels, 'index': 5}


def config(augment, size=(64, 80)):
  return ConfigDict({'augment': augment, 'size': size})


def padded(example, size, tasks):
  """A transformed example as it is in a batch."""
  batch = transforms.add_hidden_labels(transforms.stack([example], size, tasks), tasks)
  return {name: x[0] for name, x in batch.items() if name != 'labels'} | {
    'labels': {name: x[0] for name, x in batch['labels'].items()}
  }


def evaluate(geometry, size, example, augment='light', tasks=TASKS):
  return padded(transforms.eval_transform(config(augment, size), geometry, tasks)(example), size, tasks)


def train(augment, example, seed=0, size=(64, 80)):
  transform = transforms.train_transform(config(augment, size), TASKS)
  return padded(transform(example, np.random.default_rng(seed)), size, TASKS)


@pytest.fixture
def plain(monkeypatch):
  """No photometric distortion: pixel values stay coordinates."""
  monkeypatch.setattr(transforms, 'photometric', lambda image, rng, strength: image)


@pytest.mark.parametrize('size', [(64, 80), (61, 83)])
@pytest.mark.parametrize('augment', ['pascal', 'mtan', 'light', 'none'])
def test_labels_move_with_the_image(augment, size, plain):
  flips = set()
  for seed in range(12):
    out = train(augment, coordinates(), seed, size)
    assert out['image'].shape == (*size, 3)
    assert out['image'].dtype == np.uint8
    valid = out['labels']['depth'][..., 0] > 0
    assert valid.mean() > 0.2
    x, y = np.moveaxis(out['image'][..., :2].astype(int), -1, 0)[:, valid]
    semseg = out['labels']['semseg'][valid, 0].astype(int)
    normals = out['labels']['normals'][valid]
    assert np.abs(semseg - x).max() <= 2  # bilinear against nearest, at zoom 0.5 to 2
    np.testing.assert_allclose(normals[:, 1] * 1000, semseg, atol=1e-2)
    # Depth is (1 + y) / zoom with one zoom for the whole image: it is proportional to 1 + y.
    zoom = (1 + y[y > 20]) / out['labels']['depth'][valid, 0][y > 20]
    assert np.ptp(zoom) / zoom.mean() < 0.2
    sign = np.unique(np.sign(normals[:, 0]))
    assert len(sign) == 1
    # The normals' x is negative exactly where x runs from right to left.
    rows = np.where(valid, out['labels']['semseg'][..., 0].astype(int), -1)
    row = rows[np.argmax(valid.any(1))]
    runs = np.sign(np.diff(row[row >= 0]).sum())
    assert runs == sign[0]
    np.testing.assert_allclose(np.abs(normals[:, 0]), 0.6, atol=1e-6)
    flips.add(int(sign[0]))
  assert flips == ({1} if augment == 'none' else {-1, 1})


def test_labels_of_a_reduced_image_move_with_it(plain):
  """An image at a quarter of its sides, with labels of all: windows are the same within a pixel of the output."""
  example = coordinates(180, 240)
  example['image'] = cv2.resize(example['image'], (60, 45), interpolation=cv2.INTER_AREA)
  for seed in range(12):
    out = train('light', example, seed, (12, 16))
    x, y = np.moveaxis(out['image'][..., :2].astype(int), -1, 0)
    pitch = 240 / 16
    assert np.abs(out['labels']['semseg'][..., 0] - x).max() <= pitch / 2
    assert np.abs((out['labels']['semseg'][..., 0] - x).mean()) < 1.5
    zoom = (1 + y) / out['labels']['depth'][..., 0]
    assert np.ptp(zoom[y > 60]) / zoom[y > 60].mean() < 0.2
    assert 0.95 < np.median(zoom) < 1.45


def test_depth_is_divided_by_the_scale_of_the_picture(plain):
  """One step in x of the output is 1 / zoom of the input; depth must carry the same zoom."""
  example = coordinates()
  example['labels']['depth'][:] = 6
  for augment, size in (('pascal', (200, 260)), ('light', (HEIGHT, WIDTH))):
    zooms = []
    for seed in range(6):
      out = train(augment, example, seed, size)
      zoom = 6 / out['labels']['depth'].max()
      middle = size[0] // 2  # the image is padded around
      row = out['image'][middle, :, 0].astype(float)
      row = row[out['labels']['depth'][middle, :, 0] > 0]
      row = row if row[0] < row[-1] else row[::-1]
      np.testing.assert_allclose((len(row) - 1) / (row[-1] - row[0]), zoom, rtol=0.05)
      zooms.append(zoom)
    low, high = (0.5, 2.0) if augment == 'pascal' else (1.0, 1.4)
    assert low <= min(zooms) < max(zooms) <= high


def test_mtan_takes_the_three_zooms_of_the_protocol(plain):
  example = coordinates(60, 120)
  example['labels']['depth'][:] = 6
  depths = {round(float(train('mtan', example, seed, (60, 120))['labels']['depth'].max()), 4) for seed in range(30)}
  assert depths == {6.0, 5.0, 4.0}


def test_mtan_samples_the_image_with_aligned_corners(plain):
  """The corners of the output are pixels of the input: an integer zoom window, not blends with its outside."""
  for seed in range(10):
    example = train('mtan', coordinates(60, 120), seed, (60, 120))
    out = example['image'].astype(int)
    depth = example['labels']['depth']
    scale = (1 + out[0, 0, 1]) / depth[0, 0, 0]
    width, height = abs(out[0, -1, 0] - out[0, 0, 0]) + 1, out[-1, 0, 1] - out[0, 0, 1] + 1
    assert (height, width) == (int(60 / scale + 1e-3), int(120 / scale + 1e-3))


@pytest.mark.parametrize('augment', ['pascal', 'mtan', 'light', 'none'])
def test_unlabelled_values_never_blend(augment):
  """Labels of two values and holes: no third value may appear."""
  rng = np.random.default_rng(0)
  hole = rng.random((HEIGHT, WIDTH, 1)) < 0.3
  example = coordinates()
  example['labels'] = {
    'semseg': np.where(hole, 255, 7).astype(np.uint8),
    'boundary': np.where(hole, 255, rng.integers(0, 2, hole.shape)).astype(np.uint8),
    'depth': np.where(hole, 0, 6).astype(np.float32),
    'normals': np.where(hole, 0, [0.6, 0, 0.8]).astype(np.float32),
  }
  for seed in range(5):
    labels = train(augment, example, seed)['labels']
    assert set(np.unique(labels['semseg'])) == {7, 255}
    assert set(np.unique(labels['boundary'])) == {0, 1, 255}
    assert len(np.unique(labels['depth'])) == 2
    assert set(np.unique(np.linalg.norm(labels['normals'], axis=-1).round(5))) == {0, 1}
    # All tasks have the same holes; where a boundary is resized as lines are, it has larger ones, and lines in them.
    holes, unknown = labels['semseg'] == 255, labels['boundary'] == 255
    np.testing.assert_array_equal(holes, labels['depth'] == 0)
    np.testing.assert_array_equal(holes[..., 0], (labels['normals'] == 0).all(-1))
    if augment in transforms.PUBLISHED:
      np.testing.assert_array_equal(holes, unknown)
    else:
      assert (labels['boundary'][holes] > 0).all()
      assert holes.mean() < unknown.mean() < 1


def drawing(shape=(240, 320)):
  """An image without content, labelled with a circle and with a line from edge to edge, each one pixel wide."""
  labels = {name: np.zeros((*shape, 1), np.uint8) for name in ('circle', 'line')}
  cv2.circle(labels['circle'], (shape[1] // 2, shape[0] // 2), min(shape) // 3, 1, 1)
  cv2.line(labels['line'], (0, shape[0] // 5), (shape[1] - 1, shape[0] // 2), 1, 1)
  return {'image': np.zeros((*shape, 3), np.uint8), 'labels': labels, 'index': 0}


LINES = (make_task('circle', 'boundary'), make_task('line', 'boundary'))


def pieces(label):
  return ndimage.label(label[..., 0] == 1, np.ones((3, 3)))[1]


@pytest.mark.parametrize('augment', ['light', 'none'])
def test_lines_stay_whole_in_training(augment):
  """Whatever window is shown of a straight line, it is one line."""
  transform, seen = transforms.train_transform(config(augment, (72, 96)), LINES), []
  for seed in range(12):
    label = transform(drawing(), np.random.default_rng(seed))['labels']['line']
    seen.append(pieces(label))
    assert (label == 1).sum() <= 96  # one pixel thin
  assert seen.count(1) >= 11
  assert set(seen) <= {0, 1}


@pytest.mark.parametrize('geometry', FIELDS['eval']['geometry'].choices)
@pytest.mark.parametrize('augment', FIELDS['data']['augment'].choices)
def test_lines_stay_whole_in_evaluation_but_in_the_benchmarks_of_others(augment, geometry):
  """`pascal` and `mtan` are the authors' protocols: nearest neighbour, in training and in evaluation."""
  example = drawing()
  label = evaluate(geometry, (96, 128), example, augment, LINES)['labels']['circle']
  if augment in ('pascal', 'mtan'):
    expected = cv2.resize(example['labels']['circle'], (128, 96), interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(label[..., 0], expected)
    assert pieces(label) > 10
  else:
    assert pieces(label) == 1


def test_training_on_pascal_keeps_nearest_neighbour(plain):
  """At every zoom a boundary is resized exactly as a class map is."""
  example = coordinates()
  example['labels']['boundary'] = (np.add.outer(range(HEIGHT), range(WIDTH)) % 5 == 0)[..., None].astype(np.uint8)
  example['labels']['semseg'] = example['labels']['boundary']  # a kind that is always resized by nearest neighbour
  for seed in range(6):
    for augment in transforms.PUBLISHED:
      labels = train(augment, example, seed)['labels']
      np.testing.assert_array_equal(labels['boundary'], labels['semseg'])


def test_light_shows_windows_of_all_zooms_and_places_alike(plain):
  """Zooms are uniform between 1 and 1.4, places between the edges; of an image of the size's own aspect."""
  example = coordinates(200, 250)
  zooms, places = [], []
  for seed in range(400):
    row = train('light', example, seed)['labels']['semseg'][0, :, 0].astype(float)
    width = np.ptp(row) * 80 / 79
    zooms.append(250 / width)
    places.append((row.min() + 0.5 - width / 160, 250 - width))  # of the window's left edge; how far it could be
  assert kstest(zooms, 'uniform', (1, 0.4)).pvalue > 1e-3
  shares = [left / spare for left, spare in places if spare > 30]
  assert kstest(shares, 'uniform').pvalue > 1e-3


@pytest.mark.parametrize('augment', FIELDS['data']['augment'].choices)
@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1)])
def test_a_strip_costs_what_any_image_costs(augment, shape):
  example = {'image': np.full((*shape, 3), 9, np.uint8), 'labels': {'depth': np.ones((*shape, 1), np.float32)}}
  tracemalloc.start()
  try:
    out = train(augment, example | {'index': 0})
    evaluate('fit', (64, 80), example | {'index': 0}, augment)
    assert tracemalloc.get_traced_memory()[1] < 2e6  # bytes
  finally:
    tracemalloc.stop()
  assert (out['labels']['depth'] > 0).any()


@pytest.mark.parametrize('geometry, top, left', [('pad', 12, 15), ('fit', 0, 0)])
def test_padding_is_zero_in_the_image_and_unlabelled(geometry, top, left):
  """Of a size that fits exactly one way; centred as odd spare pixels are in the authors' code: more at the end."""
  example = coordinates(40, 50)
  out = evaluate(geometry, (65, 80) if geometry == 'pad' else (40, 80), example)
  place = np.s_[top : top + 40, left : left + 50]
  np.testing.assert_array_equal(out['region'], [top, left, 40, 50])
  np.testing.assert_array_equal(out['image'][place], example['image'])
  assert np.count_nonzero(out['image']) == np.count_nonzero(example['image'])
  for name, label in example['labels'].items():
    rest = out['labels'][name].copy()
    np.testing.assert_array_equal(rest[place], label)
    rest[place] = 255 if name == 'semseg' else 0
    assert (rest == (255 if name == 'semseg' else 0)).all()
  assert (out['labels']['boundary'] == 255).all()  # has no label
  np.testing.assert_array_equal(out['label_mask'], [True, False, True, True])
  assert out['index'] == 5
  assert out['index'].dtype == np.int32


def test_training_on_pascal_pads_around_the_image(plain):
  example = {'image': np.full((20, 30, 3), 200, np.uint8), 'labels': {}, 'index': 0}
  inside = train('pascal', example, 3, (64, 80))['image'].any(-1)
  rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
  assert len(rows) < 64
  assert len(columns) < 80
  assert rows[0] == (64 - len(rows)) // 2
  assert columns[0] == (80 - len(columns)) // 2


@pytest.mark.parametrize('augment', FIELDS['data']['augment'].choices)
@pytest.mark.parametrize('geometry, shape, pixels', [
  ('pad', (50, 60), 50 * 60), ('pad', (128, 80), 64 * 40), ('fit', (50, 60), 64 * 77),
])  # fmt: skip
def test_evaluation_scales_to_fit_and_pads_without_enlarging_whatever_the_augmentation(
  augment, geometry, shape, pixels
):
  assert (evaluate(geometry, (64, 80), coordinates(*shape), augment)['labels']['depth'] > 0).sum() == pixels


def test_parsing_says_nothing_of_a_crop_without_a_part():
  """A person of a tenth of the picture: crops show a part and background, or are unlabelled."""
  tasks = (make_task('parsing', 'parsing', ('background', 'head', 'torso')),)
  parsing = np.zeros((200, 200, 1), np.uint8)
  parsing[80:140, 90:150] = 2
  example = {'image': np.zeros((200, 200, 3), np.uint8), 'labels': {'parsing': parsing}, 'index': 0}
  transform = transforms.train_transform(config('pascal', (64, 64)), tasks)
  seen = [set(np.unique(transform(example, np.random.default_rng(seed))['labels']['parsing'])) for seed in range(60)]
  assert {frozenset(values) for values in seen} <= {frozenset(v) for v in ({255}, {0, 2}, {0, 2, 255}, {2})}
  assert 5 < seen.count({255}) < 55


@pytest.mark.parametrize('shape, filled', [((180, 240), (64, 85)), ((30, 120), (24, 96)), ((120, 30), (64, 16))])
def test_evaluation_keeps_the_aspect_and_the_depth(shape, filled):
  out = evaluate('fit', (64, 96), coordinates(*shape))
  valid = out['labels']['depth'][..., 0] > 0
  assert valid.sum() == filled[0] * filled[1]
  assert valid[: filled[0], : filled[1]].all()
  ys = np.unique(out['labels']['depth'][valid])
  assert ys.max() >= shape[0] - 2  # 1 + y, not divided


def test_crop_avoids_a_dominating_class():
  """Two thirds of the picture are class 0: a free crop often shows it alone, the ruled one hardly ever."""
  image = np.zeros((60, 180, 3), np.uint8)
  semseg = np.zeros((60, 180, 1), np.uint8)
  semseg[:, 120:] = 1

  def share(seed, guide):
    rng = np.random.default_rng(seed)
    label = transforms.crop(image, {'semseg': semseg}, (60, 60), rng, guide)[1]['semseg']
    return max(np.bincount(label.ravel()) / label.size)

  free, ruled = (np.mean([share(seed, guide) >= 0.75 for seed in range(200)]) for guide in (None, semseg))
  # Free: all but the 29 of 121 offsets that show between 25% and 75% of both. Ruled: eleven failures in a row.
  assert abs(free - 92 / 121) < 0.1
  assert abs(ruled - (92 / 121) ** 11) < 0.05
  # Unlabelled pixels do not count.
  semseg[:, 120:] = 255
  assert transforms._largest_share(semseg) == 1
  assert transforms._largest_share(np.full((4, 4, 1), 255, np.uint8)) == 1


def test_the_crop_rule_looks_at_a_label_that_is_hidden_and_learning_does_not():
  """One half of the picture is one class: crops of pure class are avoided, and the batch holds no trace of it."""
  example = coordinates(100, 200)
  del example['labels']['semseg']
  example['labels']['depth'][:, 100:] = 0
  guide = np.zeros((100, 200, 1), np.uint8)
  guide[:, 100:] = 1
  transform = transforms.train_transform(config('pascal', (40, 40)), TASKS)

  def shares(**extra):
    runs = [transform(example | extra, np.random.default_rng(seed)) for seed in range(80)]
    assert all(run.keys() == {'image', 'labels', 'region', 'index'} for run in runs)
    assert all(run['labels'].keys() == {'depth', 'normals'} for run in runs)
    return np.mean([0.25 < (padded(run, (40, 40), TASKS)['labels']['depth'] > 0).mean() < 0.75 for run in runs])

  assert shares() < 0.35
  assert shares(crop_guide=guide) > 0.6
  first, second = (transform(example | {'crop_guide': g}, np.random.default_rng(0)) for g in (guide, 1 - guide))
  np.testing.assert_equal(first, second)  # another label, the same crop


class Scripted:
  """Random numbers in a given order: coins (random) and spreads (uniform)."""

  def __init__(self, coins, spreads):
    self.coins, self.spreads = list(coins), list(spreads)

  def random(self):
    return 0.0 if self.coins.pop(0) else 1.0

  def uniform(self, low, high):
    value = self.spreads.pop(0)
    assert low <= value <= high
    return value


PIXEL = np.array([200, 120, 40], np.uint8)


# Coins: brightness, contrast first, contrast, saturation, hue.
@pytest.mark.parametrize(
  'coins, spreads, expected',
  [
    ((0, 0, 0, 0, 0), (), PIXEL),
    ((1, 0, 0, 0, 0), (20,), [220, 140, 60]),
    ((1, 0, 0, 0, 0), (-30,), [170, 90, 10]),
    ((0, 1, 1, 0, 0), (0.5,), [255, 180, 60]),  # times 1.5
    ((1, 1, 1, 0, 0), (20, -0.5), [110, 70, 30]),  # brightness, then contrast
    ((1, 0, 1, 0, 0), (20, -0.5), [110, 70, 30]),  # the same, contrast last of all
    ((0, 0, 0, 1, 0), (-0.5,), 'saturation 0.5'),
    ((0, 0, 0, 1, 0), (0.2,), 'saturation 1.2'),
    ((0, 0, 0, 0, 1), (18,), 'hue 36 degrees'),
    ((0, 0, 0, 0, 1), (-18,), 'hue -36 degrees'),  # past red: the hue wraps
  ],
)
def test_photometric_against_arithmetic(coins, spreads, expected):
  image = np.broadcast_to(PIXEL, (4, 4, 3)).copy()
  out = transforms.photometric(image, Scripted(coins, spreads))
  assert out.dtype == np.uint8
  tolerance = 1e-6
  if isinstance(expected, str):
    kind, amount = expected.split()[:2]
    h, s, v = colorsys.rgb_to_hsv(*PIXEL / 255)
    h, s = ((h + float(amount) / 360) % 1, s) if kind == 'hue' else (h, s * float(amount))
    expected, tolerance = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255, 4  # 8-bit HSV
  np.testing.assert_allclose(out[0, 0], expected, atol=tolerance)
  np.testing.assert_array_equal(image[0, 0], PIXEL)


def test_photometric_varies_within_its_bounds():
  image = np.full((2, 2, 3), 128, np.uint8)
  means = [float(transforms.photometric(image, np.random.default_rng(i)).mean()) for i in range(300)]
  assert 40 < min(means) < 80
  assert 180 < max(means) <= 240  # 0.5 (128 - 32) = 48, 1.5 (128 + 32) = 240


def test_same_generator_same_example_and_input_untouched():
  for augment in FIELDS['data']['augment'].choices:
    example = coordinates()
    before = {name: label.copy() for name, label in example['labels'].items()}
    first, second, other = (train(augment, example, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first['image'], second['image'])
    assert augment == 'none' or (first['image'] != other['image']).any()
    for name, label in before.items():
      np.testing.assert_array_equal(example['labels'][name], label)


def test_a_stack_holds_visible_labels_and_hidden_ones_are_added():
  """Three images of which the second has no depth; nothing has a boundary."""
  examples = [transforms.finish(x['image'], x['labels'], (64, 80), x['index']) for x in (coordinates(40, 50),) * 3]
  examples[1]['labels'] = {name: x for name, x in examples[1]['labels'].items() if name != 'depth'}
  stacked = transforms.stack(examples, (64, 80), TASKS)
  assert {name: len(x) for name, x in stacked['labels'].items()} == {
    'semseg': 3, 'boundary': 0, 'normals': 3, 'depth': 2,
  }  # fmt: skip
  full = transforms.add_hidden_labels(stacked, TASKS)
  for t, task in enumerate(TASKS):
    label = full['labels'][task.name]
    assert label.dtype == task.label_dtype
    np.testing.assert_array_equal(task.valid(label).any((1, 2)), stacked['label_mask'][:, t])
    np.testing.assert_array_equal(label[stacked['label_mask'][:, t]], stacked['labels'][task.name])
  np.testing.assert_array_equal(full['labels']['depth'][2, :40, :50], examples[2]['labels']['depth'])
