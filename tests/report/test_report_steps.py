"""Scores and multiply-adds against the number of denoising steps, for workdirs that the test writes itself."""

import json

import pytest

from dmtl_jax.models import counting
from dmtl_jax.report import results, steps, table
from tests.report_runs import BY, find_section, make, TASKS, words, write_run

SMALL = dict(model__width=4, model__channels=8, model__depth=1)
TITLE = 'How many denoising steps'


@pytest.fixture(autouse=True)
def quick_counts(monkeypatch):
  """Multiply-adds that tell the number of steps, without a network."""
  monkeypatch.setattr(counting, 'summarize', lambda model, size, steps: {'parameters': 1, 'gmac': 100 + steps})
  monkeypatch.setattr(table, '_count_config', table._count_config.__wrapped__)  # keeps nothing for other tests


def write_steps(run, diffusion_steps, final, **more):
  """Another evaluation of a run, with its metrics.json as an example."""
  scores = json.loads((run / 'metrics.json').read_text())
  scores['final'] = {task.name: {task.metric: value} for task, value in zip(TASKS, final)}
  (run / f'metrics_{diffusion_steps}.json').write_text(json.dumps(scores | more))


def read_lines(*runs):
  """{name of a line: {S: means of the tasks and multiply-adds}}."""
  (section,) = results.sections([results.read_run(run) for run in runs])
  return {
    line.name: {s: [cell.mean for cell in cells] for s, cells in steps.cells_by_steps(line, section).items()}
    for line in steps.make_lines(section)
  }


def test_a_network_evaluated_with_several_steps_is_a_line_of_scores_and_costs(tmp_path):
  run = write_run(tmp_path / 'p', final=(50, 20, 1), initial=(45, 22, 1), cost=False, **SMALL)
  write_steps(run, 1, (48, 21, 1.5))
  write_steps(run, 10, (52, 19.5, None))
  ((name, cells),) = read_lines(run).items()
  assert name == 'DiffusionMTL (Prediction), one network'
  assert {s: row[0] for s, row in cells.items()} == {0: 45, 1: 48, 2: 50, 10: 52}
  assert {s: row[-1] for s, row in cells.items() if s} == {1: 101, 2: 102, 10: 110}


def test_lines_are_in_the_page_the_text_and_the_csv(tmp_path):
  run = write_run(tmp_path / 'p', initial=(45, 22, 1), **SMALL)
  write_steps(run, 1, (48, 21, None))
  plain = write_run(tmp_path / 'm', 'method=mtl_baseline,diffusion_steps=3')
  page, text, rows = make(tmp_path, run, plain)
  name = 'DiffusionMTL (Prediction), one network'
  semseg, _, depth, _compute = find_section(page, TITLE).iter('svg')
  assert [words(title) for title in semseg.iter('title')] == [
    f'{name}, initial: 45', name, f'{name}, S = 1: 48', f'{name}, S = 2: 50'
  ]  # fmt: skip
  assert [words(title) for title in depth.iter('title')][-1] == f'{name}, S = 2: 1'
  assert f'| {name} | 1 | 48.00 | 21.00 | – |' in text
  by_steps = [(row['S'], row['semseg mIoU']) for row in rows if row['S']]
  assert by_steps == [('0', '45.0'), ('1', '48.0'), ('2', '50.0')]


def test_runs_that_differ_only_in_their_steps_are_a_line_of_means_over_seeds(tmp_path):
  runs = [
    write_run(tmp_path / f'{s}{seed}', f'method=prediction,diffusion_steps={s}', (40 + s + seed, 20, 1), seed=seed)
    for s, seed in [(1, 0), (3, 0), (3, 1)]
  ]
  other = write_run(tmp_path / 'other', 'method=prediction,diffusion_steps=4', optim__lr=1.0)
  ((name, cells),) = read_lines(*runs, other).items()
  assert name.endswith('trained with each S')
  assert {s: row[0] for s, row in cells.items()} == {1: 41, 3: 43.5}
  assert 'Some lines have points' not in make(tmp_path, *runs, other)[1]
  assert read_lines(runs[0], other) == {}


def test_damaged_evaluations_are_left_out_with_a_sentence(tmp_path, capsys):
  run = write_run(tmp_path / 'p', **SMALL)
  for name, content in (('3', '{"final": '), ('4', '{"final": 3}'), ('5', '{"step": "x"}'), ('x', '{'), ('0', '{')):
    (run / f'metrics_{name}.json').write_text(content)
  page, _, _ = make(tmp_path, run)
  output = capsys.readouterr().out
  assert find_section(page, TITLE) is None
  for s in (3, 4, 5):
    assert f'left out: {run}/metrics_{s}.json' in output


@pytest.mark.parametrize('more, is_warned', [({}, False), ({'step': 9}, True), ({'protocol': 'pascal'}, True)])
def test_points_that_are_not_comparable_have_a_warning(tmp_path, more, is_warned):
  run = write_run(tmp_path / 'p', **SMALL)
  write_steps(run, 1, (48, 21, 1.5), **BY | more)
  page, text, _ = make(tmp_path, run)
  assert ('Some lines have points' in text) == is_warned
  assert ('Some lines have points' in words(page)) == is_warned
