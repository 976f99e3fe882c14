"""Partly annotated class maps: what annotated.json means, the loss of a union of classes, metrics of what is known."""

import json
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.datasets import folder
from dmtl_jax.draw import colors, panels
from dmtl_jax.jobs import check
from dmtl_jax.metrics.base import merge
from dmtl_jax.models import losses, xtc
from dmtl_jax.runs import run_tasks
from dmtl_jax.tasks import make_task, semseg
from dmtl_jax.tasks.parsing import Parsing
from dmtl_jax.tasks.semseg import Semseg

CLASSES = ('sky', 'road', 'car', 'tree')
WHOLE = make_task('semseg', 'semseg', CLASSES)
PARTLY = Semseg('semseg', CLASSES, annotated=((1,), (1, 2)))  # 4: not road; 5: neither road nor car
OUTSIDE = {4: (0, 2, 3), 5: (0, 3)}


# --- The file --------------------------------------------------------------------------------


def write(root, annotated, labels: dict, split='train', **entry):
  """A data set of one task; `annotated` is the content of annotated.json, None for none."""
  (root / split / 'images').mkdir(parents=True)
  place = root / split / 'labels/semseg'
  place.mkdir(parents=True)
  (root / 'dataset.json').write_text(json.dumps({'tasks': {'semseg': {'classes': CLASSES} | entry}}))
  if annotated is not None:
    (place / 'annotated.json').write_text(annotated if isinstance(annotated, str) else json.dumps(annotated))
  for name, label in labels.items():
    Image.fromarray(np.uint8(label)).save(place / f'{name}.png')
    Image.fromarray(np.full((*np.shape(label), 3), 90, np.uint8)).save(root / split / f'images/{name}.png')
  return root


def read(root, split='train'):
  """The task and the labels by image."""
  source = folder.open_folder(str(root), split)
  return source.tasks[0], {id: source[i]['labels']['semseg'][..., 0] for i, id in enumerate(source.ids)}


def test_values_of_partly_annotated_labels(tmp_path):
  row = [[0, 1, 2, 3, 7, 200, 254, 255]]
  annotated = {'b': ['road'], 'c': ['car', 'road'], 'd': ['tree', 'road', 'sky'], 'e': list(CLASSES)}
  labels = {'a': [[0, 1, 2, 3, 255, 200]], 'b': row, 'c': row, 'd': row, 'e': [[0, 3, 254, 255]]}
  task, read_labels = read(write(tmp_path, annotated, labels, ignore=200))
  assert task.annotated == ((1,), (1, 2))
  assert read_labels['a'].tolist() == [[0, 1, 2, 3, 255, 255]]  # not listed
  assert read_labels['b'].tolist() == [[4, 1, 4, 4, 4, 255, 4, 255]]
  assert read_labels['c'].tolist() == [[5, 1, 2, 5, 5, 255, 5, 255]]
  assert read_labels['d'].tolist() == [[0, 1, 2, 3, 2, 255, 2, 255]]  # only one class is left
  assert read_labels['e'].tolist() == [[0, 3, 255, 255]]  # no class is left


def test_of_two_classes_the_other_one_is_left(tmp_path):
  root = write(tmp_path, {'a': ['road']}, {'a': [[0, 9, 255]]}, classes=['other', 'road'], positive=9)
  task, labels = read(root)
  assert task.annotated == ()
  assert labels['a'].tolist() == [[0, 1, 255]]


def test_names_in_either_unicode_form(tmp_path):
  label = unicodedata.normalize('NFC', 'é')
  root = write(tmp_path, {unicodedata.normalize('NFD', 'é'): ['road']}, {label: [[0, 1]]})
  assert read(root)[1][label].tolist() == [[4, 1]]


def test_a_changed_list_is_read_again(tmp_path):
  root = write(tmp_path, {'a': ['road']}, {'a': [[9, 1]]})
  assert read(root)[1]['a'].tolist() == [[4, 1]]
  (root / 'train/labels/semseg/annotated.json').unlink()
  with pytest.raises(UserError, match='a.png: holds class id 9'):
    read(root)


@pytest.mark.parametrize('content, words', [
    ('[]', 'must map names of images to lists of classes'),
    ('{', 'not JSON'),
    ({'a': 'road'}, '"a" must be a list of class names'),
    ({'a': [1]}, '"a" must be a list of class names'),
    ({'a': []}, '"a" lists no class'),
    ({'a': ['raod']}, "\"a\": 'raod' is none of sky, road, car, tree; did you mean road"),
    ({'a.png': ['road']}, '"a.png": no label of this name lies beside it'),
    ({'\x1b[2J': ['road']}, 'no label of this name'),
])  # fmt: skip
def test_a_wrong_list_is_refused_in_a_sentence(content, words, tmp_path):
  with pytest.raises(UserError) as caught:
    read(write(tmp_path, content, {'a': [[0, 1]]}))
  message = str(caught.value)
  assert words in message
  assert message.startswith(f'{tmp_path}/train/labels/semseg/annotated.json')
  assert message.isprintable()


