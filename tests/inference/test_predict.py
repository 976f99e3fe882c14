"""Prediction of any image: the Python API, the command, sampling and tiles."""

import io
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import dmtl_jax
from dmtl_jax.basics import photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.inference import forward, raw_maps, videos
from dmtl_jax.inference import images as images_lib
from dmtl_jax.inference.tiles import enlarge
from dmtl_jax.jobs import predict
from dmtl_jax.models import build_model
from tests.tiny import SIZE, TASKS, tiny_config

pytestmark = pytest.mark.usefixtures('short_encoder')
SAMPLES = 3


def photo(height, width, seed=0):
  """An image of soft blobs."""
  small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='module')
def predictor(tiny_run):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(forward, 'DRAWS', 2)  # so that three draws take two rounds, with one too many
    predictor = dmtl_jax.load(tiny_run)
    predictor.check(SAMPLES, None)
    yield predictor


@pytest.fixture(scope='module')
def draws(predictor):
  """Raw maps {task: [K, h, w, C]} of a photo of the training size, by the step that evaluation uses."""
  step = jax.jit(forward.make_forward_fn(predictor.model, predictor.seed))
  image = transforms.pad_image(photo(*SIZE), SIZE, (0, 0))[None]
  maps = [step(predictor.variables, image, jnp.full(1, k, jnp.int32))['final'] for k in range(SAMPLES)]
  return {task.name: np.stack([np.asarray(draw[task.name][0], np.float64) for draw in maps]) for task in TASKS}


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(task, draws):
  """Mean prediction (class distributions for classes) and uncertainty of draws [K, h, w, C], as README says."""
  if task.classes:
    p = softmax(draws).mean(0)
    return p, -(p * np.log(p)).sum(-1) / np.log(len(task.classes))
  if task.kind == 'normals':
    vectors = unit(draws)
    angles = np.degrees(np.arccos(np.clip((vectors * unit(vectors.mean(0))).sum(-1), -1, 1)))
    return unit(vectors.mean(0)), np.sqrt((angles**2).mean(0))
  values = {'saliency': lambda: softmax(draws)[..., 1], 'boundary': lambda: 1 / (1 + np.exp(-draws[..., 0])),
            'depth': lambda: draws[..., 0]}[task.kind]()  # fmt: skip
  return values.mean(0), values.std(0)


# --- The Python API --------------------------------------------------------------------------


def test_maps_have_the_images_size_and_the_promised_kinds(predictor, tmp_path):
  image = photo(50, 90)
  Image.fromarray(image).save(tmp_path / 'a.png')
  maps = predictor(image)
  assert list(maps) == [task.name for task in TASKS]
  for task in TASKS:
    values = maps[task.name]
    assert values.shape == ((50, 90, 3) if task.kind == 'normals' else (50, 90)), task.name
    assert values.dtype == (np.uint8 if task.classes else np.float32), task.name
    if task.classes:
      assert values.max() < len(task.classes)
    if task.kind in ('saliency', 'boundary'):
      assert values.min() >= 0
      assert values.max() <= 1
    if task.kind == 'normals':
      np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-4)
  many = predictor([tmp_path / 'a.png', Image.fromarray(image), photo(20, 33)])
  for task in TASKS:
    np.testing.assert_array_equal(many[0][task.name], maps[task.name])
    np.testing.assert_array_equal(many[1][task.name], maps[task.name])
    assert many[2][task.name].shape[:2] == (20, 33)


def test_an_image_of_the_training_size_is_predicted_as_in_evaluation(predictor):
  step = jax.jit(forward.make_predict_fn(predictor.model, predictor.seed))
  image = photo(*SIZE)
  batch = transforms.pad_image(image, SIZE, (0, 0))[None]
  want, got = step(predictor.variables, batch, np.zeros(1, np.int32))['final'], predictor(image)
  for task in TASKS:
    if task.classes:
      assert (got[task.name] == want[task.name][0]).mean() > 0.999
    else:
      np.testing.assert_allclose(got[task.name], want[task.name][0], atol=1e-4, err_msg=task.name)


