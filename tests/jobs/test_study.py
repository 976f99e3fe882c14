"""Studies: what is run, with which learning rates, in which order, and the page about it."""

import dataclasses
import os
import subprocess

import pytest

from dmtl_jax import configs
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.jobs import study, study_claims, study_page
from dmtl_jax.jobs.study_suites import COUNT, Group, LONG, Suite, SUITES, TIME, VARIANT
from tests import report_runs

TOY = Suite(
  'scenes',
  'toys',
  (Group('one', {'mtl_baseline': 2, 'prediction': 2}),),
  {'train.batch': 2},
  rates=(1e-3, 2e-3),
  rate_steps=3,
)
SCORES = {'mtl_baseline': (50, 20, 1.0), 'prediction': (60, 18, 0.9)}
BETTER = {'mtl_baseline': '0.001', 'prediction': '0.002'}  # the rate that scores higher


ENDS = {'broken': 1, 'stopped': 0}  # init_from of runs that do not come to scores: their exit status


@pytest.fixture
def runner(monkeypatch):
  """Stands in for the processes: writes scored workdirs, and keeps the commands."""
  made = []

  def start(command, env, stdout, stderr):
    config = next(arg.partition('=')[2] for arg in command if arg.startswith('--config='))
    workdir = command[-1].partition('=')[2]
    flags = dict(arg[len('--config.') :].split('=', 1) for arg in command if arg.startswith('--config.'))
    method = config.split('method=')[1].split(',')[0]
    made.append((os.path.basename(workdir), flags))
    if flags.get('init_from') in ENDS:
      return subprocess.CompletedProcess(command, ENDS[flags['init_from']])
    seed, good = int(flags.get('seed', 0)), flags.get('optim.lr') == BETTER[method]
    scores = [x + seed for x in SCORES[method]]
    scores[0] += good
    first = [55 + 3 * seed, 19, 1.0] if method == 'prediction' else None
    report_runs.write_run(study.pathlib.Path(workdir), f'method={method},labels=one', scores, first, seed=seed)
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(study.subprocess, 'run', start)
  return made


def test_a_study_chooses_rates_runs_reports_and_goes_on(tmp_path, runner, monkeypatch):
  monkeypatch.setitem(SUITES, 'toy', TOY)
  study.study(TOY, tmp_path / 'toy', study.Places(2), ['--config.model.width=8'])
  trials, runs = runner[:4], runner[4:]
  assert {name for name, _ in trials} == {f'{m}-{r}' for m in SCORES for r in ('0.001', '0.002')}
  assert all(flags['data.holdout_fraction'] == '0.2' and flags['train.steps'] == '3' for _, flags in trials)
  assert sorted(name for name, _ in runs) == [f'{m}-one-{seed}' for m in SCORES for seed in (0, 1)]
  for name, flags in runs:
    method, _, seed = name.split('-')
    assert flags == {
      'train.batch': '2', 'seed': seed, 'data.label_seed': seed, 'optim.lr': BETTER[method], 'model.width': '8'
    }  # fmt: skip
  assert 'DiffusionMTL (Prediction)' in (tmp_path / 'toy' / 'report' / 'report.md').read_text()

  runner.clear()
  (tmp_path / 'toy' / 'prediction-one-1' / 'metrics.json').unlink()
  study.study(TOY, tmp_path / 'toy', study.Places(1), [])
  assert [name for name, _ in runner] == ['prediction-one-1']

  study.run(None, str(tmp_path), 1, str(tmp_path / 'page.md'), [])
  page = (tmp_path / 'page.md').read_text()
  (tmp_path / 'page.md').write_text(page.replace('# The study', '# Ours').replace('4 of 4', '3 of 4'))
  study_page.write(tmp_path, str(tmp_path / 'page.md'))
  assert (tmp_path / 'page.md').read_text() == page.replace('# The study', '# Ours')
  assert (tmp_path / 'page' / 'toy-one.svg').read_text().startswith('<svg')
  assert '4 of 4 runs' in page
  assert 's/image' in (tmp_path / 'toy' / 'report' / 'report.md').read_text() and 's/image' not in page
  assert '0.001 (mtl_baseline), 0.002 (prediction)' in page
  # 61 and 62 after 55 and 58: gains of 6 and 4, whose mean has a standard error of 1.
  assert '**56.50 → 61.50** (+5.00 ± 1.00)' in page
  assert '19.00 → 18.50' in page
  assert '(+0.50 ± 0.50)' in page


def test_a_page_says_which_xtc_the_papers_is(tmp_path, monkeypatch):
  group = Group('one', {'single_task': 1, 'xtc': 1, 'prediction': 1})
  monkeypatch.setitem(SUITES, 'toy', dataclasses.replace(TOY, groups=(group,)))
  pages = {}
  for method in ('single_task', 'prediction', 'xtc'):
    report_runs.write_run(tmp_path / 'toy' / f'{method}-one-0', f'method={method},labels=one')
    study_page.write(tmp_path, str(tmp_path / f'{method}.md'))
    pages[method] = (tmp_path / f'{method}.md').read_text()
  assert "The paper's XTC is XTC*" in pages['xtc']
  assert 'Beside the paper' in pages['prediction']
  assert 'XTC*' not in pages['prediction']