def test_more_sets_than_ids_are_refused(tmp_path):
  names = [f'c{i}' for i in range(252)]
  root = write(tmp_path, {f'{i}': [f'c{i}'] for i in range(3)}, {f'{i}': [[i]] for i in range(3)}, classes=names)
  with pytest.raises(UserError, match='3 sets of annotated classes, 2 fit; list the same classes for more images'):
    read(root)


def test_kinds_without_classes_have_no_such_file(tmp_path):
  write(tmp_path, {'a': ['road']}, {'a': [[0, 1]]})
  (tmp_path / 'dataset.json').write_text('{"tasks": {"semseg": {"kind": "saliency"}}}')
  with pytest.raises(UserError, match='annotated.json: saliency has no classes to list'):
    read(tmp_path)


def test_check_shows_them_and_counts_other_classes_ids(tmp_path, monkeypatch):
  monkeypatch.setattr(check.recipe, 'lines', lambda *_: [])  # test_recipe.py
  root = write(tmp_path, {'a': ['road']}, {'a': [[1, 2, 3, 254] * 20] * 40})
  write(root, {'v': ['sky', 'road']}, {'v': [[0, 254] * 40] * 40}, split='val')
  config = folder_config.get_config()
  config.data.path, config.data.size = str(root), (40, 80)
  report = check.examine(config, str(tmp_path / 'page.png'))
  assert (
    'semseg: 1 labels, 100% of their pixels labelled: not road 75%, road 25%; nowhere: sky, car, tree\n' in report.text
  )
  assert '50% of the pixels are drawn as a class that annotated.json does not list for their image' in report.text
  assert 'not sky/road 50%' in report.text
  page = np.asarray(Image.open(report.picture)).reshape(-1, 3)
  assert (page == colors.palette()[4]).all(1).any()  # the swatch of *not road*


def test_sets_belong_to_the_data_not_to_the_run(tmp_path):
  """A run of data with sets fits data without them, and the reverse."""
  root = write(tmp_path, {'a': ['road']}, {'a': [[0, 1]]})
  config = folder_config.get_config()
  config.data.path = str(root)
  for run in (WHOLE, PARTLY):
    assert run_tasks.match(config, (run,), 'W').data.tasks == config.data.tasks


@pytest.mark.parametrize('annotated', [((),), ((4,),), ((2, 1),), ((1, 1),), ((0, 1, 2),)])
def test_a_task_has_proper_sets_of_its_classes(annotated):
  with pytest.raises(ValueError, match='annotated'):
    Semseg('semseg', CLASSES, annotated=annotated)


# --- The loss --------------------------------------------------------------------------------


def draw(shape=(2, 5, 7), seed=0, scale=3.0):
  """Logits and labels with every id, some unlabelled."""
  rng = np.random.default_rng(seed)
  logits = scale * rng.standard_normal((*shape, 4))
  return logits, rng.choice([0, 1, 2, 3, 4, 5, 255], (*shape, 1)).astype(np.uint8)


def summed_probabilities(logits, label, weights) -> float:
  """Sum over images of the mean of -log of the summed probabilities, pixel by pixel in float64."""
  total = 0.0
  for image, ids in zip(logits, label[..., 0]):
    terms = []
    for z, i in zip(image.reshape(-1, 4), ids.ravel().tolist()):
      if i != 255:
        p = np.exp(z) / np.exp(z).sum()
        weight = weights[i] if weights and i < 4 else 1
        terms.append(-weight * np.log(p[list(OUTSIDE.get(i, (i,)))].sum()))
    total += np.mean(terms)
  return total


@pytest.mark.parametrize('weights', [(), (0.5, 2.0, 0.0, 7.0)])
def test_the_loss_is_that_of_summed_probabilities_and_its_gradient_their_difference(weights):
  logits, label = draw((2, 3, 4))
  task = Semseg('semseg', CLASSES, annotated=PARTLY.annotated, class_weights=weights)
  loss, grad = jax.value_and_grad(lambda x: losses.task_loss(task, x, label).sum())(np.float32(logits))
  np.testing.assert_allclose(loss, summed_probabilities(logits, label, weights), rtol=1e-5)
  slopes = np.zeros_like(logits)
  for place in np.ndindex(logits.shape):
    step = np.zeros_like(logits)
    step[place] = 1e-5
    ends = [summed_probabilities(logits + sign * step, label, weights) for sign in (1, -1)]
    slopes[place] = (ends[0] - ends[1]) / 2e-5
  np.testing.assert_allclose(grad, slopes, atol=1e-6)


@pytest.mark.parametrize('z, expected', [(-40.0, np.exp(-40.0) / 3), (200.0, 200 - np.log(3))])
def test_small_and_large_losses_are_exact(z, expected):
  """Of one annotated class with logit z against three of 0."""
  label = np.full((1, 1, 1, 1), 4, np.uint8)
  logits = np.float32([0, z, 0, 0]).reshape(1, 1, 1, 4)
  loss, grad = jax.value_and_grad(lambda x: losses.task_loss(PARTLY, x, label)[0])(logits)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  p = 1 / (1 + 3 * np.exp(-z))
  np.testing.assert_allclose(grad.ravel(), [-p / 3, p, -p / 3, -p / 3], rtol=1e-5)


