"""Prediction of any image in Python."""

import jax
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.inference import forward
from dmtl_jax.inference.tiles import enlarge
from tests.predicting import photo, Pointwise, SAMPLES, softmax
from tests.tiny import SIZE, TASKS

pytestmark = pytest.mark.usefixtures('short_encoder')


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
    (dict(zoom='2'), '--zoom=2: give 1'),
    (dict(samples=0), '--samples=0: give the number of noise draws, a whole number from 1'),
    (dict(samples=2.0), '--samples=2.0: give'),
    (dict(samples=[2]), r'--samples=\[2\]: give'),
    (dict(samples=True), '--samples=True: give'),
  ],
)
def test_options_out_of_range(predictor, options, message):
  options = dict(samples=1, zoom=None) | options
  with pytest.raises(UserError, match=message):
    predictor.check(**options)
  with pytest.raises(UserError, match=message):
    predictor.sample(photo(8, 8), **options)


@pytest.mark.parametrize('image', [photo(8, 8), [photo(8, 8)]])
@pytest.mark.parametrize('batch', [0, 2.5, None])
def test_a_batch_that_is_no_count(predictor, image, batch):
  with pytest.raises(UserError, match=f'batch={batch}: give the number of views to predict together'):
    predictor(image, batch=batch)


def test_counts_may_be_numpys(predictor):
  jax.tree.map(np.testing.assert_array_equal, predictor([photo(8, 8)], batch=np.int64(1)), [predictor(photo(8, 8))])
