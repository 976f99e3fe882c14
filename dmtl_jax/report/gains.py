"""What denoising changes: scores of initial and of denoised maps, task by task."""

import math
import statistics
from typing import NamedTuple

from dmtl_jax.report import charts
from dmtl_jax.report.render import render
from dmtl_jax.report.results import Entry, mean_and_error, Section
from dmtl_jax.report.table import Column, markdown_table, task_column
from dmtl_jax.tasks import Task


class Gain(NamedTuple):
  """Scores of a task's initial and denoised maps, means over an entry's runs.

  Attributes:
    error: standard error of the improvement over the runs; NaN for one run.
  """

  column: Column
  initial: float
  final: float
  error: float = math.nan

  @property
  def improvement(self) -> float:
    """Positive if denoising helped."""
    return (1 if self.column.higher_is_better else -1) * (self.final - self.initial)

  @property
  def size(self) -> str:
    """The change without its sign, as it is written; '' if it reads as 0."""
    text = self.column.text(abs(self.improvement))
    return text if text.strip('0.') else ''


def gain(entry: Entry, task: Task) -> Gain | None:
  """What denoising changes for one task; None if no run has both scores."""
  pairs = [(run.score('initial', task), run.score('final', task)) for run in entry.runs]
  pairs = [(initial, final) for initial, final in pairs if not math.isnan(initial + final)]
  if not pairs:
    return None
  _, error = mean_and_error([final - initial for initial, final in pairs])
  initial, final = map(statistics.fmean, zip(*pairs))
  return Gain(task_column(task), initial, final, error)


def gains_by_entry(section: Section) -> list[tuple[Entry, list[Gain | None]]]:
  """(entry, gain per task) of the entries that have initial maps."""
  gains = [(entry, [gain(entry, task) for task in section.tasks]) for entry in section.entries]
  return [(entry, row) for entry, row in gains if any(row)]


def draw(section: Section) -> str:
  """An SVG of the gains in % of the initial score, up is better; '' if there are none."""
  groups = gains_by_entry(section)
  bars = [[_relative(gain) for gain in row] for _, row in groups]
  names = [task.name for task in section.tasks]
  entries = [entry for entry, _ in groups]
  title = 'Gain of the denoised on the initial maps in %, by task and method'
  return render('gains.svg', title=title, chart=charts.bar_chart(bars), names=names, entries=entries) if bars else ''


def _relative(gain: Gain | None) -> tuple[float, float] | None:
  """Improvement and its standard error in % of the initial score; None if that is unknown or 0."""
  return (100 * gain.improvement / gain.initial, 100 * gain.error / gain.initial) if gain and gain.initial else None


def markdown(section: Section) -> str:
  """A table with a row per method that has initial maps; '' if none has."""
  body = [[entry.name, *map(_cell, row)] for entry, row in gains_by_entry(section)]
  table = markdown_table(['method', *(task_column(task).heading for task in section.tasks)], body)
  maps = name_final_maps(section)
  note = f'Initial → {maps}, bold where these are better; in parentheses the gain, ± its standard error over the seeds.'
  return f'\n### Initial against {maps}\n\n{table}\n\n{note}\n' if body else ''


def name_final_maps(section: Section) -> str:
  """'denoised', or 'final' if a method with initial maps refines them in another way."""
  return 'denoised' if all(entry.diffuses for entry, _ in gains_by_entry(section)) else 'final'


def _cell(gain: Gain | None) -> str:
  if gain is None:
    return '–'
  text = f'{gain.column.text(gain.initial)} → {gain.column.text(gain.final)}'
  text = f'**{text}**' if gain.improvement > 0 else text
  error = '' if math.isnan(gain.error) else f' ± {gain.column.text(gain.error)}'
  return f'{text} ({gain.improvement:+.{gain.column.digits}f}{error})'
