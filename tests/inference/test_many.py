"""Many photographs: in order, in bounded memory, whole after an interruption."""

import threading
import time

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.inference import many

PATIENCE = 10  # seconds


class Reader:
  """A predictor whose raw map of an image is its first pixel; counts the images that it has read."""

  def __init__(self):
    self.read = 0

  def raw_of_many(self, images, samples, zoom, batch):
    for image in images:
      self.read += 1
      yield image[0, 0, 0]


@pytest.fixture
def paths(tmp_path):
  paths = [tmp_path / f'{i:02d}.png' for i in range(40)]
  for i, path in enumerate(paths):
    Image.new('RGB', (2, 2), (i, 0, 0)).save(path)
  return paths


@pytest.fixture
def two_threads(monkeypatch):
  monkeypatch.setattr(many, 'MAX_THREADS', 2)
  monkeypatch.setattr(many.os, 'cpu_count', lambda: 2)


def test_results_come_in_order_and_broken_files_are_left_out(paths):
  paths[3].write_bytes(b'no image')
  broken = []

  def write(place, image, raw):
    time.sleep(0.02 if place % 2 else 0)
    return place, int(image[0, 0, 0]), int(raw)

  results = list(many.predict_photographs(Reader(), paths, write, broken))
  assert results == [(i, i, i) for i in range(40) if i != 3]
  assert len(broken) == 1
  assert str(paths[3]) in broken[0]


def test_photographs_are_read_only_as_fast_as_they_are_written(paths, two_threads):
  predictor = Reader()
  results = many.predict_photographs(predictor, paths, lambda place, *_: place, [])
  for count in range(1, 21):
    next(results)
    assert predictor.read <= count + 2


def test_after_an_interruption_what_was_begun_is_finished_and_nothing_else(paths, two_threads):
  begun, finished = [], []
  both = threading.Barrier(3, timeout=PATIENCE)  # two calls of `write`, and the interruption

  def write(place, *_):
    begun.append(place)
    if place in (1, 2):
      both.wait()
      time.sleep(0.1)
    finished.append(place)

  results = many.predict_photographs(Reader(), paths, write, [])
  next(results)
  both.wait()
  results.close()
  assert sorted(begun) == [0, 1, 2]
  assert sorted(finished) == [0, 1, 2]


def test_an_error_in_a_thread_is_raised(paths):
  def write(place, *_):
    raise OSError(28, 'No space left on device', 'maps/a.npy')

  with pytest.raises(OSError, match='No space left'):
    list(many.predict_photographs(Reader(), paths, write, []))


def test_fragments_of_the_heap_are_set_aside_once(paths, monkeypatch):
  calls = []
  monkeypatch.setattr(many.memory, 'set_fragments_aside', lambda: calls.append(len(written)))
  written = []
  list(many.predict_photographs(Reader(), paths, lambda place, *_: written.append(place), []))
  assert len(calls) == 1
  assert calls[0] >= many.COMPILED


def test_the_network_sees_one_view_of_a_single_photograph_and_batches_of_several(paths):
  batches = []

  class Batches(Reader):
    def raw_of_many(self, images, samples, zoom, batch):
      batches.append(batch)
      return super().raw_of_many(images, samples, zoom, batch)

  for count in (1, 2):
    assert np.shape(list(many.predict_photographs(Batches(), paths[:count], lambda place, *_: place, []))) == (count,)
  assert batches == [1, many.BATCH]
