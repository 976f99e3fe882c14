"""Colours and panels, against colours worked out by hand."""

import colorsys

import cv2
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.draw import colors as color_lib
from dmtl_jax.draw import panels, png
from dmtl_jax.tasks import make_task

SEMSEG = make_task('semseg', 'semseg', ('road', 'car', 'sky'))
BOUNDARY, SALIENCY = make_task('boundary', 'boundary'), make_task('saliency', 'saliency')
NORMALS, DEPTH = make_task('normals', 'normals'), make_task('depth', 'depth')
HATCH = {(206, 206, 206), (228, 228, 228)}


def color_set(picture):
  return set(map(tuple, picture.reshape(-1, 3).tolist()))


def test_palette_is_distinct_and_tells_its_first_classes_apart():
  palette = color_lib.palette()
  assert palette.shape == (256, 3)
  assert palette.dtype == np.uint8
  assert len(color_set(palette)) == 256
  luma = palette[:20] @ np.array([0.299, 0.587, 0.114])
  hue, saturation, _ = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in palette[:20]]).T
  for i in range(20):
    for j in range(i):
      turn = abs(hue[i] - hue[j])
      differs = abs(luma[i] - luma[j]) > 20 or min(turn, 1 - turn) > 0.05 or abs(saturation[i] - saturation[j]) > 0.3
      assert differs, (i, j, palette[i], palette[j])


def test_palette_under_red_green_blindness():
  """A grey-level or blue-yellow difference must remain when red and green look the same."""
  colors = color_lib.palette()[:20].astype(float)
  seen = np.stack([colors[:, :2] @ [0.35, 0.65], colors[:, 2]], -1)
  gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(20)
  assert gaps.min() > 14


def test_classes_labels_and_predictions_share_colours():
  ids = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
  label = ids[..., None].copy()
  np.testing.assert_array_equal(SEMSEG.picture(label), color_lib.palette()[ids])
  np.testing.assert_array_equal(SEMSEG.picture(ids), color_lib.palette()[ids])
  label[0, 0] = 255
  colors = SEMSEG.picture(label)
  assert tuple(colors[0, 0].tolist()) in HATCH
  np.testing.assert_array_equal(colors[1], color_lib.palette()[ids[1]])


@pytest.mark.parametrize('task', [SEMSEG, BOUNDARY, SALIENCY, NORMALS, DEPTH], ids=lambda t: t.name)
def test_a_blank_label_is_hatched_only(task):
  colors = task.picture(task.blank(20, 24))
  assert colors.shape == (20, 24, 3)
  assert colors.dtype == np.uint8
  assert color_set(colors) == HATCH


def test_probabilities():
  share = np.array([[0, 0.5, 1]], np.float32)
  np.testing.assert_array_equal(SALIENCY.picture(share)[0, :, 0], [0, 128, 255])
  lines = BOUNDARY.picture(share)[0].astype(int).sum(-1)
  assert lines[0] == 3 * 255
  assert lines[0] > lines[1] > lines[2]
  assert lines[2] < 150  # ink on white
  label = np.array([[[0], [1]]], np.uint8)
  np.testing.assert_array_equal(SALIENCY.picture(label)[0, :, 0], [0, 255])


def test_normals_are_the_standard_colours():
  """Vectors a little too long have the last colour."""
  axes = np.array([[[1, 0, 0], [0, -1.01, 0], [0, 0, 1], [-0.6, 0, 0.8]]], np.float32)
  expected = [[255, 128, 128], [128, 0, 128], [128, 128, 255], [51, 128, 230]]  # round(127.5 (v + 1))
  np.testing.assert_allclose(NORMALS.picture(axes)[0].astype(int), expected, atol=1)


def test_depth_is_brighter_the_nearer_on_one_scale():
  depth = np.array([[2, 4, 6, 8, 100]], np.float32)
  colors = DEPTH.picture(depth, limits=(2, 8))[0].astype(float)
  luma = colors @ np.array([0.299, 0.587, 0.114])
  assert (np.diff(luma[:4]) < -10).all()
  np.testing.assert_array_equal(colors[4], colors[3])  # beyond the scale
  other = DEPTH.picture(depth[:, 1:3], limits=(2, 8))[0]
  np.testing.assert_array_equal(other, colors[1:3])
  np.testing.assert_array_equal(DEPTH.picture(-depth, limits=(2, 8))[0, 0], colors[0])  # a bad prediction


def test_depth_limits():
  depth = np.linspace(1, 101, 1001)[None]
  np.testing.assert_allclose(DEPTH.limits(depth), (2, 100))
  low, high = DEPTH.limits(np.array([[0, np.nan, 3.0]]))
  assert low == 3
  assert high > 3
  assert DEPTH.limits(np.zeros((2, 2))) == (0.0, 1.0)


