"""Images per second of the training pipeline, and where the time goes.

  python -m dmtl_jax.benchmarks.input --config=configs/pascal.py [--repeats=300] [--json=FILE]

Measures `repeats` images of the data that config.data names. Where a benchmark's data set is not prepared, images of
its true size stand in: synthetic content, stored and read exactly as the prepared data set's.
"per core" is images by seconds of processor time; "in all" is with the config's threads or workers.
"""

import cProfile
import dataclasses
import io
import pstats
import tempfile
import time

import cv2
from ml_collections import ConfigDict
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.benchmarks import common
from dmtl_jax.data import label_settings, pipeline, transforms
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import mtan, stored

SIZES = {'pascal': (375, 500), 'nyud': (288, 384), 'cityscapes': (128, 256)}  # of the raw images
SYNTHETIC = 48  # images that stand in for a data set


def measure(source, config, count: int) -> dict:
  """Speed of the training pipeline of `config` on `source`.

  Returns:
    {'images_per_second', 'images_per_second_per_core', 'milliseconds': {stage: of one image}};
    stages are of processor time, in the order in which an image goes through them.
  """
  stages = _stages(source, config, count)
  here = config.copy_and_resolve_references()
  here.data.workers = 0  # the processor time of other processes cannot be seen
  wall, processor = _seconds_per_image(source, here, count)
  if config.data.workers:
    wall, _ = _seconds_per_image(source, config, count)
  stages['batch'] = max(1000 * processor - sum(stages.values()), 0)
  return {'images_per_second': 1 / wall, 'images_per_second_per_core': 1 / processor, 'milliseconds': stages}


def _seconds_per_image(source, config, count: int) -> tuple[float, float]:
  """Time an image takes through the whole pipeline, by the clock and of this process's processors."""
  steps = -(-count // config.train.batch)
  batches = pipeline.train_iterator(source, config)
  next(batches)  # starts threads and workers
  wall, processor = time.perf_counter(), time.process_time()
  for _ in range(steps):
    next(batches)
  wall, processor = time.perf_counter() - wall, time.process_time() - processor
  batches.close()
  images = steps * config.train.batch
  return wall / images, processor / images


def _stages(source, config, count: int) -> dict[str, float]:
  """Milliseconds an image spends in each stage, one after the other in this thread."""
  cv2.setNumThreads(0)
  transform = transforms.train_transform(config.data, source.tasks)
  decoding, profile = 0.0, cProfile.Profile(time.process_time)
  for i in range(count):
    began = time.process_time()
    example = source[i % len(source)]
    decoding += time.process_time() - began
    rng = np.random.default_rng(i)
    profile.runcall(transform, example, rng)
  spent = pstats.Stats(profile, stream=io.StringIO()).stats
  seconds = {name: cumulative for (_, _, name), (_, _, _, cumulative, _) in spent.items()}
  photometric, finish = seconds.get('photometric', 0.0), seconds['finish']
  geometry = seconds['transform'] - photometric - finish
  names = 'read and decode', 'geometry', 'photometric', 'normalize, pad'
  return {name: 1000 * value / count for name, value in zip(names, (decoding, geometry, photometric, finish))}


def open_training(config, folder: str):
  """The training source of a config with its label setting; synthetic where it is not prepared.

  Returns:
    (source, whether it is synthetic).
  """
  try:
    source, synthetic = source_lib.open_source(config.data, 'train'), False
  except UserError:
    if config.data.name not in SIZES:
      raise
    source, synthetic = synthetic_source(config.data.name, folder), True
  return label_settings.apply_labels(source, config.data.labels, config.data.label_seed), synthetic


def synthetic_source(name: str, folder: str, count: int = SYNTHETIC) -> source_lib.Source:
  """Synthetic images in the stored format of the benchmark `name`, at their true size."""
  package = source_lib.package(name)
  builder = package.Builder(data_dir=folder, file_format='array_record')
  store = _stored_pascal if name == 'pascal' else _stored_mtan
  examples = ((i, store(package.TASKS, SIZES[name], i)) for i in range(count))
  builder._split_generators = lambda dl_manager: {'train': examples}  # instead of those of raw data
  builder.info.metadata['ids'] = {'train': [f'{i:04d}' for i in range(count)]}
  stored.build(builder)
  source = source_lib.open_source(ConfigDict({'name': name, 'dir': folder}), 'train')
  return dataclasses.replace(source, official={})  # which name other images


def _smooth(rng, size, channels: int, cells: int) -> np.ndarray:
  """Random colours [H, W, channels] float32 in 0-1 that change over about 1 / cells of the picture."""
  coarse = rng.random((cells, cells, channels), dtype=np.float32)
  return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, channels)


def _photograph(rng, size) -> np.ndarray:
  """uint8 [H, W, 3]: patches, shading and grain that compress about as photographs do."""
  grain = rng.normal(0, 0.04, (*size, 3))
  mixed = 0.4 * _smooth(rng, size, 3, 5) + 0.4 * _smooth(rng, size, 3, 40) + 0.1 + grain
  return (mixed.clip(0, 1) * 255).astype(np.uint8)


def _class_map(rng, size, classes: int) -> np.ndarray:
  """uint8 [H, W, 1]: regions of classes; most pixels are of a few."""
  level = _smooth(rng, size, 1, 6)
  return (level**2 * classes).clip(0, classes - 1).astype(np.uint8)


def _stored_pascal(tasks, size, i: int) -> dict:
  rng = np.random.default_rng(i)
  encode = lambda suffix, array, *options: io.BytesIO(cv2.imencode(suffix, array, *options)[1].tobytes())
  jpeg = encode('.jpg', _photograph(rng, size), [cv2.IMWRITE_JPEG_QUALITY, 90])
  maps = [task for task in tasks if task.name != 'normals']
  labels = {task.name: encode('.png', _class_map(rng, size, task.channels)) for task in maps}
  normals = (_smooth(rng, size, 3, 12) * 255).astype(np.uint8)
  truth = encode('.png', _class_map(rng, size, 2))
  return {'id': str(i), 'image': jpeg, 'normals': encode('.png', normals), 'boundary_truth': truth, **labels}


def _stored_mtan(tasks, size, i: int) -> dict:
  rng = np.random.default_rng(i)
  stored = {'id': str(i), 'image': _photograph(rng, size), 'depth': 1 + _smooth(rng, size, 1, 8)}
  for task in tasks:
    if task.name == 'semseg':
      stored[task.name] = _class_map(rng, size, task.channels)
    elif task.name == 'normals':
      stored[task.name] = np.rint(mtan.unit(_smooth(rng, size, 3, 8) * 2 - 1) * mtan.STEPS).astype(np.int16)
  return stored


def as_text(result: dict) -> str:
  """The result for a person."""
  lines = [f'{stage:<18}{value:8.2f} ms an image' for stage, value in result['milliseconds'].items()]
  what = f'{result["data"]}{" (synthetic)" if result["synthetic"] else ""}, labels {result["labels"]}'
  per_core, wall = result['images_per_second_per_core'], result['images_per_second']
  return '\n'.join([what, *lines, f'{per_core:.0f} images/s per core, {wall:.0f} images/s in all'])


def benchmark(config, flags) -> dict:
  """What `measure` gives of config's data, and which data that was."""
  with tempfile.TemporaryDirectory() as folder:
    source, synthetic = open_training(config, folder)
    result = measure(source, config, flags.repeats)
  about = {'data': config.data.name, 'labels': config.data.labels, 'synthetic': synthetic}
  return about | {'images': flags.repeats} | result


if __name__ == '__main__':
  common.run(benchmark, __doc__, as_text, repeats=300)
