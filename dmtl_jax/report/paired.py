"""Methods against a baseline seed by seed: the difference that remains with the same images and labels."""

import math

from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.results import Entry, mean_and_error, Section
from dmtl_jax.report.table import markdown_table


def compare(entry: Entry, baseline: Entry, tasks) -> tuple[float, float] | None:
  """Mean over seeds of Delta_m against the baseline's run of the same seed, and its standard error (NaN for one seed).

  None if no seed has both runs with scores for all tasks.
  """
  baseline_scores = {run.config['seed']: _scores(run, tasks) for run in baseline.runs}
  deltas = []
  for run in entry.runs:
    reference = baseline_scores.get(run.config['seed'], {})
    if all(reference.get(task.name) for task in tasks):
      deltas.append(delta_m(_scores(run, tasks), reference, tasks))
  deltas = [delta for delta in deltas if not math.isnan(delta)]
  return mean_and_error(deltas) if deltas else None


def _scores(run, tasks) -> dict[str, float]:
  return {task.name: run.score('final', task) for task in tasks}


def markdown(section: Section) -> str:
  """A table with a row per method and a column per baseline; '' if no baseline was trained with several seeds."""
  baselines = [entry for entry in section.entries if entry.method.baseline and len(entry.runs) > 1]
  body = []
  for entry in section.entries:
    cells = [None if entry is baseline else compare(entry, baseline, section.tasks) for baseline in baselines]
    if any(cells):
      body.append([entry.name, *map(_cell, cells)])
  table = markdown_table(['method', *(f'against {entry.name} %' for entry in baselines)], body)
  note = (
    'Mean gain over tasks (as Δm) on the run of the same seed, ± its standard error over the seeds, '
    'bold if it is more than two standard errors; for one seed only the gain.'
  )
  return f'\n### Seed by seed\n\n{table}\n\n{note}\n' if body else ''


def _cell(lead: tuple[float, float] | None) -> str:
  if lead is None:
    return '–'
  mean, error = lead
  text = f'{mean:+.2f}' + ('' if math.isnan(error) else f' ± {error:.2f}')
  return f'**{text}**' if abs(mean) > 2 * error else text
