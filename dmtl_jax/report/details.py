"""The folded tables at the end of a report's section: every metric, IoU by class, and where the runs are."""

from collections.abc import Iterator, Sequence
import statistics
from typing import NamedTuple

from dmtl_jax.report.results import Entry, Section
from dmtl_jax.tasks import Task


class DetailTable(NamedTuple):
  """A table of text: (colour of the row or '', its cells) per row."""

  title: str
  heads: Sequence[str]
  rows: list[tuple[str, list[str]]]


def metric_tables(section: Section) -> list[DetailTable]:
  """A table per task with every metric, a row per method and stage."""
  tables = []
  for task in section.tasks:
    rows = []
    for entry in section.entries:
      stages = [stage for stage in ('initial', 'final') if any(run.scores(stage, task) for run in entry.runs)]
      for stage in stages:
        name = entry.name if len(stages) == 1 else f'{entry.name}: {stage}'
        rows.append((name, entry, stage))
    names = dict.fromkeys(name for _, entry, stage in rows for run in entry.runs for name in run.scores(stage, task))
    tables += _mean_table(task.name, list(names), rows, task, task.digits)
  return tables


def class_tables(section: Section) -> list[DetailTable]:
  """A table per segmentation task with the IoU of every class, for the final maps."""
  tables = []
  for task in section.tasks:
    known = [entry for entry in section.entries if any(run.scores('per_class', task) for run in entry.runs)]
    rows = [(entry.name, entry, 'per_class') for entry in known]
    tables += _mean_table(f'{task.name}, IoU in %', task.classes, rows, task, 2)
  return tables


def _mean_table(
  title: str, names: Sequence[str], rows: Sequence[tuple[str, Entry, str]], task: Task, digits: int
) -> Iterator[DetailTable]:
  """A table of means over an entry's runs, from (head, entry, stage) per row; nothing without rows or columns."""
  lines = []
  for head, entry, stage in rows:
    cells = [head]
    for name in names:
      values = [value for run in entry.runs if (value := run.scores(stage, task).get(name)) is not None]
      cells.append(f'{statistics.fmean(values):.{digits}f}' if values else '–')
    lines.append((entry.color, cells))
  if lines and names:
    yield DetailTable(title, (title, *names), lines)


def run_table(section: Section) -> DetailTable:
  """Folder, method, seed, checkpoint and input size of every run."""
  rows = []
  for entry in section.entries:
    for run in entry.runs:
      step = str(run.evaluation.step) if run.evaluation else 'not evaluated'
      rows.append(('', [str(run.path), entry.name, str(run.config['seed']), step, '×'.join(map(str, run.size))]))
  return DetailTable('Runs', ('folder', 'method', 'seed', 'checkpoint', 'network input'), rows)
