"""Scores and multiply-adds against the number of denoising steps, of workdirs that the test writes itself."""

import json
import re

import pytest
from report_runs import BY, make, TASKS, write_run

from dmtl_jax.models import build_model, counting
from dmtl_jax.runs import workdir as workdir_lib

SMALL = dict(model__width=4, model__channels=8, model__depth=1)
TITLE = 'How many denoising steps'


def write_steps(run, steps, final, **more):
  """Another evaluation of a run, with its metrics.json as an example."""
  scores = json.loads((run / 'metrics.json').read_text())
  scores['final'] = {task.name: {task.metric: value} for task, value in zip(TASKS, final)}
  (run / f'metrics_{steps}.json').write_text(json.dumps(scores | more))


def curves(page, task):
  """Values of the dots of a task's card, {line: {S: value}}, and of its dashed lines."""
  svg = page.split(TITLE)[1].split(f'<h4>{task}: ')[1].split('</svg>')[0]
  found = {}
  for name, steps, value in re.findall(r'<title>([^<]*), S = (\d+): ([^<]*)</title>', svg):
    found.setdefault(name, {})[int(steps)] = float(value)
  return found, re.findall(r'stroke-dasharray="5 4"><title>([^<]*): ([^<]*)</title>', svg)


def test_a_network_evaluated_with_several_steps_has_a_chart_a_task_and_one_of_what_it_costs(tmp_path):
  run = write_run(tmp_path / 'p', final=(50, 20, 1), initial=(45, 22, 1), cost=False, **SMALL)
  write_steps(run, 1, (48, 21, 1.5))
  write_steps(run, 10, (52, 19.5, None))
  plain = write_run(tmp_path / 'm', 'method=mtl_baseline,diffusion_steps=3')
  page, text, rows = make(tmp_path, run, plain)
  name = 'DiffusionMTL (Prediction), one network'
  assert curves(page, 'semseg') == ({name: {1: 48, 2: 50, 10: 52}}, [(f'{name}, initial', '45')])
  assert curves(page, 'depth')[0] == {name: {1: 1.5, 2: 1}}
  model = build_model(workdir_lib.read_config(run), TASKS)
  for steps, gmac in curves(page, 'compute')[0][name].items():
    assert gmac == pytest.approx(counting.summarize(model, (32, 32), steps)['gmac'], rel=1e-3)
  assert re.findall(r'\(Prediction\), one network \| (\d+) \| (\S+) \|', text) == [
    ('0', '45.00'),
    ('1', '48.00'),
    ('2', '50.00'),
    ('10', '52.00'),
  ]
  rows = [row for row in rows if row['S']]
  assert [(row['S'], row['semseg mIoU']) for row in rows] == [
    ('0', '45.0'),
    ('1', '48.0'),
    ('2', '50.0'),
    ('10', '52.0'),
  ]
  assert float(rows[1]['compute GMAC']) < float(rows[3]['compute GMAC']) and rows[0]['compute GMAC'] == ''


def test_runs_that_differ_in_their_steps_alone_are_a_line_of_means_over_seeds(tmp_path):
  runs = [
    write_run(
      tmp_path / f'{steps}{seed}', f'method=prediction,diffusion_steps={steps}', (40 + steps + seed, 20, 1), seed=seed
    )
    for steps, seed in [(1, 0), (3, 0), (3, 1)]
  ]
  other = write_run(tmp_path / 'other', 'method=prediction,diffusion_steps=4', optim__lr=1.0)
  page, text, _ = make(tmp_path, *runs, other)
  (line,) = curves(page, 'semseg')[0].items()
  assert line[0].endswith('trained with each S') and line[1] == {1: 41, 3: 43.5} and 'Mind that some' not in page + text
  assert TITLE not in ''.join(make(tmp_path, runs[0], other)[:2])


def test_points_that_do_not_compare_are_told_and_damaged_ones_left_out(tmp_path, capsys):
  run = write_run(tmp_path / 'p', **SMALL)
  for name, content in (('3', '{"final": '), ('4', '{"final": 3}'), ('5', '{"step": "x"}'), ('x', '{'), ('0', '{')):
    (run / f'metrics_{name}.json').write_text(content)
  page, text, _ = make(tmp_path, run)
  told = capsys.readouterr().out
  assert TITLE not in page + text and all(f'left out: {run}/metrics_{steps}.json' in told for steps in (3, 4, 5))
  write_steps(run, 1, (48, 21, 1.5))
  assert 'Mind that some' not in make(tmp_path, run)[1]
  for more in (dict(step=9), dict(protocol='pascal')):
    write_steps(run, 1, (48, 21, 1.5), **BY | more)
    page, text, _ = make(tmp_path, run)
    assert 'Mind that some' in page and 'Mind that some' in text