@pytest.mark.parametrize('size', [(41, 70), (64, 51), (200, 300)])
def test_an_image_is_padded_around_as_in_evaluation(predictor, monkeypatch, size):
  """Of the raw maps of one view, since evaluation activates them enlarged to the padded size."""
  monkeypatch.setattr(predictor, 'geometry', 'pad')
  image = photo(*size)
  ready = transforms.eval_transform(predictor.config.data, 'pad', TASKS)({'image': image, 'labels': {}, 'index': 0})
  step = jax.jit(forward.make_predict_fn(predictor.model, predictor.seed))
  padded = transforms.pad_image(ready['image'], SIZE, ready['region'][:2])
  want = step(predictor.variables, padded[None], np.zeros(1, np.int32))['final']['depth'][0]
  top, left, height, width = ready['region']
  want = np.asarray(want)[top : top + height, left : left + width]
  got = predictor.raw(image, 1, 1).predictions('final', (height, width))['depth']
  assert (height, width) == size if max(size) < 100 else (height, width) == (64, 96)
  np.testing.assert_allclose(got, want, atol=1e-4)


SIZES = [(40, 50), (64, 96), (30, 200), (150, 230), (7, 9), (20, 300)]


def test_a_list_gives_the_maps_of_its_images(predictor):
  many = [photo(*size, seed) for seed, size in enumerate(SIZES)]
  compiled = predictor._compile_for(1)._cache_size()
  for image, maps in zip(many, predictor(many, batch=3), strict=True):
    for task in TASKS:
      want = predictor(image)[task.name]
      if task.classes:
        assert (maps[task.name] == want).mean() > 0.999
      else:
        np.testing.assert_allclose(maps[task.name], want, atol=1e-4)
  assert predictor._compile_for(1)._cache_size() <= compiled + 2  # of one view, and of three
  assert predictor([]) == []


@pytest.mark.parametrize('count, passes', [(8, [4, 4]), (7, [4, 4]), (5, [4, 1]), (1, [1])])
def test_views_are_predicted_together(predictor, monkeypatch, count, passes):
  """The last ones, padded, if they are more than half of a batch."""
  network = Pointwise(predictor, monkeypatch)
  predictor([photo(*SIZE)] * count, batch=4)
  assert network.batches == passes


def test_a_list_is_read_as_it_is_predicted(predictor, monkeypatch):
  Pointwise(predictor, monkeypatch)
  read = []
  raws = predictor.raw_of_many((read.append(i) or photo(*SIZE) for i in range(9)), batch=2)
  for done in range(1, 5):
    next(raws)
    assert len(read) <= done + 2


def test_a_long_list_shows_its_progress(predictor, monkeypatch, capsys):
  Pointwise(predictor, monkeypatch)
  predictor([photo(8, 8)] * 3)
  assert not capsys.readouterr().err
  predictor([photo(8, 8)] * 40)
  assert 'predicting 40/40 (100%)' in capsys.readouterr().err


def test_what_is_wrong_with_a_list_is_named(predictor):
  with pytest.raises(UserError, match=r'^image 2 of 3: float64 numbers'):
    predictor([photo(8, 8), photo(8, 8) / 255, photo(8, 8)])
  with pytest.raises(UserError, match='batch=0: give the number of views'):
    predictor([photo(8, 8)], batch=0)


def test_probabilities_are_calibrated_and_add_up(predictor):
  image = photo(30, 47)
  maps = predictor(image, probabilities=True)
  raw, ids = predictor.raw(image), predictor(image)
  for task in TASKS:
    if not task.classes:
      np.testing.assert_array_equal(maps[task.name], ids[task.name])
      continue
    logits = enlarge(raw.maps['final', task.name], raw.extent, (30, 47), slice(None), raw.origin)
    want = softmax(np.asarray(predictor.calibration.apply(task, logits), np.float64))
    np.testing.assert_allclose(maps[task.name], want, atol=1e-5)


