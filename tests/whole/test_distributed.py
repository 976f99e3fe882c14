"""One run on one device, on eight, and on two processes: the same losses, scores and checkpoints.

A chain: one device trains (the reference); two processes, as srun starts them, go on from its first
checkpoint; eight devices, two of which share a state, go on from one that the two processes wrote; and one
device goes on from a checkpoint of either.
"""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest

from dmtl_jax.basics import sharding
from dmtl_jax.data import pipeline
from dmtl_jax.jobs import train
from dmtl_jax.models import build_model
from dmtl_jax.runs import checkpoints
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.training import setup
from tests import faults, toy

STEPS, EVERY = 18, 4
COMPARED = 10  # steps after a checkpoint; then rounding has grown
ARG = 'method=prediction,labels=one,diffusion_steps=1'
pytestmark = pytest.mark.usefixtures('short_encoder')
# main.py with that encoder.
MAIN = """
import sys
from dmtl_jax import cli
from dmtl_jax.models.parts import encoder
encoder.STAGES['resnet18'] = (1, 1)
sys.exit(cli.main(['main.py', *sys.argv[1:]]))
"""
CONFIG = f"""
from dmtl_jax.configs import folder

def get_config(arg=None):
  config = folder.get_config(arg)
  config.data.update(path='{{}}', tasks=('semseg', 'depth'), size=(32, 32))
  config.model.update(width=8, channels=32, depth=1, decoder_blocks=1)
  config.train.update(batch=8, steps={STEPS}, log_every=1, eval_every={STEPS}, save_every={EVERY}, keep={STEPS})
  config.optim.lr, config.eval.batch, config.eval.panels = 1e-4, 2, 1
  return config
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """The path of a config of a small folder."""
  path = tmp_path_factory.mktemp('toy') / 'config.py'
  toy.write(path.parent, size=(32, 32))
  path.write_text(CONFIG.format(path.parent))
  return path


def make_config(data):
  return runpy.run_path(str(data))['get_config'](ARG)


def train_here(data, workdir):
  train.run(make_config(data), str(workdir))


@pytest.fixture(scope='module')
def one_device(data, tmp_path_factory, short_encoder):
  workdir = tmp_path_factory.mktemp('one')
  train_here(data, workdir)
  return workdir


def copy_start(before, step: int, workdir):
  """What a run needs to go on from a checkpoint of another."""
  shutil.copytree(before / 'checkpoints' / str(step), workdir / 'checkpoints' / str(step))
  for name in ('config.json', 'tasks.json'):
    shutil.copy(before / name, workdir)


def go_on(data, before, step: int, workdir, processes: int, devices: int, *flags) -> list[str]:
  """Goes on from a checkpoint of the run in `before`, in another workdir; returns what each process printed."""
  copy_start(before, step, workdir)
  command = [sys.executable, '-c', MAIN, f'--config={data}:{ARG}', f'--workdir={workdir}', *flags]
  running, port = [], faults.free_port()
  for number in range(processes):
    env = os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'}
    if processes > 1:  # what srun sets
      env |= {'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': str(processes)}
      env |= {'SLURM_PROCID': str(number), 'SLURM_LOCALID': str(number), 'JAX_COORDINATOR_PORT': str(port)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running.append(subprocess.Popen(command, cwd=faults.ROOT, env=env, **pipes))
  try:
    printed = [process.communicate(timeout=500)[0] for process in running]
  finally:
    for process in running:
      process.kill()
  assert not any(process.returncode for process in running), '\n'.join(printed)
  return printed


class TwoProcesses(NamedTuple):
  workdir: pathlib.Path
  first: str  # what the first process printed
  second: str


@pytest.fixture(scope='module')
def two_processes(data, one_device, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('two')
  return TwoProcesses(workdir, *go_on(data, one_device, EVERY, workdir, 2, 1, '--distributed=auto'))


@pytest.fixture(scope='module')
def eight_devices(data, two_processes, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('eight')
  go_on(data, two_processes.workdir, 2 * EVERY, workdir, 1, 8, '--config.train.fsdp=2')
  return workdir


def rows(workdir) -> dict[int, dict]:
  lines = [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]
  return {row['step']: row for row in lines if 'loss/total' in row}


def same_run(workdir, reference, first: int):
  ours, wanted = rows(workdir), rows(reference)
  assert list(ours) == list(range(first, STEPS + 1))
  for step, row in ours.items():
    for name, value in row.items():
      tolerance = 1e-5 if name.startswith('loss') and step < first + COMPARED else 1e-2  # gradients feel rounding first
      np.testing.assert_allclose(value, wanted[step][name], rtol=tolerance, err_msg=f'{name} at step {step}')
  metrics, wanted = (json.loads((w / 'metrics.json').read_text()) for w in (workdir, reference))
  for stage in ('initial', 'final'):
    for task, scores in wanted[stage].items():
      for name, value in scores.items():
        np.testing.assert_allclose(metrics[stage][task][name], value, rtol=3e-3, err_msg=f'{task} {name}')
  for folder in (workdir, reference):
    lines = (folder / 'per_image.csv').read_text().splitlines()
    assert [line.split(',')[0] for line in lines] == ['id', 'val00', 'val01', 'val02']


def test_two_processes_go_on_as_one_device_would(two_processes, one_device):
  workdir = two_processes.workdir
  same_run(workdir, one_device, EVERY + 1)
  for words in (f'resuming from step {EVERY}', 'metrics.json'):
    assert words in two_processes.first
  for words in ('resuming', 'training'):  # the first speaks for all
    assert words not in two_processes.second
  assert (workdir / 'panels').is_dir()
  assert len(list((workdir / 'tensorboard').iterdir())) == 1


def test_eight_devices_go_on_from_what_two_processes_wrote(eight_devices, one_device):
  same_run(eight_devices, one_device, 2 * EVERY + 1)
  stored = (eight_devices / 'checkpoints' / str(STEPS) / 'optimizer' / '_sharding').read_text()
  assert 'fsdp' in stored  # devices held parts of the state, not copies


def test_one_device_goes_on_from_what_two_processes_and_what_eight_wrote(
  data, one_device, two_processes, eight_devices, tmp_path
):
  for before in (two_processes.workdir, eight_devices):
    workdir = tmp_path / before.name
    copy_start(before, 4 * EVERY, workdir)
    train_here(data, workdir)
    same_run(workdir, one_device, 4 * EVERY + 1)


def test_batch_norm_statistics_are_those_of_the_whole_batch(two_processes, one_device):
  """The running ones at the end of the run on two processes, read back, equal those of one device."""

  def stats(workdir):
    config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(one_device)
    return checkpoints.load(workdir, str(STEPS), build_model(config, tasks), tuple(config.data.size))[0]['batch_stats']

  for a, b in zip(jax.tree.leaves(stats(two_processes.workdir)), jax.tree.leaves(stats(one_device)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


class Reads:
  """A source that remembers which images were read."""

  def __init__(self, source):
    self.source, self.seen = source, []

  def __getattr__(self, name):
    return getattr(self.source, name)

  def __len__(self):
    return len(self.source)

  def example(self, index, least):
    self.seen.append(index)
    return self.source.example(index, least)


def test_each_image_is_read_by_one_host(data):
  config = make_config(data)
  config.data.threads = config.data.prefetch = 1
  source = setup.open_data(config).train
  taken = []
  for host in range(2):
    reads = Reads(source)
    index = next(pipeline.train_iterator(reads, config.data, config.train.batch, config.seed, host, 2))['index']
    assert len(index) == 4  # an epoch is one batch of 8
    assert set(reads.seen[:4]) == set(index)
    taken += list(index)
  assert sorted(taken) == list(range(8))


@pytest.mark.parametrize(
  'shape, spec',
  [
    ((3, 3, 64, 128), (None, None, None, 'fsdp')),
    ((5, 3, 3, 512, 510), (None, None, None, 'fsdp')),  # 510 is not a multiple of 4
    ((512,), ()),  # too small
    ((3, 3, 511, 511), ()),  # no axis divides
  ],
)
def test_large_arrays_are_cut_along_their_largest_axis(shape, spec):
  assert tuple(sharding._spec(shape, 4)) == spec


def test_an_unknown_cluster_is_reported_in_a_sentence(tmp_path):
  command = [sys.executable, 'main.py', '--config=configs/folder.py', f'--workdir={tmp_path}', '--distributed=auto']
  done = subprocess.run(command, cwd=faults.ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.startswith('Error: --distributed=auto: ')
  assert 'srun' in done.stderr
