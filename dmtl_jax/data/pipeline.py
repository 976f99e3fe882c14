"""The input pipeline: grain datasets of batches, deterministic by (seed, epoch, index).

A batch is {'image' [B, H, W, 3] uint8, 'region' [B, 4] int32, 'labels' {task: [B, H, W, K]}, 'label_mask' [B, T],
'index' [B] int32}; in evaluation also 'size' [B, 2] int32, and 'valid' [B], False for images that pad the last batch.
The region is where an image lies within its padding: top, left, height, width. Devices normalise the images
(`models.inputs.normalize_batch`): bytes are a quarter of what floats take between processes and on the way to a device.

The order of images depends only on the position in training: batch k of the whole run holds
the same images, in the same rows, on any number of hosts and workers.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import math

from absl import flags
import cv2
import grain
from ml_collections import ConfigDict
import numpy as np

from dmtl_jax.basics import processes
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import transforms
from dmtl_jax.datasets.source import Source

_ENDLESS = 2**40  # batches; the caller decides when training ends


@dataclasses.dataclass
class _Load(grain.transforms.Map):
  """Maps an element of a host's stream to an example, by its position in the stream of all hosts."""

  source: Source
  data_config: ConfigDict
  batch: int  # images over all hosts
  process_index: int
  process_count: int

  def __post_init__(self):
    if self.batch % self.process_count:
      raise UserError(f'a batch of {self.batch} images cannot be split over {self.process_count} hosts')

  def load(self, position: int) -> dict:
    raise NotImplementedError

  def map(self, element: int) -> dict:
    local = self.batch // self.process_count
    step, row = divmod(int(element), local)
    return self.load(step * self.batch + self.process_index * local + row)

  def stack(self, examples):
    """A batch of several results of `map`."""
    return transforms.stack(examples, tuple(self.data_config.size), self.source.tasks)


@dataclasses.dataclass
class _LoadTraining(_Load):
  seed: int

  def load(self, position: int) -> dict:
    labelled, images = self._counts
    epoch, offset = divmod(position, max(images // self.batch, 1) * self.batch)
    order = _order(self.seed, epoch, labelled, len(self.source) - labelled)
    index = int(self._positions[order[offset % images]])
    rng = np.random.default_rng((self.seed, epoch, index))
    example = self.source.example(index, transforms.least_size(self.data_config))
    return self._transform(example, rng)

  @functools.cached_property
  def _counts(self) -> tuple[int, int]:
    """Number of labelled images, and of all images of an epoch."""
    return int(self.source.label_mask.any(1).sum()), images_per_epoch(self.source.label_mask)

  @functools.cached_property
  def _positions(self) -> np.ndarray:
    """Indices of the labelled images, then of the others."""
    labelled = self.source.label_mask.any(1)
    return np.concatenate([np.flatnonzero(labelled), np.flatnonzero(~labelled)])

  @functools.cached_property
  def _transform(self):
    cv2.setNumThreads(0)  # grain's threads and workers already use every core
    return transforms.train_transform(self.data_config, self.source.tasks)


@dataclasses.dataclass
class _LoadEvaluation(_Load):
  geometry: str

  def load(self, position: int) -> dict:
    index = min(position, len(self.source) - 1)
    return self._transform(self.source[index]) | {'valid': position < len(self.source)}

  @functools.cached_property
  def _transform(self):
    return transforms.eval_transform(self.data_config, self.geometry, self.source.tasks)


def images_per_epoch(label_mask: np.ndarray) -> int:
  """Number of images in an epoch, given the visible labels [N, T].

  Those are all labelled ones and, for methods that learn from others too, as many of these: a pool of unlabelled
  photographs, however large, takes at most half of an epoch.
  """
  labelled = int(label_mask.any(1).sum())
  return min(len(label_mask), 2 * labelled)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, labelled: int, unlabelled: int) -> np.ndarray:
  """Draws the images of an epoch in their order: positions among the labelled images followed by the others."""
  rng = np.random.default_rng((seed, epoch))
  drawn = labelled + rng.permutation(unlabelled)[:labelled]
  return np.concatenate([np.arange(labelled), drawn])[rng.permutation(labelled + len(drawn))]


class TrainIterator:
  """Endless batches of one host. Its state is the number of batches taken, so it resumes on any hosts and workers."""

  def __init__(self, open_at: Callable[[int], Iterator[dict]]):
    self._open_at = open_at
    self._batches: Iterator[dict] | None = None
    self.set_state({'next_index': 0})

  def __next__(self) -> dict:
    if self._batches is None:
      self._batches = self._open_at(self._next)
    self._next += 1
    return next(self._batches)

  def get_state(self) -> dict:
    return {'next_index': self._next}

  def set_state(self, state: dict):
    self.close()
    self._next = state['next_index']

  def close(self):
    """Ends the workers."""
    if hasattr(self._batches, 'close'):
      self._batches.close()
    self._batches = None


def train_iterator(
  source, data_config, batch: int, seed: int, process_index: int = 0, process_count: int = 1
) -> TrainIterator:
  """Endless batches of this host, reshuffled each epoch; an incomplete last batch of an epoch is dropped.

  Raises UserError if the batch size is not a multiple of the number of hosts.
  """
  load = _LoadTraining(source, data_config, batch, process_index, process_count, seed)
  return TrainIterator(lambda start: _batches(load, start, _ENDLESS))


def eval_batches(
  source, data_config, batch: int, geometry: str, process_index: int = 0, process_count: int = 1
) -> Iterator[dict]:
  """Batches with every image once, in order; all hosts get the same number of batches."""
  load = _LoadEvaluation(source, data_config, batch, process_index, process_count, geometry)
  return _batches(load, 0, math.ceil(len(source) / batch))


def eval_examples(source, count: int, process_index: int = 0, process_count: int = 1) -> Iterator[dict]:
  """This host's share of the first `count` images, untransformed and of their own sizes.

  Only one is read ahead: a photograph with its labels may take hundreds of megabytes.
  """
  indices = grain.MapDataset.range(process_index, count, process_count)
  examples = indices.map(lambda index: source[int(index)])
  return iter(examples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)))


def _batches(load: _Load, start: int, stop: int) -> Iterator[dict]:
  """This host's share of the batches from `start` to `stop`."""
  # Decoding and OpenCV release the GIL, so threads are enough unless worker processes are configured.
  config = load.data_config
  reads = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
  local = load.batch // load.process_count
  data = grain.MapDataset.range(start * local, stop * local).map(load).batch(local, batch_fn=load.stack)
  data = data.to_iter_dataset(reads)
  # Hidden labels, which are most where images have one, do not pass between processes.
  add_hidden_labels = functools.partial(transforms.add_hidden_labels, tasks=load.source.tasks)
  if config.workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags; notebooks never parse them
    workers = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
    return _Workers(data.mp_prefetch(workers, processes.end_with_parent).map(add_hidden_labels))
  return iter(data.map(add_hidden_labels))


class _Workers:
  """Batches from grain's worker processes, which Ctrl-C does not reach; raises UserError if one of them is killed."""

  def __init__(self, data: grain.IterDataset):
    self._data = data
    self._batches: grain.DatasetIterator | None = None

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    try:
      if self._batches is None:
        with processes.without_ctrl_c():  # grain starts them with the first batch
          self._batches = batches = iter(self._data)
          return next(batches)
      return next(self._batches)
    except RuntimeError as error:
      if 'terminated unexpectedly' not in str(error):
        raise
      raise processes.killed_error('a process that reads data', 'config.data.workers') from error

  def close(self):
    """Ends the workers."""
    if hasattr(self._batches, 'close'):
      self._batches.close()