def test_what_a_predictor_shows_of_itself(predictor):
  shown = repr(predictor)
  assert shown.startswith('<Predictor: prediction at step 7, 64x96: semseg (4 classes), parsing (3 classes), saliency')
  assert len(shown) < 200


def test_samples_of_a_list(predictor):
  many = [photo(30, 47), photo(50, 20, 1)]
  for image, (maps, uncertainty) in zip(many, predictor.sample(many, SAMPLES), strict=True):
    want, spread = predictor.sample(image, SAMPLES)
    jax.tree.map(np.testing.assert_array_equal, (maps, uncertainty), (want, spread))


def test_all_images_share_one_program(predictor, monkeypatch):
  predictor(photo(40, 40))
  compiled = predictor._compile_for(1)._cache_size()
  for size in ((31, 57), (200, 300), (1, 1), (400, 7)):
    predictor(photo(*size))
  assert predictor._compile_for(1)._cache_size() == compiled


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(zoom=0.5), '--zoom=0.5: give 1'),
    (dict(zoom=float('nan')), '--zoom=nan'),
    (dict(samples=0), '--samples=0: give a number'),
  ],
)
def test_options_out_of_range(predictor, options, message):
  with pytest.raises(UserError, match=message):
    predictor.check(**(dict(samples=1, zoom=None) | options))


# --- Sampling --------------------------------------------------------------------------------


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.name)
def test_mean_and_spread_against_plain_arithmetic(task):
  raw = 2 * np.random.default_rng(0).standard_normal((5, 6, 4, task.channels))
  mean, spread = by_hand(task, raw)
  average, variation = jax.jit(lambda x: (task.mean(x), task.sample_spread(x)))(np.float32(raw))
  if task.classes or task.kind == 'saliency':
    average = softmax(np.asarray(average, np.float64))
    average = average if task.classes else average[..., 1]
  elif task.kind == 'boundary':
    average = 1 / (1 + np.exp(-np.asarray(average, np.float64)[..., 0]))
  else:
    average = unit(np.asarray(average)) if task.kind == 'normals' else np.asarray(average)[..., 0]
  np.testing.assert_allclose(average, mean, atol=1e-5)
  np.testing.assert_allclose(variation[..., 0], spread, atol=1e-3 if spread.max() > 1 else 1e-5)


def test_spread_of_extreme_draws():
  """Draws that agree; that know nothing; that are sure of opposites; at right angles."""
  spreads = {task.kind: jax.jit(task.sample_spread) for task in TASKS}

  def spread(kind, *draws):
    return np.asarray(spreads[kind](jnp.float32(draws)[:, None, None]))

  same = np.random.default_rng(0).standard_normal(3)
  np.testing.assert_allclose(spread('parsing', [0, 0, 0], [0, 0, 0]), 1, atol=1e-6)
  np.testing.assert_allclose(spread('parsing', [99, 0, 0], [99, 0, 0]), 0, atol=1e-6)
  np.testing.assert_allclose(spread('parsing', [99, 0, 0], [0, 99, 0]), np.log(2) / np.log(3), atol=1e-6)
  np.testing.assert_allclose(spread('saliency', [99, 0], [0, 99]), 0.5, atol=1e-6)
  np.testing.assert_allclose(spread('boundary', [9], [9]), 0, atol=1e-6)
  np.testing.assert_allclose(spread('normals', [1, 0, 0], [0, 2, 0]), 45, atol=1e-3)
  np.testing.assert_allclose(spread('normals', same, same), 0, atol=1e-4)
  np.testing.assert_allclose(spread('depth', [3], [5]), 1, atol=1e-6)


