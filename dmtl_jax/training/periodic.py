"""The periodic evaluation of a run, and which one is the best: its checkpoint is kept, and predicted with."""

import math

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.stopping import Stopped
from dmtl_jax.inference import evaluation


class Periodic:
  """Evaluates, logs and compares.

  Args:
    training: `train.Training`.
    log: `log.Log` on the host that writes it, None on the others.
    stop: `stopping.StopSignal`, which may cut an evaluation short.
  """

  def __init__(self, training, config, log, stop):
    check(config.train.best_by, training.source.tasks)
    self._config, self._mesh, self._log, self._stop = config, training.mesh, log, stop
    limit = config.train.eval_images
    self._evaluator = evaluation.Evaluator(training.model, config, training.val, training.mesh, fast=True, limit=limit)

  def run(self, state, step: int, best: dict) -> tuple[dict, bool]:
    """The better of `best` and this evaluation, and False; `best` and True when SIGTERM came: it is still due."""
    variables = sharding.replicate(state.variables, self._mesh)
    try:
      with self._stop.at_once():
        scores, _ = self._evaluator.run(variables)
        pictures = list(self._evaluator.panels(variables)) if self._log else []
    except Stopped:
      return best, True
    if self._log:
      self._log.scalars(step, evaluation.flat(scores))
      for name, picture in pictures:
        self._log.image(step, f'panels/{name}', picture)
    return choose(best, step, scores, self._config, self._evaluator.tasks), False


def check(best_by: str, tasks):
  """Raises UserError where config.train.best_by is neither 'delta_m' nor a metric of the periodic evaluation."""
  known = {f'{task.name}/{name}' for task in tasks for name in _metrics(task)}
  if best_by != 'delta_m' and best_by not in known:
    raise UserError(f"config.train.best_by: '{best_by}' is not one of delta_m, {', '.join(sorted(known))}")


def _metrics(task):
  metric = task.scorer('pascal', 0.0, quick=True)
  return metric.compute(metric.empty())


def choose(best: dict, step: int, scores: dict, config, tasks) -> dict:
  """The better of the best evaluation so far (or {}) and this one; the later one on a tie.

  By config.train.best_by: the final maps' 'TASK/METRIC', or 'delta_m', Delta_m against config.eval.single_task;
  without these scores, the one better at more tasks.

  Args:
    scores: of `evaluate.Evaluator.run`.

  Returns:
    {'step', 'scores': {task: headline score}, 'delta_m', 'value': what was compared, higher is better, or None}.
  """
  headline = evaluation.headline(scores['final'], tasks)
  delta_m = evaluation.delta_to_single(headline, config, tasks)
  candidate = {'step': step, 'scores': headline, 'delta_m': delta_m, 'value': delta_m}
  if config.train.best_by != 'delta_m':
    name, metric = config.train.best_by.split('/')
    task = next(task for task in tasks if task.name == name)
    candidate['value'] = scores['final'][name][metric] * (-1 if task.lower_is_better(metric) else 1)
  if not best:
    return candidate
  if candidate['value'] is not None and best.get('value') is not None:
    return candidate if math.isnan(best['value']) or candidate['value'] >= best['value'] else best
  gains = [(headline[t.name] - best['scores'][t.name]) * (1 if t.higher_is_better else -1) for t in tasks]
  won, lost = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
  return candidate if won >= lost else best
