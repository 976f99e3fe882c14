"""Every job, ended early while it writes: its result is the old one or the new one, and it says which."""

import concurrent.futures
import errno
import itertools
import json
import os
import pathlib
import re
import shutil
import signal

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import atomic, stopping
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.datasets import nyud, raw
from dmtl_jax.inference import many
from dmtl_jax.inference.calibration import UNCALIBRATED
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import evaluate, export, influence, predict, prepare, report, uncertainty
from dmtl_jax.runs import workdir
from tests import evaluation_stub as stub
from tests import raw_trees, report_runs

pytestmark = pytest.mark.usefixtures('ctrl_c')


def full():
  raise OSError(errno.ENOSPC, 'x', '/somewhere')


def read_only():
  raise OSError(errno.EROFS, 'x', '/somewhere')


def interrupt():
  os.kill(os.getpid(), signal.SIGINT)


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


TROUBLES = {
  full: '/somewhere: No space left on device; fix that and run the same command again: ',
  read_only: '/somewhere: Read-only file system; fix that',
  interrupt: 'stopped by Ctrl-C; ',
  terminate: 'stopped by SIGTERM; ',
}


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def in_trouble(monkeypatch, job, folder: pathlib.Path, kept: str):
  """Runs a job that has results in `folder` again and again, with trouble at its first write and at later ones.

  Args:
    job: called with a number; its results must differ each time.
    kept: what the error says of the old results.
  """

  def run(number: int, trouble=None, at: int = -1) -> int:
    """Runs the job, with trouble at a write; returns the number of writes."""
    writes = itertools.count()

    def fsync(handle):
      if next(writes) == at:
        trouble()

    with monkeypatch.context() as patch:
      patch.setattr(atomic.os, 'fsync', fsync)
      job(number)
    return next(writes)

  writes = run(0)
  before = files(folder)
  for number, (trouble, words) in enumerate(TROUBLES.items(), 1):
    at = (writes - 1) * (number - 1) // len(TROUBLES)
    with pytest.raises(UserError, match=re.escape(kept)) as error:
      run(number, trouble, at)
    assert str(error.value).startswith(words)
    assert files(folder) == before, f'{trouble.__name__} at write {at} of {writes}'
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  run(number)
  assert files(folder) != before


def test_evaluate(tmp_path, monkeypatch):
  evaluator, variables = stub.make(1, 1)
  config = common.base('')
  config.eval.panels = 2
  workdir.write_tasks(tmp_path, stub.TASKS)
  monkeypatch.setattr(evaluate.source_lib, 'data_tasks', lambda *_: stub.TASKS)
  monkeypatch.setattr(evaluate.source_lib, 'holdout_fraction', lambda _: 0)
  monkeypatch.setattr(evaluate.source_lib, 'open_source', lambda *_: evaluator.source)
  monkeypatch.setattr(evaluate, 'build_model', lambda *_: stub.Model())
  monkeypatch.setattr(evaluate, 'Evaluator', lambda *_: evaluator)

  def job(number):
    scaled = {'scale': variables['scale'] * (1 + number)}
    monkeypatch.setattr(evaluate, 'load', lambda *_: (scaled, number))
    evaluate.run(config, str(tmp_path))

  in_trouble(monkeypatch, job, tmp_path, f'the scores and panels in {tmp_path} are as they were')


def test_report(tmp_path, monkeypatch):
  report_runs.write_run(tmp_path / 'run')
  report_runs.write_pictures(tmp_path / 'run', ['a'])
  monkeypatch.setattr('dmtl_jax.report.table._count', lambda entry: {})  # seconds each
  metrics = json.loads((tmp_path / 'run/metrics.json').read_text())

  def job(number):
    (tmp_path / 'run/metrics.json').write_text(json.dumps(metrics | {'step': number}))
    report.run([str(tmp_path / 'run')], str(tmp_path / 'out'))

  in_trouble(monkeypatch, job, tmp_path / 'out', f'the report in {tmp_path / "out"}, if any, is as it was')


class InlinePool(concurrent.futures.Executor):
  """Calls in this thread."""

  def __init__(self, threads):
    pass

  def submit(self, function, *arguments):
    future = concurrent.futures.Future()
    future.set_result(function(*arguments))
    return future


