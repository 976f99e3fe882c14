"""Regions against closed forms, Pillow's polygons and what pycocotools and Label Studio encode."""

import cv2
import numpy as np
from PIL import Image, ImageDraw
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.imports import shapes
from tests.exports import BRUSH

# Encoded by pycocotools 2.0.11: a disc of radius^2 < 200 around column 17, row 25 of 40x50 pixels.
DISC = '^53[18J4M2N2N2N2N2O0O2O00000O2O0001N1000001N101N2N2N2N2N3L6Hl;'
# Polygons in 30x20 pixels, and what pycocotools makes of them.
POLYGONS = {
    'j02>40001O01O00000M`<': [[2.3, 1.7, 10.2, 3.1, 8.8, 9.4, 1.1, 7.9]],
    '01c01O1O1O2N1O1O2N1O1O1O2N1O1O1Oe0OZO2O1N2O1O1N2O1O1N2O1N2O1O1': [[0, 0, 30, 0, 15.5, 20]],
    'e08<0000000000000n61QI0000000000000U1': [[1, 1, 9, 1, 9, 9, 1, 9], [20, 3, 28, 3, 28, 12, 20, 12]],
}  # fmt: skip


def fill(*rings, size=(20, 30)) -> np.ndarray:
  plane = np.zeros(size, np.uint8)
  shapes.Polygons('x', 'a', [np.reshape(ring, (-1, 2)).astype(float) for ring in rings]).paint(plane, 1)
  return plane


def runs(counts, size, by_columns: bool, box=None) -> np.ndarray:
  plane = np.zeros(size, np.uint8)
  box = box or (0, 0, size[1], size[0])
  shapes.Runs('x', 'a', np.asarray(counts, np.int64), box, by_columns).paint(plane, 1)
  return plane


@pytest.mark.parametrize(
  'box', [(3, 2, 9, 7), (-5, -9, 4, 3), (25, 15, 90, 70), (-1e9, -1e9, 1e9, 1e9), (40, 5, 50, 9)]
)
def test_a_rectangle_has_the_pixels_whose_centres_it_holds(box):
  left, top, right, bottom = box
  x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5)
  expected = (x > left) & (x < right) & (y > top) & (y < bottom)
  np.testing.assert_array_equal(fill([left, top, right, top, right, bottom, left, bottom]), expected)


def test_neighbours_share_an_edge_without_overlap_or_gap():
  a, b, c, d = [1.3, 2.1], [27.9, 0.4], [25.2, 18.8], [3.7, 17.3]
  np.testing.assert_array_equal(fill([a, b, c]).astype(int) + fill([a, c, d]), fill([a, b, c, d]))


def test_a_large_polygon_is_filled_in_bands(monkeypatch):
  ring = [2.2, 1.1, 27.3, 3.6, 14.8, 18.9]
  whole = fill(ring)
  monkeypatch.setattr(shapes, 'BAND', 60)
  np.testing.assert_array_equal(fill(ring), whole)
  assert whole.sum() > 100


def test_a_polygon_that_crosses_itself_has_a_hole():
  star = fill([10, 0, 16, 19, 0, 7, 20, 7, 4, 19])
  assert star[2, 10]
  assert not star[10, 10]


def test_polygons_are_pillows_but_for_the_outline():
  rng = np.random.default_rng(0)
  for _ in range(20):
    ring = rng.integers(0, 60, (6, 2))
    image = Image.new('L', (60, 60))
    ImageDraw.Draw(image).polygon([tuple(point) for point in ring.tolist()], fill=1)
    outline = cv2.polylines(np.zeros((60, 60), np.uint8), [ring.astype(np.int32)], True, 1, 3)
    differs = (fill(ring, size=(60, 60)) != np.asarray(image)) & (outline == 0)
    assert not differs.any()


@pytest.mark.parametrize('text', POLYGONS)
def test_polygons_are_pycocotools_but_for_few_pixels(text):
  theirs = runs(shapes.coco_counts('x', text), (20, 30), by_columns=True)
  assert (fill(*POLYGONS[text]) != theirs).mean() < 0.02


def test_compressed_runs_are_read_by_columns():
  y, x = np.mgrid[:50, :40]
  disc = runs(shapes.coco_counts('x', DISC), (50, 40), by_columns=True)
  np.testing.assert_array_equal(disc, (y - 25) ** 2 + (x - 17) ** 2 < 200)


def test_runs_in_a_box_are_read_by_rows():
  plane = runs([1, 3, 2], (5, 6), by_columns=False, box=(2, 1, 3, 2))
  assert plane[1, 2:5].tolist() == [0, 1, 1]
  assert plane[2, 2:5].tolist() == [1, 0, 0]
  assert plane.sum() == 3


def test_a_brush_mask_of_label_studio():
  plane = np.zeros((6, 9), np.uint8)
  shapes.Brush('x', 'a', bytes(BRUSH)).paint(plane, 1)
  expected = np.zeros((6, 9), np.uint8)
  expected[1:4, 2:7] = 1
  expected[4, 8] = 1
  np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize(
  ('make', 'reason'),
  [
    (lambda: runs([5, 5], (4, 4), True), 'add up'),
    (lambda: runs([2**62, 2**62, 16], (4, 4), True), 'add up'),
    (lambda: runs([-4, 20], (4, 4), True), 'add up'),
    (lambda: runs([0, 4], (4, 4), False, (3, 3, 2, 2)), 'out of the image'),
    (lambda: shapes.coco_counts('x', 'o' * 50), 'not the compressed runs'),
    (lambda: shapes.coco_counts('x', '\ud800'), 'not the compressed runs'),
    (lambda: shapes.coco_counts('x', 'o'), 'cut short'),
    (lambda: shapes.unpack_brush('x', bytes(BRUSH[:-3]), 216), 'cut short'),
    (lambda: shapes.unpack_brush('x', bytes(BRUSH), 220), 'its image needs 220'),
    (lambda: shapes.unpack_brush('x', b'', 4), 'cut short'),
    (lambda: fill(np.tile([[0, 0], [9, 9e8]], (40_000, 1)), size=(600, 10)), 'too often'),
  ],
)
def test_what_does_not_add_up_is_refused(make, reason):
  with pytest.raises(UserError, match=f'^x: .*{reason}'):
    make()
