"""Methods against a baseline seed by seed: the difference that remains with the same images and labels."""

import math

from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.results import Entry, mean_and_error, Run, Section
from dmtl_jax.report.table import markdown_table


def compare(entry: Entry, baseline: Entry, tasks) -> tuple[float, float] | None:
  """Mean of `gains` on the baseline, and its standard error (NaN for one seed); None without any."""
  runs, others = ({run.config['seed']: run for run in each.runs} for each in (entry, baseline))
  found = gains(runs, others, tasks)
  return mean_and_error(found) if found else None


def gains(runs: dict[int, Run], others: dict[int, Run], tasks, stage: str = 'final') -> list[float]:
  """Delta_m of {seed: run} against the maps of a stage of the others' runs, where both have scores for all tasks."""
  found = []
  for seed in runs.keys() & others.keys():
    reference = {task.name: others[seed].score(stage, task) for task in tasks}
    if all(reference.values()):
      found.append(delta_m({task.name: runs[seed].score('final', task) for task in tasks}, reference, tasks))
  return [gain for gain in found if not math.isnan(gain)]


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