@pytest.mark.parametrize('why', ENDS)
def test_runs_that_fail_or_are_stopped_are_named_after_the_others_are_done(tmp_path, runner, why):
  with pytest.raises(UserError, match=r'prediction-0.001.*failed.*says why'):
    study.study(TOY, tmp_path, study.Places(1), [f'--config.init_from={why}'])
  assert len(runner) == 4


def test_groups_have_their_own_labels_seeds_and_fields():
  groups = (
    Group('one', {'prediction': 2}),
    Group('one', {'prediction': 1}, {'model.diffusion_steps': 1}, VARIANT, 'S1'),
    Group('random', {'feature': 1}),
  )
  runs = dataclasses.replace(TOY, groups=groups).runs({'feature': 0.5})
  assert [run.name for run in runs] == [
    'prediction-one-0',
    'prediction-one-0-S1',
    'feature-random-0',
    'prediction-one-1',
  ]
  assert runs[1].flags == {'train.batch': 2, 'model.diffusion_steps': 1, 'seed': 0, 'data.label_seed': 0}
  assert runs[2].flags == {'train.batch': 2, 'seed': 0, 'data.label_seed': 0, 'optim.lr': 0.5}
  assert runs[2].config == 'configs/scenes.py:method=feature,labels=random'


def write(folder, name, score, seed=0, initial=None, **fields):
  """A run with one task's score."""
  method, labels = name.split('-')[:2]
  arg = f'method={method},labels={labels}'
  report_runs.write_run(
    folder / name, arg, (score,), initial and (initial,), report_runs.TASKS[:1], seed=seed, **fields
  )


def test_claims_hold_beyond_two_standard_errors_of_paired_seeds(tmp_path, monkeypatch):
  group = Group('one', {'mtl_baseline': 3, 'prediction': 3, 'feature': 1})
  monkeypatch.setitem(SUITES, 'toy', dataclasses.replace(TOY, groups=(group,)))
  for seed, (baseline, ours) in enumerate([(50, 51), (40, 40.8), (80, 79.2)]):  # gains of 2, 2 and -1 %
    write(tmp_path / 'toy', f'mtl_baseline-one-{seed}', baseline, seed)
    write(tmp_path / 'toy', f'prediction-one-{seed}', ours, seed, initial=ours / (1.01 + 0.01 * seed))
  write(tmp_path / 'toy', 'feature-one-0', 49)
  study_page.write(tmp_path, str(tmp_path / 'page.md'))
  page = (tmp_path / 'page.md').read_text()
  assert '| gain in % of | toys, one label |' in page
  assert '| DiffusionMTL (Prediction) on MTL Baseline | +1.00 ± 1.00 (2 of 3) |' in page
  assert '| DiffusionMTL (Feature) on MTL Baseline | -2.00 (0 of 1) |' in page
  # Gains of 1, 2 and 3 % on the initial maps.
  assert '| DiffusionMTL (Prediction) on its own initial maps | **+2.00 ± 0.58** (3 of 3) |' in page
  # Two of three comparisons have three seeds: Student's t with two degrees of freedom is beyond 2 in 18.4% of cases.
  assert '3 comparisons were made; if nothing differed, 0.4 of them' in page
  assert (tmp_path / 'page' / 'gains.svg').read_text().count('aria-label="Gain on the MTL Baseline') == 1


def test_two_seeds_are_too_few_for_a_claim():
  assert not study_claims.Lead((2.0, 2.1)).is_sure
  assert study_claims.Lead((2.0, 2.1, 2.2)).is_sure
  assert not study_claims.Lead((-1.0, 2.1, 2.2)).is_sure


def test_runs_of_a_method_that_differ_in_more_than_seeds_are_not_compared(tmp_path, monkeypatch):
  monkeypatch.setitem(SUITES, 'toy', TOY)
  write(tmp_path / 'toy', 'prediction-one-0', 50, seed=0, train__steps=5)
  write(tmp_path / 'toy', 'prediction-one-1', 50, seed=1, train__steps=9)
  with pytest.raises(UserError, match=r'prediction-one-.: runs of prediction differ in more than their seeds .*steps='):
    study_page.write(tmp_path, str(tmp_path / 'page.md'))


