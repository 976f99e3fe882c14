"""Is the uncertainty of several noise draws worth something? How the error falls as only the surest pixels are kept.

  python -m dmtl_jax.benchmarks.uncertainty runs/demo [--samples=8] [--images=100] [--json=FILE]

For every task, on validation images: mean error of the surest 100, 80, 50 and 20% of the labelled pixels, where sure is
what the draws agree on, what one draw itself says (entropy of the classes, distance of a probability from a
half), and the truth ('best': the least wrong first). Pixels in random order would keep the error of 100%. Errors are
those of `Task.pixel_error`: shares of wrong pixels, mean absolute errors, degrees.
"""

import argparse
import pathlib
import sys

import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference import tiles
from dmtl_jax.inference.prediction import load, Predictor
from dmtl_jax.report.table import markdown_table
from dmtl_jax.runs import run_tasks
from dmtl_jax.tasks import Task

KEPT = (1.0, 0.8, 0.5, 0.2)
PIXELS = 2000  # of an image, drawn


def risks(error: np.ndarray, doubt: np.ndarray) -> dict[float, float]:
  """{share of pixels kept: their mean error}, the pixels of least doubt first; both [N]."""
  ordered = error[np.argsort(doubt, kind='stable')]
  return {kept: float(ordered[: max(round(kept * len(ordered)), 1)].mean()) for kept in KEPT}


def measure(predictor: Predictor, source, samples: int, images: int) -> dict:
  """{task: {'samples', 'prediction' (where it says how sure it is), 'best': risks}} of the mean of the draws."""
  found, rng = {}, np.random.default_rng(0)
  with Progress('predicting', min(images, len(source)), 'img') as progress:
    for index in range(progress.total):
      example = source[index]
      raw, size = predictor.raw(example['image'], samples, 1), example['image'].shape[:2]
      one = predictor.raw(example['image'], 1, 1)
      stages = {stage: raw.predictions(stage, size) for stage in ('final', 'uncertainty')}
      for task in source.tasks:
        label = example['labels'].get(task.name)
        if label is not None and task.valid(label).any():
          picked = rng.permutation(np.flatnonzero(task.valid(label)))[:PIXELS]
          found.setdefault(task, []).append([values.reshape(-1)[picked] for values in _maps(task, one, stages, label)])
      progress.update()
  return {task.name: _told(np.concatenate(parts, axis=1)) for task, parts in found.items()}


def _maps(task: Task, one, stages: dict, label: np.ndarray) -> list[np.ndarray]:
  """Maps [H, W] of mistakes, of the draws' spread and, where the task has it, of the doubt of `one` draw itself."""
  maps = [task.pixel_error(stages['final'][task.name], label), stages['uncertainty'][task.name]]
  doubt = task.self_uncertainty(jnp.asarray(one.maps['final', task.name]))
  if doubt is not None:
    doubt = np.asarray(doubt)[..., None]
    maps.append(tiles.enlarge(doubt, one.extent, label.shape[:2], slice(None), one.origin)[..., 0])
  return maps


def _told(rows: np.ndarray) -> dict:
  error, spread, *own = rows
  told = {'samples': risks(error, spread)} | ({'prediction': risks(error, own[0])} if own else {})
  return told | {'best': risks(error, error)}


def as_text(result: dict) -> str:
  """A Markdown table."""
  rows = [
    [task, name, *(f'{found[kept]:.4g}' for kept in KEPT)] for task, by in result.items() for name, found in by.items()
  ]
  return markdown_table(['task', 'sure by', *(f'{kept:.0%}' for kept in KEPT)], rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdir', help='folder of a run')
  parser.add_argument('--samples', type=int, default=8, help='noise draws, two or more')
  parser.add_argument('--images', type=int, default=100, help='validation images, the first ones')
  parser.add_argument('--json', help='file to write the result to')
  options = parser.parse_args()
  try:
    predictor = load(options.workdir)
    predictor.check(options.samples, 1)
    config = run_tasks.match(predictor.config, predictor.tasks, options.workdir)
    source = source_lib.open_source(config.data, 'val')
    result = measure(predictor, source, options.samples, options.images)
  except UserError as error:
    sys.exit(f'Error: {error}')
  print(as_text(result))
  if options.json:
    write_json(pathlib.Path(options.json), result)


if __name__ == '__main__':
  main()