def test_samples_are_the_mean_of_the_draws_of_evaluation(predictor, draws):
  raw = predictor.raw(photo(*SIZE), SAMPLES)
  assert set(raw.stages) == {'final', 'initial', 'uncertainty'}
  for task in TASKS:
    mean, spread = by_hand(task, draws[task.name])
    assert np.ptp(draws[task.name], 0).max() > 1e-3, f'{task.name}: equal draws prove nothing'
    if task.classes:
      np.testing.assert_allclose(softmax(raw.maps['final', task.name]), mean, atol=1e-4)
    np.testing.assert_allclose(
      raw.maps['uncertainty', task.name][..., 0], spread, atol=1e-4 * max(spread.max(), 1), err_msg=task.name
    )
  maps, uncertainty = predictor.sample(photo(30, 47), SAMPLES)
  for task in TASKS:
    assert uncertainty[task.name].shape == (30, 47)
    assert uncertainty[task.name].dtype == np.float32
    assert uncertainty[task.name].min() >= 0
    assert maps[task.name].shape[:2] == (30, 47)


def test_one_sample_is_the_prediction(predictor):
  image = photo(30, 47)
  maps, uncertainty = predictor.sample(image, 1)
  assert uncertainty is None
  jax.tree.map(np.testing.assert_array_equal, maps, predictor(image))


@pytest.mark.parametrize('method', ['mtl_baseline', 'no_diffusion'])
def test_methods_without_noise_say_so(method):
  config = tiny_config(f'method={method}')
  with pytest.raises(UserError, match='--samples=4: this method adds no noise'):
    forward.make_sample_fn(build_model(config, TASKS), 4, config.seed)


# --- Large images ----------------------------------------------------------------------------


