"""Whether more steps or more labels would help: from the end of a run's curves, and from a run on fewer labels."""

from collections.abc import Sequence
import importlib
import math
import pathlib
import shlex
from typing import NamedTuple

from flax.traverse_util import flatten_dict
import numpy as np

from dmtl_jax import configs
from dmtl_jax.basics.errors import program
from dmtl_jax.report.results import compared_fields, Run
from dmtl_jax.report.table import task_column
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

FEWEST = 4  # evaluations, below which noise hides a trend
ERRORS = 2  # standard errors beyond which a change is not noise
HALF_LABELS = 'half_labels.json'  # beside the report
RULE = (
  'Steps: a straight line is fitted to the last half of the evaluations during training (at least '
  f'{FEWEST}); a score still improves if the line does by more than {ERRORS} standard errors. The falling learning '
  'rate flattens the end of every curve, so a score that no longer improves may still gain from a longer run.'
)
# Fields that a run on fewer labels need not share: which labels, and how its number of steps was given.
LABEL_FIELDS = ('data.labels', 'data.path', 'data.train_count', 'train.steps', 'train.epochs')


# --- More steps --------------------------------------------------------------------------------


class Trend(NamedTuple):
  """How a score changed over the last evaluations, by a fitted line; positive is better.

  Attributes:
    steps: from the first to the last of these evaluations.
    error: standard error of the change.
  """

  task: Task
  metric: str
  change: float
  error: float
  steps: int

  @property
  def improves(self) -> bool:
    return self.change > ERRORS * self.error

  @property
  def worsens(self) -> bool:
    return -self.change > ERRORS * self.error


def trend(run: Run, task: Task) -> Trend | None:
  """The trend of a task's headline metric, or of its quick one; None for fewer than FEWEST evaluations.

  It is that of the maps that predictions are made of.
  """
  stage = run.prediction_stage(task)
  for metric in filter(None, (task.metric, task.quick_metric)):
    steps, values = run.curves.get(f'eval/{stage}/{task.name}/{metric}', ((), ()))
    if len(steps) >= FEWEST:
      count = max(math.ceil(len(steps) / 2), FEWEST)
      x, y = np.array(steps[-count:], float), np.array(values[-count:], float)
      slope, start = np.polyfit(x, y, 1)
      residuals = y - (slope * x + start)
      error = math.sqrt((residuals**2).sum() / (count - 2) / ((x - x.mean()) ** 2).sum())
      sign = -1 if task.lower_is_better(metric) else 1
      span = x[-1] - x[0]
      return Trend(task, metric, sign * slope * span, error * span, int(span))
  return None


def more_steps(run: Run) -> str:
  """A sentence on whether more steps would help; '' for a run without a log of its training."""
  trends = [found for task in run.tasks if (found := trend(run, task))]
  if not trends and not last_step(run):
    return ''
  if not trends:
    every = max(last_step(run) // 10, 1)
    return (
      f'More steps: not known, as training took its scores fewer than {FEWEST} times; '
      f'--config.train.eval_every={every} takes them often enough.'
    )
  better = [
    f'{t.task.name} (better by {t.change:.2g} {t.metric} over the last {t.steps:,} steps)' for t in trends if t.improves
  ]
  parts = []
  if better:
    parts.append(f'would probably help {_join(better)}, which still improve{"" if len(better) > 1 else "s"}')
  if still := [t.task.name for t in trends if not t.improves and not t.worsens]:
    parts.append(f'{_join(still)} no longer improve{"" if len(still) > 1 else "s"} beyond the noise')
  if worse := [t.task.name for t in trends if t.worsens]:
    parts.append(f'{_join(worse)} get{"" if len(worse) > 1 else "s"} worse towards the end')
  return f'More steps: {"; ".join(parts)}.'


# --- More labels -------------------------------------------------------------------------------


class Gain(NamedTuple):
  """A task's scores with fewer and with all labels; `improvement` is positive where more labels are better."""

  task: Task
  few: int
  many: int
  before: float
  after: float

  @property
  def improvement(self) -> float:
    return (self.after - self.before) * (1 if self.task.higher_is_better else -1)


def find_smaller(run: Run, runs: Sequence[Run]) -> Run | None:
  """The run with most labels among those that differ from `run` only in having fewer; None if there is none."""
  if not (run.label_counts and run.evaluation):
    return None
  others = [other for other in runs if other.label_counts and other.evaluation and other.data == run.data]
  others = [other for other in others if _count(other) < _count(run) and _setting(other) == _setting(run)]
  return max(others, key=_count, default=None)


def _count(run: Run) -> int:
  return sum(run.label_counts.tasks.values())


def _setting(run: Run) -> tuple:
  """What must be equal for a difference in scores to come from the labels."""
  fields = {name: value for name, value in compared_fields(run).items() if name not in LABEL_FIELDS}
  return fields, last_step(run), [task.name for task in run.tasks]


def last_step(run: Run) -> int:
  """The last step that training logged."""
  return max((steps[-1] for steps, _ in run.curves.values()), default=0)


def label_gains(run: Run, smaller: Run) -> list[Gain]:
  """The gain of each task that has scores in both runs and fewer labels in the smaller one."""
  gains = []
  for task in run.tasks:
    few, many = (counts.tasks.get(task.name, 0) for counts in (smaller.label_counts, run.label_counts))
    before, after = smaller.prediction_score(task), run.prediction_score(task)
    if few < many and not math.isnan(before + after):
      gains.append(Gain(task, few, many, before, after))
  return gains


def more_labels(gains: Sequence[Gain]) -> str:
  """Sentences on what more labels changed, for two runs; '' without gains."""
  if not gains:
    return ''
  parts = []
  for gain in gains:
    text = task_column(gain.task).text
    parts.append(
      f'{gain.task.name} has {text(gain.after)} {gain.task.metric} with {gain.many:,} labels and {text(gain.before)} '
      f'with {gain.few:,}'
    )
  helped = [gain.task.name for gain in gains if gain.improvement > 0]
  verdict = f'would probably help {_join(helped)}' if helped else 'would probably not help'
  return f'More labels: {verdict}. {"; ".join(parts)}. These are single runs, so small differences may be chance.'


def half_command(run: Run, folder: pathlib.Path) -> str:
  """The command that trains the same on half of the labels, those of FOLDER/half_labels.json."""
  config = run.config
  try:
    module = importlib.import_module(f'{configs.__name__}.{config["data"]["name"]}')
    start = flatten_dict(workdir_lib.to_json(module.get_config(f'method={config["method"]}')), sep='.')
  except (ImportError, AttributeError, ValueError):
    return ''
  own = flatten_dict(config, sep='.') | {'train.steps': last_step(run) or config['train']['steps']}
  changed = {name: value for name, value in own.items() if value != start.get(name) and name != 'data.labels'}
  flags = [f'--config.{name}={_flag_value(value)}' for name, value in changed.items()]
  flags += [f'--config.data.labels={folder / HALF_LABELS}', f'--workdir={run.path}_half']
  words = [f'--config=configs/{config["data"]["name"]}.py:method={config["method"]}', *flags]
  return ' '.join([program(), *map(shlex.quote, words)])


def _flag_value(value) -> str:
  return ','.join(map(str, value)) if isinstance(value, list) else str(value)


def _join(names: Sequence[str]) -> str:
  """'a, b and c'."""
  return ' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))
