"""What evaluation notes of each image, against numbers worked out by hand."""

import numpy as np
import pytest

from dmtl_jax.inference import image_facts
from dmtl_jax.tasks import make_task
from tests import evaluation_stub as stub

SEMSEG = make_task('semseg', 'semseg', ('sky', 'road', 'car'))


def test_an_image_is_described_at_its_own_size_whatever_the_networks():
  image = np.full((10, 20, 3), 51, np.uint8)
  label = np.zeros((10, 20, 1), np.uint8)
  label[:, :5] = 255
  facts = image_facts.describe(image, {'semseg': label}, (SEMSEG,), np.array([100, 200]))
  assert facts == {'height': 100, 'width': 200, 'brightness': 51, 'sharpness': 0, 'semseg/labelled %': 75}


def test_blur_lowers_sharpness_and_darkness_does_not():
  grey = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint8)
  blurred = (grey[:-1, :-1] / 4 + grey[1:, :-1] / 4 + grey[:-1, 1:] / 4 + grey[1:, 1:] / 4).astype(np.uint8)
  assert image_facts.sharpness(blurred) < 0.7 * image_facts.sharpness(grey)
  assert image_facts.sharpness(grey // 4) == pytest.approx(image_facts.sharpness(grey), rel=0.02)


def test_the_largest_mistake_is_the_class_with_most_missed_pixels():
  confusion = np.array([[90, 6, 4], [0, 2, 8], [1, 1, 0]])
  assert image_facts.largest_mistake(confusion) == (0, 1, pytest.approx(10.0))
  confusion[0] = [100, 0, 0]
  assert image_facts.largest_mistake(confusion) == (1, 2, pytest.approx(80.0))
  assert image_facts.largest_mistake(np.diag([3, 4])) is None
  assert image_facts.largest_mistake(np.zeros((2, 2), int)) is None


@pytest.fixture(scope='module')
def evaluated():
  return stub.run(4, 3)


def test_the_confusion_of_a_set_is_counted_pixel_by_pixel(evaluated):
  counts = np.zeros((3, 3), int)
  evaluator, variables = stub.make(4, 3)
  for index in range(4):
    example = evaluator.stages(variables, index)
    np.add.at(counts, (example.labels['semseg'][..., 0], example.stages['final']['semseg']), 1)
  np.testing.assert_array_equal(evaluated.confusion['semseg'], counts)
  assert list(evaluated.confusion) == ['semseg']  # saliency has no class names


def test_a_row_says_what_its_image_is_like_and_what_it_misses(evaluated):
  evaluator, variables = stub.make(1, 1)
  example = evaluator.stages(variables, 0)
  row = evaluated.rows[0]
  assert row['brightness'] == pytest.approx(example.image @ [0.299, 0.587, 0.114] @ np.full(32, 1 / 32) @ np.full(24, 1 / 24), abs=1)  # fmt: skip
  assert (row['height'], row['width'], row['semseg/labelled %']) == (24, 32, 100)
  truth, guess = example.labels['semseg'][..., 0], example.stages['final']['semseg']
  missed = [((truth == c) & (guess != c)).sum() for c in range(3)]
  label = int(np.argmax(missed))
  assert row['semseg/most missed'] == stub.TASKS[0].classes[label]
  assert row['semseg/missed %'] == pytest.approx(100 * missed[label] / (truth == label).sum())
  assert row['saliency/most missed'] in ('background', 'saliency')
  assert 'depth/most missed' not in row


def test_periodic_evaluations_do_not_describe_images():
  evaluator, variables = stub.make(1, 1)
  evaluator.describes_images = False
  assert 'brightness' not in evaluator.run(variables).rows[0]
