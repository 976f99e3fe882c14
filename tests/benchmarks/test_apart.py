"""Contestants in processes of their own: what they answer, and that one that ends is no silence."""

import os
import sys

import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.benchmarks import apart


def serve(pipe, first):
  """Answers with `first`, then runs counts up to 9; a larger one ends it."""
  pipe.send((first, os.getpid()))
  while pipe.recv() < 10:
    pipe.send(None)
  sys.exit(3)


def test_a_contestant_runs_elsewhere_until_it_ends():
  contestant = apart.Apart(serve, 'ready')
  first, process = contestant.answer()
  assert first == 'ready' and process != os.getpid()
  contestant(3)
  with pytest.raises(ChildProcessError, match='ended with status 3'):
    contestant(10)


def test_without_pytorch_it_says_so(monkeypatch):
  monkeypatch.setattr(apart.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='PyTorch is not installed'):
    apart.contestants('TrainStep', (), 'float32', with_compiled=False)


def test_eager_pytorch_that_fails_is_an_error_and_compiled_a_note(monkeypatch):
  class Answers:
    def __init__(self, serve, *args):
      self.works = args[-1] not in failing

    def answer(self):
      return ('first call 1 s', True) if self.works else ('failed: out of memory', False)

  monkeypatch.setattr(apart.importlib.util, 'find_spec', lambda name: object())
  monkeypatch.setattr(apart, 'Apart', Answers)
  failing = {True}  # compiled
  found, notes = apart.contestants('TrainStep', (), 'float32', with_compiled=True)
  assert list(found) == ['torch eager float32'] and notes['torch compiled float32'] == 'failed: out of memory'
  failing = {False}
  with pytest.raises(UserError, match='out of memory'):
    apart.contestants('TrainStep', (), 'float32', with_compiled=True)
