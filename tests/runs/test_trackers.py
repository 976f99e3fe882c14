"""Trackers get what the log gets, and never stop or slow a training."""

import json
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.runs import trackers
from dmtl_jax.runs.log import Log
from dmtl_jax.runs.trackers import Tracker
from tests.fake_tracker import Fake

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
CONFIG = {'method': 'prediction', 'train': {'batch': 8, 'tracker': 'x'}}


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch):
  monkeypatch.setattr(Fake, 'opened', [])
  monkeypatch.setattr(Fake, 'fails', '')
  monkeypatch.setitem(trackers.CLIENTS, 'wandb', Fake)
  monkeypatch.setitem(trackers.CLIENTS, 'trackio', Fake)


def send_all(tracker, workdir):
  """Every call, in the order of a training."""
  with tracker:
    log = Log(workdir, 0, 0, tracker)
    log.scalars(1, {'loss/total': 2.5, 'lr': 0.1})
    log.scalars(2, {'loss/total': 1.5, 'eval/final/depth/rmse': float('nan')})
    log.image(2, 'panels/a', PICTURE)
    log.close()
    page = workdir / 'report.html'
    page.write_text('<p>äöü</p>', encoding='utf-8')
    tracker.finish(2, {'metrics/final/depth/rmse': 0.5, 'metrics/final/depth/rel': float('nan')}, page)


def send_one(tracker):
  with tracker:
    tracker.scalars(3, {'loss/total': 0.5, 'eval/final/тип/mIoU': 0.25})


def test_a_tracker_gets_what_the_log_gets(tmp_path, capsys):
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  (client,) = Fake.opened
  logged = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
  assert client.rows == [{k: v for k, v in row.items() if v is not None} for row in logged]
  assert client.config == CONFIG
  (step, name, picture), final, outcome = client.calls
  assert (step, name) == (2, 'panels/a')
  np.testing.assert_array_equal(picture, PICTURE)
  assert final == (2, {'metrics/final/depth/rmse': 0.5}, tmp_path / 'report.html')
  assert outcome == 'finished'
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize('call', ['open', 'scalars', 'image', 'finish', 'close'])
def test_a_tracker_that_fails_is_dropped_with_one_sentence(tmp_path, capsys, monkeypatch, call):
  monkeypatch.setattr(Fake, 'fails', call)
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  kind = 'SystemExit' if call == 'open' else 'OSError'
  assert capsys.readouterr().out == f'config.train.tracker=wandb: {kind}: no; training goes on without it\n'
  assert len((tmp_path / 'log.jsonl').read_text().splitlines()) == 2
  assert all('finished' not in client.calls for client in Fake.opened)


def test_what_a_server_says_does_not_move_the_cursor(tmp_path, capsys, monkeypatch):
  def fail(*args):
    raise OSError('\x1b[2Jno')

  monkeypatch.setattr(Fake, 'scalars', fail)
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  assert r'OSError: \x1b[2Jno; training goes on' in capsys.readouterr().out


def test_a_workdir_that_is_full_drops_the_tracker(tmp_path, capsys, monkeypatch):
  def full(path, value):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(trackers, 'write_json', full)
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  assert 'No space left on device; training goes on without it' in capsys.readouterr().out


def test_a_library_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(trackers.CLIENTS, 'wandb', trackers.WandbClient)
  monkeypatch.setitem(sys.modules, 'wandb', None)
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  assert capsys.readouterr().out == (
    'config.train.tracker=wandb: wandb is not installed; run pip install wandb; training goes on without it\n'
  )


def test_a_tracker_that_hangs_does_not_slow_a_step(tmp_path, capsys, monkeypatch):
  answers = threading.Event()
  monkeypatch.setattr(Fake, 'scalars', lambda *args: answers.wait(10))
  monkeypatch.setattr(trackers, 'PENDING', 3)
  monkeypatch.setattr(trackers, 'PATIENCE', 0.1)
  began = time.monotonic()
  for count, reason in ((2, 'no answer within 0.1 s'), (9, '3 calls are waiting for it')):
    with Tracker('wandb', tmp_path, CONFIG, resumes=False) as tracker:
      for step in range(count):
        tracker.scalars(step, {'loss': 1.0})
    assert capsys.readouterr().out == f'config.train.tracker=wandb: {reason}; training goes on without it\n'
  answers.set()
  assert time.monotonic() - began < 2


def test_a_resumed_run_goes_on_in_the_tracker(tmp_path):
  def id_of(name, resumes):
    send_one(Tracker(name, tmp_path, CONFIG, resumes))
    return Fake.opened[-1].id

  first = id_of('wandb', False)
  assert first.startswith(f'{tmp_path.name}-')
  assert id_of('wandb', True) == first
  assert id_of('wandb', True) == first
  assert id_of('trackio', True) != first  # another tracker does not know it
  anew = id_of('wandb', False)
  assert anew != first
  for content in ('', '[]', '{"tracker": "wandb", "id": "../x"}', '{"tracker": "wandb", "id": 3}'):
    (tmp_path / 'tracker.json').write_text(content)
    assert id_of('wandb', True) not in (first, anew, '../x')


