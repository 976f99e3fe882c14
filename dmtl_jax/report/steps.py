"""Scores and multiply-adds against the number of denoising steps S (the paper's Figure 6)."""

from collections.abc import Sequence
import dataclasses
import statistics

from dmtl_jax.report import charts, results, scoring
from dmtl_jax.report.results import Section
from dmtl_jax.report.table import Cell, COMPUTE, cost_cells, csv_row, markdown_table, Table, task_column


@dataclasses.dataclass(frozen=True)
class Line:
  """A method at several numbers of denoising steps: {S: its runs as evaluated with S}, in the order of S."""

  name: str
  color: str
  points: dict[int, results.Entry]

  @property
  def runs(self) -> list[results.Run]:
    return [run for entry in self.points.values() for run in entry.runs]

  @property
  def is_comparable(self) -> bool:
    """Whether all points were scored in the same way, and those of one run with the same checkpoint."""
    settings = {tuple(scoring.settings(run).values()) for run in self.runs}
    checkpoints = {(run.path, run.evaluation.step) for run in self.runs}
    return len(settings) == 1 and len(checkpoints) == len({run.path for run in self.runs})


def make_lines(section: Section) -> list[Line]:
  """Lines of networks evaluated with several S, and of runs that differ only in their S."""
  entries = [entry for entry in section.entries if entry.method.network.diffuses]
  lines = []

  def add(name: str, color: str, runs: Sequence[results.Run]):
    points = {}
    for run in sorted(runs, key=lambda run: run.config['eval']['diffusion_steps']):
      if run.evaluation:
        points.setdefault(run.config['eval']['diffusion_steps'], []).append(run)
    if len(points) > 1:
      color = results.free_color(color, [line.color for line in lines])
      lines.append(Line(name, color, {s: results.Entry(name, color, tuple(runs)) for s, runs in points.items()}))

  for entry in entries:
    runs = [run.with_steps(steps) for run in entry.runs for steps in {run.diffusion_steps, *run.step_evaluations}]
    add(f'{entry.name}, one network', entry.color, runs)
  for name, group in results.group_by_steps(entries):
    runs = [run.with_steps(run.diffusion_steps) for entry in group for run in entry.runs]
    add(f'{name}, trained with each S', group[0].color, runs)
  return lines


def cells_by_steps(line: Line, section: Section) -> dict[int, list[Cell]]:
  """{S: cells of the tasks and of multiply-adds}; S = 0 has the scores of the initial maps."""
  columns = {task: task_column(task) for task in section.tasks}
  initial = []
  for task, column in columns.items():  # the same for every S
    scores = [score for entry in line.points.values() for score in entry.scores('initial', task)]
    initial.append(Cell(column, (statistics.fmean(scores),) if scores else ()))
  cells = {0: [*initial, Cell(COMPUTE, ())]} if any(cell.values for cell in initial) else {}
  for steps, entry in line.points.items():
    scores = [Cell(column, tuple(entry.scores('final', task))) for task, column in columns.items()]
    cells[steps] = [*scores, *(cell for cell in cost_cells(entry) if cell.column == COMPUTE)]
  return cells


def warn(lines: Sequence[Line]) -> str:
  """A sentence on lines whose points were scored in different ways; '' if there are none."""
  mixed = '; '.join(line.name for line in lines if not line.is_comparable)
  advice = 'points scored with different checkpoints or definitions: run --mode=evaluate again with each S'
  return f' Some lines have {advice} ({mixed}).' if mixed else ''


def make_charts(lines: Sequence[Line], section: Section) -> list[charts.LineChart]:
  """A chart per task and one of multiply-adds."""
  tables = [(line, cells_by_steps(line, section)) for line in lines]
  titles = [
    f'{t.name}: {t.metric} by S, {"higher" if t.higher_is_better else "lower"} is better' for t in section.tasks
  ]
  drawn = []
  for i, title in enumerate([*titles, 'compute: GMAC by S']):
    curves = []
    for line, cells in tables:
      points = {steps: row[i].mean for steps, row in cells.items() if row[i].values}
      level = points.pop(0, None)
      curves.append(charts.Curve(line.name, line.color, list(points), list(points.values()), level))
    curves = [curve for curve in curves if curve.steps]
    drawn += [charts.step_chart(title, curves)] if curves else []
  return drawn


def markdown(section: Section) -> str:
  """A table with a row per line and S; '' if no method has several S."""
  lines = make_lines(section)
  body = [
    [line.name, str(steps), *(cell.text for cell in cells)]
    for line in lines
    for steps, cells in cells_by_steps(line, section).items()
  ]
  heads = ['method', 'S', *(task_column(task).heading for task in section.tasks), COMPUTE.heading]
  note = f'S: number of denoising steps; 0: the initial maps.{warn(lines)}'
  return f'\n### How many denoising steps\n\n{markdown_table(heads, body)}\n\n{note}\n' if lines else ''


def csv_rows(tables: Sequence[Table]) -> list[dict]:
  """A row of the report's CSV per line and S; only these rows have an S."""
  rows = []
  for section in [table.section for table in tables]:
    for line in make_lines(section):
      for steps, cells in cells_by_steps(line, section).items():
        count = len(line.points[steps].runs) if steps else len({run.path for run in line.runs})
        rows.append(csv_row(section, line.name, count, cells, S=steps))
  return rows
