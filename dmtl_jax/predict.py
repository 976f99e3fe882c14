"""Predictions for any images, at each image's own size; and the Python API.

  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor(image)  # uint8 [H, W, 3] RGB -> {task: prediction at H x W}
"""

import pathlib
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax import evaluate, images, pictures, sharding, visualize, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import transforms
from dmtl_jax.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.progress import Progress
from dmtl_jax.steps import make_maps_step
from dmtl_jax.tasks import Task, activate
from dmtl_jax.workdir import say


class Predictor:
  """A trained model as a function of one image.

  Attributes:
    tasks: what it predicts.
  """

  def __init__(self, config, tasks: tuple[Task, ...], variables: dict):
    self.tasks, self.config, self._variables = tasks, config, variables
    self._maps = jax.jit(make_maps_step(build_model(config, tasks), config, tasks))

  def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
    """The final prediction of every task for uint8 [H, W, 3] RGB, at its size (see `tasks.activate`)."""
    return self.stages(image)['final']

  def stages(self, image: np.ndarray, tiled: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """As a call, for every stage: 'final', 'initial' and 'step0' (decayed), 'step1', ...

    The image is scaled to fit the training size and padded, as evaluation does; raw maps are
    cropped, resized to the image and only then turned into predictions, so that edges stay smooth.

    Args:
      tiled: instead predict tiles of the training size at the image's own resolution, for images
        far larger than those of training that show things at the same scale.
    """
    if tiled:
      flat = images.predict_tiled(self._tile, image, tuple(self.config.data.size), finish=self._activated)
      return {stage: {t.name: flat[stage, t.name] for t in self.tasks} for stage in dict.fromkeys(s for s, _ in flat)}
    small, _ = transforms.fit(image, {}, tuple(self.config.data.size), {})
    full = lambda maps: {t.name: self._at_size(t, maps[t.name], small.shape, image.shape) for t in self.tasks}
    return {stage: full(maps) for stage, maps in self._raw(small).items()}

  def _raw(self, image: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Raw maps {stage: {task: [h, w, C_t]}} at the network's stride of an image that fits the training size."""
    ready = transforms.finish(image, {}, tuple(self.config.data.size), (), 0)['image']
    raw = jax.device_get(self._maps(self._variables, ready[None], jnp.zeros(1, jnp.int32)))
    return jax.tree.map(lambda maps: maps[0].astype(np.float32), raw)

  def _tile(self, image: np.ndarray) -> dict:
    """Raw maps {(stage, task): [H, W, C_t]} of a tile."""
    return {(s, name): _resize(m, image.shape[:2]) for s, maps in self._raw(image).items() for name, m in maps.items()}

  def _activated(self, flat: dict) -> dict:
    kinds = {task.name: task for task in self.tasks}
    return {(stage, name): np.asarray(activate(kinds[name], m)) for (stage, name), m in flat.items()}

  def _at_size(self, task: Task, raw: np.ndarray, inner, outer) -> np.ndarray:
    """Raw map [h, w, C_t] of a padded image to a prediction at the image's size."""
    maps = _resize(raw, tuple(self.config.data.size))[: inner[0], : inner[1]]
    return np.asarray(activate(task, _resize(maps, outer[:2])))


def _resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Bilinear; channel by channel, since OpenCV takes at most four at once."""
  return np.stack([cv2.resize(maps[..., c], size[::-1]) for c in range(maps.shape[-1])], -1)


def load(workdir: str, which: str = 'best') -> Predictor:
  """The predictor of a trained run.

  Args:
    which: checkpoint: 'best', 'latest' or a step.

  Raises:
    UserError: no run or checkpoint there.
  """
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  mesh = sharding.make_mesh()
  checkpoints = Checkpoints(workdir, read_only=True)
  variables = evaluate.restore(checkpoints, checkpoints.choose(which), build_model(config, tasks), config, mesh)
  return Predictor(config, tasks, variables)


def run(workdir: str, which: str, spec: str, out: str, tiled: bool = False) -> int:
  """The job `--mode=predict`: for each image OUT/NAME.png (a panel) and OUT/TASK/NAME.npy.

  Args:
    spec: files, folders, globs and videos, see `images.find_images`.
    tiled: see `Predictor.stages`.

  Returns:
    1 where a file could not be read (it is named and skipped), else 0.

  Raises:
    UserError: no run, no image, or two images that would be written under one name.
  """
  paths = images.find_images(spec)
  for path in paths:
    if sum(other.stem == path.stem for other in paths) > 1:
      raise UserError(f'{path}: another image is called {path.stem} too; predict them into separate folders')
  predictor, folder, broken = load(workdir, which), pathlib.Path(out), []
  count = 0
  with Progress('predicting', len(paths), 'file') as progress:
    for path, name, image in images.pictures(paths, broken):
      write(predictor, image, folder, name, tiled)
      count += 1
      progress.update(paths.index(path) + 1 - progress.done, name)
  for _, reason in broken:
    print(f'skipped {reason}', file=sys.stderr)
  say(f'{count} images predicted: panels in {folder}, arrays in {folder}/TASK')
  return 1 if broken else 0


def write(predictor: Predictor, image: np.ndarray, folder: pathlib.Path, name: str, tiled: bool):
  """Writes the panel and the arrays of one image."""
  stages = predictor.stages(image, tiled)
  for task in predictor.tasks:
    path = folder / task.name / f'{name}.npy'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, stages['final'][task.name])
  rows = pictures.panel_rows(stages, {}, predictor.tasks)
  visualize.save_png(folder / f'{name}.png', visualize.panel(image, predictor.tasks, rows))
