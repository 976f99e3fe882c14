"""The training step is compiled in a thread: the right one, with its errors, and without holding up the exit."""

import subprocess
import sys
import threading

import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import scenes
from dmtl_jax.training import setup, step_compiler
from dmtl_jax.training.step_compiler import StepCompiler
from tests import faults

EXIT = """
import atexit, sys, threading, time
from dmtl_jax import cli
atexit.register(print, 'taken apart')
if sys.argv[1] == 'compiling':
  threading.Thread(target=time.sleep, args=(600,), name='compiling', daemon=True).start()
sys.exit(cli.main(['main.py', '--mode=nonsense']))
"""


def make_config(path, labels='one'):
  config = scenes.get_config(f'method=mtl_baseline,labels={labels}')
  config.data.update(dir=str(path), train_count=6, val_count=1, size=(16, 24), tasks=('depth', 'semseg'))
  config.model.update(width=8, channels=8, decoder_blocks=1)
  config.train.batch = 2
  return config


@pytest.fixture
def config(tmp_path, monkeypatch):
  faults.use_toy_model(monkeypatch.setattr)
  return make_config(tmp_path)


@pytest.mark.parametrize('labels', ['one', 'full'])
def test_the_expected_step_is_that_of_the_rendered_data(labels, tmp_path, monkeypatch):
  faults.use_toy_model(monkeypatch.setattr)
  config = make_config(tmp_path, labels)
  expected = step_compiler.expect(config)
  data = setup.open_data(config)
  assert expected is not None
  assert expected.facts == setup.build(config, data.train, data.val).facts


@pytest.mark.parametrize(
  'change', [{'data.labels': 'random'}, {'class_weights': 'balanced'}, {'data.holdout_fraction': 0.2}]
)
def test_nothing_is_expected_where_the_data_must_tell(config, change):
  config.update_from_flattened_dict(change)
  assert step_compiler.expect(config) is None


def test_the_step_is_compiled_once_and_not_in_the_main_thread(config, monkeypatch):
  threads, compile_step = [], step_compiler.compile_step
  monkeypatch.setattr(
    step_compiler, 'compile_step', lambda *args: threads.append(threading.current_thread()) or compile_step(*args)
  )
  compiler = StepCompiler(config)
  training = step_compiler.expect(config)
  compiler.start(training)
  compiler.start(step_compiler.expect(config))  # as after the data were opened
  update = compiler.result(training)
  assert len(threads) == 1
  assert threads[0] is not threading.main_thread()
  assert update.in_avals == compile_step(config, training).in_avals


def test_other_data_than_expected_get_their_own_step(config, tmp_path, monkeypatch):
  monkeypatch.setattr(step_compiler, 'compile_step', lambda config, training: training.facts.most_labels)
  compiler = StepCompiler(config)
  compiler.start(step_compiler.expect(config))
  assert compiler.result(step_compiler.expect(make_config(tmp_path, 'full'))) == 2


@pytest.mark.parametrize('error', [UserError('no memory'), KeyboardInterrupt()])
def test_an_error_in_the_thread_is_raised_where_the_step_is_needed(config, monkeypatch, error):
  def fail(*args):
    raise error

  monkeypatch.setattr(step_compiler, 'compile_step', fail)
  compiler = StepCompiler(config)
  training = step_compiler.expect(config)
  compiler.start(training)
  with pytest.raises(type(error)) as raised:
    compiler.result(training)
  assert raised.value is error


@pytest.mark.parametrize('state', ['compiling', 'idle'])
def test_the_command_line_exits_at_once_while_a_thread_compiles(state):
  ended = subprocess.run(
    [sys.executable, '-c', EXIT, state], capture_output=True, text=True, timeout=120, cwd=str(faults.ROOT)
  )
  assert ended.returncode == 1
  assert 'nonsense' in ended.stderr
  # What else runs at exit would destroy what XLA is using.
  assert ('taken apart' in ended.stdout) == (state == 'idle')
