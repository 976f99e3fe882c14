"""A tiny network with its tasks, labels and weights, and the reference data of ../shared."""

import pathlib
import zlib

import jax
import numpy as np
import pytest

from dmtl_jax.configs import common
from dmtl_jax.models import build_model
from dmtl_jax.models.inputs import init_variables, model_inputs
from dmtl_jax.tasks import make_task

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'
TASKS = (
  make_task('semseg', 'semseg', ('sky', 'road', 'car', 'tree')),
  make_task('parsing', 'parsing', ('background', 'head', 'torso')),
  make_task('saliency', 'saliency'),
  make_task('normals', 'normals'),
  make_task('boundary', 'boundary'),
  make_task('depth', 'depth'),
)
SIZE = (64, 96)


def shared(name: str) -> pathlib.Path:
  """A path below ../shared; skips the test where it is absent."""
  path = SHARED / name
  if not path.exists():
    pytest.skip(f'reference data {path} is not on this machine')
  return path


def tiny_config(arg: str = ''):
  """A config whose network compiles in seconds."""
  config = common.base(arg)
  config.model.update(width=8, channels=16, depth=1, decoder_blocks=1)
  return config


def random_labels(rng: np.random.Generator, batch: int, size=SIZE) -> dict[str, np.ndarray]:
  """Valid labels with about a tenth of the pixels unlabelled."""
  hole = rng.random((batch, *size, 1)) < 0.1
  normals = rng.standard_normal((batch, *size, 3)).astype(np.float32)
  labels = {
    'semseg': rng.integers(0, 4, (batch, *size, 1)),
    'parsing': rng.integers(0, 3, (batch, *size, 1)),
    'saliency': rng.integers(0, 2, (batch, *size, 1)),
    'boundary': rng.integers(0, 2, (batch, *size, 1)),
  }
  labels = {name: np.where(hole, 255, value).astype(np.uint8) for name, value in labels.items()}
  labels['normals'] = np.where(hole, 0, normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)
  labels['depth'] = np.where(hole, 0, rng.uniform(1, 5, (batch, *size, 1))).astype(np.float32)
  return labels


def random_variables(model, size=SIZE, seed: int = 0) -> dict:
  """Variables of the model's shapes, drawn in numpy: compiling an initialiser costs 20 s."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    z = rng.standard_normal(x.shape).astype(np.float32)
    name = path[-1].key
    if name == 'var':
      return 1 + 0.2 * np.abs(z)
    if name == 'scale':
      return 1 + 0.1 * z
    return z * (0.1 if name in ('bias', 'mean') else np.prod(x.shape[-4:-1]) ** -0.5)

  shapes = jax.eval_shape(lambda key: init_variables(model, key, size), jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def rng(name: str, seed: int = 0) -> np.random.Generator:
  """By the recipe of ../shared/parity."""
  return np.random.default_rng(zlib.crc32(f'{seed}/{name}'.encode()))


def torch_state(shapes: dict, seed: int = 0) -> dict[str, np.ndarray]:
  """Weights {PyTorch name: array} by that recipe."""
  state = {}
  for name, shape in shapes.items():
    z = rng(name, seed).standard_normal(shape)
    if name.endswith('running_mean'):
      z = 0.1 * z
    elif name.endswith('running_var'):
      z = 1 + 0.2 * np.abs(z)
    elif len(shape) < 2:
      z = 1 + 0.1 * z if name.endswith('weight') else 0.05 * z
    else:
      z = z / np.sqrt(np.prod(shape[1:]))
    state[name] = np.asarray(z, np.float32)
  return state


class Tiny:
  """A tiny model, its variables and a batch of four images."""

  def __init__(self, arg: str = '', tasks=TASKS, **model):
    self.config = tiny_config(arg)
    self.config.model.update(model)
    self.tasks = tasks
    self.model = build_model(self.config, tasks)
    self.variables = random_variables(self.model)
    rng = np.random.default_rng(0)
    self.images = rng.standard_normal((4, *SIZE, 3)).astype(np.float32)
    self.labels = random_labels(rng, 4)
    self.apply = jax.jit(self.model.apply)

  def inputs(self, pairs=None, key=jax.random.key(1)):
    return model_inputs(self.model, self.images, key, len(self.tasks), pairs)
