"""What tasks take from each other: conditions that are known to hear one task alone, or none."""

import jax
import numpy as np
import pytest

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference.evaluation import Evaluator, headline
from dmtl_jax.inference.prediction import load
from dmtl_jax.jobs import influence
from dmtl_jax.models import build_model
from tests.evaluation_stub import Rooms


@pytest.fixture(scope='module')
def predictor(tiny_run):
  """Its condition hears normals alone."""
  predictor = load(tiny_run)
  condition = predictor.variables['params']['conditioning']
  for task in predictor.tasks:
    if task.name != 'normals':
      condition[f'{task.name}_embed']['kernel'] = jax.numpy.zeros_like(condition[f'{task.name}_embed']['kernel'])
  predictor.config.eval.update(batch=2, workers=0)
  return predictor


def rooms(predictor):
  """Random labels of all the network's tasks but parsing."""
  return Rooms(5, tuple(predictor.config.data.size), predictor.tasks)


def test_only_what_the_condition_hears_matters(predictor):
  result = influence.measure(predictor, rooms(predictor), images=5)
  names = [task.name for task in predictor.tasks]
  assert list(result) == [influence.DENOISING, *names, influence.OTHERS, influence.ALL]
  scored = [name for name in names if name != 'parsing']
  heard = result['normals']
  assert heard['normals']
  assert heard['depth']
  for name in scored:
    assert all(result[other][name] == 0 for other in names if other != 'normals')
    assert result[influence.ALL][name] == heard[name]
    assert result[influence.OTHERS][name] == (0 if name == 'normals' else heard[name])
  assert '| normals | ' in influence.as_text(result)


def test_the_right_maps_are_those_of_any_evaluation(predictor):
  config, source = predictor.config, rooms(predictor)
  evaluator = Evaluator(
    build_model(config, source.tasks), source, sharding.make_mesh(), config.eval, config.data, 0, quick=True, limit=4
  )
  scores = evaluator.run(predictor.variables)[0]
  final, initial = (headline(scores[stage], source.tasks) for stage in ('final', 'initial'))
  found = influence.measure(predictor, source, images=4)[influence.DENOISING]
  assert found == pytest.approx(influence.gain(final, initial, source.tasks), rel=1e-4, nan_ok=True)


def test_of_one_image_nothing_is_exchanged(predictor):
  class Same(Rooms):
    def __getitem__(self, index):
      return super().__getitem__(0)

  source = Same(2, tuple(predictor.config.data.size), predictor.tasks)
  result = influence.measure(predictor, source, images=2)
  found = [result[influence.ALL][task.name] for task in predictor.tasks if task.name != 'parsing']
  assert found == pytest.approx([0] * len(found), abs=1e-3)


def test_gain():
  better = lambda name, higher: type('Task', (), {'name': name, 'higher_is_better': higher})
  tasks = [better('up', True), better('down', False), better('zero', True)]
  gain = influence.gain({'up': 11, 'down': 9, 'zero': 1}, {'up': 10, 'down': 10, 'zero': 0}, tasks)
  assert gain['up'] == pytest.approx(10)
  assert gain['down'] == pytest.approx(10)
  assert np.isnan(gain['zero'])


def test_needs_a_condition_and_two_images(predictor):
  with pytest.raises(UserError, match='1 images: 2 or more'):
    influence.measure(predictor, rooms(predictor), images=1)
  predictor.config.method = 'no_condition'
  with pytest.raises(UserError, match='no_condition denoises without a condition'):
    influence.measure(predictor, rooms(predictor), images=5)
