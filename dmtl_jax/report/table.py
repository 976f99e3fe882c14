"""The table of a report's section, as the paper prints its own: a row per method, a column per task, then costs."""

from collections.abc import Sequence
import dataclasses
import functools
import json
import math
import statistics

from ml_collections import ConfigDict

from dmtl_jax.basics.errors import UserError
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.models import build_model, counting
from dmtl_jax.report import scoring
from dmtl_jax.report.markup import markdown_table
from dmtl_jax.report.results import unequal
from dmtl_jax.tasks import Task, values_by_task


@dataclasses.dataclass(frozen=True)
class Column:
  """One column: what it shows, and which way is better."""

  title: str
  unit: str
  higher: bool
  digits: int
  signed: bool = False

  @property
  def arrow(self) -> str:
    return '↑' if self.higher else '↓'

  def text(self, value: float) -> str:
    return f'{value:{"+" if self.signed else ""},.{self.digits}f}'


@dataclasses.dataclass(frozen=True)
class Cell:
  """Values of a row's runs in a column, undefined ones left out; `best` in its column (or as good)."""

  column: Column
  values: tuple[float, ...]
  best: bool = False

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values) if self.values else math.nan

  @property
  def spread(self) -> float:
    """Standard deviation over the runs; nan of fewer than two."""
    return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

  @property
  def text(self) -> str:
    if not self.values:
      return '–'
    return self.column.text(self.mean) + (
      '' if math.isnan(self.spread) else f' ± {self.spread:,.{self.column.digits}f}'
    )


@dataclasses.dataclass(frozen=True)
class Table:
  """rows[i][j]: entry i of the section in column j; the first columns are those of the section's tasks."""

  columns: tuple[Column, ...]
  rows: tuple[tuple[Cell, ...], ...]
  reference: str  # where Delta_m's single-task scores come from; '' where there are none

  @property
  def delta(self) -> tuple[Cell, ...]:
    """The cells of Delta_m, one an entry."""
    return tuple(cell for row in self.rows for cell in row if cell.column.title == 'Δm')


def make_table(section) -> Table:
  """The table of a `results.Section`."""
  single, references = _references(section)
  columns = []
  for task in section.tasks:
    column = Column(task.name, task.metric, task.higher_is_better, task.digits)
    columns.append([Cell(column, tuple(entry.scores('final', task))) for entry in section.entries])
  if references:
    column = Column('Δm', '%', True, 2, signed=True)
    columns.append([Cell(column, tuple(_deltas(entry, references, section.tasks))) for entry in section.entries])
  costs = [cost(entry) for entry in section.entries]
  for column, name in COSTS:
    if any(found[name] for found in costs):
      columns.append([Cell(column, tuple(found[name])) for found in costs])
  columns = [_mark_best(cells) for cells in columns]
  return Table(tuple(cells[0].column for cells in columns), tuple(zip(*columns)), single)


def _mark_best(cells: Sequence[Cell]) -> list[Cell]:
  """Marks the best mean, and what reads the same; none where there is nothing to compare."""
  known = [cell.mean for cell in cells if cell.values]
  if len(known) < 2:
    return list(cells)
  text, pick = cells[0].column.text, max if cells[0].column.higher else min
  best = text(pick(known))
  if all(text(value) == best for value in known):
    return list(cells)
  return [dataclasses.replace(cell, best=bool(cell.values) and text(cell.mean) == best) for cell in cells]


# --- Delta_m ---------------------------------------------------------------------------------


def _references(section) -> tuple[str, dict[str, dict[str, float]]]:
  """Where single-task scores come from, and {backbone: {task: score}}; ('', {}) where there are none.

  They are the mean of the section's single_task runs; of a backbone without one, what some run's
  config.eval.single_task says.
  """
  found, sources = {}, []
  for entry in section.entries:
    backbone = entry.config['model']['backbone']
    scores = {task.name: statistics.fmean(v) for task in section.tasks if (v := entry.scores('final', task))}
    if entry.method.reference and scores and backbone not in found:
      found[backbone] = scores
      sources.append(f'the {entry.name} run' + ('s' if len(entry.runs) > 1 else ''))
  for entry in section.entries:
    backbone, given = entry.config['model']['backbone'], entry.config['eval'].get('single_task')
    if given and backbone not in found:
      found[backbone] = values_by_task(given, section.tasks)
      sources.append('config.eval.single_task')
  return ' and '.join(dict.fromkeys(sources)), found