class Pointwise:
  """Stands in for the network: each cell's maps are a function of its own 8x8 pixels."""

  def __init__(self, predictor, monkeypatch):
    self.calls = 0
    self.batches = []

    def step(variables, images):
      self.calls += 1
      self.batches.append(len(images))
      cells = np.asarray(images).reshape(-1, SIZE[0] // 8, 8, SIZE[1] // 8, 8, 3).mean((2, 4, 5))[..., None]
      return {'final': {task.name: np.repeat(cells, task.channels, -1) for task in TASKS}}

    monkeypatch.setattr(predictor, '_compile_for', lambda samples: step)


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


# --- The command -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('in')
  sizes = {'a/x.JPG': (40, 50), 'b/x.png': (30, 200), 'größe 大.png': (150, 120), 'dot.png': (1, 1)}
  for name, size in sizes.items():
    (path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(photo(*size)).save(path / name)
  (path / 'broken.png').write_bytes(b'not an image')
  with videos.VideoWriter(path / 'walk.webm', 10) as writer:
    for n in range(3):
      writer.write(photo(40, 60, n))
  return path


def test_the_command_writes_what_the_api_gives(tiny_run, predictor, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert predict.run(str(tiny_run), 'best', str(folder), str(out), SAMPLES) == 1  # one file was broken
  output = capsys.readouterr()
  assert output.err.count('skipped') == 1
  assert f'skipped: {folder}/broken.png' in output.err
  assert f'5 of 6 files predicted: panels in {out}' in output.out
  assert 'predicting' in output.err
  names = {'a_x': 'a/x.JPG', 'b_x': 'b/x.png', 'größe 大': 'größe 大.png', 'dot': 'dot.png'}
  assert {p.name for p in out.glob('*.*')} == {f'{name}.png' for name in names} | {f'walk{videos.suffix()}'}
  for name, file in names.items():
    maps, uncertainty = predictor.sample(folder / file, SAMPLES)
    for task in TASKS:
      for place, values in ((task.name, maps[task.name]), (f'uncertainty/{task.name}', uncertainty[task.name])):
        stored = values.astype(np.float16) if place == 'normals' else values
        np.testing.assert_array_equal(np.load(out / place / f'{name}.npy'), stored)
      shown = Image.open(out / task.name / f'{name}.png')
      assert shown.width >= maps[task.name].shape[1]
      assert shown.height > maps[task.name].shape[0]
      assert (out / 'uncertainty' / task.name / f'{name}.png').exists()
  for place in ('', *(task.name for task in TASKS)):
    assert len(list(images_lib.Video(out / place / f'walk{videos.suffix()}'))) == 3
  assert not [p for p in out.rglob('*') if p.name.startswith('.') or p.name.startswith('broken')]


def test_arrays_are_written_in_bands_as_numpy_writes_them(predictor, tmp_path, monkeypatch):
  monkeypatch.setattr(raw_maps, 'BAND', 150)
  raw = predictor.raw(photo(37, 50))
  predict.save(raw, (37, 50), {}, tmp_path, 'a')
  for task in TASKS:
    values = raw.prediction('final', task, (37, 50))
    stored = io.BytesIO()
    np.save(stored, values.astype(np.float16) if task.kind == 'normals' else values)
    assert (tmp_path / task.name / 'a.npy').read_bytes() == stored.getvalue()


@pytest.fixture
def loaded(predictor, monkeypatch):
  """The command finds the run restored."""
  monkeypatch.setattr(predict, 'load', lambda workdir, which: predictor)


def test_the_command_again_and_without_fault(tiny_run, loaded, folder, tmp_path, capsys):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'a.png').write_bytes((folder / 'dot.png').read_bytes())
  for _ in range(2):
    assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(tmp_path / 'maps')) == 0
    assert '1 of 1 files predicted' in capsys.readouterr().out
  assert np.load(tmp_path / 'maps' / 'depth' / 'a.npy').shape == (1, 1)
  assert not (tmp_path / 'maps' / 'uncertainty').exists()


def test_when_nothing_can_be_read(tiny_run, loaded, folder, tmp_path, capsys):
  assert predict.run(str(tiny_run), 'best', str(folder / 'broken.png'), str(tmp_path / 'out')) == 1
  output = capsys.readouterr()
  assert '0 of 1 files predicted' in output.out
  assert 'panels' not in output.out


def test_photographs_of_other_formats_are_counted_and_named(loaded, tiny_run, folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(photographs, 'extra_formats', lambda: ())
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'IMG_0.png').write_bytes((folder / 'dot.png').read_bytes())
  for name in ('IMG_1.HEIC', 'IMG_2.HEIC', 'IMG_0.HEIC'):  # a phone writes both of one picture
    (tmp_path / 'photos' / name).write_bytes(b'ftypheic')
  out = tmp_path / 'maps'
  assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(out)) == 1
  output = capsys.readouterr()
  assert '1 of 4 files predicted' in output.out
  assert (out / 'IMG_0.png').exists()
  assert output.err.count('skipped') == 1
  assert 'skipped: 3 of 4 files are HEIC (IMG_0.HEIC, IMG_1.HEIC, IMG_2.HEIC), which is not read' in output.err
  (tmp_path / 'photos' / 'IMG_0.png').unlink()
  with pytest.raises(UserError, match='--images: 3 of 3 files are HEIC'):
    predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(out))


def test_the_longest_names(loaded, tiny_run, folder, tmp_path):
  """255 bytes, as many as a file's name has."""
  (tmp_path / 'photos').mkdir()
  name = 'ố' * 83 + 'xx'
  (tmp_path / 'photos' / f'{name}.png').write_bytes((folder / 'dot.png').read_bytes())
  assert predict.run(str(tiny_run), 'best', str(tmp_path / 'photos'), str(tmp_path / 'maps')) == 0
  assert {path.stem for path in (tmp_path / 'maps').rglob('*.*')} == {name}


def test_a_folder_that_cannot_be_written(tiny_run, loaded, folder, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='file/maps: Not a directory; fix that.*: 0 of 1 images are new'):
    predict.run(str(tiny_run), 'best', str(folder / 'dot.png'), str(tmp_path / 'file' / 'maps'))
