"""What does a task's denoised map take from the other tasks' initial maps? The condition, with maps of another image.

  python -m dmtl_jax.benchmarks.influence RUN [--images=200] [--json=FILE]

On validation images, one task after another: F_cond is made with that task's initial maps of other images, all else
stays, X_init and the noise too. By how many % the denoised maps score better with the right ones is what each task has
from it; so too for the maps of all other tasks, and of all tasks. (Permutation importance: the exchanged maps are as
good as the right ones, only of another image.) Boundaries are scored with a fixed tolerance.
"""

import argparse
import copy
import math
import pathlib
import sys

from flax import linen as nn
import jax.numpy as jnp

from dmtl_jax.basics import sharding
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference.evaluation import Evaluator, headline
from dmtl_jax.inference.prediction import load, Predictor
from dmtl_jax.models import build_model
from dmtl_jax.models.parts.denoiser import Conditioning
from dmtl_jax.report.markup import markdown_table
from dmtl_jax.runs import run_tasks

# Rows besides the tasks; no task can have such a name.
DENOISING, OTHERS, ALL = 'denoising (on initial maps)', 'all others', 'all tasks'


def exchanging(call, args, kwargs, context):
  """An interceptor of flax: `Conditioning` gets the previous image's maps of those tasks that the variable
  'exchanged' names, bool [T]."""
  if isinstance(context.module, Conditioning) and context.method_name == '__call__':
    (maps,) = args
    exchanged = context.module.get_variable('exchanged', 'tasks')
    args = ({name: jnp.where(own, jnp.roll(x, 1, axis=0), x) for own, (name, x) in zip(exchanged, maps.items())},)
  return call(*args, **kwargs)


def gain(scores: dict[str, float], base: dict[str, float], tasks) -> dict[str, float]:
  """{task: by how many % the score is better than the base}; nan where that is 0."""
  sign = {task.name: 1 if task.higher_is_better else -1 for task in tasks}
  return {name: 100 * sign[name] * (scores[name] / base[name] - 1) if base[name] else math.nan for name in sign}


def measure(predictor: Predictor, source, images: int) -> dict[str, dict[str, float]]:
  """{row: {task: gain in %}}: of the denoised on the initial maps (DENOISING), and from the condition of other tasks.

  Args:
    images: of which batches are made that are all full, so a few less may count.

  Raises:
    UserError: a method without a condition, or less than two images, or than devices.
  """
  config, tasks, mesh = copy.deepcopy(predictor.config), source.tasks, sharding.make_mesh()
  model, count = build_model(config, tasks), min(images, len(source))
  if 'conditioning' not in predictor.variables['params'] or model.condition == 'none':
    raise UserError(f'config.method: {config.method} denoises without a condition; give a run of prediction or feature')
  batch = config.eval.batch = -(-min(config.eval.batch, count) // mesh.size) * mesh.size  # all full: no map of padding
  if min(count, batch) < 2 or count < batch:
    raise UserError(f'{count} images: {max(batch, 2)} or more are needed, to exchange maps')
  evaluator = Evaluator(
    model, source, mesh, config.eval, config.data, config.seed, fast=True, limit=count - count % batch
  )

  def scores(exchanged) -> dict:
    mask = jnp.array([task.name in exchanged for task in tasks])
    with nn.intercept_methods(exchanging):
      return evaluator.run(predictor.variables | {'exchanged': {'conditioning': {'tasks': mask}}})[0]

  def gain_from(those) -> dict[str, float]:
    return gain(final, headline(scores(those)['final'], tasks), tasks)

  right, names = scores(()), [task.name for task in tasks]
  final = headline(right['final'], tasks)
  result = {DENOISING: gain(final, headline(right['initial'], tasks), tasks)}
  result |= {name: gain_from((name,)) for name in names}
  result[OTHERS] = {name: gain_from(set(names) - {name})[name] for name in names}
  result[ALL] = gain_from(names)
  return result


def as_text(result: dict[str, dict[str, float]]) -> str:
  """A Markdown table."""
  rows = [[name, *(f'{x:+.1f}' for x in found.values())] for name, found in result.items()]
  return markdown_table(['gain in % from', *result[DENOISING]], rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('run', help='folder of a run')
  parser.add_argument('--images', type=int, default=200, help='validation images, the first ones')
  parser.add_argument('--json', help='file to write the result to')
  options = parser.parse_args()
  try:
    predictor = load(options.run)
    config = run_tasks.match(predictor.config, predictor.tasks, options.run)
    result = measure(predictor, source_lib.open_source(config.data, 'val'), options.images)
  except UserError as error:
    sys.exit(f'Error: {error}')
  print(as_text(result))
  if options.json:
    write_json(pathlib.Path(options.json), result)


if __name__ == '__main__':
  main()
