"""Work over processes: its order, how far it runs ahead, and what its workers are."""

import itertools
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest

from dmtl_jax.basics import processes
from dmtl_jax.basics.errors import UserError
from tests import faults


def test_results_come_in_order_and_work_is_taken_a_little_ahead():
  taken = []
  numbers = (taken.append(n) or n for n in itertools.count())
  with processes.mapper(1) as mapped:
    assert list(itertools.islice(mapped(str, numbers), 20)) == [str(n) for n in range(20)]
  assert 20 <= len(taken) <= 20 + processes.AHEAD
  with processes.mapper(0) as mapped:
    assert mapped is map


def ask(question):
  """In a worker: whether it lives on after Ctrl-C; its threads of OpenCV."""
  if question == 'threads':
    return cv2.getNumThreads()
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.1)  # in which a handler would run
  return 'lives'


def test_a_worker_leaves_ctrl_c_to_its_parent_and_has_one_thread(monkeypatch, ctrl_c):
  monkeypatch.setenv('OPENCV_FOR_THREADS_NUM', '3')  # on one core, too
  with processes.mapper(1) as mapped:
    assert list(mapped(ask, ['signal', 'threads'])) == ['lives', 1]


def test_a_killed_worker_is_reported_in_a_sentence():
  words = 'a worker process was killed, .*memory ran out; set config.eval.workers to fewer'
  with pytest.raises(UserError, match=words):
    with processes.mapper(2, 'config.eval.workers') as mapped:
      list(mapped(faults.die, range(3)))


PARENT = """
import itertools, os, time
from dmtl_jax.basics import processes
if __name__ == '__main__':
  with processes.mapper(1) as mapped:
    for pid in mapped(eval, itertools.repeat('(__import__("time").sleep(0.1), __import__("os").getpid())[1]')):
      print(pid, flush=True)
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
  (tmp_path / 'parent.py').write_text(PARENT)
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  command = [sys.executable, tmp_path / 'parent.py']
  parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
  worker = int(parent.stdout.readline())
  parent.kill()
  parent.communicate()
  for _ in range(100):
    try:
      os.kill(worker, 0)
    except ProcessLookupError:
      return
    time.sleep(0.1)
  pytest.fail('the worker is still there')
