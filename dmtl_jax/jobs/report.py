"""The job `--mode=report`: compares runs, as Markdown, CSV and one HTML page."""

from collections.abc import Sequence
import json
import pathlib

from dmtl_jax.basics import atomic, files, progress, stopping
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.report import gains, last, paired, reliability, steps, table
from dmtl_jax.report.data import part, prospects
from dmtl_jax.report.page import render_page
from dmtl_jax.report.results import read_run, Run, sections
from dmtl_jax.runs import hub


def run(workdirs: list[str], out: str) -> pathlib.Path:
  """The job `--mode=report`: writes the report of some runs, see `write`; prints its path and its tables.

  Raises UserError for a workdir that cannot be read.
  """
  runs = [read_run(pathlib.Path(path)) for path in dict.fromkeys(map(str.strip, workdirs)) if path]
  if not runs:
    raise UserError('--workdirs names no run; give one or more, separated by commas')
  path = write(runs, pathlib.Path(out))
  progress.say(
    f'report: {path} ({path.stat().st_size / 1e6:.1f} MB)\n\n{path.with_suffix(".md").read_text(encoding="utf-8")}'
  )
  for run in runs:
    if not run.evaluation:
      name = hub.name_of(run.path)
      progress.say(f'{name} has no scores; run --mode=evaluate --workdir={name}')
  return path


def write(runs: Sequence[Run], folder: pathlib.Path) -> pathlib.Path:
  """Writes FOLDER/report.md, report.csv and report.html; returns the path of the page.

  For a single run it also writes half of the run's labels, for the command that the page gives.
  """
  tables = [table.make_table(section) for section in sections(runs)]
  halved = part.run_to_halve([table.section for table in tables])
  with (
    stopping.report_interruption(lambda: f'the report in {folder}, if any, is as it was', folder),
    atomic.transaction(),
  ):
    atomic.write_atomic(folder / 'report.md', '\n'.join(map(to_markdown, tables)))
    atomic.write_csv(folder / 'report.csv', [*table.csv_rows(tables), *steps.csv_rows(tables)])
    atomic.write_atomic(folder / 'report.html', render_page(tables, folder))
    if halved and prospects.half_command(halved, folder):
      rows = label_settings.draw_half(files.read_json(halved.path / 'labels.json'))
      atomic.write_atomic(folder / prospects.HALF_LABELS, json.dumps(rows, indent=0))
  return folder / 'report.html'


def to_markdown(scores: table.Table) -> str:
  """A section as text: scores, those of the last weights, seed by seed, gains by denoising, by S, and reliability.

  For a single run it begins with the sentences for the owner of the data.
  """
  return table.markdown(scores, ' '.join(part.sentences(scores.section))) + ''.join(
    part.markdown(scores.section) for part in (last, paired, gains, steps, reliability)
  )
