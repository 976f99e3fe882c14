"""What denoising changes: initial against denoised scores, task by task."""

import math
import statistics

from dmtl_jax.report import charts
from dmtl_jax.report.markup import headed, markdown_table
from dmtl_jax.report.results import Entry, mean_and_error
from dmtl_jax.tasks import Task


def gain(entry: Entry, task: Task) -> tuple[float, float, float] | None:
  """(initial, denoised, standard error of their difference over the runs; nan of one), means over an entry's runs.

  None where no run has both.
  """
  pairs = [(run.score('initial', task), run.score('final', task)) for run in entry.runs]
  pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
  if not pairs:
    return None
  _, error = mean_and_error([final - initial for initial, final in pairs])
  return *(statistics.fmean(values) for values in zip(*pairs)), error


def drawing(section) -> str:
  """An SVG of what denoising changes of each score, in % of the initial maps' score, up is better; '' of nothing."""
  methods = []
  for entry in section.entries:
    pairs = [_relative(task, gain(entry, task)) for task in section.tasks]
    if any(pairs):
      methods.append((entry.name, entry.color, pairs))
  label = 'Gain of the denoised on the initial maps in %, by task and method'
  return charts.gains([task.name for task in section.tasks], methods, label) if methods else ''


def _relative(task: Task, found) -> tuple[float, float] | None:
  """Gain and its standard error, in % of the initial score."""
  if not found or not found[0]:
    return None
  initial, final, error = found
  return (1 if task.higher_is_better else -1) * 100 * (final - initial) / initial, 100 * error / initial


def markdown(section) -> str:
  """A table with a row a method that has initial maps; '' where none has."""
  body = []
  for entry in section.entries:
    cells = [_cell(task, gain(entry, task)) for task in section.tasks]
    if any(cells):
      body.append([entry.name, *(cell or '–' for cell in cells)])
  table = markdown_table(['method', *map(headed, section.tasks)], body)
  note = (
    'Initial → denoised, bold where denoising helped; in parentheses the gain, ± its standard error over the seeds.'
  )
  return '\n'.join(['', '### Initial against denoised', '', table, '', note, '']) if body else ''


def _cell(task: Task, found) -> str:
  if found is None:
    return ''
  initial, final, error = found
  sign = 1 if task.higher_is_better else -1
  number = lambda value, plus='': f'{value:{plus}.{task.digits}f}'
  told = f'{number(initial)} → {number(final)}'
  told = f'**{told}**' if sign * (final - initial) > 0 else told
  return f'{told} ({number(sign * (final - initial), "+")}' + (')' if math.isnan(error) else f' ± {number(error)})')
