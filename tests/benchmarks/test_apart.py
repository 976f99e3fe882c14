"""The contestant in a process of its own: what it answers, and that its end is an error."""

import os
import sys

import pytest

from benchmarks import apart
from dmtl_jax.basics.errors import UserError


def serve(pipe, failure: str, parent: int):
  """Answers with `failure`, then runs counts up to 9; a larger one ends it."""
  assert os.getpid() != parent
  pipe.send(failure)
  while pipe.recv() < 10:
    pipe.send(2e9)
  sys.exit(3)


def test_a_contestant_runs_elsewhere_until_it_ends():
  contestant = apart.Apart(serve, '', os.getpid())
  contestant.wait()
  contestant(3)
  assert contestant.peak == 2e9
  with pytest.raises(ChildProcessError, match='ended with status 3'):
    contestant(10)


def test_a_contestant_that_fails_is_an_error():
  with pytest.raises(UserError, match='--torch: no memory'):
    apart.Apart(serve, 'no memory', os.getpid()).wait()


def test_without_pytorch_it_says_so(monkeypatch):
  monkeypatch.setattr(apart.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='PyTorch is not installed'):
    apart.start('TrainStep', (), 'float32', 'eager')
