"""Predictions for many photographs: the network in batches, decoding and writing in threads beside it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
import os
import pathlib
from typing import TypeVar

import numpy as np

from dmtl_jax.basics import bucket, memory, photographs
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import images
from dmtl_jax.inference.prediction import BATCH, Predictor
from dmtl_jax.inference.raw_maps import RawMaps

# Photographs after which most programs are compiled. CamVid's then take 0.091 s of CPU instead of 0.101.
COMPILED = 2 * BATCH
MAX_THREADS = 8  # each has a photograph, its pictures and a band of its maps in memory

Item = TypeVar('Item')
Result = TypeVar('Result')


def predict_photographs(
  predictor: Predictor,
  paths: Sequence[pathlib.Path],
  write: Callable[[int, np.ndarray, RawMaps], Result],
  broken: list[str],
  samples: int = 1,
  zoom: float | None = None,
) -> Iterator[Result]:
  """Yields what `write` returns for each photograph, in order; it is called in threads.

  Memory holds at most two photographs per thread, two more, and those of one batch. When the iteration ends early,
  calls of `write` under way are waited for, and no other begins.

  Args:
    write: called with the place in `paths`, the image uint8 [H, W, 3] and its raw maps.
    broken: gets the reason for each photograph that cannot be read, which is left out.
    samples, zoom: see `Predictor`.
  """
  threads = min(os.cpu_count() or 1, MAX_THREADS)
  pool = ThreadPoolExecutor(threads)
  waiting: deque[tuple[int, np.ndarray]] = deque()  # photographs whose raw maps are not there yet

  def read() -> Iterator[np.ndarray]:
    for place, image in enumerate(_map_in_order(pool, _decode, paths, threads)):
      if isinstance(image, UserError):
        broken.append(str(image))
      else:
        waiting.append((place, image))
        yield image

  def pair() -> Iterator[tuple[int, np.ndarray, RawMaps]]:
    for raw in predictor.raw_of_many(read(), samples, zoom, BATCH if len(paths) > 1 else 1):
      yield (*waiting.popleft(), raw)

  try:
    for count, result in enumerate(_map_in_order(pool, lambda item: write(*item), pair(), threads), 1):
      if count == COMPILED:
        memory.set_fragments_aside()
      yield result
  finally:
    pool.shutdown(cancel_futures=True)


def describe_kept(done: int, total: int, place: str | os.PathLike) -> str:
  """The sentence about what an interrupted prediction leaves."""
  then = 'predicts all anew' if bucket.find(place) else 'goes on with the others'
  return f'{done} of {images.count_of(total, "image")} predicted in {place}; the same command {then}'


def _decode(path: pathlib.Path) -> np.ndarray | UserError:
  try:
    return photographs.read_image(path)
  except UserError as error:
    return error


def _map_in_order(
  pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
  """Yields function(item) of each item in order, with up to `ahead` later items under way in the pool."""
  running = deque()
  for item in items:
    running.append(pool.submit(function, item))
    del item  # which the pool frees after the call
    if len(running) > ahead:
      yield running.popleft().result()
  while running:
    yield running.popleft().result()
