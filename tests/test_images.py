"""Reading whatever a person drops in, and tiles without seams."""

import cv2
import numpy as np
from PIL import Image
import pytest

from dmtl_jax import images
from dmtl_jax.errors import UserError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def saved(path, picture, **options):
  Image.fromarray(picture).save(path, **options)
  return path


def test_finds_files_folders_and_globs_each_once_and_in_order(tmp_path):
  (tmp_path / 'deep').mkdir()
  for name in ('b.png', 'a.JPG', 'deep/c.webp', 'notes.txt', '.hidden.png', 'walk.mp4', 'with, comma.png'):
    (tmp_path / name).touch()
  names = lambda spec: [str(p.relative_to(tmp_path)) for p in images.find_images(spec)]
  everything = ['a.JPG', 'b.png', 'deep/c.webp', 'walk.mp4', 'with, comma.png']
  assert names(str(tmp_path)) == everything
  assert names(f'{tmp_path}/*.png') == ['b.png', 'with, comma.png']
  assert names(f'{tmp_path}/**/*.webp') == ['deep/c.webp']
  assert names(f'{tmp_path}/b.png, {tmp_path}') == ['b.png', *(n for n in everything if n != 'b.png')]
  assert names(f'{tmp_path}/with, comma.png') == ['with, comma.png']
  assert names([tmp_path / 'b.png']) == ['b.png']


@pytest.mark.parametrize('spec, message', [('nowhere/*.jpg', "'nowhere/\\*.jpg' names no image"), (' , ', 'empty')])
def test_a_spec_that_names_nothing(spec, message):
  with pytest.raises(UserError, match=message):
    images.find_images(spec)


def test_exif_rotation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise to view
  path = saved(tmp_path / 'a.png', COLORS, exif=exif)
  np.testing.assert_array_equal(images.read_image(path), np.rot90(COLORS, -1))


def test_grey_and_16_bit(tmp_path):
  grey = COLORS[..., 0]
  np.testing.assert_array_equal(images.read_image(saved(tmp_path / 'g.png', grey)), grey[..., None].repeat(3, -1))
  deep = grey.astype(np.uint16) * 256 + 77
  assert cv2.imwrite(str(tmp_path / 'd.png'), deep)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'd.png'), grey[..., None].repeat(3, -1))
  assert cv2.imwrite(str(tmp_path / 'rgb.png'), COLORS[..., ::-1].astype(np.uint16) * 257)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'rgb.png'), COLORS)


def test_transparent_pixels_lie_on_white(tmp_path):
  alpha = np.zeros((6, 8, 1), np.uint8)
  alpha[:3] = 255
  path = saved(tmp_path / 'a.png', np.concatenate([COLORS, alpha], -1))
  expected = np.where(alpha == 255, COLORS, 255)
  np.testing.assert_array_equal(images.read_image(path), expected)


def test_palettes_are_looked_up(tmp_path):
  indexed = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode=None).convert('P')
  indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
  indexed.save(tmp_path / 'p.png', transparency=1)
  expected = [[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [10, 20, 30]]]
  np.testing.assert_array_equal(images.read_image(tmp_path / 'p.png'), expected)


def test_broken_files_are_skipped_and_told(tmp_path):
  good = saved(tmp_path / 'good.png', COLORS)
  whole = saved(tmp_path / 'whole.jpg', RNG.integers(0, 256, (64, 64, 3), np.uint8)).read_bytes()
  (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.png').write_text('hello')
  (tmp_path / 'bad.mp4').write_bytes(b'no video at all')
  saved(tmp_path / 'float.tif', np.zeros((4, 4), np.float32))
  names, broken = ['cut.jpg', 'text.png', 'bad.mp4', 'float.tif', 'absent.png', 'good.png'], []
  found = list(images.pictures([tmp_path / name for name in names], broken))
  assert [(path, name) for path, name, _ in found] == [(good, 'good')]
  np.testing.assert_array_equal(found[0][2], COLORS)
  assert [path.name for path, _ in broken] == names[:-1]
  reasons = ['truncated', 'unknown format', 'not a readable video', 'floating-point', 'no such file']
  assert all(str(path) in told and why in told for (path, told), why in zip(broken, reasons, strict=True))


def test_frames_of_a_video(tmp_path):
  path = tmp_path / 'walk.avi'
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
  colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
  for color in colors:
    writer.write(np.full((48, 64, 3), color[::-1], np.uint8))
  writer.release()
  found = list(images.pictures([path], []))
  assert [name for _, name, _ in found] == ['walk_000000', 'walk_000001', 'walk_000002']
  for (_, _, frame), color in zip(found, colors, strict=True):
    assert frame.shape == (48, 64, 3)
    np.testing.assert_allclose(frame.mean((0, 1)), color, atol=8)


@pytest.mark.parametrize('shape', [(70, 100), (24, 32), (10, 90), (11, 7), (25, 33)])
@pytest.mark.parametrize('overlap', [0.0, 0.25, 0.7])
def test_tiles_of_a_pointwise_model_give_the_whole(shape, overlap):
  """A model that looks at one pixel only sees no tiles: the blend must equal it everywhere."""
  image = RNG.integers(0, 256, (*shape, 3), np.uint8)
  sizes = set()

  def predict(tile):
    sizes.add(tile.shape)
    return {'rgb': tile.astype(np.float32), 'sum': tile.sum(-1, keepdims=True) / 3}

  maps = images.predict_tiled(predict, image, (24, 32), overlap)
  assert sizes == {(24, 32, 3)}
  np.testing.assert_allclose(maps['rgb'], image, rtol=1e-5)
  np.testing.assert_allclose(maps['sum'][..., 0], image.mean(-1), rtol=1e-5)


def test_tiles_that_disagree_blend_without_a_seam():
  """Tiles of values 0, 1, 2, ...: plain pasting would step by 1; the blend rises smoothly and stays between."""
  count = iter(range(100))
  predict = lambda tile: {'x': np.full((*tile.shape[:2], 1), next(count), np.float32)}
  line = images.predict_tiled(predict, np.zeros((32, 104, 3), np.uint8), (32, 32), 0.25)['x'][..., 0]
  assert line.shape == (32, 104)
  np.testing.assert_allclose(line, line[:1].repeat(32, 0), atol=1e-5)
  steps = np.diff(line[0])
  assert 0 <= line[0, 0] < 1e-4 and abs(line[0, -1] - 3) < 1e-4
  assert steps.min() > -1e-5 and steps.max() < 0.35


def test_finish_is_applied_to_blended_maps():
  image = RNG.integers(0, 256, (60, 50, 3), np.uint8)
  finish = lambda maps: {'ids': maps['x'].argmax(-1).astype(np.uint8)}
  ids = images.predict_tiled(lambda tile: {'x': tile.astype(float)}, image, (24, 24), 0.5, finish)['ids']
  assert ids.dtype == np.uint8
  np.testing.assert_array_equal(ids, image.argmax(-1))
