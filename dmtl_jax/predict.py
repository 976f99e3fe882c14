"""Predictions for any images, at each image's own size; and the Python API.

  predictor = dmtl_jax.load('runs/scenes')
  maps = predictor(image)  # uint8 [H, W, 3] RGB -> {task: prediction at H x W}
"""

import glob
import pathlib
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax import evaluate, sharding, visualize, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import transforms
from dmtl_jax.data.folder import IMAGE_SUFFIXES, read_image
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

  def stages(self, image: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """As a call, for every stage: 'final', 'initial' and 'step0' (decayed), 'step1', ...

    The image is scaled to fit the training size and padded; raw maps are cropped, resized to the
    image and only then turned into predictions, so that edges stay smooth.
    """
    size = tuple(self.config.data.size)
    small, _ = transforms.fit(image, {}, size, {})
    ready = transforms.finish(small, {}, size, (), 0)['image']
    raw = jax.device_get(self._maps(self._variables, ready[None], jnp.zeros(1, jnp.int32)))
    full = lambda maps: {task.name: self._at_size(task, maps[task.name][0], small.shape, image.shape) for task in self.tasks}
    return {stage: full(maps) for stage, maps in raw.items()}

  def _at_size(self, task: Task, raw: np.ndarray, inner, outer) -> np.ndarray:
    """Raw map at the network's stride [h, w, C_t] to a prediction at the image's size."""
    padded = tuple(self.config.data.size)
    # OpenCV resizes at most 4 channels at once; semseg has more.
    resize = lambda x, size: np.stack([cv2.resize(x[..., c], size[::-1]) for c in range(x.shape[-1])], -1)
    maps = resize(raw.astype(np.float32), padded)[: inner[0], : inner[1]]
    return np.asarray(activate(task, resize(maps, outer[:2])))


def load(workdir: str, which: str = 'best') -> Predictor:
  """The predictor of a trained run.

  Args:
    which: checkpoint: 'best', 'latest' or a step.

  Raises:
    UserError: no run or checkpoint there.
  """
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  mesh = sharding.make_mesh(jax.device_count())
  checkpoints = Checkpoints(workdir, read_only=True)
  variables = evaluate.restore(checkpoints, checkpoints.choose(which), build_model(config, tasks), config, mesh)
  return Predictor(config, tasks, variables)


def find_images(spec: str) -> list[pathlib.Path]:
  """Files, folders and globs, separated by commas, as a list of image files.

  Raises:
    UserError: a part that names nothing.
  """
  found = []
  for part in filter(None, spec.split(',')):
    path = pathlib.Path(part).expanduser()
    if path.is_dir():
      paths = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
      paths = [pathlib.Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    if not paths:
      raise UserError(f"--images: '{part}' names no image; give a file, a folder or a quoted glob")
    found += paths
  return found


def run(workdir: str, which: str, images: str, out: str) -> int:
  """The job `--mode=predict`: for each image OUT/NAME.png (a panel) and OUT/TASK/NAME.npy.

  Returns:
    1 where a file could not be read (it is named and skipped), else 0.
  """
  paths = find_images(images)
  predictor, folder, broken = load(workdir, which), pathlib.Path(out), []
  for path in paths:
    if sum(other.stem == path.stem for other in paths) > 1:
      raise UserError(f'{path}: another image is called {path.stem} too; predict them into separate folders')
  with Progress('predicting', len(paths), 'img') as progress:
    for path in paths:
      try:
        image = read_image(path)
      except UserError as error:
        broken.append(str(error))
      else:
        write(predictor, image, folder, path.stem)
      progress.update(1, path.name)
  for problem in broken:
    print(f'skipped {problem}', file=sys.stderr)
  say(f'{len(paths) - len(broken)} images predicted: panels in {folder}, arrays in {folder}/TASK')
  return 1 if broken else 0


def write(predictor: Predictor, image: np.ndarray, folder: pathlib.Path, name: str):
  """Writes the panel and the arrays of one image."""
  stages = predictor.stages(image)
  for task in predictor.tasks:
    path = folder / task.name / f'{name}.npy'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, stages['final'][task.name])
  rows = evaluate.panel_rows(stages, {}, predictor.tasks)
  visualize.save_png(folder / f'{name}.png', visualize.panel(image, predictor.tasks, rows))