@pytest.mark.parametrize('error, outcome', [(KeyboardInterrupt(), 'stopped'), (UserError('no'), 'failed')])
def test_a_tracker_learns_how_a_run_that_did_not_finish_ended(tmp_path, error, outcome):
  with pytest.raises(type(error)), Tracker('wandb', tmp_path, CONFIG, resumes=False) as tracker:
    tracker.scalars(1, {'loss': 1.0})
    raise error
  send_one(Tracker('wandb', tmp_path, CONFIG, resumes=True))  # by SIGTERM, which `train` answers by itself
  assert [client.calls for client in Fake.opened] == [[outcome], ['stopped']]


def test_nothing_is_sent_without_a_tracker_or_by_other_hosts(tmp_path, monkeypatch):
  for name, index in (('none', 0), ('wandb', 1)):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    with Tracker(name, tmp_path, CONFIG, resumes=False) as tracker:
      tracker.scalars(1, {'loss': 1.0})
      tracker.finish(1, {}, tmp_path)
  assert not Fake.opened
  assert not list(tmp_path.iterdir())


# --- The libraries, without a network ----------------------------------------------------------


def follow_two(name, workdir, monkeypatch, client):
  """A run and its continuation; returns the run's id in the tracker."""
  monkeypatch.setitem(trackers.CLIENTS, name, client)
  send_all(Tracker(name, workdir, CONFIG, resumes=False), workdir)
  id = json.loads((workdir / 'tracker.json').read_text())['id']
  send_one(Tracker(name, workdir, CONFIG | {'method': 'feature'}, resumes=True))
  assert json.loads((workdir / 'tracker.json').read_text())['id'] == id
  return id


def test_wandb_offline(tmp_path, monkeypatch, capsys):
  wandb = pytest.importorskip('wandb', reason='wandb is not installed')
  wandb.teardown()
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  codes = []
  finish = wandb.Run.finish
  monkeypatch.setattr(wandb.Run, 'finish', lambda run, exit_code: finish(run, codes.append(exit_code) or exit_code))
  id = follow_two('wandb', tmp_path, monkeypatch, trackers.WandbClient)
  assert 'goes on without it' not in capsys.readouterr().out
  wandb.teardown()  # waits until its process has written all
  runs = list((tmp_path / 'wandb').glob(f'offline-run-*-{id}'))
  content = b''.join(path.read_bytes() for run in runs for path in run.glob('*.wandb'))
  assert codes == [0, 255]
  for part in (b'loss/total', 'eval/final/тип/mIoU'.encode(), b'metrics/final/depth/rmse'):
    assert part in content
  assert [path for run in runs for path in run.rglob('*.png')]
  assert ['<p>äöü</p>' in path.read_text(encoding='utf-8') for run in runs for path in run.rglob('*.html')] == [True]


def test_wandb_without_a_login_does_not_ask(tmp_path, monkeypatch, capsys):
  wandb = pytest.importorskip('wandb', reason='wandb is not installed')
  wandb.teardown()  # it remembers the mode
  for name, value in (('WANDB_MODE', 'online'), ('WANDB_API_KEY', ''), ('NETRC', str(tmp_path / 'none'))):
    monkeypatch.setenv(name, value)
  monkeypatch.setitem(trackers.CLIENTS, 'wandb', trackers.WandbClient)
  send_all(Tracker('wandb', tmp_path, CONFIG, resumes=False), tmp_path)
  assert 'not logged in; run `wandb login`, or set WANDB_MODE=offline; training goes on' in capsys.readouterr().out


def test_trackio_local(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
  trackio = pytest.importorskip('trackio', reason='trackio is not installed')
  id = follow_two('trackio', tmp_path, monkeypatch, trackers.TrackioClient)
  assert 'goes on without it' not in capsys.readouterr().out
  rows = trackio.sqlite_storage.SQLiteStorage.get_logs(trackers.PROJECT, id)
  assert [row['loss/total'] for row in rows if 'loss/total' in row] == [2.5, 1.5, 0.5]
  assert [row['metrics/final/depth/rmse'] for row in rows if 'metrics/final/depth/rmse' in row] == [0.5]
  assert any('panels/a' in row for row in rows)
  assert any('report' in row for row in rows)


def test_mlflow_in_a_file(tmp_path, monkeypatch, capsys):
  mlflow = pytest.importorskip('mlflow', reason='mlflow is not installed')
  pytest.importorskip('sqlalchemy', reason='mlflow-skinny has no local store')
  mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
  monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
  id = follow_two('mlflow', tmp_path, monkeypatch, trackers.MlflowClient)
  assert 'goes on without it' not in capsys.readouterr().out
  client = mlflow.MlflowClient()
  assert [m.value for m in client.get_metric_history(id, 'loss/total')] == [2.5, 1.5, 0.5]
  assert client.get_metric_history(id, 'eval/final/тип/mIoU')[0].step == 3
  run = client.get_run(id)
  assert run.data.params['train.batch'] == '8'
  assert run.info.status == 'KILLED'
  send_all(Tracker('mlflow', tmp_path, CONFIG, resumes=True), tmp_path)
  assert client.get_run(id).info.status == 'FINISHED'
  assert {'report.html', 'images'} <= {file.path for file in client.list_artifacts(id)}
