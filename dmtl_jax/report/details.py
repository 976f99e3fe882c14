"""What stands folded at the end of a report's section: every metric, IoU by class, and where the runs are."""

from collections.abc import Sequence
import statistics

from dmtl_jax.report.markup import entry_name, escape, html_table, swatch
from dmtl_jax.tasks import Task

STAGES = ('initial', 'final')


def details(section) -> str:
  """Folded tables; those with nothing to tell are left out."""
  runs = [
    (run.path, entry.name, run.config['seed'], run.metrics.get('step', 'not evaluated'), '×'.join(map(str, run.size)))
    for entry in section.entries
    for run in entry.runs
  ]
  heads = ('folder', 'method', 'seed', 'checkpoint', 'network input')
  tables = [
    ('All metrics', ''.join(_metrics(section, task) for task in section.tasks)),
    ('IoU by class', ''.join(_classes(section, task) for task in section.tasks if task.classes)),
    ('Where the runs are', html_table('Runs', heads, [list(map(escape, run)) for run in runs], ' class="runs"')),
  ]
  return ''.join(
    f'<details{" open" if title.startswith("IoU") else ""}><summary>{title}</summary>{text}</details>'
    for title, text in tables
    if text
  )


def _metrics(section, task: Task) -> str:
  """Every metric of a task, initial and final maps below each other."""
  names = [name for e in section.entries for run in e.runs for stage in STAGES for name in run.stored(stage, task)]
  rows = []
  for entry in section.entries:
    stages = [stage for stage in STAGES if any(run.stored(stage, task) for run in entry.runs)]
    for stage in stages:
      title = entry.name if len(stages) == 1 else f'{entry.name}: {stage}'
      rows.append((swatch(entry.color, title), entry, stage))
  return _means(task.name, list(dict.fromkeys(names)), rows, task, task.digits)


def _classes(section, task: Task) -> str:
  """IoU in % of every class, of the final maps."""
  known = [entry for entry in section.entries if any(run.stored('per_class', task) for run in entry.runs)]
  rows = [(entry_name(entry), entry, 'per_class') for entry in known]
  return _means(f'{task.name}, IoU in %', task.classes, rows, task, 2)


def _means(title: str, names: Sequence[str], rows: Sequence[tuple], task: Task, digits: int) -> str:
  """A table of means over an entry's runs; rows are (head, entry, what of metrics.json)."""
  if not rows or not names:
    return ''
  lines = []
  for head, entry, stage in rows:
    found = [[v for run in entry.runs if (v := run.stored(stage, task).get(name)) is not None] for name in names]
    lines.append([head, *(f'{statistics.fmean(values):.{digits}f}' if values else '–' for values in found)])
  return html_table(title, list(map(escape, (title, *names))), lines)