def test_predict(tmp_path, monkeypatch):
  (tmp_path / 'photos').mkdir()
  Image.new('RGB', (40, 30)).save(tmp_path / 'photos/a.png')

  class Predictor:
    tasks = stub.TASKS[-1:]
    config = common.base('')
    calibration = UNCALIBRATED
    number = 0

    @property
    def variables(self):
      return {'params': np.full(1, self.number)}

    def check(self, *_):
      pass

    def raw_of_many(self, images, samples, zoom, batch):
      (depth,) = stub.TASKS[-1:]
      for _ in images:
        yield RawMaps((depth,), {('final', depth.name): np.full((4, 4, 1), 1 + self.number, np.float32)}, (4, 4), 1)

  def job(number):
    Predictor.number = number
    monkeypatch.setattr(predict, 'load', lambda *_: Predictor())
    predict.run('', 'best', str(tmp_path / 'photos'), str(tmp_path / 'out'))

  out = tmp_path / 'out'
  monkeypatch.setattr(many, 'ThreadPoolExecutor', InlinePool)  # signals reach the main thread, a write ends in its own
  in_trouble(monkeypatch, job, out, f'0 of 1 image predicted in {out}; the same command goes on')


def test_export(tmp_path, monkeypatch):
  def job(number):
    def write(predictor, path):
      pathlib.Path(path).write_bytes(b'%d' % number)
      return ['']

    monkeypatch.setattr(export.prediction, 'load', lambda *_: None)
    monkeypatch.setattr(export, '_write_stablehlo', write)
    export.run('', 'best', str(tmp_path / 'x.stablehlo'))

  in_trouble(monkeypatch, job, tmp_path, 'x.stablehlo, if it was there, is as it was')


@pytest.mark.parametrize('trouble', TROUBLES)
def test_prepare(tmp_path, monkeypatch, no_downloads, trouble):
  """Ended at the second image; the same command prepares the data set then."""
  config = raw_trees.config('nyud', tmp_path, raw_trees.nyud_tree(tmp_path))
  attempt, images = raw._attempt, itertools.count(1)

  def troubled(*args):
    if next(images) == 2:
      trouble()
    return attempt(*args)

  monkeypatch.setattr(raw, '_attempt', troubled)
  with pytest.raises(UserError) as error:
    prepare.run(config)
  path = nyud.Builder(data_dir=config.data.dir).data_path
  assert TROUBLES[trouble] in str(error.value)
  assert f'{path} is not built' in str(error.value)
  assert not path.exists()
  assert prepare.run(config) == pathlib.Path(path)


def test_files_show_together(tmp_path):
  """Written and removed in one block, and in a block in it."""
  atomic.write_atomic(tmp_path / 'old/a', 'old')
  with atomic.transaction():
    with atomic.transaction():
      atomic.write_atomic(tmp_path / 'new/b', 'new')
      atomic.remove(tmp_path / 'old/a')
    assert files(tmp_path / 'old') == {'a': b'old'}
    assert not (tmp_path / 'new/b').exists()
  assert files(tmp_path) == {'new/b': b'new'}
  assert not (tmp_path / 'old').exists()


def test_a_signal_while_files_are_renamed_comes_too_late(tmp_path, monkeypatch):
  replace = os.replace

  def stopped(*args):
    interrupt()
    terminate()
    replace(*args)

  monkeypatch.setattr(os, 'replace', stopped)
  with stopping.report_interruption(lambda: 'kept'), atomic.transaction():
    atomic.write_atomic(tmp_path / 'a', 'new')
    atomic.write_atomic(tmp_path / 'b', 'new')
  assert files(tmp_path) == {'a': b'new', 'b': b'new'}


def test_a_vanished_folder_is_reported(tmp_path):
  with pytest.raises(UserError, match='No such file or directory; fix that .*: kept'):
    with stopping.report_interruption(lambda: 'kept'), atomic.atomic_open(tmp_path / 'x/a'):
      shutil.rmtree(tmp_path / 'x')


@pytest.mark.parametrize('job', [influence, uncertainty])
def test_studies_of_a_run(monkeypatch, job):
  """For instance while the data are prepared, which may take minutes."""

  def stop(*_):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(job, 'load', stop)
  arguments = {'samples': 2} if job is uncertainty else {}
  with pytest.raises(UserError, match='stopped by SIGTERM; the file --out, if there was one, is as it was'):
    job.run('scenes', images=2, out=None, **arguments)
