"""A run's tasks in later commands: another order changes nothing, and other tasks are refused before any change."""

import json

from absl import flags
import jax
import numpy as np
import pytest

from dmtl_jax import cli
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder
from dmtl_jax.jobs import convert, evaluate, train
from dmtl_jax.models import build_model
from dmtl_jax.runs import run_tasks
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.tasks import make_task
from dmtl_jax.training import setup
from tests import faults, toy
from tests.tiny import random_variables

SIZE = (32, 48)
NAMES = ('semseg', 'saliency', 'depth')
IDENTITY = ('config.json', 'tasks.json', 'labels.json')


@pytest.fixture
def data(tmp_path):
  toy.write(tmp_path / 'toy', 2, 2, SIZE)
  describe(tmp_path / 'toy')
  for split in ('train', 'val'):
    for name in ('boundary', 'normals'):
      (tmp_path / 'toy' / split / 'labels' / name).rename(tmp_path / f'{split}_{name}')
  return tmp_path / 'toy'


def describe(root, names=NAMES, **changed):
  """Writes dataset.json with the tasks in this order, some with other descriptions."""
  tasks = {name: changed.get(name, toy.DESCRIPTION['tasks'][name]) for name in names}
  (root / 'dataset.json').write_text(json.dumps({'tasks': tasks}))


def config_of(data, arg='method=prediction'):
  config = folder.get_config(arg)
  config.data.update(path=str(data), size=SIZE)
  config.model.update(width=8, channels=16, depth=1)
  config.train.update(batch=2, steps=2)
  config.eval.update(batch=2, panels=0)
  return config


@pytest.fixture
def run(data, tmp_path, short_encoder):
  """An untrained run of Prediction Diffusion, whose weights are arranged by the order of its tasks."""
  config = config_of(data)
  tasks = run_tasks.source.data_tasks(config.data)
  variables = jax.tree.map(np.float32, random_variables(build_model(config, tasks), SIZE, seed=2))
  return convert.write_run(tmp_path / 'run', config, tasks, variables)


def scores_of(workdir, config, **options):
  scores = evaluate.run(config, str(workdir), **options)
  return {stage: scores[stage] for stage in ('initial', 'final', 'per_class')}


def test_another_order_of_tasks_has_the_same_scores_to_the_bit(run, data):
  expected = scores_of(run, workdir_lib.read_config(run))
  describe(data, NAMES[::-1])
  assert scores_of(run, workdir_lib.read_config(run)) == expected
  describe(data, semseg={'classes': ['wall', 'ground', 'box']})
  (run / 'metrics.json').unlink()
  with pytest.raises(UserError, match="class 1 of semseg is 'floor' in this run, 'ground' in the data"):
    scores_of(run, workdir_lib.read_config(run))
  assert not (run / 'metrics.json').exists()
  forced = scores_of(run, workdir_lib.read_config(run), force=True)
  assert list(forced['per_class']['semseg']) == ['wall', 'ground', 'box']


CLASSES = ('wall', 'floor', 'box')
RUN = (make_task('semseg', 'semseg', CLASSES), make_task('saliency', 'saliency'), make_task('depth', 'depth'))


@pytest.mark.parametrize(
  'names, changed, message, forced',
  [
    (('semseg', 'depth'), {}, r'the data \(or config.data.tasks\) do not have saliency of this run', False),
    ((*NAMES, 'normals'), {}, r'does not have normals of the data; .*data.tasks="\(\'semseg\',', False),
    (NAMES, {'depth': {'kind': 'boundary'}}, 'depth is of kind depth in this run, of kind boundary in the data', False),
    (NAMES, {'semseg': {'classes': ['wall', 'floor']}}, 'semseg has 3 classes in this run, 2 in the data', False),
    (NAMES, {'semseg': {'classes': ['wall', 'box', 'floor']}}, "class 1 of semseg is 'floor' .* 'box'", True),
    (NAMES, {'semseg': {'classes': ['wall', 'floor', 'bin']}}, "class 2 of semseg is 'box' .* --force if only", True),
  ],
)
def test_other_tasks_are_refused_with_the_difference(names, changed, message, forced, data):
  describe(data, names, **changed)
  config = config_of(data)
  with pytest.raises(UserError, match=f'W/tasks.json: .*{message}') as caught:
    run_tasks.match(config, RUN, 'W')
  assert '\n' not in str(caught.value)
  if forced:
    assert run_tasks.match(config, RUN, 'W', force=True).data.tasks == ()
  else:
    with pytest.raises(UserError, match=message):
      run_tasks.match(config, RUN, 'W', force=True)


