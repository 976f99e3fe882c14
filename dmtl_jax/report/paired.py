"""Methods against a baseline seed by seed: what is left of a difference when both saw the same images and labels."""

import math

from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.markup import markdown_table
from dmtl_jax.report.results import Entry, mean_and_error


def lead(entry: Entry, baseline: Entry, tasks) -> tuple[float, float] | None:
  """Mean over seeds of Delta_m against the baseline's run of the same seed, and its standard error (nan of one seed).

  None where no seed has both, or a task has no score.
  """
  others = {run.config['seed']: run for run in baseline.runs}
  leads = []
  for run in entry.runs:
    other = others.get(run.config['seed'])
    ours, theirs = ({task.name: each.score('final', task) for task in tasks} if each else {} for each in (run, other))
    if theirs and all(theirs.values()) and not math.isnan(value := delta_m(ours, theirs, tasks)):
      leads.append(value)
  return mean_and_error(leads) if leads else None


def markdown(section) -> str:
  """A table with a row a method and a column a baseline; '' where no method was trained with several seeds."""
  baselines = [entry for entry in section.entries if entry.method.baseline and len(entry.runs) > 1]
  body = []
  for entry in section.entries:
    cells = [None if entry is baseline else lead(entry, baseline, section.tasks) for baseline in baselines]
    if any(cells):
      body.append([entry.name, *map(_cell, cells)])
  table = markdown_table(['method', *(f'against {entry.name} %' for entry in baselines)], body)
  note = (
    'Mean gain over tasks (as Δm) on the run of the same seed, ± its standard error over the seeds, '
    'bold where it is more than two of them; of one seed the gain alone.'
  )
  return '\n'.join(['', '### Seed by seed', '', table, '', note, '']) if body else ''


def _cell(found: tuple[float, float] | None) -> str:
  if found is None:
    return '–'
  mean, error = found
  text = f'{mean:+.2f}' + ('' if math.isnan(error) else f' ± {error:.2f}')
  return f'**{text}**' if abs(mean) > 2 * error else text
