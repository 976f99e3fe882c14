"""Config strings and the command line: what is accepted, and what an error says."""

import contextlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
from ml_collections import ConfigDict
import pytest

from dmtl_jax import cli, cli_flags, configs
from dmtl_jax.basics import accelerators
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import check, common, fields
from dmtl_jax.data import source
from dmtl_jax.jobs import train
from dmtl_jax.metrics import boundary
from dmtl_jax.models import build_model, METHODS
from dmtl_jax.models.inputs import init_variables, model_inputs
from dmtl_jax.models.parts.encoder import STAGES
from dmtl_jax.runs import workdir
from dmtl_jax.tasks import make_task
from dmtl_jax.training import setup
from dmtl_jax.training.optimizer import OPTIMIZERS
from tests.tiny import ROOT


def test_defaults():
  config = common.base(None)
  assert (config.method, config.model.diffusion_steps, config.model.heads) == ('prediction', 2, 1)
  assert config.data.labels == 'one'


@pytest.mark.parametrize('arg, condition', [
    ('method=prediction', 'predictions'), ('method=feature', 'concat'), ('method=feature,condition=features', 'features'),
    ('method=no_condition,condition=concat', 'none'),
])  # fmt: skip
def test_the_condition_is_the_methods_own_unless_given(arg, condition):
  assert common.base(arg).model.condition == condition


def get_config(name: str, arg: str | None = None) -> ConfigDict:
  return importlib.import_module(f'dmtl_jax.configs.{name}').get_config(arg)


def test_the_paper_starts_at_random_with_one_rate_and_the_small_configs_do_not():
  for name in ('pascal', 'nyud', 'cityscapes'):
    config = get_config(name)
    assert (config.model.initial_weights, config.optim.denoiser_fan_in, config.initial_loss) == ('paper', 0, 0.5)
    assert config.model.token_stride == 4
  for name in ('scenes', 'folder'):
    config, released = get_config(name), get_config(name, 'preset=released')
    assert config.model.initial_weights == 'identity'
    assert config.optim.denoiser_fan_in
    assert config.initial_loss == 0.1
    assert get_config(name, 'method=mti_net').initial_loss == 1
    assert (released.model.initial_weights, released.initial_loss) == ('released', 0.5)
    assert config.model.token_stride < released.model.token_stride == 4


def test_released_preset_switches_every_point_of_the_table():
  model = common.base('method=feature,preset=released').model
  assert model.condition == 'concat'
  assert model.stop_condition
  assert model.posterior
  assert model.heads == 4
  assert model.step_offset == 1
  assert model.initial_weights == 'released'


def test_ablations_are_prediction_diffusion_with_one_change():
  base = common.base('method=prediction')
  for method, field, value in [('no_diffusion', 'add_noise', False), ('no_condition', 'condition', 'none')]:
    config = common.base(f'method={method}')
    changed = {k for k in config.model if config.model[k] != base.model[k]}
    assert changed == {field}
    assert config.model[field] == value
    assert config.method == method


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


