"""The folded tables at the end of a report's section: every metric, and IoU by class."""

from collections.abc import Sequence
import dataclasses

from dmtl_jax.report.results import Entry, Section
from dmtl_jax.report.table import Cell, Column, Row, Table
from dmtl_jax.tasks import Task


def metric_tables(section: Section) -> dict[str, Table]:
  """{task: every metric}, a row per method and stage."""
  tables = {}
  for task in section.tasks:
    rows = [(entry, stage) for entry in section.entries for stage in ('initial', 'final')]
    names = dict.fromkeys(name for entry, stage in rows for run in entry.runs for name in run.scores(stage, task))
    columns = [Column(name, '', not task.lower_is_better(name), task.digits) for name in names]
    tables[task.name] = _table(section, columns, rows, task)
  return {name: table for name, table in tables.items() if table.rows}


def class_tables(section: Section) -> dict[str, Table]:
  """{task: IoU of every class of the final maps}, a row per method."""
  tables = {}
  for task in section.tasks:
    columns = [Column(name, '%', True, 2) for name in task.classes]
    tables[task.name] = _table(section, columns, [(entry, 'per_class') for entry in section.entries], task)
  return {name: table for name, table in tables.items() if table.rows}


def _table(section: Section, columns: list[Column], stages: Sequence[tuple[Entry, str]], task: Task) -> Table:
  """A table of the entries with scores of a stage, whose name is added where an entry has several rows."""
  known = [(entry, stage) for entry, stage in stages if any(run.scores(stage, task) for run in entry.runs)]
  entries = [entry for entry, _ in known]
  rows = []
  for entry, stage in known:
    cells = []
    for column in columns:
      values = [run.scores(stage, task).get(column.title) for run in entry.runs]
      cells.append(Cell(column, tuple(value for value in values if value is not None)))
    name = f'{entry.name}: {stage}' if entries.count(entry) > 1 else entry.name
    rows.append(Row(dataclasses.replace(entry, name=name), tuple(cells)))
  return Table(section, tuple(columns), tuple(rows), reference='')
