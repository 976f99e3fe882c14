"""Images larger than the network: seen whole, in tiles, or both."""

import math

import jax
import numpy as np
import pytest

from dmtl_jax.data import transforms
from dmtl_jax.inference.tiles import enlarge
from tests.predicting import photo, Pointwise, SAMPLES
from tests.tiny import SIZE, TASKS

pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.mark.parametrize('size', [(256, 384), (512, 700), (130, 1000)])
def test_tiles_have_no_seams(predictor, monkeypatch, size):
  """Depth of a smooth image through tiles is as smooth as the image, and equal to it."""
  network = Pointwise(predictor, monkeypatch)
  y, x = (np.linspace(0, 1, n) for n in size)
  plane = np.add.outer(np.sin(3 * y), np.cos(2 * x)) * 60 + 128
  image = np.round(plane).astype(np.uint8)[..., None].repeat(3, -1)
  depth = predictor(image, zoom=float('inf'))['depth']
  assert network.calls > 3
  want = transforms.normalize_image(image).mean(-1)
  inner = np.s_[8:-8, 8:-8]  # beyond the outermost cells' centres nothing is interpolated
  np.testing.assert_allclose(depth[inner], want[inner], atol=0.02)
  for axis in (0, 1):
    bend = np.abs(np.diff(depth, 2, axis=axis))[inner].max()
    assert bend < 3 * 8 * np.abs(np.diff(plane, 2, axis=axis)).max() / 57 + 1e-3


@pytest.mark.parametrize(
  'size, zoom, calls',
  [
    *(((20, 30), None, 1), ((64, 96), None, 1), ((128, 192), None, 1), ((100, 190), None, 1)),
    *(((256, 384), None, 1 + 9), ((640, 960), None, 1 + 9)),  # whole, and twice as large
    *(((256, 384), 1, 1), ((256, 384), 2, 9)),
    ((64, 384), None, 1 + 7),  # filling the short side: 64 x 384
    ((10, 2000), None, 41),  # a strip; tiles at its own resolution
  ],
)
def test_when_tiles_are_used(predictor, monkeypatch, size, zoom, calls):
  """SIZE is 64 x 96."""
  network = Pointwise(predictor, monkeypatch)
  predictor(photo(*size), zoom=zoom)
  assert network.calls == calls


def test_whole_and_tiles_are_averaged_but_for_depth(predictor):
  image = photo(200, 300)
  both, whole, tiles = (predictor.raw(image, 1, zoom) for zoom in (None, 1, 2))
  assert both.extent == tiles.extent
  grid, extent = both.maps['final', 'depth'].shape[:2], both.extent
  cover = tuple(n * w / e for n, w, e in zip(grid, whole.extent, extent))
  for task in TASKS:
    large = enlarge(whole.maps['final', task.name], cover, grid, slice(None))
    want = large if task.kind == 'depth' else (large + tiles.maps['final', task.name]) / 2
    np.testing.assert_allclose(both.maps['final', task.name], want, atol=1e-5)


def test_a_view_that_is_padded_around_joins_tiles_where_the_image_is(predictor, monkeypatch):
  """A network that copies pixels: whole and tiles of a ramp are the ramp, however each of them is padded."""
  monkeypatch.setattr(predictor, 'geometry', 'pad')
  Pointwise(predictor, monkeypatch)
  image = np.repeat(np.linspace(0, 255, 240).astype(np.uint8)[:, None, None], 200, 1).repeat(3, 2)
  both, whole, tiles = (predictor.raw(image, 1, zoom) for zoom in (None, 1, 2))
  assert whole.origin[1] > 0
  assert both.origin == tiles.origin
  joined, seen = (raw.predictions('final', (240, 200)) for raw in (both, tiles))
  seen['depth'] = seen['depth'] / 2  # which is that of the whole image
  for name in ('depth', 'boundary'):
    inner = np.s_[40:-40, 40:-40]  # the whole image's cells are of 30 pixels, and half of some is padding
    np.testing.assert_allclose(joined[name][inner], seen[name][inner], rtol=0.02, atol=0.02)


@pytest.mark.parametrize('size', [(90, 121), (65, 200), (127, 97), (67, 50)])
@pytest.mark.parametrize('geometry', ['pad', 'fit'])
def test_tiles_show_each_pixel_at_its_place(predictor, monkeypatch, size, geometry):
  """Tiles of a network that averages 8x8 pixels give the averages of the image, also in the last rows and columns."""
  monkeypatch.setattr(predictor, 'geometry', geometry)
  Pointwise(predictor, monkeypatch)
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  view = predictor._view(image, 1.0)
  raw = predictor._join(view, predictor._predict_windows(view.windows, 1, 1), 1)
  rows, columns = (math.ceil(max(n, least) / 8) for n, least in zip(size, SIZE))
  spare = [(SIZE[i] - size[i]) // 2 if geometry == 'pad' and size[i] < SIZE[i] else 0 for i in (0, 1)]
  whole = np.zeros((8 * rows, 8 * columns))
  inside = np.s_[spare[0] : spare[0] + size[0], spare[1] : spare[1] + size[1]]
  whole[inside] = ((image / 255 - transforms.MEAN) / transforms.STD).mean(-1)
  want = whole.reshape(rows, 8, columns, 8).mean((1, 3))
  np.testing.assert_allclose(raw.maps['final', 'depth'][..., 0], want, atol=1e-5)
  assert raw.origin == tuple(n / 8 for n in spare)
  assert raw.extent == tuple(n / 8 for n in size)


def test_depth_of_a_strip_is_that_of_the_whole_image(predictor, monkeypatch):
  """In tiles the scene looks closer by their magnification, which training has divided depth by."""
  Pointwise(predictor, monkeypatch)
  strip = photo(SIZE[0], 8 * SIZE[1])
  of_tiles = predictor(strip, zoom=float('inf'))
  maps = predictor(strip)
  np.testing.assert_allclose(maps['depth'], 8 * of_tiles['depth'], rtol=1e-5)
  np.testing.assert_array_equal(maps['saliency'], of_tiles['saliency'])


@pytest.mark.parametrize('samples', [1, SAMPLES])
def test_frames_share_their_noise(predictor, samples):
  """So that the maps of a video do not flicker: a frame that follows its copy has the same maps, in tiles too."""
  frame = photo(150, 230)
  first = predictor.raw(frame, samples)
  predictor.raw(photo(150, 230, 1), samples)
  jax.tree.map(np.testing.assert_array_equal, predictor.raw(frame, samples).maps, first.maps)


def test_samples_and_tiles_together(predictor):
  maps, uncertainty = predictor.sample(photo(150, 230), SAMPLES)
  for task in TASKS:
    assert maps[task.name].shape[:2] == uncertainty[task.name].shape == (150, 230)
    assert np.isfinite(uncertainty[task.name]).all()
    assert uncertainty[task.name].max() > 0
  assert predictor._compile_for(SAMPLES)._cache_size() == 1  # for all sizes