@pytest.mark.parametrize('name', [*configs.OURS])
def test_a_stored_config_is_read_as_it_was(name, tmp_path):
  config = get_config(name, 'method=xtc')
  workdir.write_config(tmp_path, config)
  assert workdir.read_config(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize('path', ['seed', 'optim', 'train.nan_policy', 'data.path'])
def test_a_stored_config_that_lacks_a_field_is_refused(path, tmp_path):
  stored = workdir.to_json(get_config('folder'))
  section, _, name = path.rpartition('.')
  del (stored[section] if section else stored)[name]
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  with pytest.raises(UserError, match=rf'config.json: the field {path} is missing; add it, or train again'):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize('path', ['sed', 'optm', 'model.method', 'data.raws', 'keys', 'model.a b'])
def test_a_stored_config_with_an_unknown_field_is_refused(path, tmp_path):
  stored = workdir.to_json(get_config('scenes'))
  section, _, name = path.rpartition('.')
  (stored[section] if section else stored)[name] = 'feature'
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  with pytest.raises(UserError, match=f"config.json: '{path}' is not a field; remove it"):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize('name', ['scenes', 'folder', 'pascal', 'nyud', 'cityscapes'])
def test_every_config_builds_a_model(name):
  assert (
    build_model(get_config(name, 'method=feature,diffusion_steps=3'), (make_task('depth', 'depth'),)).diffusion_steps
    == 3
  )


def test_an_error_is_one_sentence_and_a_status(tmp_path):
  command = [sys.executable, 'main.py', '--config=configs/folder', f'--workdir={tmp_path}']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  last_line = done.stderr.splitlines()[-1]  # before it some versions of Grain warn of others
  assert last_line == 'Error: config.data.path is empty; give the folder of your images with --config.data.path=PATH'


RUN = ['--config=configs/scenes.py', '--workdir=runs/none']


@pytest.mark.parametrize(
  'arguments, message',
  [
    # Told without reading a config.
    (['--config=configs/scenes.py'], '--mode=train needs --workdir; see --help'),
    (['--config=configs/scenes.py', '--save=labels'], '--save: --mode=train does not take it; leave it out, or set --mode=pre'),
    (['--mode=predict', '--workdir=x', '--images=y', '--out=z', '--confidence=0.5'], '--confidence: only --save=labels takes'),
    (['--workdir=x'], '--mode=train needs --config=configs/NAME.py .configs/folder.py for photographs of your own.; see'),
    (['--mode=predict', '--workdir=x'], '--mode=predict needs --images'),
    (['--mode=predict', '--workdir=x', '--images=nope', '--out=x'], "'nope' names no image"),
    (['--mode=trian', *RUN], "'trian' is none of check, train, .*; did you mean train?"),
    (['train', *RUN], "'train': write --mode=train"),
    (['trian', *RUN], "'trian': not a flag; is --mode=train meant?"),
    ([*RUN, 'labels=one'], 'a config string has no spaces, unless it is quoted'),
    (['--workdr=x'], "'workdr'. Did you mean: workdir"),
    (['--mode=study'], '--mode=study needs --suite to run, or --page to write'),
    (['--mode=study', '--suite=scenes'], "--suite: 'scenes' is none of .*; did you mean scenes-full?"),
    (['--mode=study', '--suite=camvid', '--config=scenes'], '--mode=study takes the configs of its suite'),
    (['--mode=boundary', '--pred=x'], '--mode=boundary needs --gt; see --help'),
    (['--mode=boundary', '--pred=x', '--gt=s3://b'], "--gt: 's3://b' is an address"),
    (['--mode=boundary', '--pred=x', '--gt=x', '--workers=0'], '--workers=0: 0 is not a positive integer'),
    (['--mode=influence', '--workdir=x', '--limit=0'], '--limit=0: 0 is not a positive integer'),
    (['--mode=convert', '--workdir=x'], '--mode=convert needs --checkpoint'),
    (['--mode=convert', '--checkpoint=docs', '--workdir=x', '--config.seed=1'], '--mode=convert takes the config that a run'),
    (['--mode=convert', '--checkpoint=x.pth', '--workdir=x', '--config=configs/pascal.py:metod=1'], "'metod=1' is none of"),
    (['--mode=evaluate', '--workdir=x', '--step=bst'], "--step: 'bst' is not best, latest or"),
    (['--config=configs/scene.py', '--workdir=x'], 'no such file; did you mean scenes, of cityscapes, folder, nyud, pascal, scenes'),
    # Of the config.
    (['--config=configs/scenes:metod=1', '--workdir=x'], "'metod=1' is none of .*; did you mean method=?"),
    (['--config=configs/scenes.py:method=feature, labels=one,diffusion_steps=x', '--workdir=x'], 'steps takes a whole number'),
    (['--config=configs/scenes:feature', '--workdir=x'], "config string: 'feature' is none of method=, "),
    (['--config=configs/scenes:labels', '--workdir=x'], "'labels' is none of method=, .*; did you mean labels=?"),
    (['--config=configs/scenes:preset=paperr', '--workdir=x'], "'paperr' is none of paper, released; did you mean paper"),
    (['--config=configs/scenes.py:method=predicton', '--workdir=x'], "'predicton' is none of .*; did you mean prediction?"),
    (['--config=configs/scenes.py:backbone=resnet1', '--workdir=x'], 'model.backbone: .* did you mean resnet18'),
    ([*RUN, '--config.method=feture'], "'feture' is none of .*; did you mean feature?"),
    ([*RUN, '--config.optm.lr=1'], 'config.optm.lr: no such field; did you mean --config.optim.lr?'),
    ([*RUN, '--config.train.batchsize=4'], 'did you mean --config.train.batch?'),
    (['--config', 'configs/folder.py', '--workdir', 'x', '--config.eval.diffusion_stepz=1'], 'did you mean --config.eval.diffusion_steps?'),
    ([*RUN, '--config.eval.single_task.trees=x'], "eval.single_task.trees must be a number from -1e.09 to 1e.09, not 'x'"),
    ([*RUN, '--config.train.batch=0'], "train.batch must be a whole number from 1 to 65536, not '0'"),
    ([*RUN, '--config.train.batch=2.5'], "train.batch must be a whole number .*, not '2.5'"),
    ([*RUN, '--config.optim.lr=fast'], "optim.lr must be a number from 1e-12 to 1e.06, not 'fast'"),
    *(([*RUN, f'--config.loss_weights.depth={wrong}'], f"loss_weights.depth must be a number from 0 to 1e.06, not '{value}'")
      for wrong, value in (('-1', '-1.0'), ('inf', 'inf'), ('nan', 'nan'))),
    ([*RUN, '--config.optim.part_lr.film=-1'], "optim.part_lr.film must be a number from 0 to 1e.06, not '-1"),
    ([*RUN, '--config.optim.lr=0'], "optim.lr must be a number from 1e-12 to 1e.06, not '0.0'"),
    ([*RUN, '--config.optim.clip=0'], "optim.clip must be a number from 1e-09 to 1e.12, not '0.0'"),
    ([*RUN, '--config.optim.clip=inf'], "optim.clip must be a number from 1e-09 to 1e.12, not 'inf'"),
    ([*RUN, '--config.data.size=(4,96)'], 'data.size must be height and width, 5 to 16384 pixels'),
    # Addresses, of which folders would be made.
    (['--config=configs/scenes.py', '--workdir=s3://b/r'], "--workdir: 's3://b/r' is an address, and s3:// is not supported"),
    (['--mode=report', '--workdirs=a, s3://b', '--out=x'], "--workdirs: 's3://b' is an address"),
    (['--mode=report', '--workdirs=a', '--out=gs://b'], "--out: 'gs://b' is no folder in a bucket; give gs://BUCKET/FOLDER"),
    (['--mode=predict', '--workdir=x', '--images=a.png,https://b/c.png', '--out=x'], "--images: 'https://b/c.png' is an address"),
    (['--workdir=x', '--replay=gs://b/nan_3.json'], "--replay: 'gs://b/nan_3.json' is an address"),
    ([*RUN, '--config.data.dir=s3://b'], "data.dir: 's3://b' is an address"),
    ([*RUN, '--config.init_from=s3://b'], "init_from: 's3://b' is an address"),
    (['--config=configs/scenes.py:labels=gs://b/m.csv', '--workdir=x'], "data.labels: 'gs://b/m.csv' is an address"),
    (['--config=configs/folder.py', '--workdir=x', '--config.data.path=file:///b'], "data.path: 'file:///b' is an address"),
    (['--config=configs/nyud.py', '--mode=prepare', '--config.data.raw=gs://b'], "data.raw: 'gs://b' is an address"),
    (['--mode=predict', '--workdir=x', '--images=main.py', '--out=x', '--config.eval.diffusion_steps=4'],
     '--config: --mode=predict takes the config that a run was trained with'),
    ([*RUN, '--config.train.remat=maybe'], "train.remat must be true or false, not 'maybe'"),
    ([*RUN, '--config.data.size=96'], "data.size must be height and width, .* not '.96,.'"),
    *(([*RUN, f'--config.{field}={wrong}'], rf"{field}: '{wrong}' is none of .*; did you mean {near}") for
      field, wrong, near in (
        ('data.augment', 'lite', 'light'), ('dtype', 'float31', 'float32'), ('eval.protocol', 'pascl', 'pascal'),
        ('model.condition', 'concatt', 'concat'), ('model.initial_weights', 'identiti', 'identity'),
        ('optim.name', 'adma', 'adam'), ('optim.schedule', 'cosin', 'cosine'), ('train.nan_policy', 'skp', 'skip'),
      )),
  ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_a_sentence(arguments, message, fresh_flags, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, 'argv', ['main.py', *arguments])
  fresh_flags()
  with pytest.raises(UserError, match=message) as caught:
    cli._parse(sys.argv)
  assert '\n' not in str(caught.value)


WITH, OF = ['--workdir=W'], '--config=configs/folder.py'


@pytest.mark.parametrize(
  'arguments, job, given',
  [
    (['--force', OF, *WITH], 'train.run', ('config', 'W', True)),
    (['--replay=W/nan_3.json', OF, *WITH], 'replay.run', ('config', 'W', 'W/nan_3.json', False)),
    (['--mode=evaluate', '--step=7', '--predictions', OF, *WITH], 'evaluate.run',
     ('config', 'W', '7', True, False, None)),
    (['--mode=evaluate', '--force', *WITH], 'evaluate.run', ('stored', 'W', '', False, True, None)),
    (['--mode=predict', '--images=main.py', '--out=O', *WITH], 'predict.run', ('W', 'best', 'main.py', 'O', 1, None)),
    (['--mode=predict', '--images=main.py', '--out=O', '--step=7', '--samples=8', '--zoom=2', *WITH],
     'predict.run', ('W', '7', 'main.py', 'O', 8, 2.0)),
    (['--mode=summary', '--json', OF], 'summary.run', ('config', True, False, None)),
    (['--mode=summary', '--memory', '--for=v5e-1', OF], 'summary.run', ('config', False, True, 'v5e-1')),
    (['--mode=check', '--out=O', OF], 'check.run', ('config', 'O', False, False)),
    (['--mode=check', '--write', OF], 'check.run', ('config', None, True, False)),
    (['--mode=check', '--time', OF], 'check.run', ('config', None, False, True)),
    (['--mode=prepare', OF], 'prepare.run', ('config',)),
    (['--mode=report', '--workdirs=a,b', '--out=O'], 'report.run', (['a', 'b'], 'O')),
    (['--mode=study', '--suite=camvid', '--config.data.path=P', '--config.train.remat'],
     'study.run', ('camvid', 'runs/study', None, None, ['--config.data.path=P', '--config.train.remat'])),
    (['--mode=study', '--page=P.md', '--out=O', '--jobs=3'], 'study.run', (None, 'O', 3, 'P.md', [])),
    (['--mode=influence', *WITH], 'influence.run', ('W', 200, None, False)),
    (['--mode=uncertainty', '--out=O', *WITH], 'uncertainty.run', ('W', 8, 100, 'O', False)),
    (['--mode=uncertainty', '--samples=4', '--limit=9', *WITH], 'uncertainty.run', ('W', 4, 9, None, False)),
    (['--mode=export', '--out=O', *WITH], 'export.run', ('W', 'best', 'O')),
    (['--mode=publish', '--to=a/b', *WITH], 'publish.run', ('W', 'a/b', None, False, 'best')),
    (['--mode=publish', '--to=a/b', '--license=mit', '--private', '--step=7', *WITH],
     'publish.run', ('W', 'a/b', 'mit', True, '7')),
    (['--mode=convert', '--checkpoint=tests', *WITH], 'convert.run', ('tests', 'W', None)),
    (['--mode=convert', '--checkpoint=x.pth', *WITH], 'convert.run', ('x.pth', 'W', 'config')),
    (['--mode=convert', '--checkpoint=x.pth', OF, *WITH], 'convert.run', ('x.pth', 'W', 'config')),
  ],
)  # fmt: skip
def test_a_mode_is_a_job_with_its_flags(arguments, job, given, fresh_flags, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, 'argv', ['main.py', *arguments])
  monkeypatch.setattr(workdir, 'read_config', lambda path: 'stored')
  monkeypatch.setattr(accelerators, 'ENVIRONMENT', {})  # of processes that come after
  called = []
  monkeypatch.setattr(f'dmtl_jax.jobs.{job}', lambda *args: called.append(args) or 3)
  fresh_flags()
  status = cli.main(sys.argv)
  (args,) = called
  assert tuple('config' if isinstance(arg, ConfigDict) else arg for arg in args) == given
  assert status == (3 if job in ('predict.run', 'check.run') else 0)


def test_boundaries_of_folders_are_scored_as_those_of_a_run(fresh_flags, monkeypatch):
  found = {}
  monkeypatch.setattr('dmtl_jax.jobs.boundary.run', lambda *args, **options: found.update(args=args, **options))
  fresh_flags()
  assert cli.main(['main.py', '--mode=boundary', '--pred=P', '--gt=T', '--ignore=255', '--nothin']) == 0
  expected = dict(tolerance=boundary.TOLERANCE, count=boundary.THRESHOLDS, thinning=False)
  assert found == dict(args=('P', 'T', None, 255, None), **expected)


def test_help_names_the_command_that_is_there_and_a_closed_pipe_is_no_error(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['dmtl', '--help']) == 0
  output = capsys.readouterr().out
  assert 'dmtl --mode=predict' in output
  assert 'main.py' not in output
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [sys.executable, 'main.py', '--help'], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
  )
  os.close(write)
  assert 'Traceback' not in done.stderr and done.stderr.count('\n') <= 2, done.stderr


@pytest.mark.parametrize(
  'field, low, high',
  [
    ('seed', 0, 2**32 - 1),
    ('model.diffusion_steps', 1, 1000),
    ('eval.diffusion_steps', 0, 1000),
    ('data.holdout_fraction', 0, 0.9),
  ],
)
def test_the_ends_of_a_range_are_in_it(field, low, high):
  config = common.base(None)
  for value, fits in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
    config.update_from_flattened_dict({field: value})
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match=f'{field} must be a'):
      check.check(config.to_dict())


def test_every_field_is_described_and_every_number_has_a_range():
  for path, field in fields.flat(fields.all_fields()):
    assert field.doc, path
    assert 'inf' not in field.values, path


def test_choices_are_what_there_is_to_choose_from():
  assert fields.FIELDS['optim']['name'].choices == tuple(OPTIMIZERS)
  assert fields.FIELDS['model']['backbone'].choices == tuple(STAGES)


@pytest.mark.parametrize(
  'field, wrong, message',
  [
    ('data.name', 'scene', "'scene' is none of .*; did you mean scenes?"),
    ('data.name', '..', "config.data.name: '..' is none of"),
    ('data.tasks', ('depht',), "'depht' is none of .*; did you mean depth?"),
    ('data.labels', 'oen', "'oen' is none of full, one, random, a file; did you mean one?"),
    ('train.best_by', 'depth/absEr', 'did you mean depth/absErr?'),
    (
      'train.accumulate',
      3,
      'a batch of 8 images cannot be split over 1 devices in 3 micro-batches each; set config.tra',
    ),
    ('train.fsdp', 1000, 'train.fsdp=1000 does not divide the 1 devices'),
    ('model.heads', 3, 'model.heads: 32 channels cannot be shared by 3;'),
    ('init_from', 'none.pth', "'none.pth': no such file"),
    ('init_from', str(ROOT / 'docs'), 'config.init_from: the folder .*docs. is of no run'),
    ('train.epochs', 0, 'steps and epochs are both 0, so nothing would be trained'),
    ('model.step_offset', 3, 'config.model.step_offset: 3 is beyond the 2 steps'),
    ('loss_weights.depht', 1.0, "config.loss_weights: 'depht' is none of .*; did you mean depth?"),
    ('eval.single_task.dept', 1.0, "config.eval.single_task: 'dept' is none of"),
  ],
)
def test_what_cannot_be_trained_is_refused_before_data_is_opened(field, wrong, message, monkeypatch):
  monkeypatch.setattr(source, 'open_source', None)
  config = get_config('scenes', 'method=feature')
  config.data.dir, config.train.steps = '/nowhere', 0
  setup.check(config)
  config.update_from_flattened_dict({field: wrong})
  with pytest.raises(UserError, match=message):
    setup.check(config)


def test_an_address_of_raw_data_is_understood_where_https_is():
  config = get_config('nyud')
  for config.data.raw in ('https://host/raw.zip', 'raw://folder'):
    with contextlib.nullcontext() if 'https' in config.data.raw else pytest.raises(UserError, match='raw:// is not'):
      check.check(config.to_dict())


@pytest.mark.parametrize('method', ['prediction', 'mtl_baseline', 'mti_net', 'invpt'])
def test_the_least_size_is_one_that_every_network_has_maps_for(method):
  config, tasks = common.base(f'method={method}'), (make_task('depth', 'depth'), make_task('normals', 'normals'))
  config.model.update(width=8, channels=16, depth=1)
  model, least = build_model(config, tasks), fields.FIELDS['data']['size'].low
  maps = lambda side: jax.eval_shape(lambda key: init_with_output(model, key, (side, 2 * side)), jax.random.key(0))
  assert all(min(x.shape) >= 1 for x in jax.tree.leaves(maps(least)))
  if method == 'mtl_baseline':  # of others layers refuse it
    assert maps(least - 1).final['depth'].shape[1] == 0


def init_with_output(model, key, size):
  images, variables = jax.numpy.zeros((1, *size, 3)), init_variables(model, key, size)
  return model.apply(variables, images, **model_inputs(model, images, key, len(model.tasks)))


def test_a_refused_run_leaves_no_folder(tmp_path):
  config = get_config('scenes')
  config.train.steps = config.train.epochs = 0
  with pytest.raises(UserError, match='nothing would be trained'):
    train.run(config, str(tmp_path / 'run'))
  with pytest.raises(UserError, match="'gs://b/r' is an address"):
    train.run(get_config('scenes'), 'gs://b/r')
  assert not list(tmp_path.iterdir())
  assert not pathlib.Path('gs:').exists()


def test_help_names_every_method_and_field_of_the_config_string(capsys):
  assert cli.main(['main.py', '--help']) == 0
  text = capsys.readouterr().out
  named = (*METHODS, *common.ARGUMENTS, *cli_flags.MODES, *dict(fields.flat(fields.all_fields())))
  assert [word for word in named if not re.search(rf'\b{word}\b', text)] == []


def test_a_config_goes_by_its_name_where_there_is_no_such_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for text in ('scenes', 'configs/scenes', 'configs/scenes.py', 'configs/scenes.py:diffusion_steps=3'):
    path, _, arguments = configs.find(text).partition(':')
    assert os.path.samefile(path, ROOT / 'configs/scenes.py')
    assert arguments == text.partition(':')[2]
  (tmp_path / 'scenes.py').touch()
  assert configs.find('scenes:method=feature') == 'scenes.py:method=feature'


@pytest.mark.parametrize(
  'path, closest',
  [
    ('lr', 'optim.lr'),
    ('data.sise', 'data.size'),
    ('dta.size', 'data.size'),
    ('model.diffusion_steps.x', 'model.diffusion_steps'),
    ('eval.single_taks.semseg', 'eval.single_task.semseg'),
    ('loss_weight.depth', 'loss_weights.depth'),
  ],
)
def test_a_field_that_is_none_is_refused_with_the_closest(path, closest):
  values = common.base(None).to_dict()
  with pytest.raises(UserError, match=f'--config.{path}: no such field; did you mean --config.{closest}'):
    check.check_flags([('seed', '1'), ('eval.single_task.x', '2'), (path, '3')], values)


def test_each_benchmark_is_scored_as_its_tables_are():
  scores = {name: get_config(name).eval for name in ('pascal', 'nyud', 'cityscapes', 'scenes', 'folder')}
  assert {name for name, of in scores.items() if of.weights == 'latest'} == {'pascal'}
  assert {name for name, of in scores.items() if of.geometry == 'pad'} == {'pascal'}
