"""The job `--mode=uncertainty`: how the error falls when only the pixels with the least uncertainty are kept.

For every task, on validation images: the mean error of the surest 100, 80, 50 and 20% of the labelled pixels, ordered
by the spread of several noise draws ('samples'), by the confidence of one draw itself (entropy of the classes, distance
of a probability from a half; 'prediction'), and by the error itself ('best'). Pixels in random order would keep the
error of 100%. Errors are those of `Task.pixel_error`: shares of wrong pixels, mean absolute errors, degrees.
"""

import pathlib

import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import stopping
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference import tiles
from dmtl_jax.inference.prediction import load, Predictor
from dmtl_jax.report.table import markdown_table
from dmtl_jax.runs import run_tasks
from dmtl_jax.tasks import Task

KEPT = (1.0, 0.8, 0.5, 0.2)
PIXELS = 2000  # of an image, drawn


@stopping.report_interruption(lambda: 'the file --out, if there was one, is as it was')
def run(workdir: str, samples: int, images: int, out: str | None, force: bool = False):
  """The job `--mode=uncertainty`: prints a table of the errors, see `measure`, and writes them to the JSON file `out`.

  Args:
    samples: noise draws, two or more.

  Raises:
    UserError: a workdir that cannot be read, or a method without noise.
  """
  predictor = load(workdir)
  predictor.check(samples, 1)
  config = run_tasks.match(predictor.config, predictor.tasks, workdir, force)
  result = measure(predictor, source_lib.open_source(config.data, 'val'), samples, images)
  say(as_text(result))
  if out:
    write_json(pathlib.Path(out), result)


def risks(error: np.ndarray, uncertainty: np.ndarray) -> dict[float, float]:
  """{share of pixels kept: their mean error}, pixels [N] with the least uncertainty first."""
  ordered = error[np.argsort(uncertainty, kind='stable')]
  return {kept: float(ordered[: max(round(kept * len(ordered)), 1)].mean()) for kept in KEPT}


def measure(predictor: Predictor, source, samples: int, images: int) -> dict:
  """{task: {'samples', 'prediction' (where the task has a confidence), 'best': risks}} of the mean of the draws.

  'samples' is left out for tasks that are predicted by their initial maps, which are the same in all draws.
  """
  values = {}
  rng = np.random.default_rng(0)
  with Progress('predicting', min(images, len(source)), 'img') as progress:
    for index in range(progress.total):
      example = source[index]
      size = example['image'].shape[:2]
      raw = predictor.raw(example['image'], samples, 1)
      one = predictor.raw(example['image'], 1, 1)
      stages = {stage: raw.predictions(stage, size) for stage in ('final', 'uncertainty')}
      for task in source.tasks:
        label = example['labels'].get(task.name)
        if label is not None and task.valid(label).any():
          pixels = rng.permutation(np.flatnonzero(task.valid(label)))[:PIXELS]
          maps = _error_and_uncertainties(task, one, stages, label)
          values.setdefault(task, []).append([x.reshape(-1)[pixels] for x in maps])
      progress.update()
  initial = predictor.calibration.initial
  return {t.name: _risks_by_order(np.concatenate(parts, axis=1), t.name not in initial) for t, parts in values.items()}


def _error_and_uncertainties(task: Task, one, stages: dict, label: np.ndarray) -> list[np.ndarray]:
  """Maps [H, W]: the error, the spread of the draws and, where the task has it, the self-uncertainty of `one` draw."""
  maps = [task.pixel_error(stages['final'][task.name], label), stages['uncertainty'][task.name]]
  self_uncertainty = task.self_uncertainty(jnp.asarray(one.calibrated(task)))
  if self_uncertainty is not None:
    small = np.asarray(self_uncertainty)[..., None]
    maps.append(tiles.enlarge(small, one.extent, label.shape[:2], slice(None), one.origin)[..., 0])
  return maps


def _risks_by_order(maps: np.ndarray, draws_differ: bool) -> dict:
  error, sample_spread, *rest = maps
  result = {'samples': risks(error, sample_spread)} if draws_differ else {}
  if rest:
    result['prediction'] = risks(error, rest[0])
  return result | {'best': risks(error, error)}


def as_text(result: dict) -> str:
  """A Markdown table."""
  rows = [
    [task, order, *(f'{errors[kept]:.4g}' for kept in KEPT)]
    for task, by_order in result.items()
    for order, errors in by_order.items()
  ]
  return markdown_table(['task', 'sure by', *(f'{kept:.0%}' for kept in KEPT)], rows)
