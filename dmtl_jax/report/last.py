"""Scores of the last weights beside those of the best, where the protocol (mtpsl) chooses the best by its scores."""

import dataclasses

from dmtl_jax.report.markup import entry_name, escape, html_table, markdown_table
from dmtl_jax.report.table import make_table, Table

TITLE = 'Best and last weights'
NOTE = 'Best: the weights of the best evaluation on these very images. Last: those at the end of training.'


def compare(section) -> tuple[list, Table] | None:
  """Entries (two a method, best and last) and their table, without costs; None where no run has both."""
  entries = []
  for entry in section.entries:
    runs = [run for run in entry.runs if run.metrics.get('last')]
    last = [dataclasses.replace(run, metrics=run.metrics['last']) for run in runs]
    for name, scored in (('best', runs), ('last', last)) if runs else ():
      entries.append(dataclasses.replace(entry, name=f'{entry.name}, {name}', runs=tuple(scored)))
  if not entries:
    return None
  # With the others, of which one may be the reference of Delta_m.
  table = make_table(dataclasses.replace(section, entries=(*entries, *section.entries)))
  count = len(section.tasks) + bool(table.delta)
  rows = tuple(cells[:count] for cells in table.rows[: len(entries)])
  return entries, Table(table.columns[:count], rows, table.reference)


def markdown(section) -> str:
  """The table as text; '' where there is none."""
  compared = compare(section)
  if not compared:
    return ''
  entries, table = compared
  heads = ['method', *(f'{column.title} {column.unit} {column.arrow}' for column in table.columns)]
  lines = [[entry.name, *(cell.text for cell in cells)] for entry, cells in zip(entries, table.rows)]
  return '\n'.join(['', f'### {TITLE}', '', markdown_table(heads, lines), '', NOTE, ''])


def html(section) -> str:
  """The table for the page; '' where there is none."""
  compared = compare(section)
  if not compared:
    return ''
  entries, table = compared
  heads = ['method', *(f'{escape(c.title)}<small>{escape(c.unit)} {c.arrow}</small>' for c in table.columns)]
  rows = [[entry_name(entry), *(cell.text for cell in cells)] for entry, cells in zip(entries, table.rows)]
  return html_table(TITLE, heads, rows) + f'<p class="note">{escape(NOTE)}</p>'
