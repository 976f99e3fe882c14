"""Reading whatever a person drops in, and tiles without seams."""

import unicodedata

import cv2
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import images, raw_maps, tiles
from tests.tiny import TASKS

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def saved(path, picture, **options):
  Image.fromarray(picture).save(path, **options)
  return path


def test_finds_files_folders_and_globs_each_once_and_in_order(tmp_path):
  (tmp_path / 'deep').mkdir()
  for name in ('b.png', 'a.JPG', 'deep/c.webp', 'notes.txt', '.hidden.png', 'walk.mp4', 'with, comma.png'):
    (tmp_path / name).touch()

  def names(spec):
    return [str(path.relative_to(tmp_path)) for path in images.find_images(spec)]

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


def test_broken_files_are_named(tmp_path):
  whole = saved(tmp_path / 'whole.jpg', RNG.integers(0, 256, (64, 64, 3), np.uint8)).read_bytes()
  (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.png').write_text('hello')
  (tmp_path / 'zero.jpg').touch()
  (tmp_path / 'bad.mp4').write_bytes(b'no video at all')
  saved(tmp_path / 'float.tif', np.zeros((4, 4), np.float32))
  for name, why in [
    ('cut.jpg', 'a damaged JPEG'),
    ('text.png', 'unknown format'),
    ('zero.jpg', 'the file is empty'),
    ('bad.mp4', 'not a readable video'),
    ('float.tif', 'floating-point'),
    ('absent.png', 'no such file'),
  ]:
    with pytest.raises(UserError, match=why) as error:
      list(images.Video(tmp_path / name) if images.is_video(name) else photographs.read_image(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)
    assert '\n' not in str(error.value)


def test_results_and_images_lie_apart(tmp_path):
  for name in ('a.png', 'maps/a.png', 'maps/semseg/b.png', 'other/c.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  for spec, out in (('', 'maps'), ('', ''), ('maps/a.png', 'maps'), ('**/*.png', 'maps'), ('other,maps', 'maps/new')):
    spec = ','.join(str(tmp_path / part) for part in spec.split(','))
    with pytest.raises(UserError, match='--out=.*could overwrite'):
      images.find_images(spec, tmp_path / out)
  apart = images.find_images(str(tmp_path / 'maps'), tmp_path / 'other')
  assert apart == [tmp_path / 'maps/a.png', tmp_path / 'maps/semseg/b.png']


def test_loops_of_links_are_refused(tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos/a.png').touch()
  (tmp_path / 'photos/again').symlink_to(tmp_path / 'photos')
  with pytest.raises(UserError, match='again: a link to a folder that it lies in'):
    images.find_images(str(tmp_path / 'photos/**/*.png'))


@pytest.mark.parametrize(
  'paths, names',
  [
    (['p/x.jpg', 'q/y.jpg'], ['x', 'y']),
    (['p/x.jpg', 'q/x.png', 'q/y.png'], ['p_x', 'q_x', 'y']),
    (['p/x.jpg', 'p/x.png', 'p/X.PNG'], ['x_jpg', 'x_png_1', 'X_PNG_2']),  # a disk may ignore case
    (['p/x.jpg', 'q/x.jpg', 'q/p_x.png'], ['p_x_jpg', 'q_x', 'q_p_x_png']),
    (['x/x.jpg', 'x/y/x.jpg', 'x/x.mp4'], ['x_jpg', 'y_x', 'x_mp4']),
  ],
)
def test_results_never_share_a_name(paths, names, tmp_path):
  assert images.result_names([tmp_path / path for path in paths]) == names


def test_names_of_results_are_in_one_unicode_form(tmp_path):
  """And those of two files that look alike differ."""
  composed, apart = (unicodedata.normalize(form, 'é') for form in ('NFC', 'NFD'))
  assert images.result_names([tmp_path / f'{apart}.png']) == [composed]
  names = images.result_names([tmp_path / f'{composed}.png', tmp_path / f'{apart}.png'])
  assert len(set(names)) == 2
  assert all(name.startswith(composed) for name in names)


def test_names_of_results_that_no_file_can_have(tmp_path):
  longest = 'ố' * 83 + 'xx'  # 251 bytes, and four of .png
  assert images.result_names([tmp_path / f'a/{longest}.png']) == [longest]
  with pytest.raises(UserError, match=f'a/{longest}.jpg: the name of its results, a_{longest}.png, is too long'):
    images.result_names([tmp_path / f'a/{longest}.jpg', tmp_path / f'b/{longest}.jpg'])


def test_what_the_python_api_takes(tmp_path):
  path = saved(tmp_path / 'a.png', COLORS)
  for image in (COLORS, jnp.asarray(COLORS), path, str(path), Image.fromarray(COLORS)):
    np.testing.assert_array_equal(images.as_rgb(image), COLORS)
  grey = COLORS[..., 0]
  for image in (grey, grey[..., None]):
    np.testing.assert_array_equal(images.as_rgb(image), np.stack([grey] * 3, -1))
  half = np.concatenate([COLORS, np.full((*grey.shape, 1), 102, np.uint8)], -1)
  np.testing.assert_allclose(images.as_rgb(half), 0.4 * COLORS + 0.6 * 255, atol=1)
  for image, message in [
    (COLORS / 255, r'float64 numbers; give uint8 from 0 to 255; \(255 \* image\)'),
    (COLORS.astype(np.uint16), 'uint16 numbers; give uint8 from 0 to 255$'),
    (COLORS.transpose(2, 0, 1), r'shape \[3, 6, 8\], with channels first; give image.transpose\(1, 2, 0\)'),
    (COLORS[None], r'shape \[1, 6, 8, 3\]'),
    (COLORS[..., :2], r'shape \[6, 8, 2\]; give one RGB image'),
    (None, 'not an image; give a path'),
    ({'image': COLORS}, 'not an image; give a path'),
    ([[1], [2, 3]], 'not an image; give a path'),
    ('https://host/a.jpg', "image: 'https://host/a.jpg' is an address"),
    (tmp_path, r'is not one image; give a list, sorted\(glob.glob'),
    (tmp_path / '*.png', r'is not one image; give a list, sorted\(glob.glob'),
    ('walk.mp4', 'walk.mp4: is a video'),
    (COLORS[:0], r'shape \[0, 8, 3\]'),
    (tmp_path / 'absent.png', 'no such file'),
  ]:
    with pytest.raises(UserError, match=message):
      images.as_rgb(image)


def test_a_video_that_ends_early_gives_its_frames_and_then_an_error(tmp_path):
  path = tmp_path / 'walk.avi'
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
  for _ in range(20):
    writer.write(RNG.integers(0, 256, (48, 64, 3), np.uint8))
  writer.release()
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  frames = []
  with pytest.raises(UserError, match=r'walk.avi: ends after \d+ of 20 frames'):
    frames.extend(images.Video(path))
  assert 5 <= len(frames) <= 12


# --- Tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(7, 10), (3, 4), (3, 9), (11, 4)])
@pytest.mark.parametrize('overlap', [0.0, 0.25, 0.7])
def test_tiles_that_agree_blend_to_the_whole(size, overlap):
  """The weights sum to one: tiles cut from a map give the map."""
  whole = RNG.standard_normal((*size, 2)).astype(np.float32)
  places = tiles.tile_corners(size, (3, 4), overlap)
  parts = [whole[top : top + 3, left : left + 4] for top, left in places]
  maps = tiles.blend(({'a': part, 'b': part[..., :1] * 2} for part in parts), places, size, (3, 4))
  np.testing.assert_allclose(maps['a'], whole, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(maps['b'], whole[..., :1] * 2, rtol=1e-4, atol=1e-6)
  tops, lefts = zip(*places)
  assert max(tops) == size[0] - 3
  assert max(lefts) == size[1] - 4
  assert len(set(places)) == len(places)


def test_tiles_that_disagree_blend_without_a_seam():
  """Tiles of values 0, 1, 2, ...: plain pasting would step by 1; the blend rises smoothly and stays between."""
  corners = tiles.tile_corners((32, 104), (32, 32), 0.25)
  maps = ({'x': np.full((32, 32, 1), left / 24, np.float32)} for _, left in corners)
  line = tiles.blend(maps, corners, (32, 104), (32, 32))['x'][..., 0]
  assert line.shape == (32, 104)
  np.testing.assert_allclose(line, line[:1].repeat(32, 0), atol=1e-5)
  steps = np.diff(line[0])
  assert 0 <= line[0, 0] < 1e-4
  assert abs(line[0, -1] - 3) < 1e-4
  assert steps.min() > -1e-5
  assert steps.max() < 0.35


def test_enlarged_maps_are_bilinear_whole_or_in_bands():
  maps = RNG.standard_normal((6, 8, 3)).astype(np.float32)
  whole = tiles.enlarge(maps, (6, 8), (37, 50), slice(None))
  np.testing.assert_allclose(whole, cv2.resize(maps, (50, 37)), atol=1e-5)
  bands = [tiles.enlarge(maps, (6, 8), (37, 50), slice(top, min(top + 5, 37))) for top in range(0, 37, 5)]
  np.testing.assert_array_equal(np.concatenate(bands), whole)


@pytest.mark.parametrize('size', [(37, 50), (5, 700), (1, 1)])  # 700 columns are padded to 1024
def test_predictions_are_activated_enlarged_maps(size, monkeypatch):
  monkeypatch.setattr(raw_maps, 'BAND', 1000)  # several bands
  maps = {('final', task.name): RNG.standard_normal((6, 9, task.channels)).astype(np.float32) for task in TASKS}
  raw = raw_maps.RawMaps(TASKS, maps, (4.5, 9), 1, (1, 0))
  for task in TASKS:
    enlarged = jnp.asarray(tiles.enlarge(maps['final', task.name], (4.5, 9), size, slice(None), (1, 0)))
    got = raw.prediction('final', task, size)
    np.testing.assert_allclose(got, task.activate(enlarged), atol=1e-5, err_msg=task.name)
    assert got.flags['C_CONTIGUOUS']
    if task.classes:
      soft = raw.prediction('final', task, size, probabilities=True)
      np.testing.assert_allclose(soft, task.soft_prediction(enlarged), atol=1e-5)


@pytest.mark.parametrize('kind', ['semseg', 'normals'])
def test_maps_of_images_of_many_sizes_share_programs(kind):
  task = next(task for task in TASKS if task.kind == kind)
  maps = {('final', task.name): np.zeros((6, 9, task.channels), np.float32)}
  raw = raw_maps.RawMaps((task,), maps, (6, 9), 1)
  programs = raw_maps._choose_class, raw_maps._widen, raw_maps._activate
  raw.predictions('final', (900, 1100))
  compiled = [program._cache_size() for program in programs]
  raw.predictions('final', (700, 1536))
  assert [program._cache_size() for program in programs] == compiled


def test_enlarged_maps_leave_the_padding_out():
  """A ramp over all cells, of which the image covers 4.5 x 3: its values at the pixels' centres."""
  maps = np.add.outer(10 * np.arange(6.0), np.arange(8.0))[..., None].astype(np.float32)
  enlarged = tiles.enlarge(maps, (4.5, 3), (9, 6), slice(2, 9))[:, 1:, 0]
  y, x = (np.arange(2, 9) + 0.5) / 2 - 0.5, (np.arange(1, 6) + 0.5) / 2 - 0.5
  np.testing.assert_allclose(enlarged, np.add.outer(10 * y, x), atol=1e-4)
