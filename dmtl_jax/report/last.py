"""Scores of the last weights beside those of the best, where the protocol (mtpsl) chooses the best by its scores."""

import dataclasses

from dmtl_jax.report.results import Section
from dmtl_jax.report.table import Cell, make_table, markdown_table, Row, Table

TITLE = 'Best and last weights'
NOTE = 'Best: the weights of the best evaluation on these same images. Last: the weights at the end of training.'


def compare(section: Section) -> Table | None:
  """A table of scores with two rows per method, best and last; None if no run has both."""
  entries = []
  for entry in section.entries:
    best = tuple(run for run in entry.runs if run.evaluation and run.evaluation.last)
    last = tuple(dataclasses.replace(run, evaluation=run.evaluation.last) for run in best)
    for name, runs in (('best', best), ('last', last)) if best else ():
      entries.append(dataclasses.replace(entry, name=f'{entry.name}, {name}', runs=runs))
  if not entries:
    return None
  # With the section's own entries, one of which may be the reference of Delta_m.
  table = make_table(dataclasses.replace(section, entries=(*entries, *section.entries)))
  count = len(section.tasks) + bool(table.delta)  # no costs: both rows have the same
  rows = [Row(row.entry, tuple(Cell(cell.column, cell.values) for cell in row.cells[:count])) for row in table.rows]
  return dataclasses.replace(table, columns=table.columns[:count], rows=tuple(rows[: len(entries)]))


def markdown(section: Section) -> str:
  """The table as text; '' if there is none."""
  table = compare(section)
  if table is None:
    return ''
  heads = ['method', *(column.heading for column in table.columns)]
  lines = [[row.entry.name, *(cell.text for cell in row.cells)] for row in table.rows]
  return f'\n### {TITLE}\n\n{markdown_table(heads, lines)}\n\n{NOTE}\n'
