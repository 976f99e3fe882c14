"""Benchmarks: their clock, their counts of work, and the PyTorch network they time against (see test_gradient.py)."""

import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import common, profile, synthetic, timing, train_step, work
from dmtl_jax.configs import pascal
from dmtl_jax.data.source import data_tasks
from dmtl_jax.models import build_model, losses
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts import winograd
from dmtl_jax.models.parts.task_layers import Slots
from tests.tiny import random_labels, random_variables, ROOT, SIZE, TASKS, tiny_config

PAIR = (TASKS[0], TASKS[3])  # segmentation and normals
SMALL = dict(width=8, channels=8, depth=1)  # fields of the command line, too


def small_config(arg: str = ''):
  config = pascal.get_config(arg)
  config.model.update(SMALL, decoder_blocks=1)
  config.data.size = (32, 32)
  config.data.tasks = ('semseg', 'normals')
  config.train.batch = config.eval.batch = 2
  return config


def test_contestants_take_turns(monkeypatch):
  clock, order = [0.0], []
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: clock[0])

  def contestant(name, seconds):
    def call(count):
      order.append((name, count))
      clock[0] += seconds * count

    return call

  times = timing.measure({'slow': contestant('slow', 0.5), 'fast': contestant('fast', 0.03)}, repeats=3, warmup=4)
  np.testing.assert_allclose(times['slow'], [0.5] * 3)
  np.testing.assert_allclose(times['fast'], [0.03] * 3)
  # A warm-up and a trial each; then in turns, each after a call that is not timed, the fast one as often as fills 0.2 s.
  turn = [('slow', 1), ('slow', 1), ('fast', 1), ('fast', 7)]
  assert order == [('slow', 4), ('slow', 1), ('fast', 4), ('fast', 1)] + turn * 3


def test_ratios_are_of_the_same_turn():
  # The machine is half as fast in every second turn: times spread, the ratio does not.
  seconds = {'jax': np.array([1.0, 2, 1, 2, 1]), 'torch': np.array([3.0, 6, 3, 6, 3])}
  result = common.compare(seconds, 6, {'needed': 4e9, 'executed': 5e9}, 8e9, devices=2)
  assert result['torch']['ratio'] == {'median': 3.0, 'low': 3.0, 'high': 3.0}
  assert result['jax']['seconds'] == {'median': 1.0, 'low': 1.0, 'high': 2.0}
  assert result['jax']['images_per_second'] == 6
  assert result['jax']['share_of_peak'] == pytest.approx(0.25)


@pytest.mark.parametrize('method, pairs', [('prediction', 6), ('feature', 30)])
def test_needed_work_of_the_papers_step(method, pairs):
  """Against the paper's table and a hand count of what denoising a pair takes."""
  config = pascal.get_config(f'method={method}')
  forward = {'prediction': 628.35, 'feature': 675.31}[method]  # GMAC of an image, docs/paper.md
  conv = 9 * 512**2 * 4096
  heads = 2 * (3 * conv + 512**2 * 4096) / 1e9
  tokens = 2 * 4 * (256 * 20 * 512**2 + 2 * 256**2 * 512) / 1e9
  embed = 2 * (9 * 512 * 6.8 * 4096 if method == 'prediction' else conv) / 1e9
  per_pair = heads + tokens + embed
  expected = 6e9 * (6 * (forward - 5 * per_pair) + pairs * per_pair)  # GMAC; twice, three times
  assert work.needed(config, data_tasks(config.data), 6, pairs) == pytest.approx(expected, rel=0.002)


def test_the_step_does_what_is_needed(monkeypatch):
  monkeypatch.setattr(winograd, 'is_faster', lambda *_: False)  # which halves the work, see test_winograd.py
  done, needed = {}, {}
  for setting, pairs in (('one', 2), ('full', 4)):
    config = small_config(f'labels={setting}')
    config.model.update(dict(width=32, channels=64))
    job = train_step.build(config)
    assert job.pairs == pairs
    assert job.batch['label_mask'].sum() == pairs
    done[setting] = sum(flops for _, flops in job.flops())
    needed[setting] = work.needed(config, job.tasks, 2, pairs)
    assert done[setting] == pytest.approx(needed[setting], rel=0.1)
  more = done['full'] - done['one']  # two pairs denoised
  assert more > 0
  assert more == pytest.approx(needed['full'] - needed['one'], rel=0.1)


def test_hidden_labels_are_blank_in_the_synthetic_batch():
  config = small_config('labels=one')
  tasks = data_tasks(config.data)
  mask = synthetic.label_mask(tasks, 'one')
  assert (mask.sum(1) == 1).all()
  batch = synthetic.train_batch(config, tasks, mask)
  for t, task in enumerate(tasks):
    np.testing.assert_array_equal(task.valid(batch['labels'][task.name]).any((1, 2)), batch['label_mask'][:, t])


def test_train_step_benchmark(short_encoder):
  flags = types.SimpleNamespace(repeats=3, torch=None)
  result = train_step.benchmark(small_config('method=prediction'), flags)
  text = common.as_text(result)
  assert text.startswith('train step: prediction, resnet18, 32x32, batch 2, labels one, 2 of 4 pairs, float32\n')
  speed = result['speed']['jax']
  assert 0 < speed['seconds']['low'] <= speed['seconds']['median'] <= speed['seconds']['high']
  assert speed['images_per_second'] == pytest.approx(2 / speed['seconds']['median'])
  assert 0 < speed['share_of_peak'] < 1
  assert result['memory']['planned'] > 0