@pytest.mark.parametrize('chosen', [('saliency', 'depth', 'semseg'), NAMES, ()])
def test_the_order_of_a_run_goes_before_that_of_the_config(chosen, data):
  config = config_of(data)
  config.data.tasks = chosen
  matched = run_tasks.match(config, RUN, 'W')
  assert run_tasks.source.data_tasks(matched.data) == RUN
  assert config.data.tasks == chosen


@pytest.fixture
def started(data, tmp_path, monkeypatch):
  """A run of the toy network with a checkpoint at step 0, and its config."""
  faults.use_toy_model(monkeypatch.setattr)
  config = config_of(data, 'method=mtl_baseline')
  workdir = tmp_path / 'started'
  data = setup.open_data(config)
  training = setup.build(config, data.train, data.val)
  checkpoints = Checkpoints(workdir)
  state = training.init(jax.random.key(0))
  checkpoints.save(state, training.batches.get_state(), {'config': {}, 'best': {}, 'evaluated': 0, 'window': {}})
  checkpoints.close()
  train.write_start(str(workdir), config, training)
  return workdir, config


def identity(workdir):
  return {name: (workdir / name).read_bytes() for name in IDENTITY}


def stop(*args):
  raise KeyboardInterrupt


def test_a_refused_resume_changes_nothing(started, data, monkeypatch):
  workdir, config = started
  before = identity(workdir)
  describe(data, semseg={'classes': ['wall', 'box', 'floor']})
  with pytest.raises(UserError, match="class 1 of semseg is 'floor' in this run, 'box' in the data"):
    train.run(config, str(workdir))
  assert identity(workdir) == before
  monkeypatch.undo()  # the true network, which the checkpoint does not fit
  describe(data)
  with pytest.raises(UserError, match='does not fit this model'):
    train.run(config, str(workdir), force=True)
  assert identity(workdir) == before


def test_a_resumed_run_keeps_its_order(started, data, monkeypatch):
  workdir, config = started
  before = identity(workdir)
  describe(data, NAMES[::-1])
  monkeypatch.setattr(train.cost, 'abstract_batch', stop)  # after the checkpoint was restored
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config, str(workdir))
  assert {name: identity(workdir)[name] for name in IDENTITY[1:]} == {name: before[name] for name in IDENTITY[1:]}
  config.data.tasks = ('depth', 'semseg', 'saliency')  # no other config
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config, str(workdir))
  assert identity(workdir)['tasks.json'] == before['tasks.json']


def test_a_run_starts_from_another_with_other_tasks(run, data, tmp_path, monkeypatch, capsys):
  """In the order of the data; a task with other classes has a fresh head, and a resume is never so lenient."""
  describe(data, NAMES[::-1], semseg={'classes': ['wall', 'floor', 'bin']})
  config = config_of(data)
  config.init_from = str(run)
  loaded = []
  load = setup.pretrained.load
  monkeypatch.setattr(setup.pretrained, 'load', lambda *args: loaded.append((args[2], load(*args))) or stop())
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config, str(tmp_path / 'new'))
  ((tasks, variables),) = loaded
  assert tuple(task.name for task in tasks) == NAMES[::-1]
  assert f'{run}: took ' in capsys.readouterr().out
  model = build_model(workdir_lib.read_config(run), workdir_lib.read_tasks(run))
  wanted, _ = evaluate.load(run, 'best', model, SIZE)
  ours, theirs = (tree['params']['decoders'] for tree in (variables, wanted))
  np.testing.assert_array_equal(ours['depth_head']['kernel'], theirs['depth_head']['kernel'])
  assert not np.array_equal(ours['semseg_head']['kernel'], theirs['semseg_head']['kernel'])


def test_tasks_of_a_stored_run_are_chosen_by_a_flag_as_of_any_config(run, data, fresh_flags, monkeypatch):
  arguments = ['main.py', '--mode=evaluate', f'--workdir={run}', "--config.data.tasks=('depth',)"]
  monkeypatch.setattr(cli.sys, 'argv', arguments)
  fresh_flags()
  cli._parse(arguments)
  with pytest.raises(UserError, match='do not have saliency, semseg of this run; they have depth'):
    evaluate.run(flags.FLAGS.config, str(run))
