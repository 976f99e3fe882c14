"""The table of a section, like the paper's: a row per method, a column per task, then costs."""

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
from dmtl_jax.report.results import describe_differences, describe_predictions, Entry, Section
from dmtl_jax.tasks import Task, values_by_task


@dataclasses.dataclass(frozen=True)
class Column:
  """One column: title, unit, which way is better, and how its numbers are written."""

  title: str
  unit: str
  higher_is_better: bool
  digits: int
  is_signed: bool = False

  @property
  def arrow(self) -> str:
    return '↑' if self.higher_is_better else '↓'

  @property
  def heading(self) -> str:
    return f'{self.title} {self.unit} {self.arrow}'

  def text(self, value: float) -> str:
    return f'{value:{"+" if self.is_signed else ""},.{self.digits}f}'


def task_column(task: Task) -> Column:
  """The column of a task's headline scores."""
  return Column(task.name, task.metric, task.higher_is_better, task.digits)


DELTA = Column('Δm', '%', True, 2, is_signed=True)
PARAMETERS = Column('params', 'M', False, 2)
COMPUTE = Column('compute', 'GMAC', False, 2)
TIME = Column('time', 's/image', False, 4)
MEMORY = Column('memory', 'MB, training', False, 0)


@dataclasses.dataclass(frozen=True)
class Cell:
  """The defined values of a row's runs in a column; `is_best` if no other mean of the column reads better."""

  column: Column
  values: tuple[float, ...]
  is_best: bool = False

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values) if self.values else math.nan

  @property
  def spread(self) -> float:
    """Standard deviation over the runs; NaN for fewer than two."""
    return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

  @property
  def mean_text(self) -> str:
    return self.column.text(self.mean) if self.values else '–'

  @property
  def spread_text(self) -> str:
    return '' if math.isnan(self.spread) else f' ± {self.spread:,.{self.column.digits}f}'

  @property
  def text(self) -> str:
    return self.mean_text + self.spread_text


@dataclasses.dataclass(frozen=True)
class Row:
  """An entry of the section with its cells, one per column."""

  entry: Entry
  cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """Scores and costs of a section; the first columns are its tasks.

  Attributes:
    reference: where the single-task scores of Delta_m come from; '' if there are none.
  """

  section: Section
  columns: tuple[Column, ...]
  rows: tuple[Row, ...]
  reference: str

  @property
  def delta(self) -> tuple[Cell, ...]:
    """The cells of Delta_m, one per row; () without it."""
    return tuple(cell for row in self.rows for cell in row.cells if cell.column == DELTA)


def make_table(section: Section) -> Table:
  """The table of a section; costs that are unknown for all entries get no column."""
  sources, references = _references(section)
  columns = []
  for task in section.tasks:
    column = task_column(task)
    columns.append([Cell(column, tuple(entry.scores('final', task))) for entry in section.entries])
  if references:
    columns.append([Cell(DELTA, tuple(_deltas(entry, references, section.tasks))) for entry in section.entries])
  costs = zip(*map(cost_cells, section.entries))
  columns += [list(cells) for cells in costs if any(cell.values for cell in cells)]
  columns = [_mark_best(cells) for cells in columns]
  rows = tuple(Row(entry, tuple(cells)) for entry, *cells in zip(section.entries, *columns))
  return Table(section, tuple(cells[0].column for cells in columns), rows, sources)


def _mark_best(cells: Sequence[Cell]) -> list[Cell]:
  """Marks the best mean and all that read the same, unless all means read the same."""
  means = [cell.mean for cell in cells if cell.values]
  texts = {cell.mean_text for cell in cells if cell.values}
  if len(texts) < 2:
    return list(cells)
  column = cells[0].column
  best = column.text(max(means) if column.higher_is_better else min(means))
  return [dataclasses.replace(cell, is_best=cell.mean_text == best) for cell in cells]


# --- Delta_m ---------------------------------------------------------------------------------


def _references(section: Section) -> tuple[str, dict[str, dict[str, float]]]:
  """Where single-task scores come from, and {backbone: {task: score}}; ('', {}) if there are none.

  Means over the section's single_task runs of a backbone, or else config.eval.single_task of another run with it.
  """
  references = {}
  sources = []
  for entry in section.entries:
    backbone = entry.config['model']['backbone']
    scores = {task.name: statistics.fmean(v) for task in section.tasks if (v := entry.scores('final', task))}
    if entry.method.reference and scores and backbone not in references:
      references[backbone] = scores
      sources.append(f'the {entry.name} run' + ('s' if len(entry.runs) > 1 else ''))
  for entry in section.entries:
    backbone = entry.config['model']['backbone']
    single_task = entry.config['eval'].get('single_task')
    if single_task and backbone not in references:
      references[backbone] = values_by_task(single_task, section.tasks)
      sources.append('config.eval.single_task')
  return ' and '.join(dict.fromkeys(sources)), references