@pytest.mark.parametrize('task', [SEMSEG, BOUNDARY, SALIENCY, NORMALS, DEPTH], ids=lambda t: t.name)
def test_legends_fit_their_width(task):
  key = task.legend(180)
  assert key.shape[1:] == (180, 3)
  assert key.dtype == np.uint8
  assert (key < 250).any()
  assert (key[-1] > 200).all()


def test_a_legend_names_every_class_or_those_present():
  classes = tuple(f'class {i}' for i in range(60))
  task = make_task('parts', 'semseg', classes)
  shown = color_set(task.legend(200))
  assert all(tuple(c.tolist()) in shown for c in color_lib.palette()[:60])
  few = task.legend(200, present=[3, 59])
  shown = color_set(few)
  assert [tuple(c.tolist()) in shown for c in color_lib.palette()[[3, 59, 4]]] == [True, True, False]
  assert len(few) < len(task.legend(200))


def tile(sheet, row, column):
  """A tile of a panel whose tiles are 160x160."""
  top = 30 + 166 * row
  left = 24 + 166 * column
  return sheet[top : top + 160, left : left + 160]


def test_panel_shows_every_map_at_its_place():
  image = np.full((160, 160, 3), (77, 12, 200), np.uint8)
  rows = [
    ('Ground truth', {'semseg': np.zeros((160, 160, 1), np.uint8), 'saliency': None}),
    ('Denoised', {'semseg': np.ones((20, 20), np.uint8), 'saliency': np.ones((160, 160), np.float32)}),
  ]
  sheet = panels.panel(image, (SEMSEG, SALIENCY), rows)
  road, car = color_lib.palette()[:2]
  assert (tile(sheet, 0, 0) == image).all()
  assert (tile(sheet, 0, 1) == road).all()
  np.testing.assert_array_equal(tile(sheet, 0, 2), panels._unlabelled_tile((160, 160)))
  np.testing.assert_array_equal(tile(sheet, 1, 0), color_lib.overlay(image, np.full_like(image, car)))
  assert (tile(sheet, 1, 1) == car).all()
  assert (tile(sheet, 1, 2) == 255).all()


@pytest.mark.parametrize('size', [(1, 1), (20, 3000), (3000, 20), (4000, 6000), (90, 170), (300, 100)])
def test_tiles_fit_a_page(size):
  width, height = panels.tile_size(*size)
  assert 160 <= width <= 320
  assert 80 <= height <= 320
  if max(size) <= 2 * min(size):
    assert width / height == pytest.approx(size[1] / size[0], abs=0.02)


@pytest.mark.parametrize('scale', [1, 2.5])
def test_no_letter_of_a_legend_is_cut(scale):
  """What is drawn in a narrow place is what is drawn where there is more room to the right."""
  classes = ('W' * 30, 'traffic sign', 'a name of several words that goes on', 'sky')
  for task in (make_task('semseg', 'semseg', classes), SALIENCY, DEPTH, NORMALS):
    key = task.legend(round(170 * scale), (0.123, 45.6), scale=scale)
    assert key.shape[1] == round(170 * scale)
    letters = (key.max(-1) < 160) & (np.ptp(key, -1) < 40) if task.classes else np.zeros((1, 1), bool)
    assert not letters[:, -1].any()
    assert not letters[-1].any()
  assert len(SEMSEG.legend(500, scale=2)) == 2 * len(SEMSEG.legend(500))


@pytest.mark.parametrize('size', [(1, 1), (96, 128), (900, 1300), (1200, 8)])
@pytest.mark.parametrize('task', [SEMSEG, BOUNDARY, SALIENCY, NORMALS, DEPTH], ids=lambda t: t.name)
def test_an_overlay_keeps_the_image_and_adds_the_legend_below(task, size):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  values = {'semseg': np.ones(size, np.uint8), 'normals': np.full((*size, 3), [0, 0, 1], np.float32)}
  values = values.get(task.kind, np.full(size, 0.25, np.float32))
  sheet = panels.draw_prediction(task, image, values, (0, 1), [1] if task.classes else None)
  assert sheet.shape[1] >= size[1]
  assert sheet.shape[0] > size[0] + 20
  colors = task.picture(values, (0, 1))
  alpha = {'boundary': 0.25, 'saliency': 0.15}.get(task.kind, 0.55)
  if task.kind in ('boundary', 'saliency'):
    colors = np.full_like(image, color_lib.ORANGE)
  want = (1 - alpha) * image + alpha * colors
  np.testing.assert_allclose(sheet[: size[0], : size[1]], want, atol=0.51)
  below = sheet[size[0] :]
  assert (below < 200).any()
  assert (below[-1] == 255).all()
  assert (below[:, 0] == 255).all()


