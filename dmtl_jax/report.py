"""The job `--mode=report`: several runs side by side, as Markdown, CSV and one HTML page.

Reads of each workdir: config.json, tasks.json, metrics.json, log.jsonl and panels/.
"""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np

from dmtl_jax import report_html, workdir as workdir_lib
from dmtl_jax.errors import UserError
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
  """What a report knows of one workdir.

  Attributes:
    name: method, and what else tells it from the other runs.
    scores: {stage: {task: headline score}}, stages 'final' and maybe 'initial'.
    curves: {name: (steps, values)} of everything logged.
  """

  path: pathlib.Path
  name: str
  group: str
  config: dict
  tasks: tuple[Task, ...]
  metrics: dict
  scores: dict[str, dict[str, float]]
  curves: dict[str, tuple[list[int], list[float]]]
  panels: list[pathlib.Path]


def read_run(path: pathlib.Path) -> Run:
  """Reads one workdir.

  Raises:
    UserError: names the file that is missing or damaged.
  """
  config = workdir_lib.to_json(workdir_lib.read_config(path))
  tasks = workdir_lib.read_tasks(path)
  file = path / 'metrics.json'
  try:
    metrics = json.loads(file.read_text())
  except FileNotFoundError:
    raise UserError(f'{file}: no such file; run --mode=evaluate --workdir={path} first') from None
  except json.JSONDecodeError as error:
    raise UserError(f'{file}: not JSON ({error}); run --mode=evaluate --workdir={path} again') from error
  stages = [stage for stage in ('initial', 'final') if stage in metrics]
  scores = {stage: {task.name: _headline(metrics[stage][task.name], task) for task in tasks} for stage in stages}
  group = f"{config['data']['name']}, labels={pathlib.Path(config['data']['labels']).name}"
  name = config['method'] + ('' if config['model']['backbone'] == 'resnet18' else f", {config['model']['backbone']}")
  panels = sorted((path / 'panels').glob('*.png'))
  return Run(path, name, group, config, tasks, metrics, scores, read_curves(path / 'log.jsonl'), panels)


def _headline(scores: dict[str, float], task: Task) -> float:
  value = scores.get(task.metric, scores.get('tolF'))
  return float('nan') if value is None else value


def read_curves(path: pathlib.Path) -> dict[str, tuple[list[int], list[float]]]:
  """{scalar: (steps, values)} of a log; a line cut short by a crash is left out."""
  curves = {}
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    step = row.pop('step')
    for name, value in row.items():
      steps, values = curves.setdefault(name, ([], []))
      steps.append(step)
      values.append(value)
  return curves


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
  """Header and rows: a row for runs that differ in nothing but their seed, with mean and spread.

  Delta_m is against the single_task run of the same data and labels, where there is one.
  """
  tasks = runs[0].tasks
  header = ['data', 'method', *(f'{t.name} {t.metric} {"↑" if t.higher_is_better else "↓"}' for t in tasks), 'Δm %', 'runs']
  rows = []
  for (group, name), members in _by(runs, lambda run: (run.group, run.name)).items():
    single = [run for run in runs if run.group == group and run.config['method'] == 'single_task']
    cells = [_mean_and_spread([run.scores['final'][t.name] for run in members]) for t in tasks]
    delta = '–'
    if single:
      reference = {t.name: float(np.mean([run.scores['final'][t.name] for run in single])) for t in tasks}
      delta = _mean_and_spread([delta_m(run.scores['final'], reference, tasks) for run in members], sign='+')
    rows.append([group, name, *cells, delta, str(len(members))])
  return header, rows


def _by(items, key) -> dict:
  groups = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return groups


def _mean_and_spread(values: list[float], sign: str = '') -> str:
  mean = np.mean(values)
  digits = 2 if abs(mean) >= 1 else 4
  text = f'{mean:{sign}.{digits}f}'
  return text if len(values) == 1 else f'{text} ± {np.std(values, ddof=1):.{digits}f}'


def markdown(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def write_report(workdirs: list[str], out: str) -> pathlib.Path:
  """Writes OUT/report.md, report.csv and report.html; prints the table.

  Returns:
    The path of the page.

  Raises:
    UserError: a run that cannot be read, or runs of different tasks.
  """
  runs = [read_run(pathlib.Path(path)) for path in workdirs if path]
  if not runs:
    raise UserError('--workdirs names no run; give one or more, separated by commas')
  for run in runs:
    if [t.name for t in run.tasks] != [t.name for t in runs[0].tasks]:
      raise UserError(f'{run.path} and {runs[0].path} learn different tasks; report them separately')
  header, rows = table(runs)
  folder = pathlib.Path(out)
  workdir_lib.write_atomic(folder / 'report.md', markdown(header, rows))
  text = io.StringIO()
  csv.writer(text).writerows([header, *rows])
  workdir_lib.write_atomic(folder / 'report.csv', text.getvalue())
  page = folder / 'report.html'
  workdir_lib.write_atomic(page, report_html.page(runs, header, rows))
  workdir_lib.say(markdown(header, rows) + f'\nreport: {page}')
  return page
