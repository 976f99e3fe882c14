"""A model and a data set for evaluation that cost nothing: the images themselves are the raw maps."""

import dataclasses
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.configs import common
from dmtl_jax.data import transforms
from dmtl_jax.inference import evaluation
from dmtl_jax.inference.calibration_fit import Evidence
from dmtl_jax.models import Output
from dmtl_jax.tasks import make_task, Task

TASKS = (
  make_task('semseg', 'semseg', ('sky', 'road', 'car')),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
  make_task('depth', 'depth'),
)
SIZE = (24, 32)


class Model:
  """Final maps are the image's channels, scaled; initial maps are half of them, moved."""

  diffuses = False
  tasks = TASKS

  def apply(self, variables, images):
    maps = {task.name: variables['scale'] * images[..., : task.channels] for task in TASKS}
    return Output(final=maps, initial={name: x[:, ::-1] / 2 for name, x in maps.items()})


@dataclasses.dataclass(frozen=True)
class Rooms:
  """Random images with random labels; of image 2 the boundary is not labelled, of image 3 no pixel of depth is."""

  count: int
  shape: tuple[int, int] = SIZE
  tasks: tuple[Task, ...] = TASKS

  @property
  def ids(self):
    return [f'room{i}' for i in range(self.count)]

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 256, (*self.shape, 3)).astype(np.uint8)
    normals = rng.standard_normal((*self.shape, 3)).astype(np.float32)
    labels = {
      'semseg': rng.integers(0, 3, (*self.shape, 1)).astype(np.uint8),
      'saliency': rng.integers(0, 2, (*self.shape, 1)).astype(np.uint8),
      'normals': normals / np.linalg.norm(normals, axis=-1, keepdims=True),
      'boundary': (rng.random((*self.shape, 1)) < 0.1).astype(np.uint8),
      'depth': rng.uniform(1, 2, (*self.shape, 1)).astype(np.float32) * (index != 3),
    }
    if index == 2:
      del labels['boundary']
    return {'image': pixels, 'labels': labels, 'index': index}

  def truth(self, index):
    return {}


@dataclasses.dataclass(frozen=True)
class Mirrored(Rooms):
  """Segmentation that is right upside down, as the initial maps are: on the first `upside_down` images."""

  upside_down: int = 0

  def __getitem__(self, index):
    example = super().__getitem__(index)
    classes = ((example['image'] / 255 - transforms.MEAN) / transforms.STD).argmax(-1)
    example['labels']['semseg'] = (classes[::-1] if index < self.upside_down else classes)[..., None].astype(np.uint8)
    return example


def make_config(batch: int, size=SIZE, **scores):
  """A config for `Rooms`; `scores` are fields of config.eval."""
  config = common.base('')
  config.data.update(name='rooms', size=size)
  config.eval.update(batch=batch, panels=2, **scores)
  return config


def make(count: int, batch: int, size=SIZE, shape=SIZE, limit: int = 0, **scores):
  """An evaluator of `count` images, and its variables; `scores` are fields of config.eval."""
  config = make_config(batch, size, **scores)
  mesh = sharding.make_mesh()
  variables = jax.device_put({'scale': jnp.float32(1.5)}, sharding.replicated(mesh))
  return evaluation.Evaluator(
    Model(), Rooms(count, shape), mesh, config.eval, config.data, config.seed, limit=limit
  ), variables


def make_mirrored(count: int, upside_down: int):
  """As `make`, of `Mirrored` images."""
  evaluator, variables = make(count, 4)
  evaluator.source = Mirrored(count, upside_down=upside_down)
  return evaluator, variables


class Evaluated(NamedTuple):
  scores: dict
  rows: list[dict]
  confusion: dict
  better_initial: tuple[str, ...]


def run(count: int, batch: int, **options) -> Evaluated:
  """Evaluates as `make` says."""
  evaluator, variables = make(count, batch, **options)
  return Evaluated(*evaluator.run(variables))


def main(address: str, process: str, out: str):
  """One of two hosts: evaluates its share, and writes what it got; see test_evaluate.py."""
  import pickle

  jax.distributed.initialize(address, 2, int(process))
  evaluator, variables = make(5, 4)
  seen = []
  evidence = Evidence(TASKS, 5, 0)
  result = evaluator.run(variables, lambda id, maps, region, size: seen.append(id), {'final': evidence})
  at_image = tuple(run(5, 4, shape=(30, 50), resolution='image'))
  mirrored, variables = make_mirrored(6, 6)
  better_initial = mirrored.run(variables).better_initial
  gathered = sharding.gather({'count': np.array([2**40 + 1]), 'sum': np.float64(1) / 3, 'from': int(process)})
  with open(out, 'wb') as file:
    pickle.dump((result, seen, gathered, evaluator.batch, at_image, evidence, better_initial), file)


if __name__ == '__main__':
  main(*sys.argv[1:])