def test_uncertainty_is_brighter_where_it_is_higher():
  values = np.linspace(0, 2, 256, dtype=np.float32)[None].repeat(20, 0)
  sheet = panels.draw_uncertainty(NORMALS, values, 2.0)
  luma = sheet[0].astype(float) @ np.array([0.299, 0.587, 0.114])
  assert luma[0] < 10
  assert luma[255] > 200
  assert (np.diff(luma[:256]) > -2).all()
  # the bar below has the same colours
  bar = sheet[20 + 8 + 6, 8:248].astype(int)
  np.testing.assert_allclose(bar[2:-2], sheet[0, np.linspace(0, 255, 240).round().astype(int)][2:-2], atol=12)


def test_panel_with_uncertainty_has_a_row_and_scales_more():
  image, rows = np.zeros((160, 160, 3), np.uint8), [('Mean', {'depth': np.ones((160, 160), np.float32)})]
  plain = panels.panel(image, (DEPTH,), rows)
  spread = np.full((40, 40), 3, np.float32)
  sheet = panels.panel(image, (DEPTH,), rows, {'depth': (0, 2)}, {'depth': (spread, 3.0)})
  assert len(sheet) > len(plain) + 160 + 20
  brightest = color_lib.heat(np.ones(1), (0, 1), 14)[0]  # 14: inferno
  assert (sheet == brightest).all(-1).sum() >= 160 * 160
  half = DEPTH.picture(np.ones((1, 1), np.float32), (0, 2))[0, 0]
  assert (sheet == half).all(-1).sum() >= 160 * 160


def test_suggestions_of_a_task_share_their_scale_and_its_classes_are_named():
  image, road = np.zeros((160, 160, 3), np.uint8), np.zeros((160, 160), np.uint8)

  def suggest(task, values, uncertainty):
    return panels.Suggestion('1. name', task, image, values, np.full((160, 160), uncertainty, np.float32))

  low, high = (suggest(DEPTH, np.ones((160, 160), np.float32), uncertainty) for uncertainty in (0.5, 1))
  sheet = panels.suggestion_sheet([low, high])
  for column, level in ((2, 0.5), (5, 1)):
    assert (tile(sheet, 0, column) == color_lib.heat(np.full(1, level), (0, 1), 14)[0]).all()
  assert (tile(sheet, 0, 0)[:-20] == 0).all()
  assert (tile(sheet, 0, 0)[-18:] > 200).any()  # the title
  assert len(panels.suggestion_sheet([low, high, low])) == len(sheet) + 166
  named = panels.suggestion_sheet([suggest(SEMSEG, road, 1)] * 2)
  assert len(sheet) < len(named) < len(sheet) + 60
  assert tuple(color_lib.palette()[0]) in color_set(named[-50:])
  assert tuple(color_lib.palette()[1]) not in color_set(named[-50:])  # no car is there


def test_a_panel_shows_scores_and_explains_decayed():
  image, maps = np.zeros((160, 160, 3), np.uint8), {'depth': np.ones((160, 160), np.float32)}
  plain = panels.panel(image, (DEPTH,), [('Final', maps)])
  scored = panels.panel(image, (DEPTH,), [('Final', maps)], scores={('Final', 'depth'): 'absErr 0.5'})
  assert (tile(plain, 0, 1)[:-18] == tile(scored, 0, 1)[:-18]).all()
  assert (tile(plain, 0, 1)[-18:] != tile(scored, 0, 1)[-18:]).sum() > 500
  assert len(panels.panel(image, (DEPTH,), [('Decayed', maps)])) == len(plain) + 20


def test_change_is_blue_where_denoising_helped_and_orange_where_it_harmed():
  label = np.zeros((160, 160, 1), np.uint8)
  label[:, 120:] = 255
  wrong = np.ones((160, 160), np.uint8)
  before, after = wrong.copy(), wrong.copy()
  before[:, 40:80] = 0  # right, and then wrong
  after[:, :40] = 0  # wrong, and then right
  rows = [('Ground truth', {'semseg': label}), ('Initial', {'semseg': before}), ('Denoised', {'semseg': after})]
  image = np.zeros((160, 160, 3), np.uint8)
  sheet = panels.panel(image, (SEMSEG, DEPTH), rows, change=('Initial', 'Denoised'))
  assert len(sheet) == len(panels.panel(image, (SEMSEG, DEPTH), rows)) + 166
  inside = tile(sheet, 3, 1)[1:-1]
  for columns, color in [((1, 40), color_lib.BLUE), ((40, 80), color_lib.ORANGE), ((80, 120), color_lib.PAPER)]:
    assert (inside[:, slice(*columns)] == color).all(), color
  assert set(np.unique(inside[:, 120:-1])) == {206, 228}  # hatched: no label
  assert {color_lib.BLUE, color_lib.ORANGE} <= color_set(tile(sheet, 3, 0))  # the key
  np.testing.assert_array_equal(tile(sheet, 3, 2), panels._unlabelled_tile((160, 160)))


