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
import tensorflow_datasets as tfds

from dmtl_jax.basics.errors import UserError
from dmtl_jax.benchmarks import common
from dmtl_jax.data import label_settings, pipeline, transforms
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import stored

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
  batches = pipeline.train_iterator(source, config.data, config.train.batch, config.seed)
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
    if not hasattr(getattr(source_lib.package(config.data.name), 'Builder', None), 'USUAL'):
      raise
    source, synthetic = synthetic_source(config.data.name, folder), True
  return label_settings.apply_labels(source, config.data.labels, config.data.label_seed), synthetic


def synthetic_source(name: str, folder: str, count: int = SYNTHETIC) -> source_lib.Source:
  """Synthetic images in the stored format of a data set that is made of raw files, at their usual size."""
  package = source_lib.package(name)
  builder = package.Builder(data_dir=folder, file_format='array_record')
  examples = ((i, _example(builder, package.TASKS, i)) for i in range(count))
  builder._split_generators = lambda dl_manager: {'train': examples}  # instead of those of raw data
  builder.info.metadata['ids'] = {'train': [f'{i:04d}' for i in range(count)]}
  stored.build(builder)
  source = source_lib.open_source(ConfigDict({'name': name, 'dir': folder}), 'train')
  return dataclasses.replace(source, official={})  # which name other images


def _example(builder, tasks, i: int) -> dict:
  """What the builder would store of an image: maps that compress about as real ones do."""
  rng, classes = np.random.default_rng(i), {task.name: task.channels for task in tasks}
  example = {'id': str(i)}
  for name, feature in builder.info.features.items():
    if name == 'id':
      continue
    smooth = _smooth(rng, builder.USUAL, feature.shape[-1], 8)
    if name == 'image':
      fine = _smooth(rng, builder.USUAL, 3, 40)
      values = (0.4 * smooth + 0.4 * fine + 0.1 + rng.normal(0, 0.04, smooth.shape)).clip(0, 1) * 255
    elif feature.np_dtype == np.uint8:  # classes, or normals in a picture
      values = smooth**2 * classes.get(name, 2) if feature.shape[-1] == 1 else smooth * 255
    else:  # depths, or normals as vectors
      unit = lambda vectors: vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
      values = 1 + smooth if feature.shape[-1] == 1 else unit(2 * smooth - 1) * np.iinfo(feature.np_dtype).max
    example[name] = values.astype(feature.np_dtype)
    if isinstance(feature, tfds.features.Image):
      file = cv2.imencode(f'.{feature.encoding_format}', example[name], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
      example[name] = io.BytesIO(file.tobytes())
  return example


def _smooth(rng, size, channels: int, cells: int) -> np.ndarray:
  """Random numbers [H, W, channels] float32 from 0 to below 1 that change over about 1 / cells of the picture."""
  coarse = rng.random((cells, cells, channels), dtype=np.float32)
  return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, channels)


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
