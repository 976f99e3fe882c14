"""Compiling for an accelerator that is not here: the plan, and that tracing is for that accelerator."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import pytest

from dmtl_jax import cli
from dmtl_jax.basics import accelerators, collectives, sharding, target
from dmtl_jax.basics.errors import UserError
from dmtl_jax.jobs import compile_for, summary
from dmtl_jax.models.parts.layers import convolve
from tests.tiny import TASKS, tiny_config

HLO = """HloModule jit_train_step

%fused (p: f32[64,64]) -> f32[64,64] {
  %p = f32[64,64]{1,0} parameter(0)
  ROOT %big = f32[640,640]{1,0} broadcast(%p), metadata={op_name="inside"}
}

%ends (state: (s32[], f32[512,512])) -> pred[] {
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (state: (s32[], f32[512,512])) -> (s32[], f32[512,512]) {
  %both = (f32[8,8]{1,0}, f32[64]{0}) fusion(%state), kind=kLoop, calls=%fused, metadata={op_name="both"}
  ROOT %next = (s32[], f32[512,512]{1,0}) tuple(%i, %c)
}

ENTRY %main (a: f32[512,512]) -> bf16[8,32] {
  %a = f32[512,512]{1,0} parameter(0)
  %one = bf16[8,32]{1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/x/net/conv/mul"}
  %mask = pred[100,3]{1,0} compare(%a, %a)
  %gather = (f32[512,512]{1,0}, f32[4,4]{1,0}) all-gather-start(%a), metadata={op_name="gather"}
  %loop = (s32[], f32[512,512]{1,0}) while(%start), condition=%ends, body=%body
  ROOT %two = bf16[8,32]{1,0} fusion(%a), kind=kLoop, calls=%fused
}
"""


def test_the_largest_arrays_are_those_that_instructions_write_and_fusions_do_not_keep():
  assert compile_for.find_largest(HLO) == [
    '0.000488 MiB bf16[8,32] x2: net/conv/mul',
    '0.000286 MiB pred[100,3] x1: compare',
    '0.000244 MiB f32[8,8] x1: both',
    '0.000244 MiB f32[64] x1: both',
    '6.1e-05 MiB f32[4,4] x1: gather',
  ]


@pytest.fixture
def config(short_encoder):
  config = tiny_config('method=mtl_baseline,labels=one')
  config.model.update(width=4, channels=8)
  config.data.size, config.train.batch, config.eval.batch = (32, 32), 4, 2
  return config


def pretend(monkeypatch, memory: float):
  """--for=cpu: one that is here, so that its compiler is."""
  chip = accelerators.Accelerator('cpu', memory, half=2e9, single=1e9, bandwidth=1e9)
  monkeypatch.setitem(accelerators.ACCELERATORS, 'cpu', chip)
  monkeypatch.setattr(accelerators, 'devices', lambda name: jax.devices('cpu')[:1])


def plan(config):
  return compile_for.plan(config, TASKS[:2], 'cpu')


def test_a_plan_is_that_of_the_step_that_training_compiles(config, monkeypatch):
  pretend(monkeypatch, 1e9)
  planned = plan(config)
  train, text = planned['train'], compile_for.as_text(planned, config)
  assert train['fits']
  assert planned['inference']['fits']
  assert planned['advice'] == []
  assert train['bytes'] == summary.step_memory(config, TASKS[:2])['bytes'] > planned['inference']['bytes']
  assert train['bytes'] >= train['arguments'] + train['temporaries']
  assert train['seconds'] == max(train['flops'] / 1e9, train['traffic'] / 1e9)
  assert 'training step, 4 images: fits' in text
  assert 'inference, 2 images: fits' in text
  assert len(train['largest']) == compile_for.SHOWN
  json.dumps(planned)


def test_many_devices_come_with_what_they_exchange(monkeypatch):
  pretend(monkeypatch, 1e9)
  chip = accelerators.ACCELERATORS['cpu']
  step = jax.jit(lambda x: x @ x).trace(jnp.zeros((4, 4)))
  one = compile_for.measure(step, 'float32', chip)
  monkeypatch.setattr(
    collectives, 'find', lambda text, devices: {'all-reduce': collectives.Exchange(3, 1000.0 * devices)}
  )
  two = compile_for.measure(step, 'float32', dataclasses.replace(chip, count=2, interconnect=500.0))
  assert compile_for.exchange_lines(one) == []
  assert two['collectives'] == {'all-reduce': {'count': 3, 'bytes': 2000.0}}
  assert two['exchange_seconds'] == 4.0
  exchange, efficiency = compile_for.exchange_lines(two | {'seconds': 12.0})
  assert exchange == '  a device sends 3 all-reduce 0.00191 MiB: 4 s at the very least'
  assert '75% if work waits for it, 100% if' in efficiency


def test_what_does_not_fit_comes_with_what_would(config, monkeypatch):
  pretend(monkeypatch, 1e9)
  step = compile_for.trace_training(config, TASKS[:2])
  chip = accelerators.ACCELERATORS['cpu']
  whole = compile_for.measure(step, config.dtype, chip)
  pretend(monkeypatch, whole['bytes'] * 0.95)
  monkeypatch.setattr(compile_for, 'trace_inference', lambda *_: step)
  planned = plan(config)
  remat, accumulate = planned['advice']
  assert not planned['train']['fits']
  assert remat.startswith('--config.train.remat=True: ')
  assert accumulate.startswith('--config.train.accumulate=2, or --config.train.batch=2: about ')
  assert 'does not fit' in compile_for.as_text(planned, config)


def test_a_compiler_out_of_memory_is_a_result_and_another_error_is_not(config, monkeypatch):
  pretend(monkeypatch, 1e9)
  config.train.remat = True
  said = 'RESOURCE_EXHAUSTED: Ran out of memory on HBM, (20.89G) exceeds available HBM (15.75G).\nmore'

  def fails(*args, **kwargs):
    raise jax.errors.JaxRuntimeError(said)

  monkeypatch.setattr(jax.stages.Lowered, 'compile', fails)
  planned = plan(config)
  assert not planned['train']['fits']
  assert planned['train']['error'] == said.split('\n')[0]
  assert 'not fit, RESOURCE_EXHAUSTED' in compile_for.as_text(planned, config)
  assert 'accumulate' in planned['advice'][0]
  said = 'INTERNAL: of XLA'
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    plan(config)


@pytest.mark.parametrize(
  'name, error, message',
  [
    ('v5e-1', RuntimeError('JAX TPU support not installed; cannot'), r"is not installed; pip install 'dmtl_jax.tpu.'$"),
    (
      't4',
      NotImplementedError('topology not implemented for cuda'),
      r"is not installed; pip install 'dmtl_jax.cuda13.'$",
    ),
    ('v6e-1', RuntimeError('ABORTED: lockfile.\nmore'), r'--for=v6e-1: .* does not start: ABORTED: lockfile.$'),
  ],
)
def test_without_a_compiler_the_error_says_how_to_get_it(name, error, message, monkeypatch):
  def fails(*args, **kwargs):
    raise error

  monkeypatch.setattr(topologies, 'get_topology_desc', fails)
  with pytest.raises(UserError, match=message):
    accelerators.devices(name)


def test_tracing_is_for_the_accelerator_that_is_named():
  x, kernel = jnp.zeros((2, 16, 16, 64)), jnp.zeros((3, 3, 64, 64))

  def lowered(name):
    return jax.jit(lambda *a: convolve(*a)).trace(x, kernel).lower(lowering_platforms=(name,)).as_text()

  with target.compiling_for('tpu', jax.devices()[:1]):
    assert 'winograd' not in lowered('tpu')
    assert 'stablehlo.convolution' in lowered('tpu')
    assert sharding.make_mesh().size == 1
  assert 'winograd' in lowered('cpu')
  assert 'stablehlo.convolution' not in lowered('cpu')


@pytest.mark.parametrize('name', accelerators.ACCELERATORS)
def test_the_real_compilers_where_they_are_installed(name, monkeypatch):
  chosen = accelerators.ACCELERATORS[name]
  modules = {'tpu': ['libtpu'], 'gpu': ['jax_plugins.xla_cuda12', 'jax_plugins.xla_cuda13']}[chosen.platform]
  if not any(importlib.util.find_spec(name.split('.')[0]) and importlib.util.find_spec(name) for name in modules):
    pytest.skip(f'{" or ".join(modules)} is not installed')
  for variable, value in accelerators.ENVIRONMENT.items():
    monkeypatch.setenv(variable, value)
  devices = accelerators.devices(name)
  assert len(devices) == chosen.count
  assert {device.platform for device in devices} == {chosen.platform}
  with target.compiling_for(chosen.platform, devices):
    mesh = sharding.make_mesh()
    count = 8 * chosen.count
    batch = jax.ShapeDtypeStruct((count, 16, 16, 64), jnp.float32, sharding=sharding.by_image(mesh))
    kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32, sharding=sharding.replicated(mesh))
    planned = compile_for.measure(jax.jit(lambda *a: convolve(*a)).trace(batch, kernel), 'float32', chosen)
    gradient = jax.jit(jax.grad(lambda kernel, x: convolve(x, kernel).sum())).trace(kernel, batch)
    planned_gradient = compile_for.measure(gradient, 'float32', chosen)
  assert planned['fits']
  assert planned['bytes'] > 8 * 16 * 16 * 64 * 4
  assert planned['flops'] == 2 * 8 * 16 * 16 * 9 * 64 * 64  # not half of it, which Winograd's would be
  assert planned['collectives'] == {}
  sent = sum(each['bytes'] for each in planned_gradient['collectives'].values())
  assert sent == pytest.approx(2 * (1 - 1 / chosen.count) * 9 * 64 * 64 * 4, rel=0.02)


def test_the_command_line_alone_does_not_import_jax():
  """--for sets variables that JAX reads when it is imported."""
  code = "import sys, dmtl_jax.cli; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--mode=summary', '--memory', '--for=v5'], "'v5' is none of v4-8, .*; did you mean v5p-8?"),
    (['--mode=summary', '--for=v5e-1'], '--for=v5e-1: needs --mode=summary --memory'),
    (['--workdir=x', '--for=t4'], '--for: --mode=train does not take it'),
  ],
)
def test_a_wrong_accelerator_is_refused_before_jax_is_there(arguments, message, fresh_flags, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['main.py', '--config=scenes', *arguments])
  monkeypatch.setattr(cli, '_read_config', None)  # which imports it
  fresh_flags()
  with pytest.raises(UserError, match=message):
    cli._parse(sys.argv)
