"""The report as one self-contained HTML page: no network; light and dark, phone to projector.

Its only script sorts tables; without it they stay as they are.
"""

from collections.abc import Sequence
import pathlib

from dmtl_jax.report import charts, details, last, pictures, reliability, scoring, steps, verdict
from dmtl_jax.report.data import part as data_part
from dmtl_jax.report.gains import gains_by_entry, name_final_maps
from dmtl_jax.report.render import render
from dmtl_jax.report.results import Section
from dmtl_jax.report.table import Table, task_column


def render_page(tables: Sequence[Table], folder: pathlib.Path) -> str:
  """The page of all sections, to be written into a folder; see templates/page.html."""
  album = pictures.Album()
  sections = [table.section for table in tables]
  data = [data_part.describe(section, sections, album, folder) for section in sections]
  parts = [_part(table, data[i], album, len(tables) - i) for i, table in enumerate(tables)]
  return render('page.html', names=list(dict.fromkeys(table.section.data for table in tables)), parts=parts)


def _part(table: Table, data: data_part.DataPart | None, album: pictures.Album, sections_left: int) -> dict:
  """The values that templates/section.html draws; the sections that are left share the album's room."""
  section = table.section
  room = album.left
  album.left = room // sections_left
  extremes = pictures.best_and_worst(section, album)  # first, as they say the most
  images = pictures.image_by_image(section, album)
  album.left += room - room // sections_left
  lines = steps.make_lines(section)
  return dict(
    section=section,
    table=table,
    data=data,
    verdict=verdict.judge(table),
    scored_under=scoring.describe(section),
    last=last.compare(section),
    last_title=last.TITLE,
    last_note=last.NOTE,
    denoising=_denoising(section),
    final_maps=name_final_maps(section),
    step_lines=lines,
    step_charts=steps.make_charts(lines, section),
    step_warning=steps.warn(lines),
    images=images,
    image_notes=list(dict.fromkeys(entry.method.note for entry in section.entries if entry.method.note)),
    has_diffusion=any(entry.diffuses for entry in section.entries),
    extremes=extremes,
    curves=_curves(section),
    metric_tables=details.metric_tables(section),
    class_tables={} if data and data.is_open and data.classes else details.class_tables(section),
    reliability=reliability.make_cards(section),
    reliability_title=reliability.TITLE,
    reliability_note=reliability.NOTE,
  )


def _denoising(section: Section) -> list[dict]:
  """Initial against final scores, a card per task (the paper's Figure 8); [] for one method, see the verdict."""
  cards = []
  gains = gains_by_entry(section) if len(section.entries) > 1 else []
  for i, task in enumerate(section.tasks):
    rows = [(entry, row[i]) for entry, row in gains if row[i]]
    if rows:
      longest = max(max(gain.initial, gain.final) for _, gain in rows)
      cards.append(dict(column=task_column(task), rows=rows, longest=longest or 1))
  return cards


def _curves(section: Section) -> list[charts.LineChart]:
  """Scores during training, if evaluated several times, and losses."""
  titles = {
    f'eval/final/{task.name}/{metric}': f'{task.name}: validation {metric}'
    for task in section.tasks
    for metric in filter(None, (task.metric, task.quick_metric))
  }
  titles['loss/total'] = 'training loss, all tasks'
  titles |= {f'loss/final/{task.name}': f'{task.name}: training loss' for task in section.tasks}
  drawn = []
  for scalar, title in titles.items():
    if curves := _logged(section, scalar):
      initial = scalar.replace('eval/final/', 'eval/initial/')
      dashed = _logged(section, initial, is_dashed=True) if initial != scalar else []
      drawn.append(charts.curve_chart(title, [*dashed, *curves]))
  return drawn


def _logged(section: Section, scalar: str, is_dashed: bool = False) -> list[charts.Curve]:
  """The curves of a scalar in runs that logged it more than once."""
  return [
    charts.Curve(entry.name, entry.color, *run.curves[scalar], is_dashed=is_dashed)
    for entry in section.entries
    for run in entry.runs
    if len(run.curves.get(scalar, ((),))[0]) > 1
  ]
