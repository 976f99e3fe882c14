"""What may befall a run: kills, a signal, numbers that are not finite, data that vanish, a full disk."""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.inference import evaluation
from dmtl_jax.jobs import replay, train
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.log import Log
from dmtl_jax.training import setup
from tests import faults, toy

BAD = 5  # an image
pytestmark = pytest.mark.usefixtures('ctrl_c')


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


def make_config(data):
  config = folder_config.get_config('method=mtl_baseline,labels=one')
  config.data.update(path=str(data), size=(16, 24), tasks=('semseg', 'depth'))
  config.train.update(batch=2, steps=8, log_every=3, eval_every=4)
  config.eval.update(batch=3, panels=0)
  config.optim.warmup = 0
  return config


@pytest.fixture
def config(data):
  return make_config(data)


@pytest.fixture(scope='module')
def undisturbed(data, toy_model, tmp_path_factory):
  """The workdir of a run that nothing befell."""
  workdir = tmp_path_factory.mktemp('undisturbed')
  train.run(make_config(data), str(workdir))
  return workdir


def check_resumes(config, workdir, undisturbed):
  """The same command ends the run as the undisturbed one, whatever older checkpoints are there."""
  train.run(config, str(workdir))
  ends = [faults.last(faults.content(path)) for path in (undisturbed, workdir)]
  assert faults.differences(*ends) == []


def checkpoints(workdir) -> list[str]:
  return sorted(path.name for path in (workdir / 'checkpoints').iterdir())


def poison(monkeypatch):
  """Image BAD is NaN from now on."""
  on_devices = setup.Training.on_devices

  def poisoned(self, batch):
    image = batch['image'].astype(np.float32)
    image[batch['index'] == BAD] = np.nan
    return on_devices(self, batch | {'image': image})

  monkeypatch.setattr(setup.Training, 'on_devices', poisoned)


# --- Kills and signals -----------------------------------------------------------------------


@pytest.mark.parametrize('flags', [('--kills=1', '--seed=19'), ('--kills=2', '--seed=47', '--processes=2')])
def test_killed_runs_end_with_the_same_bits(flags):
  """The harness by its command; at file operations, so that kills fall while something is written."""
  command = [sys.executable, '-m', 'tests.faults', *flags, '--only=event']
  done = subprocess.run(command, cwd=faults.ROOT, capture_output=True, text=True, timeout=500)
  assert done.returncode == 0, done.stdout + done.stderr
  assert f'{flags[0][-1]} kills in 1 runs, all ended with the same bits' in done.stdout


def test_a_signal_between_two_log_lines_leaves_no_trace(undisturbed, config, tmp_path, monkeypatch, capsys):
  def stop(batch: int, number: int) -> tuple[str, str]:
    """Sends a signal at a batch of a life; returns what was printed."""
    with monkeypatch.context() as patch:
      faults.at_batch(patch, batch, os.kill, os.getpid(), number)
      assert train.run(config, str(tmp_path)) is None
    return capsys.readouterr()

  out, error = stop(2, signal.SIGTERM)
  assert 'stopped by SIGTERM at step 2 of 8, saved' in out
  assert 'Ctrl-C' not in error
  out, error = stop(3, signal.SIGINT)
  assert 'stopped by Ctrl-C at step 5 of 8, saved' in out
  assert 'Ctrl-C again quits immediately' in error
  check_resumes(config, tmp_path, undisturbed)


def test_a_second_ctrl_c_quits_at_once(undisturbed, config, tmp_path, monkeypatch):
  def twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  faults.at_batch(monkeypatch, 7, twice)
  with pytest.raises(UserError, match='stopped by Ctrl-C; what was saved is whole'):
    train.run(config, str(tmp_path))
  assert checkpoints(tmp_path) == ['4']
  check_resumes(config, tmp_path, undisturbed)


def test_a_signal_in_an_evaluation_leaves_at_once_and_no_trace(undisturbed, config, tmp_path, monkeypatch, capsys):
  """In that of step 4, in that of step 8 (the last one of the loop), and in the final one."""
  evaluations, run = itertools.count(1), evaluation.Evaluator.run
  signals = {1: signal.SIGINT, 3: signal.SIGTERM, 5: signal.SIGINT}

  def interrupted(self, variables, *rest):
    if number := signals.get(next(evaluations)):
      os.kill(os.getpid(), number)
    return run(self, variables, *rest)

  monkeypatch.setattr(evaluation.Evaluator, 'run', interrupted)
  for words in (
    'Ctrl-C at step 4 of 8, saved',
    'SIGTERM at step 8 of 8, saved',
    'Ctrl-C in the last evaluation, all is saved',
  ):
    assert train.run(config, str(tmp_path)) is None
    assert f'stopped by {words}' in capsys.readouterr().out
  check_resumes(config, tmp_path, undisturbed)
  assert next(evaluations) == 7


# --- What a run writes -----------------------------------------------------------------------


def test_logs_opened_within_a_second_share_no_file(tmp_path, monkeypatch):
  """tensorboardX names files by the second."""
  monkeypatch.setattr(time, 'time', lambda: 1e9)
  for step in range(3):
    log = Log(tmp_path, step, step)
    log.scalars(step + 1, {'loss/total': float(step)})
    log.close()
  shown = faults.board(tmp_path / 'tensorboard')
  assert shown == {('loss/total', 1): 0, ('loss/total', 2): 1, ('loss/total', 3): 2}


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
  assert [p.name for p in path.parent.iterdir()] == ['a.txt']
  assert path.read_text() == 'before'


def test_what_a_killed_write_left_is_removed_when_the_run_goes_on(tmp_path):
  kept = {'mine.tmp', 'panels/mine.tmp'}
  for name in kept | {'.a.json.x.tmp', 'panels/.b.png.x.tmp', 'panels/b/.c.png.x.tmp'}:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  with workdir_lib.locked(tmp_path):
    pass
  assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.tmp')} == kept