def test_without_sets_and_weights_the_compiled_loss_is_the_plain_one():
  logits, label = draw()
  whole = np.where(label < 4, label, 255).astype(np.uint8)
  valid = WHOLE.valid(whole)

  def plain(x):
    return semseg.cross_entropy(x, jnp.where(valid, whole[..., 0], 0))

  def lowered(pixel_loss):
    return jax.jit(lambda x: pixel_loss(x)).lower(np.float32(logits)).as_text()

  assert lowered(lambda x: WHOLE.pixel_loss(x, whole, valid)) == lowered(plain)
  assert lowered(lambda x: PARTLY.pixel_loss(x, whole, valid)) != lowered(plain)


def test_cross_task_labels_share_a_pixel_among_its_possible_classes():
  label = {'semseg': np.array([[[[2], [4], [5], [255]]]], np.uint8)[0][None]}
  slots = xtc.encode_labels((PARTLY,), label, np.ones((1, 1), bool), np.zeros(1, int))
  third = 1 / 3
  np.testing.assert_allclose(
    slots[0, 0], [[0, 0, 1, 0], [third, 0, third, third], [0.5, 0, 0, 0.5], [0, 0, 0, 0]], rtol=1e-6
  )


# --- Metrics, errors, pictures ---------------------------------------------------------------


def count_by_hand(pairs) -> dict[str, float]:
  """mIoU, pixelAcc and IoU by class, by looking at one pixel after the other."""
  hits, misses, alarms = (np.zeros(4) for _ in range(3))
  for prediction, label in pairs:
    for p, i in zip(prediction.ravel(), label.ravel()):
      if i < 4:
        hits[i] += p == i
        misses[i] += p != i
        alarms[p] += p != i
      elif i != 255:
        alarms[p] += p not in OUTSIDE[i]
  seen = hits + misses + alarms > 0
  iou = hits[seen] / (hits + misses + alarms)[seen]
  return {'mIoU': 100 * iou.mean(), 'pixelAcc': 100 * hits.sum() / (hits + misses).sum()}


def test_scores_count_what_is_known():
  metric = PARTLY.scorer()
  pairs = []
  for seed in range(4):
    label = draw((12, 15), seed)[1]
    pairs.append((np.random.default_rng(seed).integers(0, 4, (12, 15)).astype(np.uint8), label))
  state = metric.empty()
  for pair in pairs:
    state = merge(state, metric.image(*pair))
  assert metric.compute(state) == pytest.approx(count_by_hand(pairs))
  halves = merge(*(metric.image(pairs[0][0][rows], pairs[0][1][rows]) for rows in (slice(0, 5), slice(5, 12))))
  assert metric.compute(halves) == pytest.approx(count_by_hand(pairs[:1]))


def test_a_pixel_outside_a_set_scores_nothing_or_a_false_alarm():
  metric = PARTLY.scorer()
  label = np.uint8([[[4], [4], [1]]])
  sky, road, car = (metric.image(np.uint8([[c, c, 1]]), label) for c in (0, 1, 2))
  assert metric.per_class(sky) == pytest.approx(
    {'sky': np.nan, 'road': 100, 'car': np.nan, 'tree': np.nan}, nan_ok=True
  )
  assert metric.per_class(road)['road'] == pytest.approx(100 / 3)
  assert metric.compute(car) == metric.compute(sky)
  only = metric.image(np.uint8([[1]]), np.uint8([[[4]]]))
  assert metric.compute(only) == pytest.approx({'mIoU': 0, 'pixelAcc': np.nan}, nan_ok=True)
  unknown = metric.image(np.uint8([[0]]), np.uint8([[[4]]]))
  assert all(np.isnan(value) for value in metric.compute(unknown).values())


def test_only_known_errors_are_errors():
  label = np.uint8([[[0], [4], [4], [5], [5]]])
  prediction = np.uint8([[1, 1, 2, 2, 3]])
  np.testing.assert_array_equal(PARTLY.pixel_error(prediction, label), [[1, 1, 0, 1, 0]])


def test_an_unknown_part_is_no_body_part():
  task = Parsing('parsing', ('background', 'head', 'torso', 'leg'), annotated=((1,),))
  unknown, head = np.uint8([[[0], [4]]]), np.uint8([[[1], [4]]])
  assert (task.label_after_crop(unknown) == 255).all()
  assert task.label_after_crop(head) is head


def test_they_are_striped_in_a_colour_of_their_own_and_named():
  label = np.full((16, 16, 1), 4, np.uint8)
  label[8:] = 1
  picture = PARTLY.picture(label)
  own = tuple(colors.palette()[4].tolist())
  assert {tuple(c.tolist()) for c in picture[:8].reshape(-1, 3)} == {own, colors.PAPER}
  assert (picture[8:] == colors.palette()[1]).all()
  assert panels._present(PARTLY, [('Ground truth', {'semseg': label})]) == [1, 4]
  assert [name for name, _ in PARTLY.key(present=[1, 4, 5]).entries] == ['road', 'not road', 'not road/car']
  assert [name for name, _ in PARTLY.key().entries] == list(CLASSES)
