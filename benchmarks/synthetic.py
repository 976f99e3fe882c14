"""Weights, batches and label masks of a config's shapes, without a data set and without compiling an initialiser."""

import jax
import numpy as np

from dmtl_jax.data import label_settings
from dmtl_jax.runs.state import TrainState
from dmtl_jax.tasks import Task

IMAGES = 1000  # size of the training set that labels are drawn for


def train_state(shapes: TrainState) -> TrainState:
  """A state to start training from, drawn in numpy: compiling the initialiser takes longer than a benchmark."""
  empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  filled = variables(shapes.variables)
  return empty.replace(params=filled['params'], batch_stats=filled['batch_stats'])


def variables(shapes: dict) -> dict:
  """Variables of `shapes`: kernels uniform with variance 1 / fan-in, norms at their start, biases 0."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    name = path[-1].key
    if name in ('scale', 'var'):
      return np.ones(x.shape, np.float32)
    if name in ('bias', 'mean'):
      return np.zeros(x.shape, np.float32)
    fan_in = np.prod(x.shape[-4:-1])  # a leading axis of a stacked kernel counts tasks
    return (2 * rng.random(x.shape, np.float32) - 1) * np.float32(np.sqrt(3 / fan_in))

  return jax.tree_util.tree_map_with_path(draw, shapes)


def label_mask(tasks: tuple[Task, ...], setting: str) -> np.ndarray:
  """Labels [IMAGES, T] bool of a training set under a setting; 'one' stands in for a mapping file."""
  exists = np.ones((IMAGES, len(tasks)), bool)
  ids = [str(i) for i in range(IMAGES)]
  if setting == 'full':
    return exists
  draw = label_settings.draw_random if setting == 'random' else label_settings.draw_one
  return draw(ids, exists, 0)


def labels(task: Task, count: int, size: tuple[int, int], rng) -> np.ndarray:
  """Labels [count, H, W, K] with about a tenth of the pixels unlabelled."""
  shape = (count, *size)
  hole = rng.random((*shape, 1)) < 0.1
  if task.label_dtype == np.uint8:
    values = rng.integers(0, max(task.channels, 2), (*shape, 1))
  else:
    values = rng.uniform(1, 5, (*shape, task.label_channels))
    if task.label_channels > 1:  # vectors
      values /= np.linalg.norm(values, axis=-1, keepdims=True)
  values = task.from_file(values.reshape(-1, *values.shape[2:])).reshape(values.shape)
  return np.where(hole, task.unlabelled, values).astype(task.label_dtype)


def train_batch(config, tasks: tuple[Task, ...], mask: np.ndarray) -> dict:
  """A batch of config.train.batch images: the first rows of `mask`; hidden labels are blank, as from the pipeline."""
  rng = np.random.default_rng(0)
  count = config.train.batch
  size = tuple(config.data.size)
  shown = mask[:count]
  by_task = {}
  for t, task in enumerate(tasks):
    value = labels(task, count, size, rng)
    by_task[task.name] = np.where(shown[:, t, None, None, None], value, task.blank(*size)).astype(value.dtype)
  return {'image': images(count, size, rng), 'labels': by_task, 'label_mask': shown}


def images(count: int, size: tuple[int, int], rng) -> np.ndarray:
  """Normalised images [count, H, W, 3] float32."""
  return rng.standard_normal((count, *size, 3), np.float32)
