"""What may befall a run: kills, a signal, numbers that are not finite, data that vanish, a full disk."""

import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import faults
import jax
import numpy as np
import pytest
import toy

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import evaluation
from dmtl_jax.jobs import replay, train
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.log import Log

sys.path.append(str(faults.ROOT))
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.training import setup

BAD = 5  # an image


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('data')
  toy.write(root, size=(16, 24))
  return root


@pytest.fixture(autouse=True, scope='module')
def toy_model():
  with pytest.MonkeyPatch.context() as patch:
    faults.use_toy_model(patch.setattr)
    yield


def config_for(data):
  config = folder_config.get_config('method=mtl_baseline,labels=one')
  config.data.path, config.data.size, config.data.tasks = str(data), (16, 24), ('semseg', 'depth')
  config.train.batch, config.train.steps, config.train.log_every, config.train.eval_every = 2, 8, 3, 4
  config.eval.batch, config.eval.panels, config.optim.warmup = 3, 0, 0
  return config


def poison(monkeypatch):
  """Image BAD is NaN from now on."""
  on_devices = setup.Training.on_devices

  def poisoned(self, batch):
    image = batch['image'].copy()
    image[batch['index'] == BAD] = np.nan
    return on_devices(self, batch | {'image': image})

  monkeypatch.setattr(setup.Training, 'on_devices', poisoned)


@pytest.fixture(scope='module')
def whole(data, toy_model, tmp_path_factory):
  """A run that nothing befell."""
  workdir = tmp_path_factory.mktemp('whole')
  train.run(config_for(data), str(workdir))
  return workdir


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
  """What the ends of two runs differ in; which older checkpoints are there does not matter."""
  left, right = faults.content(a), faults.content(b)
  for run in (left, right):
    run['checkpoints'] = run['checkpoints'][run.pop('entries')[-1]]
  return faults.differences(left, right)


@pytest.mark.parametrize('flags', [('--kills=1', '--seed=19'), ('--kills=2', '--seed=47', '--processes=2')])
def test_killed_runs_end_with_the_same_bits(flags):
  """The harness by its command; at file operations, so that kills fall while something is written."""
  command = [sys.executable, str(faults.ROOT / 'tests' / 'faults.py'), *flags, '--only=event']
  done = subprocess.run(command, capture_output=True, text=True, timeout=500)
  told = f'{flags[0][-1]} kills in 1 runs, all ended with the same bits'
  assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr


SIGNALS = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}


