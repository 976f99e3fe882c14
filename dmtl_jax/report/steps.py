"""Scores and multiply-adds against the number of denoising steps S (the paper's Figure 6)."""

from collections.abc import Sequence
import dataclasses
import statistics

from dmtl_jax.report import charts, results, scoring
from dmtl_jax.report.markup import card, entry_name, escape, headed, markdown_table
from dmtl_jax.report.table import Cell, Column, cost, unrounded

COMPUTE = Column('compute', 'GMAC', False, 2)


@dataclasses.dataclass(frozen=True)
class Line:
  """One method at several S: `points` has of each its runs as scored with it, S ascending."""

  name: str
  color: str
  points: dict[int, results.Entry]

  @property
  def runs(self) -> list[results.Run]:
    return [run for entry in self.points.values() for run in entry.runs]

  @property
  def comparable(self) -> bool:
    """Whether all points were scored alike, and those of one run of one checkpoint."""
    by = {tuple(scoring.scoring(run).values()) for run in self.runs}
    checkpoints = {(run.path, run.metrics.get('step')) for run in self.runs}
    return len(by) == 1 and len(checkpoints) == len({run.path for run in self.runs})


def lines(section) -> list[Line]:
  """Networks evaluated with several S, and runs that differ in their S alone."""
  entries = [entry for entry in section.entries if entry.method.network.diffuses]
  found, families = [], {}
  for entry in entries:
    scored = [run.at(steps) for run in entry.runs for steps in {run.diffusion_steps, *run.others}]
    found.append((f'{entry.name}, one network', entry.color, scored))
    families.setdefault(results.family(entry), []).append(entry)
  for (name, _), family in families.items():
    scored = [run.at(run.diffusion_steps) for entry in family for run in entry.runs]
    found.append((f'{name}, trained with each S', family[0].color, scored))
  return [line for line in _with_colors(found) if len(line.points) > 1]


def _with_colors(found: Sequence[tuple]) -> list[Line]:
  """Lines of (name, colour, scored runs); of two that share a colour the second gets another."""
  made = []
  for name, color, runs in found:
    points = {}
    for run in sorted(runs, key=lambda run: run.config['eval']['diffusion_steps']):
      if run.metrics.get('final'):
        points.setdefault(run.config['eval']['diffusion_steps'], []).append(run)
    taken = [line.color for line in made if len(line.points) > 1]
    color = next(c for c in (color, *results.MORE_COLORS, '#777777') if c not in taken or c == '#777777')
    made.append(Line(name, color, {s: results.Entry(name, color, tuple(of)) for s, of in points.items()}))
  return made


def rows(line: Line, section) -> list[tuple[int, list[Cell]]]:
  """(S, cells of the tasks and multiply-adds) of each point; S = 0 are the initial maps."""
  columns = [(task, Column(task.name, task.metric, task.higher_is_better, task.digits)) for task in section.tasks]
  first = []
  for task, column in columns:  # no denoising step changes them
    scores = [score for entry in line.points.values() for score in entry.scores('initial', task)]
    first.append(Cell(column, (statistics.fmean(scores),) if scores else ()))
  found = [(0, [*first, Cell(COMPUTE, ())])] if any(cell.values for cell in first) else []
  for steps, entry in line.points.items():
    scores = [Cell(column, tuple(entry.scores('final', task))) for task, column in columns]
    found.append((steps, [*scores, Cell(COMPUTE, tuple(cost(entry)['gmac']))]))
  return found


def _warning(drawn: Sequence[Line]) -> str:
  """What to mind of lines whose points were scored in different ways; '' if nothing."""
  mixed = '; '.join(line.name for line in drawn if not line.comparable)
  told = 'were scored with different checkpoints or definitions, S by S: run --mode=evaluate again with each'
  return f' Mind that some {told} ({mixed}).' if mixed else ''


# --- Page ------------------------------------------------------------------------------------


def cards(section) -> str:
  """A chart a task and one of multiply-adds; '' where no method has several S."""
  drawn = lines(section)
  tables = [(line, rows(line, section)) for line in drawn]
  titles = [
    f'{t.name}: {t.metric} by S, {"higher" if t.higher_is_better else "lower"} is better' for t in section.tasks
  ]
  charts_ = ''.join(_card(title, tables, i) for i, title in enumerate([*titles, 'compute: GMAC by S']))
  keys = ''.join(f'<span>{entry_name(line)}</span>' for line in drawn)
  note = 'Scores of the denoised maps by the number S of denoising steps; dashed: of the initial maps.'
  note = f'<p class="note">{escape(note + _warning(drawn))}</p>'
  return f'<p class="keys">{keys}</p><div class="cards plots">{charts_}</div>{note}' if drawn else ''


def _card(title: str, tables: Sequence[tuple], column: int) -> str:
  """The chart of one column of `rows`; '' where it is empty."""
  curves, levels = [], []
  for line, found in tables:
    points = {steps: cells[column].mean for steps, cells in found if cells[column].values}
    first = points.pop(0, None)
    curves += [(line.name, line.color, list(points), list(points.values()))] if points else []
    levels += [(line.name, line.color, first)] if first is not None else []
  return card(escape(title), charts.plot_steps(curves, levels, title)) if curves else ''


# --- Text ------------------------------------------------------------------------------------


def markdown(section) -> str:
  """A table with a row a line and S; '' where no method has several S."""
  drawn = lines(section)
  body = []
  for line in drawn:
    for steps, cells in rows(line, section):
      body.append([line.name, str(steps), *(cell.text for cell in cells)])
  table = markdown_table(['method', 'S', *map(headed, section.tasks), 'compute GMAC ↓'], body)
  note = f'S: number of denoising steps; 0: the initial maps.{_warning(drawn)}'
  return '\n'.join(['', '### How many denoising steps', '', table, '', note, '']) if drawn else ''


def numbers(parts: Sequence[tuple]) -> list[dict]:
  """Rows of the report's CSV, one a line and S; they alone have an S."""
  found = []
  for section, _ in parts:
    for line in lines(section):
      for steps, cells in rows(line, section):
        count = len(line.points[steps].runs) if steps else len({run.path for run in line.runs})
        row = {'data': section.data, 'labels': section.labels, 'method': line.name, 'runs': count, 'S': steps}
        found.append(row | unrounded(cells))
  return found