def _deltas(entry, references, tasks: Sequence[Task]) -> list[float]:
  """Delta_m of every run that has all tasks; none for the reference itself."""
  single = references.get(entry.config['model']['backbone'])
  if single is None or entry.method.reference:
    return []
  deltas = []
  for run in entry.runs:
    scores = {task.name: run.score('final', task) for task in tasks}
    try:
      delta = delta_m(scores, single, tasks)
    except UserError:  # a task without a single-task score
      continue
    if not math.isnan(delta):
      deltas.append(delta)
  return deltas


# --- Costs -----------------------------------------------------------------------------------

COSTS = (
  (Column('params', 'M', False, 2), 'parameters'),
  (Column('compute', 'GMAC', False, 2), 'gmac'),
  (Column('time', 's/image', False, 4), 'seconds'),
  (Column('memory', 'MB, training', False, 0), 'memory'),
)


def cost(entry) -> dict[str, list[float]]:
  """What an entry costs, in the units of `COSTS`; [] where it is not known.

  Parameters and multiply-adds are those of cost.json, or else counted from the config's shapes.
  """
  measured = next((run.cost for run in entry.runs if run.cost), {})
  known = measured if measured.get('parameters') and measured.get('gmac') else _count(entry)
  scaled = lambda value, scale: [value / scale] if value else []
  return {
    'parameters': scaled(known.get('parameters'), 1e6),
    'gmac': scaled(known.get('gmac'), 1),
    'seconds': [s for run in entry.runs if (s := run.metrics.get('seconds_per_image'))],
    'memory': scaled(measured.get('train_memory_bytes'), 1e6),
  }


def _count(entry) -> dict:
  """`counting.summarize` of an entry's network; {} for a config that this version of the code cannot build."""
  steps = entry.config['eval']['diffusion_steps'] or entry.runs[0].diffusion_steps
  alike = {part: entry.config[part] | {'diffusion_steps': steps} for part in ('model', 'eval')}
  return _counted(json.dumps(entry.config | alike, sort_keys=True), entry.runs[0].tasks, tuple(entry.runs[0].size))


@functools.cache  # it takes seconds
def _counted(config: str, tasks: tuple[Task, ...], size: tuple[int, int]) -> dict:
  try:
    fields = ConfigDict(json.loads(config))
    return counting.summarize(build_model(fields, tasks), size, fields.eval.diffusion_steps)
  except UserError:  # a method of the user's own that is not known here
    return {}


# --- Text ------------------------------------------------------------------------------------


def markdown(section, table: Table) -> str:
  """A heading and the table; the best of a column is bold."""
  runs = lambda text: [text] if section.seeds else []
  heads = ['method', *(f'{c.title} {c.unit} {c.arrow}' for c in table.columns), *runs('runs')]
  lines = []
  for entry, cells in zip(section.entries, table.rows):
    texts = [f'**{cell.text}**' if cell.best else cell.text for cell in cells]
    lines.append([entry.name, *texts, *runs(str(len(entry.runs)))])
  notes = runs('Mean ± standard deviation over runs that differ in their seeds alone.')
  notes += [f'Δm is against {table.reference}.'] if table.reference else []
  notes += [note for note in (scoring.told(section), unequal(section), scoring.warning(section)) if note]
  return f'## {section.title}\n\n{markdown_table(heads, lines)}\n' + (f'\n{" ".join(notes)}\n' if notes else '')


def numbers(parts: Sequence[tuple]) -> list[dict]:
  """Rows of one CSV for all sections, one an entry: numbers unrounded, the spread in a column of its own."""
  rows = []
  for section, table in parts:
    for entry, cells in zip(section.entries, table.rows):
      row = {'data': section.data, 'labels': section.labels, 'method': entry.name, 'runs': len(entry.runs)}
      rows.append(row | unrounded(cells))
  return rows


def unrounded(cells: Sequence[Cell]) -> dict:
  """Columns of a CSV's row."""
  row = {}
  for cell in cells:
    name = f'{cell.column.title} {cell.column.unit}'
    row[name] = cell.mean if cell.values else ''
    row[f'{name} spread'] = '' if math.isnan(cell.spread) else cell.spread
  return row
