"""The HTML around Gradio's components on the page of `--mode=app`, from templates/app.html; every value is escaped."""

from collections.abc import Sequence

import numpy as np

from dmtl_jax.draw import legends
from dmtl_jax.report.reading import Evaluation
from dmtl_jax.report.render import TEMPLATES
from dmtl_jax.tasks import Task

_MACROS = TEMPLATES.get_template('app.html').module
CSS = TEMPLATES.get_template('app.css').render()


def about(
  title: str,
  text: str,
  tasks: tuple[Task, ...],
  evaluation: Evaluation | None,
  report: str = '',
  initial: Sequence[str] = (),
) -> str:
  """The head of the page: what the network is, a link to the run's report, and its scores.

  Args:
    report: address of the report, '' if there is none.
    initial: names of the tasks that are predicted by their initial maps.
  """
  return str(_MACROS.about(title, text, report, *(_scores(tasks, evaluation, initial) if evaluation else ('', []))))


def _scores(
  tasks: tuple[Task, ...], evaluation: Evaluation, initial: Sequence[str]
) -> tuple[str, list[dict[str, str]]]:
  """The line above the scores, and a cell per task."""
  cells = []
  for task in tasks:
    values = [scores.get(task.name, {}).get(task.metric) for scores in (evaluation.initial, evaluation.final)]
    metric = f'{task.metric} {"↑" if task.higher_is_better else "↓"}'
    if task.name in initial:
      values = values[:1]
      metric += ', initial maps'
    texts = [f'{value:.{task.digits}f}' for value in values if value is not None]
    if texts:
      cells.append({'heading': task.heading, 'scores': ' → '.join(texts), 'metric': metric})
  what = 'initial → final maps' if evaluation.initial else 'predictions'
  where = f' of {evaluation.data}' if evaluation.data else ''
  return f'Scores on the validation images{where} ({what}, protocol {evaluation.protocol}; ↑: higher is better):', cells


def card_head(heading: str, sides: str) -> str:
  """The title of a task's maps, and what is left and right of the divider."""
  return str(_MACROS.card_head(heading, sides))


def legend(key: legends.Key) -> str:
  """A legend whose letters keep their size on a phone, and which the browser draws in any language."""
  if isinstance(key, legends.Swatches):
    return str(_MACROS.swatches([(name, _css(color)) for name, color in key.entries]))
  stops = key.colors[np.linspace(0, len(key.colors) - 1, 17).astype(int)]
  return str(_MACROS.scale(', '.join(map(_css, stops)), key.low, key.high))


def status(text: str, kind: str = '') -> str:
  """A line on what the page does or did; `kind` is '', 'busy' or 'error'."""
  return str(_MACROS.status(text, kind))


def hint(text: str) -> str:
  """What will appear in a place that is still empty."""
  return str(_MACROS.hint(text))


def _css(color) -> str:
  return '#' + bytes(np.asarray(color, np.uint8)).hex()