def test_a_benchmark_is_a_command(tmp_path):
  file = tmp_path / 'result.json'
  flags = ['--config=configs/pascal.py:method=feature', '--repeats=2', f'--json={file}']
  flags += [f'--config.model.{name}={value}' for name, value in SMALL.items()]
  flags += ['--config.data.size=(32,32)', '--config.eval.batch=2', "--config.data.tasks=('semseg',)"]
  # As `python -m benchmarks.inference`, with a short encoder.
  run = (
    'import runpy; from dmtl_jax.models.parts import encoder; encoder.STAGES["resnet18"] = (1, 1); '
    'runpy.run_module("benchmarks.inference", run_name="__main__")'
  )
  done = subprocess.run([sys.executable, '-c', run, *flags], cwd=ROOT, capture_output=True, text=True, check=True)
  result = json.loads(file.read_text())
  assert common.as_text(result) == done.stdout.strip()
  # The stem of an encoder so narrow is a large part of the work, and takes 64 products for 49 as blocks of pixels.
  assert result['flops']['executed'] == pytest.approx(result['flops']['needed'], rel=0.15)


def test_a_wrong_field_is_named_before_anything_is_measured():
  command = [sys.executable, '-m', 'benchmarks.inference', '--config.model.condition=concatt']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
  assert done.returncode == 1
  assert 'compiling' not in done.stderr
  assert done.stderr.startswith("Error: --config: model.condition: 'concatt' is none of")


def test_operations_are_put_to_parts():
  hlo = """
%fused (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  %a = f32[2] add(%p, %p), metadata={op_name="jit(train_step)/jvp(Net)/decoders/semseg_block0/bn1/add"}
  %b = f32[2] add(%a, %p), metadata={op_name="jit(train_step)/jvp(Net)/decoders/semseg_block0/bn1/add"}
  ROOT %c = f32[2] dot(%b, %p), metadata={op_name="jit(train_step)/transpose(jvp(Net))/Denoiser/heads/conv1/dot_general"}
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2] parameter(0)
  %f.1 = f32[2] fusion(%x), kind=kOutput, calls=%fused
  ROOT %sub = f32[2] subtract(%f.1, %x), metadata={op_name="jit(train_step)/sub"}
}
"""
  params = {'decoders': {'semseg_block0': {'bn1': {}}}, 'denoiser': {'heads': {'conv1': {}}}}
  where = profile.scopes(hlo)
  part = lambda operation: profile.part_of(where[operation], params, TASKS)
  assert part('f.1') == ('denoiser/heads', 'backward')
  assert part('a') == ('decoders/block', 'forward')
  assert part('sub') == (profile.OPTIMISER, 'forward')
  assert profile.part_of('jit(train_step)/transpose(jvp())/mul', params, TASKS) == (profile.LOSSES, 'backward')


@pytest.fixture(params=[
    'method=prediction', 'method=feature,preset=released', 'method=no_diffusion,preset=released',
])  # fmt: skip
def both(request, short_encoder):
  """A tiny network of two tasks and the module of its PyTorch re-statement."""
  pytest.importorskip('torch', reason='PyTorch is not installed; only the benchmark uses it')
  from benchmarks import torch_step

  config = tiny_config(request.param)
  config.data.size, config.train.batch = SIZE, 3
  model = build_model(config, PAIR)
  images = np.random.default_rng(0).standard_normal((3, *SIZE, 3)).astype(np.float32)
  return config, model, random_variables(model), images, torch_step


def test_torch_predicts_the_same_with_our_weights(both):
  config, model, variables, images, torch_step = both
  contestant = torch_step.Prediction(config, PAIR, variables, images, 'float32', compiled=False, device='cpu')
  counted = sum(x.numel() for x in contestant.forward.parameters())
  assert counted == sum(x.size for x in jax.tree.leaves(variables['params']))
  noise = model_inputs(model, images, jax.random.key(1), 2)['noise']
  ours = jax.jit(model.apply)(variables, images, noise=noise)
  given = {(task.name, None): _torch_noise(model, noise[:, 3 * t : 3 * t + 3], t) for t, task in enumerate(PAIR)}
  for maps, expected in zip(contestant.maps(given), (ours.initial, ours.final)):
    for name, x in maps.items():
      np.testing.assert_allclose(np.moveaxis(x.numpy(), 1, -1), expected[name], atol=1e-4, err_msg=name)


def test_torch_losses_are_ours():
  """Of every kind of task, on maps at stride 8 and labels with holes."""
  torch = pytest.importorskip('torch', reason='PyTorch is not installed; only the benchmark uses it')
  from benchmarks import torch_step

  rng = np.random.default_rng(5)
  maps = {task.name: rng.standard_normal((2, 8, 12, task.channels)).astype(np.float32) for task in TASKS}
  labels, mask = random_labels(rng, 2), np.ones((2, len(TASKS)), bool)
  ours = losses.map_losses(TASKS, maps, labels, mask)
  tensor = lambda x: torch.tensor(np.moveaxis(x, -1, 1).copy())
  for b in (0, 1):
    for t, task in enumerate(TASKS):
      full = torch.nn.functional.interpolate(tensor(maps[task.name][b : b + 1]), SIZE, mode='bilinear')
      theirs = torch_step.loss_of(task, full, tensor(labels[task.name][b : b + 1]))
      assert float(theirs) == pytest.approx(float(ours[b, t]), rel=1e-4), task.name


def _torch_noise(model, noise, t: int):
  """Noise [K, b, h, w, C] of pairs of task t as a tensor; of a prediction, its own slot."""
  import torch

  own = noise[..., Slots(tuple(task.channels for task in PAIR)).channel_slice(t)] if model.predictions else noise
  return torch.tensor(np.moveaxis(np.asarray(own), -1, 2))