@pytest.mark.parametrize('task', [SALIENCY, BOUNDARY], ids=lambda task: task.name)
def test_a_scale_of_probabilities_can_end_below_one(task):
  image = np.full((4, 4, 3), 100, np.uint8)
  share = np.array([[0, 0.03125, 0.0625, 0.125]] * 4, np.float32)
  for draw in (task.picture, lambda *args: task.overlay_prediction(image, *args)):
    np.testing.assert_array_equal(draw(share, (0, 0.0625)), draw(np.minimum(16 * share, 1)))
  assert task.key((0, 0.0625)).high == 'probability 0.062'
  assert task.key().high == 'probability 1'
  assert task.spread_limit((0, 0.0625)) == 0.03125


@pytest.mark.parametrize('task, wrong, right', [
  (SALIENCY, 0.75, 1.0), (BOUNDARY, 0.75, 1.0), (DEPTH, 2.25, 2.0), (NORMALS, [0, 0.5**0.5, 0.5**0.5], [0, 0, 1.0]),
], ids=lambda x: getattr(x, 'name', ''))  # fmt: skip
def test_change_of_numbers_is_as_strong_as_it_is_large(task, wrong, right):
  """Half of a probability's scale, half of a depth's (a tenth of 5 m) and all of a normal's (45 degrees)."""
  full = lambda value: np.full((4, 4, 3), value, np.float32) if task is NORMALS else np.full((4, 4), value, np.float32)
  label = full(right).reshape(4, 4, -1)
  strength = 1.0 if task is NORMALS else 0.5
  for before, after, color in [(wrong, right, color_lib.BLUE), (right, wrong, color_lib.ORANGE)]:
    drawn = panels.draw_change(task, full(before), full(after), label, (1, 5) if task is DEPTH else None)
    want = 255 + strength * (np.array(color) - 255)
    np.testing.assert_allclose(drawn, np.broadcast_to(want, drawn.shape), atol=1)


@pytest.mark.parametrize('first', ['Ground truth', 'Initial'])
def test_the_first_column_is_the_photograph_and_then_overlays(first):
  image = np.full((160, 160, 3), 90, np.uint8)
  maps = {'depth': np.full((160, 160), 2, np.float32), 'semseg': np.zeros((160, 160), np.uint8)}
  sheet = panels.panel(image, (DEPTH, SEMSEG), [(first, maps), ('Denoised', maps)])
  assert (tile(sheet, 0, 0) == image).all()
  np.testing.assert_array_equal(tile(sheet, 1, 0), SEMSEG.overlay_prediction(image, maps['semseg']))
  limits = {'depth': (1, 3)}
  no_classes = panels.panel(image, (DEPTH,), [(first, maps), ('Denoised', maps)], limits)
  np.testing.assert_array_equal(tile(no_classes, 1, 0), DEPTH.overlay_prediction(image, maps['depth'], (1, 3)))


def test_depth_rows_share_the_scale_of_the_ground_truth():
  depth = np.full((160, 160), 5, np.float32)
  rows = [('Ground truth', {'depth': np.linspace(1, 9, 160, dtype=np.float32)[:, None, None].repeat(160, 1)})]
  sheet = panels.panel(np.zeros((160, 160, 3), np.uint8), (DEPTH,), [*rows, ('Denoised', {'depth': depth})])
  limits = DEPTH.limits(rows[0][1]['depth'])
  color = DEPTH.picture(depth[:1, :1], limits)[0, 0]
  assert (sheet == color).all(-1).sum() > 150 * 160


@pytest.mark.parametrize('share', [0.55, np.linspace(0, 1, 150).reshape(50, 3, 1)])
def test_colours_are_blended_over_an_image_in_their_share(share):
  image, colors = np.random.default_rng(0).integers(0, 256, (2, 50, 3, 3), np.uint8)
  expected = image.astype(float) + share * (colors.astype(float) - image)
  error = np.abs(color_lib.overlay(image, colors, share) - expected).max()
  assert error < 0.503  # OpenCV adds 1e-5 to the sum of weights


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (60, 70)])
def test_a_picture_is_the_same_for_pillow_and_for_opencv(tmp_path, size):
  picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  path = tmp_path / 'deep' / 'a.png'
  png.save_png(path, picture[:, ::-1])
  np.testing.assert_array_equal(np.asarray(Image.open(path)), picture[:, ::-1])
  np.testing.assert_array_equal(cv2.imread(str(path)), picture[:, ::-1, ::-1])
  assert [p.name for p in path.parent.iterdir()] == ['a.png']