@pytest.fixture(autouse=True)
def ctrl_c():
  """A suite that a shell runs in the background is born with Ctrl-C ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  assert signal.signal(signal.SIGINT, before) == signal.default_int_handler


def test_a_signal_between_two_log_lines_leaves_no_trace(whole, data, tmp_path, monkeypatch, capsys):
  for step, (number, name) in zip((2, 5), SIGNALS.items()):
    with monkeypatch.context() as patch:
      faults.at_batch(patch, 2 if step == 2 else 3, os.kill, os.getpid(), number)
      assert train.run(config_for(data), str(tmp_path)) is None
    told = capsys.readouterr()
    assert f'stopped by {name} at step {step} of 8, saved' in told.out
    assert ('Ctrl-C again quits at once' in told.err) == (number == signal.SIGINT)
  train.run(config_for(data), str(tmp_path))
  assert differences(whole, tmp_path) == []


def test_a_second_ctrl_c_quits_at_once(whole, data, tmp_path, monkeypatch):
  def twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  faults.at_batch(monkeypatch, 7, twice)
  with pytest.raises(UserError, match='stopped by Ctrl-C; what was saved is whole'):
    train.run(config_for(data), str(tmp_path))
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['4']
  train.run(config_for(data), str(tmp_path))
  assert differences(whole, tmp_path) == []


def test_a_signal_in_an_evaluation_leaves_at_once_and_no_trace(whole, data, tmp_path, monkeypatch, capsys):
  """In that of step 4, in that of step 8 (the last one of the loop), and in the final one."""
  evaluated, run = [], evaluation.Evaluator.run
  numbers = {1: signal.SIGINT, 3: signal.SIGTERM, 5: signal.SIGINT}

  def interrupted(self, variables, *rest):
    evaluated.append(1)
    if number := numbers.get(len(evaluated)):
      os.kill(os.getpid(), number)
    return run(self, variables, *rest)

  monkeypatch.setattr(evaluation.Evaluator, 'run', interrupted)
  for words in (
    'Ctrl-C at step 4 of 8, saved',
    'SIGTERM at step 8 of 8, saved',
    'Ctrl-C in the last evaluation, all is saved',
  ):
    assert train.run(config_for(data), str(tmp_path)) is None
    assert f'stopped by {words}' in capsys.readouterr().out
  train.run(config_for(data), str(tmp_path))
  assert len(evaluated) == 6 and differences(whole, tmp_path) == []


def test_logs_opened_within_a_second_share_no_file(tmp_path, monkeypatch):
  """tensorboardX names files by the second."""
  monkeypatch.setattr(time, 'time', lambda: 1e9)
  for step in range(3):
    log = Log(tmp_path, step, step)
    log.scalars(step + 1, {'loss/total': float(step)})
    log.close()
  shown = faults.board(tmp_path / 'tensorboard')
  assert shown == {'loss/total 1': '0.0', 'loss/total 2': '1.0', 'loss/total 3': '2.0'}


def test_the_log_drops_what_is_beyond_the_checkpoint(tmp_path):
  """Lines of later steps, of an evaluation that is to be made again, and what is no line."""
  rows = [{'step': 2}, {'step': 2, 'eval/x': 1}, {'step': 4}, {'step': 4, 'eval/x': 1}, {'step': 5}]
  lines = [json.dumps(row) + '\n' for row in rows]
  for evaluated, kept in ((2, lines[:3]), (4, lines[:4])):
    (tmp_path / 'log.jsonl').write_text(''.join(lines) + '[]\n{"st')
    Log(tmp_path, 4, evaluated).close()
    assert (tmp_path / 'log.jsonl').read_text() == ''.join(kept)


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  atomic.write_atomic(path, 'before')
  with pytest.raises(ZeroDivisionError), atomic.atomic_open(path, 'wb') as file:
    file.write(b'half')
    file.flush()
    assert path.read_text() == 'before'
    1 / 0  # noqa: B018
  assert [p.name for p in path.parent.iterdir()] == ['a.txt'] and path.read_text() == 'before'


def test_what_a_killed_write_left_goes_when_the_run_goes_on(tmp_path):
  left, kept = ['.a.json.x.tmp', 'panels/.b.png.x.tmp', 'panels/b/.c.png.x.tmp'], ['mine.tmp', 'panels/mine.tmp']
  for name in left + kept:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  with workdir_lib.locked(tmp_path):
    pass
  assert not any((tmp_path / name).exists() for name in left) and all((tmp_path / name).exists() for name in kept)


def test_a_bad_step_is_refused_kept_and_run_again(data, tmp_path, monkeypatch, capsys):
  poison(monkeypatch)
  config = config_for(data)
  with pytest.raises(UserError, match=r'step \d+: loss nan \((semseg|depth) .*train05') as error:
    train.run(config, str(tmp_path))
  (file,) = tmp_path.glob('nan_*.json')
  told = json.loads(file.read_text())
  assert f'train{BAD:02d}' in told['images'] and f'step {told["step"]}:' in str(error.value)
  saved = faults.checkpoint(tmp_path / 'checkpoints' / str(told['checkpoint']))
  assert told['checkpoint'] == told['step'] - 1 == saved['step']
  scalars = replay.run(config, str(tmp_path), str(file))
  assert np.isnan(scalars['loss/total']) and 'the same numbers as in the run' in capsys.readouterr().out
  with pytest.raises(UserError, match=f'step {told["step"]}: loss nan'):  # the same command, the same end
    train.run(config, str(tmp_path))
  config.train.nan_policy = 'skip'  # no other field, so no --force
  result = train.run(config, str(tmp_path))
  assert result['step'] == 8 and '2 of 8 steps skipped' in capsys.readouterr().out  # two epochs
  rows = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
  assert rows[-2]['skipped'] == 2 and np.isfinite([row['loss/total'] for row in rows if 'loss/total' in row]).all()


def test_a_skipped_step_changes_nothing_but_the_count_of_steps(data, monkeypatch):
  config = config_for(data)
  for policy, after in (('skip', 1), ('stop', 0)):
    config.train.nan_policy = policy
    training = setup.build(config, *setup.open_data(config))
    state = training.init(jax.random.key(0))
    before = jax.device_get(state)
    batch = training.on_devices(next(training.batches))
    state, bad = training.update(state, batch | {'image': batch['image'] * np.inf}, 1)
    assert int(state.step) == after and not bad['is_finite']
    jax.tree.map(np.testing.assert_array_equal, state.replace(step=before.step), before)
    state, scalars = training.update(state, batch, 2)
    assert bool(scalars['is_finite']) == (policy == 'skip')  # once stopped, nothing moves any more
    changed = [
      (np.asarray(a) != b).any() for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(before.params))
    ]
    assert any(changed) == (policy == 'skip')


def test_data_that_vanish_while_training_are_named_and_nothing_is_lost(whole, data, tmp_path, monkeypatch):
  copy = tmp_path / 'copy'
  shutil.copytree(data, copy)
  config, workdir = config_for(copy), tmp_path / 'run'
  config.train.steps, config.train.eval_every, config.data.prefetch, config.data.threads = 800, 400, 1, 1
  faults.at_batch(monkeypatch, 6, shutil.rmtree, copy / 'train')
  with pytest.raises(UserError, match=f'{copy}/train/'):
    train.run(config, str(workdir))
  (path,) = (workdir / 'checkpoints').iterdir()  # the regular ones are at 400 and 800
  saved = faults.checkpoint(path)
  assert 6 <= int(path.name) == saved['step'] == saved['meta']['data']['next_index'] < 12
  with pytest.raises(UserError, match=f'{copy}/train'):
    train.run(config, str(workdir))


def kill_a_worker():
  os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # as the system does where memory runs out


def test_a_killed_reader_is_told_and_nothing_is_lost(data, tmp_path, monkeypatch):
  config = config_for(data)
  config.train.steps, config.train.eval_every, config.data.prefetch, config.data.workers = 800, 400, 1, 1
  faults.at_batch(monkeypatch, 6, kill_a_worker)
  with pytest.raises(UserError, match='a process that reads data was killed, .* set config.data.workers to fewer'):
    train.run(config, str(tmp_path))
  (path,) = (tmp_path / 'checkpoints').iterdir()  # the regular ones are at 400 and 800
  assert 6 <= int(path.name) == faults.checkpoint(path)['meta']['data']['next_index'] < 12


def test_a_scorer_killed_in_an_evaluation_is_told_and_nothing_is_lost(whole, data, tmp_path, monkeypatch):
  config, score = config_for(data), evaluation.score
  config.eval.workers = 1
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, 'score', faults.die)
    with pytest.raises(UserError, match='a worker process was killed, .* set config.eval.workers to fewer'):
      train.run(config, str(tmp_path))
  assert evaluation.score is score and [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['4']
  config.eval.workers = 0
  train.run(config, str(tmp_path))
  assert differences(whole, tmp_path) == []


def test_a_disk_that_is_full_is_told_and_nothing_is_lost(whole, data, tmp_path, capsys):
  """A limit of the size of files stops the writes in the same place, in the thread of the checkpoint."""
  shutil.copytree(whole, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/checkpoints/8')
  assert (tmp_path / 'run/checkpoints/4').is_dir()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
  try:
    with pytest.raises(UserError, match='File too large.*run the same command again'):
      train.run(config_for(data), str(tmp_path / 'run'))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  train.run(config_for(data), str(tmp_path / 'run'))
  assert differences(whole, tmp_path / 'run') == []


def test_a_workdir_that_cannot_be_written_is_told(data):
  for workdir in ('/dev/null/run', '/proc/run'):
    with pytest.raises(UserError, match=f'--workdir={workdir}: cannot be written'):
      train.run(config_for(data), workdir)


@pytest.mark.parametrize(
  'field, value, told',
  [
    ('optim.name', 'lion', "optim.name: 'lion' is none of adam"),
    ('train.accumulate', 3, 'cannot be split'),
    ('train.best_by', 'mIoU', "'mIoU' is none of delta_m, "),
  ],
)
def test_a_run_that_cannot_start_leaves_no_config_behind(data, tmp_path, field, value, told):
  """Which would refuse the command once it is mended."""
  config = config_for(data)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=told):
    train.run(config, str(tmp_path))
  assert not list(tmp_path.glob('*.json'))


def test_a_damaged_config_is_named(data, tmp_path):
  (tmp_path / 'config.json').write_text('{"data": ')
  with pytest.raises(UserError, match='config.json: not the config of a run'):
    workdir_lib.check_config(tmp_path, config_for(data))


def test_force_goes_on_with_a_changed_config(whole, data, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  config = config_for(data)
  config.optim.lr, config.train.steps = 0.5, 9
  with pytest.raises(UserError, match=r'--force to go on with:\n  optim.lr: 0.002 -> 0.5\n  train.steps: 8 -> 9'):
    train.run(config, str(tmp_path / 'run'))
  assert train.run(config, str(tmp_path / 'run'), force=True)['step'] in (8, 9)
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['optim']['lr'] == 0.5
