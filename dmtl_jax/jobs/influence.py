"""The job `--mode=influence`: what a task's denoised map takes from the other tasks' initial maps.

One task after another gets F_cond made with that task's initial maps of other images; all else stays the same, X_init
and the noise too. The influence of a task is by how many % the denoised maps score better with the right maps; likewise
for the maps of all other tasks, and of all tasks. (Permutation importance: the exchanged maps are as good as the right
ones, but of another image.) Boundaries are scored with a fixed tolerance.
"""

import copy
import math
import pathlib

from flax import linen as nn
import jax.numpy as jnp

from dmtl_jax.basics import sharding, stopping
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference.evaluation import Evaluator, headline
from dmtl_jax.inference.prediction import load, Predictor
from dmtl_jax.models import build_model
from dmtl_jax.models.parts.denoiser import Conditioning
from dmtl_jax.report.table import markdown_table
from dmtl_jax.runs import run_tasks

# Rows besides the tasks; no task can have such a name.
DENOISING, OTHERS, ALL = 'denoising (on initial maps)', 'all others', 'all tasks'


@stopping.report_interruption(lambda: 'the file --out, if there was one, is as it was')
def run(workdir: str, images: int, out: str | None, force: bool = False):
  """The job `--mode=influence`: prints a table of the gains, see `measure`, and writes them to the JSON file `out`.

  Raises UserError for a workdir that cannot be read, and as `measure`.
  """
  predictor = load(workdir)
  config = run_tasks.match(predictor.config, predictor.tasks, workdir, force)
  result = measure(predictor, source_lib.open_source(config.data, 'val'), images)
  say(as_text(result))
  if out:
    write_json(pathlib.Path(out), result)


def exchanging(call, args, kwargs, context):
  """An interceptor for flax: gives `Conditioning` the previous image's maps of the tasks that the variable 'exchanged',
  bool [T], marks."""
  if isinstance(context.module, Conditioning) and context.method_name == '__call__':
    (maps,) = args
    exchanged = context.module.get_variable('exchanged', 'tasks')
    args = ({name: jnp.where(own, jnp.roll(x, 1, axis=0), x) for own, (name, x) in zip(exchanged, maps.items())},)
  return call(*args, **kwargs)


class ExchangingModel:
  """A network whose `apply` exchanges maps, in any thread: an interceptor holds in the thread that sets it alone."""

  def __init__(self, model):
    self._model = model

  def __getattr__(self, name: str):
    return getattr(self._model, name)

  def apply(self, *args, **kwargs):
    with nn.intercept_methods(exchanging):
      return self._model.apply(*args, **kwargs)


def gain(scores: dict[str, float], base: dict[str, float], tasks) -> dict[str, float]:
  """{task: by how many % the score is better than the base}; nan where that is 0."""
  sign = {task.name: 1 if task.higher_is_better else -1 for task in tasks}
  return {name: 100 * sign[name] * (scores[name] / base[name] - 1) if base[name] else math.nan for name in sign}


def measure(predictor: Predictor, source, images: int) -> dict[str, dict[str, float]]:
  """{row: {task: gain in %}}: of denoised over initial maps (DENOISING), and from the condition of other tasks.

  Args:
    images: how many validation images to use; the last ones that do not fill a batch are left out.

  Raises:
    UserError: a method without a condition, or fewer images than two, or than devices.
  """
  config = copy.deepcopy(predictor.config)
  tasks = source.tasks
  mesh = sharding.make_mesh()
  model = build_model(config, tasks)
  count = min(images, len(source))
  if 'conditioning' not in predictor.variables['params'] or model.condition == 'none':
    raise UserError(f'config.method: {config.method} denoises without a condition; give a run of prediction or feature')
  # A multiple of the devices: a padded batch would exchange maps with padding.
  batch = config.eval.batch = math.ceil(min(config.eval.batch, count) / mesh.size) * mesh.size
  if min(count, batch) < 2 or count < batch:
    raise UserError(f'{count} images: {max(batch, 2)} or more are needed, to exchange maps')
  evaluator = Evaluator(
    ExchangingModel(model),
    source,
    mesh,
    config.eval,
    config.data,
    config.seed,
    quick=True,
    limit=count - count % batch,
  )

  def scores(exchanged) -> dict:
    mask = jnp.array([task.name in exchanged for task in tasks])
    return evaluator.run(predictor.variables | {'exchanged': {'conditioning': {'tasks': mask}}}).scores

  def gain_from(exchanged) -> dict[str, float]:
    return gain(final, headline(scores(exchanged)['final'], tasks), tasks)

  names = [task.name for task in tasks]
  right = scores(())
  final = headline(right['final'], tasks)
  result = {DENOISING: gain(final, headline(right['initial'], tasks), tasks)}
  result |= {name: gain_from((name,)) for name in names}
  result[OTHERS] = {name: gain_from(set(names) - {name})[name] for name in names}
  result[ALL] = gain_from(names)
  return result


def as_text(result: dict[str, dict[str, float]]) -> str:
  """A Markdown table."""
  rows = [
    [name, *('-' if math.isnan(gain) else f'{gain:+.1f}' for gain in gains.values())] for name, gains in result.items()
  ]
  return markdown_table(['gain in % from', *result[DENOISING]], rows)
