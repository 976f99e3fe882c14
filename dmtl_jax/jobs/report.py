"""The job `--mode=report`: compares runs, as Markdown, CSV and one HTML page."""

import pathlib

from dmtl_jax.basics import atomic, progress
from dmtl_jax.basics.errors import UserError
from dmtl_jax.report import page as report_html
from dmtl_jax.report import table as report_table
from dmtl_jax.report.results import differences, read_run, sections


def write_report(workdirs: list[str], out: str) -> pathlib.Path:
  """Writes OUT/report.md, report.csv and report.html; prints the tables.

  Returns:
    The path of the page.

  Raises:
    UserError: a workdir that cannot be read.
  """
  runs = [read_run(pathlib.Path(path)) for path in dict.fromkeys(map(str.strip, workdirs)) if path]
  if not runs:
    raise UserError('--workdirs names no run; give one or more, separated by commas')
  parts = [(section, report_table.build(section)) for section in sections(runs)]
  folder = pathlib.Path(out)
  text = '\n'.join(report_table.markdown(section, table, differences(section)) for section, table in parts)
  atomic.write_atomic(folder / 'report.md', text)
  atomic.write_atomic(folder / 'report.csv', report_table.comma_separated(parts))
  page = folder / 'report.html'
  atomic.write_atomic(page, report_html.page([(section, table, differences(section)) for section, table in parts]))
  progress.say(text)
  for run in runs:
    if not run.metrics.get('final'):
      progress.say(f'{run.path} has no scores; run --mode=evaluate --workdir={run.path}')
  progress.say(f'report: {page}')
  return page
