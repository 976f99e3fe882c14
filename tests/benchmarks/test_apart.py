"""Contestants in processes of their own: what they answer, and that one that ends is no silence."""

import os
import sys
import types

import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.benchmarks import apart


def serve(pipe, first):
  """Answers with `first`, then runs counts up to 9; a larger one ends it."""
  pipe.send((first, os.getpid()))
  while pipe.recv() < 10:
    pipe.send(2e9)
  sys.exit(3)


def test_a_contestant_runs_elsewhere_until_it_ends():
  contestant = apart.Apart(serve, 'ready')
  first, process = contestant.answer()
  assert first == 'ready' and process != os.getpid()
  contestant(3)
  assert contestant.peak == 2e9
  with pytest.raises(ChildProcessError, match='ended with status 3'):
    contestant(10)


def test_without_pytorch_it_says_so(monkeypatch):
  monkeypatch.setattr(apart.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='PyTorch is not installed'):
    apart.start('TrainStep', (), 'float32', with_compiled=False)


def test_eager_pytorch_that_fails_is_an_error_and_compiled_a_note():
  answers = lambda works: types.SimpleNamespace(answer=lambda: ('first call 1 s' if works else 'no memory', works))
  eager, compiled = answers(True), answers(False)
  found, notes = apart.ready({'torch eager float32': eager, 'torch compiled float32': compiled})
  assert found == {'torch eager float32': eager} and notes['torch compiled float32'] == 'no memory'
  with pytest.raises(UserError, match='no memory'):
    apart.ready({'torch eager float32': answers(False)})
