"""What stands folded at the end of a report's section: every metric, IoU by class, and where the runs are."""

from collections.abc import Callable, Sequence
import html
import statistics

from dmtl_jax.report.pictures import swatch
from dmtl_jax.tasks import Task

STAGES = ('initial', 'final')


def details(section, colors: dict[str, str]) -> str:
  """Folded tables; those with nothing to tell are left out."""
  tables = [
    ('All metrics', ''.join(_metrics(section, task, colors) for task in section.tasks)),
    ('IoU by class', ''.join(_classes(section, task, colors) for task in section.tasks if task.classes)),
    ('Where the runs are', _runs(section)),
  ]
  return ''.join(f'<details><summary>{title}</summary>{text}</details>' for title, text in tables if text)


def _metrics(section, task: Task, colors) -> str:
  """Every metric of a task, initial and final maps below each other."""
  stored = lambda run, stage: run.metrics.get(stage, {}).get(task.name, {})
  names = dict.fromkeys(n for e in section.entries for run in e.runs for stage in STAGES for n in stored(run, stage))
  rows = []
  for entry in section.entries:
    stages = [stage for stage in STAGES if any(stored(run, stage) for run in entry.runs)]
    for stage in stages:
      title = entry.name if len(stages) == 1 else f'{entry.name}: {stage}'
      rows.append(
        (
          colors[entry.name],
          title,
          [_mean(entry, lambda run: stored(run, stage).get(name)) for name in names],
        )
      )
  return _table(task.name, list(names), rows, task.digits)


def _classes(section, task: Task, colors) -> str:
  """IoU in % of every class, of the final maps."""
  stored = lambda run: run.metrics.get('per_class', {}).get(task.name, {})
  rows = [
    (
      colors[entry.name],
      entry.name,
      [_mean(entry, lambda run: stored(run).get(name)) for name in task.classes],
    )
    for entry in section.entries
    if any(stored(run) for run in entry.runs)
  ]
  return _table(f'{task.name}, IoU in %', list(task.classes), rows, 2)


def _mean(entry, value: Callable) -> float | None:
  """Mean over the runs that have a value."""
  found = [v for run in entry.runs if (v := value(run)) is not None]
  return statistics.fmean(found) if found else None


def _table(title: str, names: Sequence[str], rows: Sequence[tuple], digits: int) -> str:
  if not rows or not names:
    return ''
  head = ''.join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
  text = lambda value: '–' if value is None else f'{value:.{digits}f}'
  body = ''.join(
    f'<tr><th scope="row">{swatch(color)}{html.escape(name)}</th>{"".join(f"<td>{text(v)}</td>" for v in values)}</tr>'
    for color, name, values in rows
  )
  return _scrolled(
    title,
    f'<table><thead><tr><th scope="col">{html.escape(title)}</th>{head}</tr></thead><tbody>{body}</tbody></table>',
  )


def _runs(section) -> str:
  """Folder, seed and checkpoint behind each number."""
  cell = lambda value: f'<td>{html.escape(str(value))}</td>'
  rows = ''.join(
    f'<tr><th scope="row">{html.escape(str(run.path))}</th>{cell(entry.name)}{cell(run.config["seed"])}'
    f'{cell(run.metrics.get("step", "not evaluated"))}'
    f'{cell("×".join(map(str, run.config["data"]["size"])))}</tr>'
    for entry in section.entries
    for run in entry.runs
  )
  head = ''.join(f'<th scope="col">{name}</th>' for name in ('folder', 'method', 'seed', 'checkpoint', 'image size'))
  return _scrolled('Runs', f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>')


def _scrolled(title: str, table: str) -> str:
  """A table that scrolls in its own box where the page is narrow."""
  label = html.escape(title, quote=True)
  return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'
