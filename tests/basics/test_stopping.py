"""Ctrl-C where Python has no say, and where JAX has one of its own."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from dmtl_jax.basics.stopping import StopSignal

BUSY = """
import hashlib, signal, sys
from dmtl_jax.basics import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
stopping.PATIENCE = 0.1
with stopping.StopSignal() as stop:
  print('begins', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # minutes without Python, as XLA compiles
"""


def test_ctrl_c_is_answered_while_compiling_and_the_second_quits():
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  process = subprocess.Popen(
    [sys.executable, '-c', BUSY], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'begins\n'
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() == '\n'
  assert 'or compilation under way ends; Ctrl-C again quits immediately' in process.stderr.readline()
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 1
  assert 'stopped by Ctrl-C; what was saved is whole' in error


def test_of_several_processes_ctrl_c_is_passed_on_to_jax(monkeypatch, ctrl_c):
  """By SIGTERM, which JAX catches; the second one quits."""
  passed = []
  before = signal.signal(signal.SIGTERM, lambda *_: passed.append(1))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  try:
    with StopSignal() as stop, pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      assert passed == [1]
      assert stop.asked == 'Ctrl-C'
      with stop.interruptible():  # no process may leave alone
        pass
      os.kill(os.getpid(), signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, before)