def test_a_page_compares_at_equal_time_by_labels_and_with_variants(tmp_path, monkeypatch):
  groups = (
    Group('one', {'mtl_baseline': 1, 'prediction': 1}),
    Group('one', {'mtl_baseline': 1}, {'train.steps': 9}, TIME, 'time'),
    Group('one', {'prediction': 1}, {'train.steps': 50}, LONG, 'long'),
    Group('one', {'mtl_baseline': 1}, {'train.steps': 90}, TIME, 'longtime'),
    Group('one', {'mtl_baseline': 1, 'prediction': 1}, {'data.train_count': 12}, COUNT, 'n100'),
    Group('one', {'prediction': 1}, {'initial_loss': 0.5}, VARIANT, 'weight'),
  )
  monkeypatch.setitem(SUITES, 'toy', dataclasses.replace(TOY, groups=groups))
  folder = tmp_path / 'toy'
  scores = {'mtl_baseline-one-0': 50, 'prediction-one-0': 60}
  for name, score in scores.items():
    write(folder, name, score, train__steps=5)
    write(folder, f'{name}-n100', score + 15, train__steps=5)
    for run, count in ((name, 25), (f'{name}-n100', 100)):
      write_json(folder / run / 'labels.json', {str(i): ['semseg'] for i in range(count)})
  write(folder, 'mtl_baseline-one-0-time', 64, train__steps=9)
  write(folder, 'mtl_baseline-one-0-longtime', 80, train__steps=90)
  write(folder, 'prediction-one-0-long', 84, train__steps=50)
  write(folder, 'prediction-one-0-weight', 57)
  study_page.write(tmp_path, str(tmp_path / 'page.md'))
  page = (tmp_path / 'page.md').read_text()
  claims, _, rest = page.partition('## Equal time: toys')
  time, _, rest = rest.partition('## More labels: toys')
  by_labels, _, rest = rest.partition('## Variants: toys')
  variants, _, details = rest.partition('## Suite toy')
  assert 'on MTL Baseline | +20.00 (1 of 1) |' in claims
  assert '| gain in % of | 5 steps, baseline 9 | 50 steps, baseline 90 |' in time
  assert '| -6.25 (0 of 1) | +5.00 (1 of 1) |' in time
  assert (tmp_path / 'page' / 'toy-time.svg').exists()
  assert '| gain in % of | 25 labels a task | 100 labels a task |' in by_labels
  assert '| +20.00 (1 of 1) | +15.38 (1 of 1) |' in by_labels
  assert (tmp_path / 'page' / 'toy-labels.svg').exists()
  assert '| DiffusionMTL (Prediction), `initial_loss=0.5` | -5.00 (0 of 1) |' in variants
  assert '65.00' not in details and '64.00' not in details and '**60.00**' in details


def test_a_page_without_the_runs_that_variants_are_compared_with(tmp_path, monkeypatch):
  groups = (
    Group('one', {'prediction': 1}),
    Group('one', {'prediction': 1}, {'initial_loss': 0.5}, VARIANT, 'weight'),
    Group('random', {'prediction': 1}),
  )
  monkeypatch.setitem(SUITES, 'toy', dataclasses.replace(TOY, groups=groups))
  write(tmp_path / 'toy', 'prediction-one-0-weight', 57)
  with pytest.raises(UserError, match='no suite with scores'):
    study_page.write(tmp_path, str(tmp_path / 'page.md'))
  write(tmp_path / 'toy', 'prediction-random-0', 60)
  study_page.write(tmp_path, str(tmp_path / 'page.md'))
  page = (tmp_path / 'page.md').read_text()
  assert '## Suite toy' in page and '## Variants' not in page


def test_ctrl_c_ends_in_a_sentence(tmp_path, monkeypatch):
  def stop(*_args):
    raise KeyboardInterrupt

  monkeypatch.setattr(study, 'study', stop)
  with pytest.raises(UserError, match='stopped by Ctrl-C; the same command goes on'):
    study.run('scenes-small', str(tmp_path), 1, None, [])


def test_a_suite_asks_for_the_files_it_needs(tmp_path):
  with pytest.raises(UserError, match=r'--config.data.path=PATH'):
    study.study(SUITES['camvid'], tmp_path, study.Places(1), [])


def test_a_run_is_the_command_of_any_training(tmp_path):
  run = dataclasses.replace(next(TOY.trials())[2], config='configs/scenes.py:method=predicton')
  places = study.Places(1)
  places._own.variables = {}
  assert study.make(run, tmp_path, places, []) == 1
  assert 'prediction' in (tmp_path / f'{run.name}.txt').read_text()


@pytest.mark.parametrize('name', SUITES)
def test_the_runs_of_a_suite_are_configs(name):
  """Every config string and every field exists, and no two runs share a folder."""
  suite = SUITES[name]
  runs = [run for *_, run in suite.trials()] + suite.runs({})
  assert len({run.name for run in runs}) == len(runs)
  for run in runs[:: max(len(runs) // 8, 1)]:
    module = __import__(f'{configs.__name__}.{suite.data}', fromlist=['_']).get_config
    config = module(run.config.partition(':')[2])
    for field in run.flags:
      assert (
        config.get_ref(field) is not None if '.' not in field else field.split('.')[1] in config[field.split('.')[0]]
      )


@pytest.mark.parametrize('name', SUITES)
def test_every_longer_training_has_a_baseline_of_its_seconds(name):
  roles = [group.role for group in SUITES[name].groups]
  assert TIME not in roles or roles.count(TIME) == 1 + roles.count(LONG)
  assert LONG not in roles or TIME in roles
