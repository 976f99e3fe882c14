"""Which evaluation of a run is the best: its checkpoint is kept, and evaluated and predicted with."""

import math

from dmtl_jax import evaluate, metrics
from dmtl_jax.errors import UserError

LOWER_IS_BETTER = ('absErr', 'relErr', 'sqRel', 'RMSE', 'logRMSE', 'mErr', 'median')


def check(best_by: str, tasks):
  """Raises UserError where config.train.best_by is neither 'delta_m' nor a metric of the periodic evaluation."""
  known = {f'{task.name}/{name}' for task in tasks for name in _metrics(task)}
  if best_by != 'delta_m' and best_by not in known:
    raise UserError(f"config.train.best_by: '{best_by}' is not one of delta_m, {', '.join(sorted(known))}")


def _metrics(task):
  metric = metrics.build(task, fast=True)
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
  headline = evaluate.headline(scores['final'], tasks)
  delta_m = evaluate.delta_to_single(headline, config, tasks)
  candidate = {'step': step, 'scores': headline, 'delta_m': delta_m, 'value': delta_m}
  if config.train.best_by != 'delta_m':
    task, metric = config.train.best_by.split('/')
    candidate['value'] = scores['final'][task][metric] * (-1 if metric in LOWER_IS_BETTER else 1)
  if not best:
    return candidate
  if candidate['value'] is not None and best.get('value') is not None:
    return candidate if math.isnan(best['value']) or candidate['value'] >= best['value'] else best
  gains = [(headline[t.name] - best['scores'][t.name]) * (1 if t.higher_is_better else -1) for t in tasks]
  won, lost = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
  return candidate if won >= lost else best
