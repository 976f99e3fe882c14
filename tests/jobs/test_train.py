"""End to end on a toy folder: training lowers the loss, resumes to the same bits, evaluates, predicts."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest

import dmtl_jax
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.inference import calibration
from dmtl_jax.inference.evaluation import Scores
from dmtl_jax.jobs import evaluate, train
from dmtl_jax.report.results import read_run
from dmtl_jax.runs import trackers
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.training.step import TrainStep
from tests import faults, toy
from tests.fake_tracker import Fake

STEPS = 6
TASKS = ('semseg', 'normals', 'depth')
pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('toy')
  toy.write(root)
  return root


def make_config(data):
  config = folder_config.get_config('labels=full')
  config.data.update(path=str(data), tasks=TASKS, size=(64, 96))
  config.model.update(width=8, channels=16, depth=1, decoder_blocks=1)
  config.train.update(batch=4, steps=STEPS, eval_every=2, log_every=1)
  config.eval.update(batch=2, panels=1)
  config.optim.warmup = 0
  return config


@pytest.fixture
def config(data):
  return make_config(data)


class Trained(NamedTuple):
  workdir: pathlib.Path
  result: dict
  traces: int  # of its train step
  tracked: Fake


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory, short_encoder):
  workdir, traces, gradients = tmp_path_factory.mktemp('run'), [], TrainStep.gradients
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(TrainStep, 'gradients', lambda *args: traces.append(1) or gradients(*args))
    patch.setitem(trackers.CLIENTS, 'wandb', Fake)
    patch.setattr(Fake, 'opened', [])
    config = make_config(data)
    config.train.tracker = 'wandb'
    result = train.run(config, str(workdir))
    (tracked,) = Fake.opened
  return Trained(workdir, result, len(traces), tracked)


def log(workdir):
  return [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]


def test_training_lowers_the_loss_and_compiles_its_step_once(trained):
  losses = [row['loss/total'] for row in log(trained.workdir) if 'loss/total' in row]
  assert len(losses) == STEPS
  assert np.mean(losses[-2:]) < 0.8 * losses[0]
  assert trained.traces == 1


def test_a_run_leaves_what_the_readme_says(trained):
  workdir, result = trained.workdir, trained.result
  assert json.loads((workdir / 'metrics.json').read_text()) == result
  assert set(result['final']) == set(result['initial']) == set(TASKS)
  assert len((workdir / 'per_image.csv').read_text().splitlines()) == 4
  page = (workdir / 'report.html').read_text()
  assert f'semseg {result["final"]["semseg"]["mIoU"]:.2f} mIoU' in page.split('</p>')[0]
  assert 'Denoising ' in page
  confusion = np.array(json.loads((workdir / 'confusion.json').read_text())['semseg'])
  assert 100 * np.trace(confusion) / confusion.sum() == pytest.approx(result['final']['semseg']['pixelAcc'])
  assert 'val00' in page
  panel = cv2.imread(str(workdir / 'panels' / 'val00.png'))
  assert panel.shape[1] > (1 + len(TASKS)) * 160  # the image and a map of each task
  mapping = json.loads((workdir / 'labels.json').read_text())
  assert [len(tasks) for tasks in mapping.values()] == [3] * 8


def test_a_tracker_gets_the_curves_panels_scores_and_report(trained):
  tracked = trained.tracked
  assert tracked.rows == [{name: x for name, x in row.items() if x is not None} for row in log(trained.workdir)]
  assert tracked.config == json.loads((trained.workdir / 'config.json').read_text())
  *pictures, (step, scores, page), outcome = tracked.calls
  assert {name for _, name, _ in pictures} == {'panels/val00'}
  assert step == STEPS
  assert scores['metrics/final/semseg/mIoU'] == trained.result['final']['semseg']['mIoU']
  assert page == trained.workdir / 'report.html'
  assert outcome == 'finished'


def interrupt():
  raise KeyboardInterrupt


def test_an_interrupted_run_ends_with_the_same_bits(trained, config, tmp_path, monkeypatch):
  monkeypatch.setitem(trackers.CLIENTS, 'wandb', Fake)
  monkeypatch.setattr(Fake, 'opened', [])
  config.train.tracker = 'wandb'
  faults.at_batch(monkeypatch, 6, interrupt)
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config, str(tmp_path))
  assert len(log(tmp_path)) > 5  # logged beyond the checkpoint of step 4; resuming must drop that
  train.run(config, str(tmp_path))
  assert log(tmp_path) == log(trained.workdir)
  a, b = (dmtl_jax.load(str(w), 'latest').variables for w in (tmp_path, trained.workdir))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  first, second = Fake.opened
  assert first.id == second.id
  assert (first.calls[-1], second.calls[-1]) == ('stopped', 'finished')
  assert second.rows[0] == trained.tracked.rows[-len(second.rows)]  # goes on where the checkpoint was
  assert first.rows[: len(trained.tracked.rows) - len(second.rows)] + second.rows == trained.tracked.rows


def test_a_finished_run_only_evaluates_again(trained, config):
  before = (trained.workdir / 'log.jsonl').read_text()
  assert train.run(config, str(trained.workdir))['step'] == trained.result['step']
  assert (trained.workdir / 'log.jsonl').read_text() == before


def test_what_a_start_without_a_checkpoint_left_is_replaced(config, tmp_path, monkeypatch):
  faults.use_toy_model(monkeypatch.setattr)
  monkeypatch.setattr(train.cost, 'abstract_batch', lambda *args: interrupt())  # before the first checkpoint
  for config.optim.lr in (0.1, 0.2):
    with pytest.raises(UserError, match='stopped by Ctrl-C'):
      train.run(config, str(tmp_path))
    assert json.loads((tmp_path / 'config.json').read_text())['optim']['lr'] == config.optim.lr


def test_a_second_process_in_the_workdir_is_refused(trained, config):
  with workdir_lib.locked(trained.workdir), pytest.raises(UserError, match='another process'):
    train.run(config, str(trained.workdir))


def test_evaluation_counts_every_image_once(trained, config):
  """Batches of 2 and of 3 over 3 images, scored here or by other processes, give the same."""
  config.eval.update(batch=3, workers=1)
  again = evaluate.run(config, str(trained.workdir), 'best')
  for task, scores in trained.result['final'].items():
    for name, value in scores.items():
      np.testing.assert_allclose(again['final'][task][name], value, rtol=1e-4, err_msg=f'{task} {name}')


def test_a_choice_of_maps_stays_with_the_run(trained, config, tmp_path, monkeypatch, capsys):
  scores = Scores({stage: trained.result[stage] for stage in ('initial', 'final')}, [], {}, better_initial=())
  monkeypatch.setattr(evaluate.Evaluator, 'run', lambda *_: scores)
  workdir = str(tmp_path / 'run')
  shutil.copytree(trained.workdir, workdir)
  own = workdir_lib.read_config(workdir)

  def evaluate_with(config) -> tuple[str, ...]:
    config.eval.panels = 0
    evaluate.run(config, workdir)
    return calibration.read(workdir).initial

  config.eval.stage = 'initial'
  assert evaluate_with(config) == TASKS
  assert evaluate_with(workdir_lib.read_config(workdir)) == TASKS
  capsys.readouterr()
  config.eval.stage = 'final'
  assert evaluate_with(config) == ()
  assert 'semseg, normals, depth: predicted by the final maps again' in capsys.readouterr().out
  own.eval.stage = 'final'
  assert workdir_lib.read_config(workdir).to_dict() == own.to_dict()
  config.eval.update(stage='initial', diffusion_steps=1)
  assert evaluate_with(config) == ()
  assert 'config.eval.stage=initial is not kept' in capsys.readouterr().out
  assert workdir_lib.read_config(workdir).to_dict() == own.to_dict()
  config.eval.diffusion_steps = 0
  evaluate.run(config, workdir, out=str(tmp_path / 'out'))
  assert 'config.eval.stage=initial is not kept' in capsys.readouterr().out
  assert calibration.read(workdir).initial == calibration.read(tmp_path / 'out').initial == ()
  assert workdir_lib.read_config(tmp_path / 'out').to_dict() == own.to_dict()


def test_scores_elsewhere_name_the_maps_that_the_run_predicts_by(trained, config, data, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(trained.workdir, 'run')
  shutil.copytree(config.data.path, 'others')
  own = calibration.read('run')
  calibration.write('run', dataclasses.replace(own, initial=('depth',)))
  config.data.path, config.eval.panels = 'others', 0
  scores = evaluate.run(config, 'run', out='on_others')
  kept = calibration.read('on_others')
  assert (kept.initial, kept.tasks) == (('depth',), {})
  run = read_run(pathlib.Path('on_others'))
  assert run.prediction_score(run.tasks[2]) == scores['initial']['depth']['absErr']
  again = Scores({stage: scores[stage] for stage in ('initial', 'final')}, [], {}, better_initial=())
  monkeypatch.setattr(evaluate.Evaluator, 'run', lambda *_: again)
  calibration.write('run', dataclasses.replace(own, step=own.step - 1, initial=('depth',)))  # of other weights
  evaluate.run(config, 'run', out='on_others')
  assert calibration.read('on_others').initial == ()
  capsys.readouterr()
  evaluate.run(config, 'run')
  assert (
    f'run: metrics.json and panels are of others now, and calibration.json stays that of {data}'
    in capsys.readouterr().out
  )
  assert calibration.read('run').step == own.step - 1
  assert read_run(pathlib.Path('run')).data == f'others (trained on {data.name})'
  config.data.path = os.path.relpath(data)
  evaluate.run(config, 'run')
  assert calibration.read('run').step == own.step


def test_the_api_agrees_with_evaluation(trained, data):
  """An image of the training size goes through unchanged: semseg accuracy by hand equals the table's."""
  predictor = dmtl_jax.load(str(trained.workdir), 'best')
  stage = 'initial' if 'semseg' in predictor.calibration.initial else 'final'
  hits = []
  for n in range(3):
    image = cv2.imread(str(data / f'val/images/val{n:02d}.png'))[..., ::-1]
    label = cv2.imread(str(data / f'val/labels/semseg/val{n:02d}.png'), cv2.IMREAD_GRAYSCALE)
    hits.append((predictor(image)['semseg'] == label).mean())
  assert abs(100 * np.mean(hits) - trained.result[stage]['semseg']['pixelAcc']) < 3  # noise differs by image index


def test_ctrl_c_saves_and_ends_the_process(data, tmp_path):
  """As a terminal does: it comes to the process and to those that read data for it, with a line for the person."""
  code = (
    'import signal, sys; from tests import faults\n'
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # a suite in the background has it ignored
    'sys.exit(faults.main(*sys.argv[1:]))'
  )
  flags = {'train.steps': 100_000, 'train.eval_every': 100_000, 'train.log_every': 1, 'data.workers': 1}
  flags = [f'--config.{name}={value}' for name, value in flags.items()]
  command = [sys.executable, '-c', code, str(data), str(tmp_path), *flags]
  environment = os.environ | {'PYTHONPATH': str(faults.ROOT)}
  process = subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
  )
  while process.poll() is None and not ((tmp_path / 'log.jsonl').exists() and (tmp_path / 'log.jsonl').read_text()):
    time.sleep(0.2)
  os.killpg(process.pid, signal.SIGINT)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 0, output
  assert 'stopped by Ctrl-C at step' in output, output
  assert 'Traceback' not in output, output
  assert list((tmp_path / 'checkpoints').glob('[0-9]*'))
