"""Config strings and the command line: what is accepted, and what an error says."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from dmtl_jax import configs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import check, common
from dmtl_jax.models import build_model
from dmtl_jax.runs import workdir
from dmtl_jax.tasks import make_task

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_defaults():
  config = common.base(None)
  assert (config.method, config.model.steps, config.model.heads) == ('prediction', 2, 1)
  assert config.data.labels == 'one'


@pytest.mark.parametrize('arg, condition', [
    ('method=prediction', 'predictions'), ('method=feature', 'concat'), ('method=feature,condition=features', 'features'),
    ('method=no_condition,condition=concat', 'none'),
])  # fmt: skip
def test_the_condition_is_the_methods_own_unless_given(arg, condition):
  assert common.base(arg).model.condition == condition


def test_the_paper_starts_at_random_with_one_rate_and_the_small_configs_do_not():
  for name in ('pascal', 'nyud', 'cityscapes'):
    config = importlib.import_module(f'dmtl_jax.configs.{name}').get_config()
    assert (config.model.initial_weights, config.optim.denoiser_fan_in, config.initial_loss) == ('paper', 0, 0.5)
  for name in ('scenes', 'folder'):
    get_config = importlib.import_module(f'dmtl_jax.configs.{name}').get_config
    assert get_config().model.initial_weights == 'identity' and get_config().optim.denoiser_fan_in
    assert get_config().initial_loss == 0.25 and get_config('method=mti_net').initial_loss == 1
    released = get_config('preset=released')
    assert (released.model.initial_weights, released.initial_loss) == ('released', 0.5)


def test_an_older_run_is_read_as_it_was_trained():
  old = common.upgraded({'data': {'name': 'scenes'}, 'eval': {'protocol': 'pascal'}, 'method': 'prediction'})
  assert (old['model']['initial_weights'], old['optim']) == ('paper', {'denoiser_fan_in': 0, 'part_lr': {}})
  assert old['initial_loss'] == 0.5 and not old['data']['simple'] and old['eval']['protocol'] == 'plain'
  asked = {'protocol': 'pascal', 'geometry': 'fit'}  # by a run of today
  for name, scores in (('pascal', {'protocol': 'pascal'}), ('folder', asked)):
    assert common.upgraded({'data': {'name': name}, 'eval': scores})['eval']['protocol'] == 'pascal'


def test_released_preset_switches_every_point_of_the_table():
  model = common.base('method=feature,preset=released').model
  assert model.condition == 'concat' and model.stop_condition and model.posterior
  assert model.heads == 4 and model.step_offset == 1 and model.initial_weights == 'released'


def test_ablations_are_prediction_diffusion_with_one_change():
  base = common.base('method=prediction')
  for method, field, value in [('no_diffusion', 'add_noise', False), ('no_condition', 'condition', 'none')]:
    config = common.base(f'method={method}')
    changed = {k for k in config.model if config.model[k] != base.model[k]}
    assert changed == {field} and config.model[field] == value and config.method == method


def test_a_flag_alone_names_the_method():
  """The network is that of config.method, whatever the other fields were made for."""
  task = make_task('depth', 'depth')
  for method, field, value in [
    ('feature', 'predictions', False),
    ('no_diffusion', 'add_noise', False),
    ('no_condition', 'condition', 'none'),
  ]:
    config = common.base('method=prediction')
    config.method = method
    assert getattr(build_model(config, (task,)), field) == value


@pytest.mark.parametrize('stored, method', [
    (dict(method='feature', model=dict(method='feature')), 'feature'),
    (dict(method='no_diffusion', model=dict(method='prediction', add_noise=False)), 'no_diffusion'),
    (dict(method='prediction', model=dict(method='feature')), 'feature'),  # by --config.model.method
    (dict(model=dict(method='xtc')), 'xtc'),
    (dict(method='ss', model={}), 'ss'),
])  # fmt: skip
def test_a_config_of_an_older_run_is_read(stored, method, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  config = workdir.read_config(tmp_path)
  assert config.method == method and 'method' not in config.model
  before, now = (workdir.flatten(c.to_dict()) for c in (config, common.base(f'method={method}')))
  assert before.pop('data.size') == tuple(now.pop('data.size')) and before == now  # and goes on where it stopped
  assert build_model(config, (make_task('depth', 'depth'), make_task('normals', 'normals')))


@pytest.mark.parametrize(
    'arg, message',
    [('methd=feature', "'methd=feature' is not KEY=VALUE"), ('feature', 'is not KEY=VALUE'), ('steps=two', 'whole number'),
     ('preset=paperr', 'preset is paper or released')],
)  # fmt: skip
def test_bad_config_strings(arg, message):
  with pytest.raises(ValueError, match=message):
    common.parse(arg)


@pytest.mark.parametrize('name', ['scenes', 'folder', 'pascal', 'nyud', 'cityscapes'])
def test_every_config_builds_a_model(name):
  config = importlib.import_module(f'configs.{name}').get_config('method=feature,steps=3')
  assert build_model(config, (make_task('depth', 'depth'),)).steps == 3


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--config=configs/folder.py'], '--workdir'),
    (['--config=configs/folder.py', '--workdir={tmp}'], 'config.data.path is empty'),
    (['--mode=evaluate', '--workdir={tmp}/none'], 'config.json: no such file'),
    (['--config=configs/folder.py:metod=1', '--workdir={tmp}'], 'is not KEY=VALUE'),
    (['--mode=evaluate', '--workdir={tmp}', '--config.eval.steps=3'], 'must name the folder of a trained run'),
    (
      ['--config=configs/folder.py', '--config.optm.lr=1'],
      'config.optm.lr: no such field; did you mean --config.optim.lr',
    ),
    (['--config', 'configs/folder.py', '--config.eval.stepz=1'], 'did you mean --config.eval.steps?'),
    # Any task's score may be given, also of a folder whose tasks are not known yet.
    (
      ['--config=configs/folder.py', '--config.eval.single_task.trees=50.3', '--workdir={tmp}'],
      'config.data.path is empty',
    ),
    (['--config=configs/folder.py', '--config.eval.single_task.trees=x'], 'eval.single_task must be a number for each'),
    (['--config=configs/folder.py', '--config.eval.weights=last'], 'eval.weights must be one of best, latest'),
    (
      ['--config=configs/folder.py', '--config.train.batch=0', '--workdir={tmp}'],
      'train.batch must be a whole number from 1',
    ),
    (['--config=configs/scene.py', '--workdir={tmp}'], 'configs/scene.py: no such file; did you mean scenes, of'),
    (['--mode=predict', '--workdir={tmp}'], '--images'),
  ],
)
def test_errors_are_one_sentence(arguments, message, tmp_path):
  command = [sys.executable, 'main.py', *(a.format(tmp=tmp_path) for a in arguments)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert message in done.stderr and 'Traceback' not in done.stderr, done.stderr


def test_a_config_goes_by_its_name_where_there_is_no_such_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for text in ('scenes', 'configs/scenes', 'configs/scenes.py', 'configs/scenes.py:steps=3'):
    path, _, arguments = configs.find(text).partition(':')
    assert os.path.samefile(path, ROOT / 'configs/scenes.py') and arguments == text.partition(':')[2]
  (tmp_path / 'scenes.py').touch()
  assert configs.find('scenes:method=feature') == 'scenes.py:method=feature'


@pytest.mark.parametrize(
  'path, closest',
  [
    ('lr', 'optim.lr'),
    ('data.sise', 'data.size'),
    ('dta.size', 'data.size'),
    ('model.steps.x', 'model.steps'),
    ('eval.single_taks.semseg', 'eval.single_task.semseg'),
    ('loss_weight.depth', 'loss_weights.depth'),
  ],
)
def test_a_field_that_is_none_is_told_with_the_closest(path, closest):
  values = common.base(None).to_dict()
  with pytest.raises(UserError, match=f'--config.{path}: no such field; did you mean --config.{closest}'):
    check.check_fields(['seed', 'eval.single_task.x', path], values)


def test_each_benchmark_is_scored_as_its_tables_are():
  load = lambda name: importlib.import_module(f'configs.{name}').get_config().eval
  weights = {name: load(name).weights for name in ('pascal', 'nyud', 'cityscapes', 'scenes', 'folder')}
  assert weights == dict(pascal='latest', nyud='best', cityscapes='best', scenes='best', folder='best')
  assert {name for name in weights if load(name).geometry == 'pad'} == {'pascal'}


def test_fields_that_an_older_run_lacks_are_its_data_sets():
  assert (
    common.defaults({'data': {'name': 'pascal'}})['eval']['geometry'] == 'pad'
    and common.defaults({'data': {'name': 'pascal'}})['loss_weights'] == {}
  )
  for name in ('rooms', '', '..', 'check', 'x.y'):
    assert common.defaults({'data': {'name': name}}) == common.base(None).to_dict()
