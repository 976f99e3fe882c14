"""Work spread over processes."""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading

import cv2

AHEAD = 8  # results a process that may wait to be taken: who takes them may be slower


@contextlib.contextmanager
def mapper(workers: int):
  """`map`, over so many processes where `workers` is not 0, each with one thread of OpenCV."""
  if not workers:
    yield map
    return
  context = multiprocessing.get_context('spawn')  # a fork of a process that has threads, as jax has, can hang
  with concurrent.futures.ProcessPoolExecutor(workers, context, _start) as pool:
    try:
      yield functools.partial(_map, pool, AHEAD * workers)
    finally:
      pool.shutdown(cancel_futures=True)


def _map(pool, most: int, function: Callable, items: Iterable) -> Iterator:
  waiting, items = collections.deque(), iter(items)
  while True:
    waiting.extend(pool.submit(function, item) for item in itertools.islice(items, most - len(waiting)))
    if not waiting:
      return
    yield waiting.popleft().result()


def _start():
  """Ends a worker when its parent is gone: a killed pool leaves its workers waiting for ever."""
  cv2.setNumThreads(1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which ends the pool
  if parent := multiprocessing.parent_process():
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
