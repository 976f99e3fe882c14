"""The periodic evaluation of a run, and the choice of the best one, whose checkpoint is kept and predicts."""

from collections.abc import Mapping
import math

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import unknown_value_error
from dmtl_jax.basics.stopping import Stopped
from dmtl_jax.inference import evaluation

PICTURED = 20  # about how many evaluations log pictures, so that TensorBoard's files stay small in a long run


class Periodic:
  """Evaluates a run, logs the scores and keeps the best.

  Args:
    evaluator: a fast one, of the validation split.
    train_config: config.train.
    steps: of the whole run.
    log: `log.Log`.
    stop: `stopping.StopSignal`, which may interrupt an evaluation.
    notes: of the checkpoint that the run resumes from, see `Checkpoints.notes`.

  Attributes:
    best: result of `choose` for the best evaluation so far, or {}.
    evaluated: step of the last evaluation.
  """

  def __init__(self, evaluator: evaluation.Evaluator, train_config, steps: int, log, stop, notes: dict):
    self.best = notes['best']
    self.evaluated = notes['evaluated']
    self._last = steps
    self._every = train_config.eval_every or max(steps // 10, 1)
    self._pictured = self._every * max(steps // self._every // PICTURED, 1)
    self._best_by = train_config.best_by
    self._evaluator = evaluator
    self._log = log
    self._stop = stop

  def due(self, step: int) -> bool:
    """Whether an evaluation at `step` is due and not done yet."""
    return self.evaluated < step and (step % self._every == 0 or step >= self._last)

  def run(self, state, step: int):
    """Evaluates; if Ctrl-C or SIGTERM interrupts it, nothing changes and the evaluation stays due."""
    variables = sharding.replicate(state.variables, self._evaluator.mesh)
    try:
      with self._stop.interruptible():
        scores = self._evaluator.run(variables).scores
        shown = self._log.writes and (step % self._pictured == 0 or step >= self._last)
        pictures = list(self._evaluator.panels(variables)) if shown else []
    except Stopped:
      return
    self._log.scalars(step, evaluation.flatten_scores(scores))
    for name, picture in pictures:
      self._log.image(step, f'panels/{name}', picture)
    single_task = self._evaluator.eval_config.single_task
    self.best = choose(self.best, step, scores, self._best_by, single_task, self._evaluator.tasks)
    self.evaluated = step


def check(best_by: str, tasks):
  """Raises UserError if config.train.best_by is neither 'delta_m' nor a metric of the periodic evaluation."""
  metrics = {task.name: task.scorer(quick=True) for task in tasks}
  known = {f'{name}/{score}' for name, metric in metrics.items() for score in metric.compute(metric.empty())}
  if best_by not in known | {'delta_m'}:
    raise unknown_value_error('config.train.best_by', best_by, ['delta_m', *sorted(known)])


def choose(best: dict, step: int, scores: dict, best_by: str, single_task: Mapping[str, float], tasks) -> dict:
  """The better of the best evaluation so far and this one; this one on a tie.

  Compares `best_by` (config.train): 'TASK/METRIC' of the final maps, or 'delta_m', Delta_m against
  `single_task` (config.eval); without single-task scores, the evaluation better at more tasks wins.

  Args:
    best: the best evaluation so far, or {}.
    scores: result of `evaluation.Evaluator.run`.

  Returns:
    {'step', 'scores': {task: headline score}, 'delta_m', 'value': compared value, higher is better, or None}.
  """
  headline = evaluation.headline(scores['final'], tasks)
  delta_m = evaluation.delta_to_single(scores['final'], single_task, tasks)
  candidate = {'step': step, 'scores': headline, 'delta_m': delta_m, 'value': delta_m}
  if best_by != 'delta_m':
    name, metric = best_by.split('/')
    task = next(task for task in tasks if task.name == name)
    candidate['value'] = scores['final'][name][metric] * (-1 if task.lower_is_better(metric) else 1)
  if not best:
    return candidate
  value, best_value = candidate['value'], best.get('value')
  if value is not None and best_value is not None and not (math.isnan(value) and math.isnan(best_value)):
    return candidate if math.isnan(best_value) or value >= best_value else best
  # Also where Delta_m is nan since no validation label shows one of the tasks.
  gains = [(headline[t.name] - best['scores'][t.name]) * (1 if t.higher_is_better else -1) for t in tasks]
  won = sum(gain > 0 for gain in gains)
  lost = sum(gain < 0 for gain in gains)
  return candidate if won >= lost else best
