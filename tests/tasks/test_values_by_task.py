"""What config.loss_weights and config.eval.single_task give each task: by its name, then by its kind."""

import sys

import pytest

from dmtl_jax import cli
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder
from dmtl_jax.inference import evaluation
from dmtl_jax.tasks import check_keys, make_task, values_by_task
from dmtl_jax.training import setup, step
from tests import toy

EDGES, BOUNDARY = make_task('edges', 'boundary'), make_task('boundary', 'boundary')
DEPTH = make_task('depth', 'depth')


@pytest.mark.parametrize(
  'values, tasks, expected',
  [
    ({'boundary': 25.0}, (EDGES, DEPTH), {'edges': 25.0}),
    ({'boundary': 25.0, 'edges': 3.0}, (EDGES, DEPTH), {'edges': 3.0}),
    ({'boundary': 25.0, 'edges': 3.0}, (EDGES, BOUNDARY), {'edges': 3.0, 'boundary': 25.0}),
    ({'depth': 0.0}, (EDGES, DEPTH), {'depth': 0.0}),
    ({}, (EDGES,), {}),
  ],
)
def test_a_name_goes_before_a_kind(values, tasks, expected):
  assert values_by_task(values, tasks) == expected


def test_a_loss_is_weighed_by_the_kind_of_its_task():
  weights = step.task_weights(
    folder.get_config().loss_weights, (EDGES, DEPTH, make_task('rooms', 'semseg', ('a', 'b')))
  )
  assert weights.tolist() == [25, 1, 2]


def test_delta_m_takes_single_task_scores_by_kind():
  config = folder.get_config()
  config.eval.single_task.boundary = 50.0
  assert evaluation.delta_to_single({'edges': {'odsF': 55.0}}, config.eval.single_task, (EDGES,)) == pytest.approx(10)


@pytest.mark.parametrize('key', ['boundary', 'depht', 'saliency'])
def test_a_value_that_reaches_no_task_is_refused(key):
  with pytest.raises(UserError, match=f"config.x: '{key}' is none of edges, depth"):
    check_keys('config.x', [key], {key: 1.0, 'edges': 2.0}, (EDGES, DEPTH))


@pytest.fixture
def data(tmp_path):
  toy.write(tmp_path / 'toy', 1, 1, kinds={'edges': 'boundary'})
  return tmp_path / 'toy'


@pytest.mark.parametrize(
  'flag, refused',
  [
    ('loss_weights.boundary=25', None),
    ('loss_weights.edges=25', None),
    ('loss_weights.parsing=2', 'parsing'),
    ('eval.single_task.parsing=50', 'parsing'),
    ('eval.single_task.boundary=50', None),
  ],
)
def test_a_flag_that_reaches_no_task_is_refused_but_not_what_the_config_file_has(
  flag, refused, data, fresh_flags, monkeypatch
):
  arguments = ['main.py', '--mode=check', '--config=configs/folder.py', f'--config.data.path={data}']
  monkeypatch.setattr(sys, 'argv', [*arguments, f'--config.{flag}'])
  fresh_flags()
  if refused:
    with pytest.raises(UserError, match=f"'{refused}' is none of semseg, saliency, edges, normals, depth"):
      cli._parse(sys.argv)
  else:
    assert f'--config.{flag}' in cli._parse(sys.argv)


def test_scores_and_weights_of_a_config_are_checked_before_data_are_opened(data):
  config = folder.get_config()
  config.data.path = str(data)
  setup.check(config)
  config.eval.single_task.depth = 1.0
  with pytest.raises(UserError, match='a single-task score other than 0 for semseg, saliency, edges, normals'):
    setup.check(config)
  config.eval.single_task = {}
  config.loss_weights = dict.fromkeys(('semseg', 'saliency', 'boundary', 'normals', 'depth'), 0.0)
  with pytest.raises(UserError, match='every task has weight 0'):
    setup.check(config)
