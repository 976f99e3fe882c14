"""Work over processes: its order, how far it runs ahead, and what its workers are."""

import itertools
import os
import signal
import subprocess
import sys
import threading
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


def test_a_thread_is_one_item_ahead_and_no_more():
  started = [threading.Event() for _ in range(4)]

  def square(n):
    started[n].set()
    return n * n

  for n, result in processes.one_ahead(square, range(4)):
    assert result == n * n
    assert n == 3 or started[n + 1].wait(10)
    assert not any(event.is_set() for event in started[n + 2 :])
  assert n == 3
  assert list(processes.one_ahead(square, [])) == []
  assert list(processes.one_ahead(square, [2])) == [(2, 4)]


def test_an_error_ahead_is_raised_after_the_items_before_it():
  ahead = processes.one_ahead(int, ['1', '2', 'three', '4'])
  assert [next(ahead), next(ahead)] == [('1', 1), ('2', 2)]
  with pytest.raises(ValueError, match='three'):
    next(ahead)


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
