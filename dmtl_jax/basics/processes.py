"""Work spread over processes."""

import concurrent.futures
import contextlib
import multiprocessing

import cv2


@contextlib.contextmanager
def mapper(workers: int):
  """`map`, over so many processes where `workers` is not 0, each with one thread of OpenCV."""
  if not workers:
    yield map
    return
  context = multiprocessing.get_context('spawn')  # a fork of a process that runs jax can hang
  with concurrent.futures.ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
    yield pool.map
