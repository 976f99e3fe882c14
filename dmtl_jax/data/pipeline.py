"""The input pipeline: grain datasets of batches, deterministic by (seed, epoch, index).

A batch is {'image' [B, H, W, 3] float32, 'labels' {task: [B, H, W, K]}, 'label_mask' [B, T],
'index' [B] int32}; in evaluation also 'valid' [B], False for the fill of the last batch.

The order of images is a function of the position in training alone: batch k of the whole run
holds the same images, in the same rows, on any number of hosts and workers.
"""

import dataclasses
import functools

from absl import flags
import cv2
import grain
import numpy as np

from dmtl_jax.data import transforms
from dmtl_jax.errors import UserError

_MANY = 2**40  # training has no end of its own


@dataclasses.dataclass
class _Load(grain.transforms.Map):
  """Position of a host's image in its stream -> example; `position` says which image that is."""

  source: object
  config: object
  batch: int  # of all hosts
  process_index: int
  process_count: int

  def map(self, element: int) -> dict:
    local = self.batch // self.process_count
    step, row = divmod(int(element), local)
    return self.load(step * self.batch + self.process_index * local + row)


class _LoadTraining(_Load):

  def load(self, position: int) -> dict:
    per_epoch = max(len(self.source) // self.batch, 1) * self.batch
    epoch, place = divmod(position, per_epoch)
    index = int(_order(self.config.seed, epoch, len(self.source))[place % len(self.source)])
    rng = np.random.default_rng((self.config.seed, epoch, index))
    return self._transform(self.source[index], rng)

  @functools.cached_property
  def _transform(self):
    cv2.setNumThreads(0)  # workers are the parallelism
    return transforms.train_transform(self.config.data, self.source.tasks)


class _LoadEvaluation(_Load):

  def load(self, position: int) -> dict:
    index = min(position, len(self.source) - 1)
    return self._transform(self.source[index]) | {'valid': position < len(self.source)}

  @functools.cached_property
  def _transform(self):
    return transforms.eval_transform(self.config.data, self.source.tasks)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  """The order of images in an epoch: a permutation drawn from (seed, epoch)."""
  return np.random.default_rng((seed, epoch)).permutation(count)


def train_iterator(source, config, process_index: int = 0, process_count: int = 1) -> grain.DatasetIterator:
  """Endless batches of this host, shuffled anew each epoch; what is left of an epoch is dropped.

  The iterator's `get_state` and `set_state` (and grain.checkpoint) resume it exactly.

  Raises:
    UserError: where the batch does not divide over the hosts.
  """
  load = _LoadTraining(source, config, config.train.batch, process_index, process_count)
  return _batches(load, _MANY, config)


def eval_batches(source, config, process_index: int = 0, process_count: int = 1) -> grain.DatasetIterator:
  """Every image once, in order; all hosts get the same number of batches."""
  batch = config.eval.batch
  load = _LoadEvaluation(source, config, batch, process_index, process_count)
  return _batches(load, -(-len(source) // batch) * (batch // process_count), config)


def _batches(load: _Load, count: int, config) -> grain.DatasetIterator:
  if load.batch % load.process_count:
    raise UserError(f'a batch of {load.batch} images cannot be split over {load.process_count} hosts')
  # Decoding and OpenCV release the GIL: threads of this process serve until workers are asked for.
  reads = grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch)
  data = grain.MapDataset.range(count).map(load).batch(load.batch // load.process_count)
  data = data.to_iter_dataset(reads)
  if config.data.workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain's workers ask absl; notebooks never parse flags
    workers = grain.MultiprocessingOptions(num_workers=config.data.workers, per_worker_buffer_size=2)
    data = data.mp_prefetch(workers)
  return iter(data)
