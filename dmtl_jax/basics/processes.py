"""Work spread over processes."""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
import contextlib
import functools
import itertools
import multiprocessing
from multiprocessing import resource_tracker
import os
import signal
import threading

import cv2

from dmtl_jax.basics.errors import UserError

AHEAD = 8  # results a process that may wait to be taken: who takes them may be slower


@contextlib.contextmanager
def mapper(workers: int, setting: str = ''):
  """`map`, over so many processes where `workers` is not 0, each with one thread of OpenCV.

  Args:
    setting: what sets their number, for the message; '': they are as many as there are cores.

  Raises:
    UserError: while it maps, where one of them was killed.
  """
  if not workers:
    yield map
    return
  context = multiprocessing.get_context('spawn')  # a fork of a process that has threads, as jax has, can hang
  with concurrent.futures.ProcessPoolExecutor(workers, context, _start) as pool:
    try:
      with without_ctrl_c():
        pool.submit(int)  # starts all of them
      yield functools.partial(_map, pool, AHEAD * workers, setting)
    finally:
      pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
  """Keeps Ctrl-C, which a terminal sends to every process, from those started here: the parent handles it."""
  resource_tracker.ensure_running()  # which else would be started with the first of them, and unblock the signal
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _map(pool, most: int, setting: str, function: Callable, items: Iterable) -> Iterator:
  waiting, items = collections.deque(), iter(items)
  try:
    while True:
      waiting.extend(pool.submit(function, item) for item in itertools.islice(items, most - len(waiting)))
      if not waiting:
        return
      yield waiting.popleft().result()
  except BrokenProcessPool as error:
    raise killed('a worker process', setting) from error


def killed(what: str, setting: str) -> UserError:
  """That the system ended a worker process; see `mapper` for `setting`."""
  fewer = f'set {setting} to fewer' if setting else 'close other programs'
  return UserError(f'{what} was killed, most likely because memory ran out; {fewer}, and run the same command again')


def _start():
  cv2.setNumThreads(1)
  end_with_parent()


def end_with_parent(*_):
  """Ends this worker when its parent is gone, however that ended; otherwise it would wait for work for ever."""
  if parent := multiprocessing.parent_process():
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
