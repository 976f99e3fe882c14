"""End to end on a toy folder: training lowers the loss, resumes to the same bits, evaluates, predicts."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import faults
import jax
import numpy as np
import pytest
import toy

import dmtl_jax
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.jobs import evaluate, train
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.training.step import TrainStep

STEPS = 6
TASKS = ('semseg', 'normals', 'depth')
pytestmark = pytest.mark.usefixtures('short_encoder')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('toy')
  os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
  toy.write(root)
  return root


def config_for(data):
  config = folder_config.get_config('labels=full')
  config.data.path, config.data.tasks, config.data.size = str(data), TASKS, (64, 96)
  config.model.update(width=8, channels=16, depth=1, decoder_blocks=1)
  config.train.batch, config.train.steps, config.train.eval_every, config.train.log_every = 4, STEPS, 2, 1
  config.eval.batch, config.eval.panels = 2, 1
  config.optim.warmup = 0
  return config


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory, short_encoder):
  """Its workdir, its result, and how often its train step was traced."""
  workdir, traces, gradients = tmp_path_factory.mktemp('run'), [], TrainStep.gradients
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(TrainStep, 'gradients', lambda *args: traces.append(1) or gradients(*args))
    result = train.run(config_for(data), str(workdir))
  return workdir, result, len(traces)


def log(workdir):
  return [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]


def test_training_lowers_the_loss(trained):
  losses = [row['loss/total'] for row in log(trained[0]) if 'loss/total' in row]
  assert len(losses) == STEPS
  assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_a_run_leaves_what_the_readme_says(trained):
  workdir, result, _ = trained
  assert json.loads((workdir / 'metrics.json').read_text()) == result
  assert set(result['final']) == set(result['initial']) == set(TASKS)
  assert len((workdir / 'per_image.csv').read_text().splitlines()) == 4
  page = (workdir / 'report.html').read_text()
  assert 'Denoising ' in page.split('</p>')[0] and 'val00' in page
  panel = cv2.imread(str(workdir / 'panels' / 'val00.png'))
  assert panel.shape[1] > (1 + len(TASKS)) * 160  # the image and a map of each task
  mapping = json.loads((workdir / 'labels.json').read_text())
  assert len(mapping) == 8 and all(len(tasks) == 3 for tasks in mapping.values())


def interrupt():
  raise KeyboardInterrupt


def test_an_interrupted_run_ends_with_the_same_bits(trained, data, tmp_path, monkeypatch):
  faults.at_batch(monkeypatch, 6, interrupt)
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config_for(data), str(tmp_path))
  assert len(log(tmp_path)) > 5  # logged beyond the checkpoint of step 4; resuming must drop that
  monkeypatch.undo()
  train.run(config_for(data), str(tmp_path))
  assert log(tmp_path) == log(trained[0])
  a, b = (dmtl_jax.load(str(w), 'latest').variables for w in (tmp_path, trained[0]))
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_finished_run_only_evaluates_again(trained, data):
  before = (trained[0] / 'log.jsonl').read_text()
  assert train.run(config_for(data), str(trained[0]))['step'] == trained[1]['step']
  assert (trained[0] / 'log.jsonl').read_text() == before


def test_what_a_start_without_a_checkpoint_left_is_replaced(data, tmp_path, monkeypatch):
  faults.use_toy_model(monkeypatch.setattr)
  monkeypatch.setattr(train.cost, 'abstract_batch', lambda *args: interrupt())  # before the first checkpoint
  config = config_for(data)
  for config.optim.lr in (0.1, 0.2):
    with pytest.raises(UserError, match='stopped by Ctrl-C'):
      train.run(config, str(tmp_path))
    assert json.loads((tmp_path / 'config.json').read_text())['optim']['lr'] == config.optim.lr


def test_a_second_process_in_the_workdir_is_refused(trained, data):
  with workdir_lib.locked(trained[0]), pytest.raises(UserError, match='another process'):
    train.run(config_for(data), str(trained[0]))


def test_the_train_step_compiles_once(trained):
  assert trained[2] == 1


def test_evaluation_counts_every_image_once(trained, data):
  """Batches of 2 and of 3 over 3 images, scored here or by other processes, give the same."""
  config = config_for(data)
  config.eval.batch, config.eval.workers = 3, 1
  again = evaluate.run(config, str(trained[0]), 'best')
  for task, scores in trained[1]['final'].items():
    for name, value in scores.items():
      np.testing.assert_allclose(again['final'][task][name], value, rtol=1e-4, err_msg=f'{task} {name}')


def test_the_api_agrees_with_evaluation(trained, data):
  """An image of the training size goes through unchanged: semseg accuracy by hand equals the table's."""
  predictor = dmtl_jax.load(str(trained[0]), 'best')
  hits = []
  for n in range(3):
    image = cv2.imread(str(data / f'val/images/val{n:02d}.png'))[..., ::-1]
    label = cv2.imread(str(data / f'val/labels/semseg/val{n:02d}.png'), cv2.IMREAD_GRAYSCALE)
    hits.append((predictor(image)['semseg'] == label).mean())
  assert abs(100 * np.mean(hits) - trained[1]['final']['semseg']['pixelAcc']) < 3  # noise differs by image index


def test_ctrl_c_saves_and_ends_the_process(data, tmp_path):
  """As a terminal does: it comes to the process and to those that read data for it, with a line for the person."""
  command = [
    sys.executable,
    '-c',
    'import faults, signal, sys\n'
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # a suite in the background has it ignored
    'sys.exit(faults._main(*sys.argv[1:]))',
    str(data),
    str(tmp_path),
  ]
  command += ['--config.train.steps=100000', '--config.train.eval_every=100000', '--config.train.log_every=1']
  command += ['--config.data.workers=1']
  environment = os.environ | {'PYTHONPATH': f'{faults.ROOT}:{faults.ROOT / "tests"}'}
  process = subprocess.Popen(
    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
  )
  while process.poll() is None and not ((tmp_path / 'log.jsonl').exists() and (tmp_path / 'log.jsonl').read_text()):
    time.sleep(0.2)
  os.killpg(process.pid, signal.SIGINT)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 0 and 'stopped by Ctrl-C at step' in output and 'Traceback' not in output, output
  assert list((tmp_path / 'checkpoints').glob('[0-9]*'))
