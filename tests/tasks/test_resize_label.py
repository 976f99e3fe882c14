"""`Task.resize_label`: lines stay whole, thin and in place, whatever the new size; other labels never blend."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from scipy import ndimage

from dmtl_jax.tasks import make_task, Task

BOUNDARY = make_task('edges', 'boundary')  # the kind decides, not the name
EIGHT = np.ones((3, 3))
SIZES = [(192, 256), (96, 128), (100, 640), (333, 641), (960, 1280), (480, 100)]


def circle():
  label = np.zeros((480, 640, 1), np.uint8)
  cv2.circle(label, (320, 240), 150, 1, 1)
  return label


def pieces(mask):
  return ndimage.label(mask, EIGHT)[1]


def covered(label, size, value):
  """[H, W]: does an output cell's interval of the input hold `value`? Cell by cell, in exact fractions."""
  found = np.zeros(size, bool)
  spans = []
  for count, cells in zip(label.shape, size):
    share = Fraction(count, cells)
    spans.append([[p for p in range(count) if p + 1 > i * share and p < (i + 1) * share] for i in range(cells)])
  for i, rows in enumerate(spans[0]):
    for j, columns in enumerate(spans[1]):
      found[i, j] = (label[np.ix_(rows, columns)] == value).any()
  return found


@pytest.mark.parametrize('size', SIZES)
def test_a_circle_stays_in_one_piece_one_pixel_thin_and_in_place(size):
  mask = BOUNDARY.resize_label(circle(), size)[..., 0] == 1
  assert pieces(mask) == 1
  assert ndimage.label(~mask)[1] == 2  # closed: it has an inside and an outside
  y, x = np.argwhere(mask).T + 0.5
  scale = np.array(size) / (480, 640)
  radius = np.hypot(y / scale[0] - 240.5, x / scale[1] - 320.5)
  assert np.abs(radius - 150).max() < 1 + 2 * max(1 / scale)  # two cells at most
  # One pixel thin: a curve of this length, 8-connected, has between its longer axis' and its city-block's length.
  rows, columns = 300 * scale
  assert 2 * max(rows, columns) * 0.9 < mask.sum() < 2 * (rows + columns)


@pytest.mark.parametrize('seed', range(40))
def test_lines_and_unlabelled_cells_follow_the_rule(seed):
  rng = np.random.default_rng(seed)
  shape, size = rng.integers(1, 24, 2), tuple(rng.integers(1, 24, 2).tolist())
  label = rng.choice(np.uint8([0, 1, 255]), shape, p=[(0.8, 0.15, 0.05), (0.5, 0.5, 0), (0.9, 0, 0.1)][seed % 3])
  resized = BOUNDARY.resize_label(label[..., None], size)
  assert resized.shape == (*size, 1)
  assert resized.dtype == np.uint8
  if size == tuple(shape):
    return
  resized, touched, unknown = resized[..., 0], covered(label, size, 1), covered(label, size, 255)
  assert not ((resized == 1) & ~touched).any()
  # Nothing is lost: every piece of cells that touch a line is one piece still.
  labels, count = ndimage.label(touched, EIGHT)
  assert pieces(resized == 1) == count == len(np.unique(labels[resized == 1]))
  np.testing.assert_array_equal((resized == 255), unknown & (resized != 1))


@pytest.mark.parametrize('shape, size', [((1, 9), (1, 3)), ((9, 1), (40, 1)), ((5, 7), (5, 7)), ((1, 1), (6, 6))])
def test_what_is_unlabelled_stays_unlabelled_and_a_background_stays_one(shape, size):
  for value in (0, 255):
    assert (BOUNDARY.resize_label(np.full((*shape, 1), value, np.uint8), size) == value).all()
  assert (BOUNDARY.resize_label(np.ones((*shape, 1), np.uint8), size) == 1).any()


def test_a_straight_line_by_hand():
  label = np.zeros((6, 6, 1), np.uint8)
  label[3], label[0, 0] = 1, 255
  np.testing.assert_array_equal(BOUNDARY.resize_label(label, (2, 3))[..., 0], [[255, 0, 0], [1, 1, 1]])
  np.testing.assert_array_equal(BOUNDARY.resize_label(label, (3, 2))[..., 0], [[255, 0], [1, 1], [0, 0]])
  twice = BOUNDARY.resize_label(label, (12, 12))[..., 0] == 1
  assert (twice.sum(0)[1:-1] == 1).all()
  assert twice[6:8].sum() == twice.sum()


def test_at_its_own_size_a_label_is_as_it_came():
  thick = np.ones((9, 9, 1), np.uint8)
  assert BOUNDARY.resize_label(thick, (9, 9)) is thick


@pytest.mark.parametrize('kind', ['semseg', 'saliency', 'depth', 'normals'])
def test_labels_of_other_kinds_are_picked_by_nearest_neighbour(kind):
  """Of three pixels the middle one: of every kind, whatever its dtype and channels."""
  task = make_task('task', kind, ('a', 'b') if kind == 'semseg' else ())
  label = np.arange(9 * 6 * task.label_channels).reshape(9, 6, -1).astype(task.label_dtype)
  np.testing.assert_array_equal(task.resize_label(label, (3, 2)), label[1::3, 1::3])
  np.testing.assert_array_equal(task.resize_label(label, (18, 6)), label.repeat(2, 0))


def test_a_line_like_kind_needs_labels_that_lines_can_be_told_from():
  with pytest.raises(ValueError, match='Cracks: line_like needs label_dtype = np.uint8'):
    type('Cracks', (Task,), {'kind': 'cracks', 'title': 'Cracks', 'line_like': True})