def _deltas(entry: Entry, references: dict, tasks: Sequence[Task]) -> list[float]:
  """Delta_m of the runs that have all tasks; none for the reference itself."""
  single = references.get(entry.config['model']['backbone'])
  if single is None or entry.method.reference or not all(single.get(task.name) for task in tasks):
    return []
  deltas = [delta_m({task.name: run.score('final', task) for task in tasks}, single, tasks) for run in entry.runs]
  return [delta for delta in deltas if not math.isnan(delta)]


# --- Costs -----------------------------------------------------------------------------------


def cost_cells(entry: Entry) -> list[Cell]:
  """Parameters, multiply-adds, prediction time and training memory, as far as they are known.

  Parameters and multiply-adds are counted from the config's shapes if cost.json does not have them.
  """
  measured = next((run.costs for run in entry.runs if run.costs), {})
  counted = measured if measured.get('parameters') and measured.get('gmac') else _count(entry)
  seconds = [run.evaluation.seconds_per_image for run in entry.runs if run.evaluation]
  return [
    _cost_cell(PARAMETERS, counted.get('parameters'), scale=1e6),
    _cost_cell(COMPUTE, counted.get('gmac')),
    Cell(TIME, tuple(filter(None, seconds))),
    _cost_cell(MEMORY, measured.get('train_memory_bytes'), scale=1e6),
  ]


def _cost_cell(column: Column, value: float | None, scale: float = 1) -> Cell:
  return Cell(column, (value / scale,) if value else ())


def _count(entry: Entry) -> dict:
  """`counting.summarize` of an entry's network; {} for a method that is not registered here."""
  steps = entry.config['eval']['diffusion_steps'] or entry.runs[0].diffusion_steps
  same_steps = {part: entry.config[part] | {'diffusion_steps': steps} for part in ('model', 'eval')}
  config = json.dumps(entry.config | same_steps, sort_keys=True)
  return _count_config(config, entry.runs[0].tasks, tuple(entry.runs[0].size))


@functools.cache  # it takes seconds
def _count_config(config: str, tasks: tuple[Task, ...], size: tuple[int, int]) -> dict:
  try:
    fields = ConfigDict(json.loads(config))
    return counting.summarize(build_model(fields, tasks), size, fields.eval.diffusion_steps)
  except UserError:
    return {}


# --- Text ------------------------------------------------------------------------------------


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table: a first column of words, then columns of numbers."""
  body = [[first.replace('|', '\\|'), *cells] for first, *cells in rows]
  lines = [heads, ['---', *['---:'] * (len(heads) - 1)], *body]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def markdown(table: Table, lead: str = '') -> str:
  """A heading, a paragraph if there is one, the table with the best of each column in bold, and notes."""
  section = table.section
  heads = ['method', *(column.heading for column in table.columns)]
  lines = []
  for row in table.rows:
    lines.append([row.entry.name, *(f'**{cell.text}**' if cell.is_best else cell.text for cell in row.cells)])
  notes = [f'Δm is against {table.reference}.'] if table.reference else []
  if section.has_seeds:
    heads.append('runs')
    lines = [[*line, str(len(row.entry.runs))] for line, row in zip(lines, table.rows)]
    notes.insert(0, 'Mean ± standard deviation over runs that differ only in their seeds.')
  texts = (describe_predictions, scoring.describe, describe_differences, scoring.warn)
  notes += filter(None, (text(section) for text in texts))
  heading = f'## {section.title}\n\n' + (f'{lead}\n\n' if lead else '')
  return f'{heading}{markdown_table(heads, lines)}\n' + (f'\n{" ".join(notes)}\n' if notes else '')


def csv_rows(tables: Sequence[Table]) -> list[dict]:
  """A row of the report's CSV per entry of all tables."""
  return [
    csv_row(table.section, row.entry.name, len(row.entry.runs), row.cells) for table in tables for row in table.rows
  ]


def csv_row(section: Section, method: str, runs: int, cells: Sequence[Cell], **more) -> dict:
  """One row of the report's CSV, numbers unrounded, with the spread of each column in one of its own."""
  row = {'data': section.data, 'labels': section.labels, 'method': method, 'runs': runs, **more}
  for cell in cells:
    name = f'{cell.column.title} {cell.column.unit}'
    row[name] = cell.mean if cell.values else ''
    row[f'{name} spread'] = '' if math.isnan(cell.spread) else cell.spread
  return row