# --- Bad numbers -----------------------------------------------------------------------------


def test_a_bad_step_is_refused_kept_and_run_again_or_skipped(config, tmp_path, monkeypatch, capsys):
  poison(monkeypatch)
  with pytest.raises(UserError, match=r'step \d+: loss nan \((semseg|depth) .*train05') as error:
    train.run(config, str(tmp_path))
  (file,) = tmp_path.glob('nan_*.json')
  record = json.loads(file.read_text())
  assert f'train{BAD:02d}' in record['images']
  assert f'step {record["step"]}:' in str(error.value)
  saved = faults.checkpoint(tmp_path / 'checkpoints' / str(record['checkpoint']))
  assert record['checkpoint'] == record['step'] - 1 == saved['step']
  assert np.isnan(replay.run(config, str(tmp_path), str(file))['loss/total'])
  assert 'the same numbers as in the run' in capsys.readouterr().out
  with pytest.raises(UserError, match=f'step {record["step"]}: loss nan'):  # the same command, the same end
    train.run(config, str(tmp_path))
  config.train.nan_policy = 'skip'  # no other field, so no --force
  assert train.run(config, str(tmp_path))['step'] == 8
  assert '2 of 8 steps skipped' in capsys.readouterr().out  # two epochs
  rows = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
  assert rows[-2]['skipped'] == 2
  assert np.isfinite([row['loss/total'] for row in rows if 'loss/total' in row]).all()


@pytest.mark.parametrize('policy', ['skip', 'stop'])
def test_a_bad_step_changes_nothing_but_the_count_of_steps(config, policy):
  skips = policy == 'skip'
  config.train.nan_policy = policy
  data = setup.open_data(config)
  training = setup.build(config, data.train, data.val)
  state = training.init(jax.random.key(0))
  before = jax.device_get(state)
  batch = training.on_devices(next(training.batches))
  state, scalars = training.update(state, batch | {'image': batch['image'] * np.inf}, 1)
  assert not scalars['is_finite']
  assert int(state.step) == skips
  jax.tree.map(np.testing.assert_array_equal, state.replace(step=before.step), before)
  state, scalars = training.update(state, batch, 2)
  assert bool(scalars['is_finite']) == skips  # once stopped, nothing moves any more
  pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(before.params))
  assert any((np.asarray(a) != b).any() for a, b in pairs) == skips


# --- What surrounds a run fails --------------------------------------------------------------


def delete_images(config):
  shutil.rmtree(f'{config.data.path}/train')


def kill_a_worker(config):
  os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # as the system does where memory runs out


@pytest.mark.parametrize(
  'failure, workers, words',
  [
    (delete_images, {'threads': 1}, '/copy/train/'),
    (kill_a_worker, {'workers': 1}, 'a process that reads data was killed, .* set config.data.workers to fewer'),
  ],
)
def test_data_that_cannot_be_read_any_more_are_named_and_nothing_is_lost(
  failure, workers, words, config, data, tmp_path, monkeypatch
):
  shutil.copytree(data, tmp_path / 'copy')
  config.data.update(path=str(tmp_path / 'copy'), prefetch=1, **workers)
  config.train.update(steps=800, eval_every=400)
  faults.at_batch(monkeypatch, 6, failure, config)
  with pytest.raises(UserError, match=words):
    train.run(config, str(tmp_path / 'run'))
  (step,) = checkpoints(tmp_path / 'run')  # the regular ones are at 400 and 800
  saved = faults.checkpoint(tmp_path / 'run/checkpoints' / step)
  assert 6 <= int(step) < 12
  assert saved['step'] == saved['meta']['data']['next_index'] == int(step)
  if failure is delete_images:
    with pytest.raises(UserError, match='/copy/train'):
      train.run(config, str(tmp_path / 'run'))


def test_a_scorer_killed_in_an_evaluation_is_reported_and_nothing_is_lost(undisturbed, config, tmp_path, monkeypatch):
  config.eval.workers = 1
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, 'score', faults.die)
    with pytest.raises(UserError, match='a worker process was killed, .* set config.eval.workers to fewer'):
      train.run(config, str(tmp_path))
  assert checkpoints(tmp_path) == ['4']
  config.eval.workers = 0
  check_resumes(config, tmp_path, undisturbed)


def test_a_full_disk_is_reported_and_nothing_is_lost(undisturbed, config, tmp_path):
  """A limit of the size of files stops the writes in the same place, in the thread of the checkpoint."""
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed, workdir)
  shutil.rmtree(workdir / 'checkpoints/8')
  assert checkpoints(workdir) == ['4']
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
  try:
    with pytest.raises(UserError, match='File too large.*run the same command again'):
      train.run(config, str(workdir))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  check_resumes(config, workdir, undisturbed)


@pytest.mark.parametrize('workdir', ['/dev/null/run', '/proc/run'])
def test_a_workdir_that_cannot_be_written_is_named(config, workdir):
  with pytest.raises(UserError, match=f'--workdir={workdir}: cannot be written'):
    train.run(config, workdir)


# --- Configs ---------------------------------------------------------------------------------


def test_force_goes_on_with_a_changed_config(undisturbed, config, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed, workdir)
  config.optim.lr, config.train.steps = 0.5, 9
  with pytest.raises(UserError, match=r'--force to go on with:\n  optim.lr: 0.002 -> 0.5\n  train.steps: 8 -> 9'):
    train.run(config, str(workdir))
  assert train.run(config, str(workdir), force=True)['step'] in (8, 9)
  assert json.loads((workdir / 'config.json').read_text())['optim']['lr'] == 0.5
