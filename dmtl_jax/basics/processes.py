"""Work spread over processes, or done ahead in a thread."""

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

AHEAD = 8  # items per process that may be under way or finished before the caller takes them


@contextlib.contextmanager
def mapper(workers: int, setting: str = ''):
  """`map` in a `with` block, over `workers` processes with one thread of OpenCV each; 0: in this process.

  Args:
    setting: the flag or field of their number, for the message; '' if there is one per core.

  Raises:
    UserError: while it maps, if a process was killed.
  """
  if not workers:
    yield map
    return
  context = multiprocessing.get_context('spawn')  # JAX has threads, so a forked process could hang
  with concurrent.futures.ProcessPoolExecutor(workers, context, _start) as pool:
    try:
      with without_ctrl_c():
        pool.submit(int)  # starts all of them
      yield functools.partial(_map, pool, AHEAD * workers, setting)
    finally:
      pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
  """Keeps Ctrl-C, which a terminal sends to every process, from processes started in this block."""
  resource_tracker.ensure_running()  # it would otherwise start with the first process, and unblock the signal
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _map(pool, limit: int, setting: str, function: Callable, items: Iterable) -> Iterator:
  futures = collections.deque()
  items = iter(items)
  try:
    while True:
      futures.extend(pool.submit(function, item) for item in itertools.islice(items, limit - len(futures)))
      if not futures:
        return
      yield futures.popleft().result()
  except BrokenProcessPool as error:
    raise killed_error('a worker process', setting) from error


def one_ahead(function: Callable, items: Iterable) -> Iterator[tuple]:
  """Yields (item, function(item)); while the caller works on one, a thread calls the function for the next item."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    waiting: collections.deque = collections.deque()
    for item in items:
      waiting.append((item, thread.submit(function, item)))
      if len(waiting) == 2:
        item, future = waiting.popleft()
        yield item, future.result()
    for item, future in waiting:
      yield item, future.result()


def killed_error(what: str, setting: str) -> UserError:
  """The error for a worker process that the system killed; see `mapper` for `setting`."""
  fewer = f'set {setting} to fewer' if setting else 'close other programs'
  return UserError(f'{what} was killed, most likely because memory ran out; {fewer}, and run the same command again')


def _start():
  cv2.setNumThreads(1)
  end_with_parent()


def end_with_parent(*_):
  """Ends this worker when its parent has ended for any reason; otherwise it would wait for work forever."""
  if parent := multiprocessing.parent_process():
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
