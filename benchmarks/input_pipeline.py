"""Images a second of the input pipeline: training batches of PASCAL's shapes and labels, from encoded files in memory.

  python -m benchmarks.input_pipeline --workers=0 --workers=4

The time that counts is that of all processes together (CPU), which a busy machine hardly changes; divided by it, a
number of cores gives the images a second that they can prepare. Reading from the disk is left out.
"""

import dataclasses
import functools
import multiprocessing
import os
import resource
import time

from absl import app, flags
import cv2
import jax
import numpy as np

from benchmarks import synthetic
from dmtl_jax.basics.files import encode_png
from dmtl_jax.configs import pascal as pascal_config
from dmtl_jax.data import pipeline
from dmtl_jax.datasets import pascal
from dmtl_jax.datasets.source import Source

_WORKERS = flags.DEFINE_multi_integer('workers', [0], 'Values of config.data.workers to measure.')
_IMAGES = flags.DEFINE_integer('images', 300, 'Images to time, per value and turn.')
_TURNS = flags.DEFINE_integer('turns', 3, 'How often each value is timed.')
_LABELS = flags.DEFINE_enum('labels', 'one', ['one', 'random', 'full'], 'Label setting.')

PHOTOGRAPHS = 24
SIZE = (375, 500)  # the usual size of PASCAL's photographs
WARM_UP = 4  # batches before the clock starts
TICKS = os.sysconf('SC_CLK_TCK')


def photograph(rng) -> dict:
  """An encoded example of PASCAL with smooth shapes: a photograph with some noise, and a label of every task."""
  height, width = SIZE

  def smooth(channels: int, sigma: float) -> np.ndarray:
    values = cv2.GaussianBlur(rng.standard_normal((height, width, channels)).astype(np.float32), (0, 0), sigma)
    return values.reshape(height, width, channels) / values.std()

  pixels = 128 + 45 * smooth(3, 12) + 8 * smooth(3, 1) + 3 * rng.standard_normal((height, width, 3))
  regions = np.clip(np.round(2 * smooth(1, 25) + 4), 0, 20).astype(np.uint8)
  normals = smooth(3, 10) + np.float32([0, 0, 2])
  normals = 255 * (normals / np.linalg.norm(normals, axis=-1, keepdims=True) + 1) / 2
  labels = {
    'semseg': regions,
    'parsing': np.clip(regions, 3, 6) - 3,
    'saliency': (regions > 4).astype(np.uint8),
    'normals': normals.astype(np.uint8),
    'boundary': (cv2.Laplacian(regions[..., 0].astype(np.float64), cv2.CV_64F) != 0).astype(np.uint8),
  }
  jpeg = cv2.imencode('.jpg', np.clip(pixels, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
  return {'image': jpeg.tobytes()} | {name: encode_png(label) for name, label in labels.items()}


def read(encoded: list[dict], index: int, tasks) -> dict:
  return pascal.decode(encoded[index % len(encoded)], tasks)


def make_source(labels: str) -> Source:
  rng = np.random.default_rng(0)
  encoded = [photograph(rng) for _ in range(PHOTOGRAPHS)]
  source = Source(
    pascal.TASKS,
    [str(i) for i in range(synthetic.IMAGES)],
    synthetic.label_mask(pascal.TASKS, labels),
    functools.partial(read, encoded),
  )
  return dataclasses.replace(source, crop_guide=pascal.TASKS[0])


def cpu_seconds() -> float:
  """CPU time of this process and of its living workers."""
  own = resource.getrusage(resource.RUSAGE_SELF)
  seconds = own.ru_utime + own.ru_stime
  for child in multiprocessing.active_children():
    with open(f'/proc/{child.pid}/stat') as file:
      user, system = file.read().rpartition(')')[2].split()[11:13]
    seconds += (int(user) + int(system)) / TICKS
  return seconds


def measure(source: Source, config, workers: int) -> dict[str, float]:
  """CPU and wall time per image in ms, with the images on the device."""
  data = config.data.copy_and_resolve_references()
  data.workers = workers
  batch = config.train.batch
  iterator = pipeline.train_iterator(source, data, batch, seed=0)
  for _ in range(WARM_UP):
    next(iterator)
  count = -(-_IMAGES.value // batch)
  begin, began = cpu_seconds(), time.monotonic()
  for _ in range(count):
    jax.block_until_ready(jax.device_put(next(iterator)))
  result = {'cpu': cpu_seconds() - begin, 'wall': time.monotonic() - began}
  iterator.close()
  return {name: 1000 * seconds / (count * batch) for name, seconds in result.items()}


def main(_):
  source = make_source(_LABELS.value)
  config = pascal_config.get_config('method=prediction')
  for workers in _WORKERS.value:
    turns = [measure(source, config, workers) for _ in range(_TURNS.value)]
    cpu, wall = (np.median([turn[name] for turn in turns]) for name in ('cpu', 'wall'))
    print(
      f'{workers} workers: {cpu:.2f} ms of CPU per image, {1000 / cpu:.0f} images/s of a core; '
      f'here {1000 / wall:.0f} images/s on {len(os.sched_getaffinity(0))} cores'
    )


if __name__ == '__main__':
  app.run(main)
