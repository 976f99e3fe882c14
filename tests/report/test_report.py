"""The report's tables, of runs that the test writes itself, against tables worked out by hand."""

import re
import shutil
import statistics
import xml.etree.ElementTree

import jax
import numpy as np
import pytest
from report_runs import BY, DEPTH, make, SEMSEG, TASKS, write_log, write_run

from dmtl_jax.basics.errors import UserError
from dmtl_jax.jobs import report
from dmtl_jax.models import build_model, inputs
from dmtl_jax.report import gains, markup, results
from dmtl_jax.runs import workdir as workdir_lib

# --- Tables ----------------------------------------------------------------------------------


def test_seeds_are_joined_and_delta_m_is_against_the_single_task_run(tmp_path):
  single = write_run(tmp_path / 's', 'method=single_task', (50, 20, 1))
  runs = [
    write_run(tmp_path / f'p{i}', seed=i, final=scores) for i, scores in enumerate([(55, 18, 1.1), (57, 19, 0.9)])
  ]
  _, text, rows = make(tmp_path, runs[0], single, runs[1])
  assert [row['method'] for row in rows] == ['Single-Task', 'DiffusionMTL (Prediction)']
  deltas = [100 * ((s - 50) / 50 + (20 - n) / 20 + (1 - d)) / 3 for s, n, d in [(55, 18, 1.1), (57, 19, 0.9)]]
  assert rows[1]['runs'] == '2' and rows[0]['Δm %'] == ''
  expected = {
    'semseg mIoU': (56, 2**0.5),
    'normals mErr': (18.5, 0.5**0.5),
    'depth absErr': (1, 0.02**0.5),
    'Δm %': (statistics.mean(deltas), statistics.stdev(deltas)),
    'time s/image': (0.25, 0),
  }
  for name, (mean, spread) in expected.items():
    assert float(rows[1][name]) == pytest.approx(mean) and float(rows[1][f'{name} spread']) == pytest.approx(spread), (
      name
    )
  line = next(line for line in text.splitlines() if line.startswith('| DiffusionMTL'))
  assert '| **56.00 ± 1.41** | **18.50 ± 0.71** | 1.0000 ± 0.1414 | +' in line and line.endswith('| 2 |')
  assert '| semseg mIoU ↑ | normals mErr ↓ | depth absErr ↓ | Δm % ↑ |' in text


def test_the_best_of_a_column_is_bold_by_its_direction_and_ties_share_it(tmp_path):
  a = write_run(tmp_path / 'a', 'method=mtl_baseline', (50.001, 21, 1))
  b = write_run(tmp_path / 'b', 'method=feature', (50.002, 20, 1))
  page, text, _ = make(tmp_path, a, b)
  assert '| MTL Baseline | 50.00 | 21.00 | 1.0000 |' in text  # all the same: nothing is bold
  assert '| DiffusionMTL (Feature) | 50.00 | **20.00** | 1.0000 |' in text
  assert 'is best at 1 of 3 tasks' in page and page.count('<td><b>') == 1


def test_config_gives_the_single_task_scores_where_no_run_does(tmp_path):
  run = write_run(tmp_path / 'p', final=(60, 20, 1), eval__single_task=dict(semseg=50.0, normals=20.0, depth=1.0))
  _, text, rows = make(tmp_path, run)
  assert float(rows[0]['Δm %']) == pytest.approx(100 * 0.2 / 3) and 'against config.eval.single_task' in text


def test_what_differs_between_runs_of_a_method_is_named(tmp_path):
  runs = [
    write_run(tmp_path / '1', 'method=prediction,diffusion_steps=1'),
    write_run(tmp_path / '3', 'method=prediction,diffusion_steps=3'),
    write_run(tmp_path / 'r', 'method=feature,backbone=resnet50'),
    write_run(tmp_path / '4', train__log_every=99),
  ]
  _, _, rows = make(tmp_path, *runs)
  assert [(row['method'], row['runs']) for row in rows if not row['S']] == [
    ('DiffusionMTL (Prediction), diffusion_steps=1', '1'),
    ('DiffusionMTL (Prediction), diffusion_steps=3', '1'),
    ('DiffusionMTL (Prediction), diffusion_steps=2', '1'),
    ('DiffusionMTL (Feature), R50', '1'),
  ]


def test_a_markdown_table_keeps_its_columns():
  told = markup.markdown_table(['method', 'S', markup.headed(DEPTH), markup.headed(SEMSEG)], [['a|b', '1', '–', '2']])
  assert told.splitlines() == [
    '| method | S | depth absErr ↓ | semseg mIoU ↑ |', '| --- | ---: | ---: | ---: |', '| a\\|b | 1 | – | 2 |'
  ]  # fmt: skip


def test_runs_that_differ_in_many_fields_keep_names_of_their_own(tmp_path):
  many = lambda n: {f'optim__{field}': n for field in ('lr', 'l2', 'clip')} | {'train__batch': n, 'train__epochs': n}
  runs = [write_run(tmp_path / f'run{n}', **many(n), model__depth=4) for n in (1, 2)]
  runs += [write_run(tmp_path / 'run3', **many(1), model__depth=9)]
  _, _, rows = make(tmp_path, *runs)
  assert len({row['method'] for row in rows}) == 3


def test_methods_that_were_not_treated_alike_are_told(tmp_path):
  fair = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'method=feature', seed=3)]
  page, text, _ = make(tmp_path, *fair)
  assert 'Mind that' not in page + text
  page, text, _ = make(tmp_path, *fair, write_run(tmp_path / 'c', 'method=mtl_baseline', train__steps=500))
  told = 'differ in train.steps (500: MTL Baseline; 0: DiffusionMTL (Prediction), DiffusionMTL (Feature)).'
  assert told in text and told in page


def test_how_scores_were_made_is_told_and_what_does_not_compare(tmp_path):
  runs = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'method=feature', seed=3)]
  page, text, _ = make(tmp_path, *runs)
  for told in (page, text):
    assert 'Scored under protocol plain, weights best, at the network input, 32x32.' in told
    assert 'not comparable' not in told
  pascal = write_run(tmp_path / 'c', by=BY | {'protocol': 'pascal', 'weights': 'latest'}, seed=1)  # no seed of a
  page, text, rows = make(tmp_path, *runs, pascal)
  for told in (page, text):
    assert 'weights latest, at the network input, 32x32 (DiffusionMTL (Prediction), protocol=pascal, ' in told
    assert 'not comparable' in told and 'Mind that' not in told
  assert len(rows) == 3
  page, text, rows = make(tmp_path, runs[0], write_run(tmp_path / 'late', seed=1, final=None))
  assert [row['runs'] for row in rows] == ['2']


def test_at_which_size_scores_were_taken_is_told_and_sizes_do_not_compare(tmp_path):
  at_image = BY | {'resolution': 'image', 'boundary_side': 640, 'boundary_shrunk': 0}
  image = write_run(tmp_path / 'image', 'method=feature', by=at_image)
  for told in make(tmp_path, image)[:2]:
    assert 'weights best, at the size of each image.' in told and 'not comparable' not in told
  shrunk = write_run(tmp_path / 'shrunk', 'method=feature', by=at_image | {'boundary_shrunk': 2})
  assert 'at the size of each image (boundaries at most 640 pixels a side).' in make(tmp_path, shrunk)[1]
  whole = write_run(tmp_path / 'whole', 'method=mtl_baseline', by=at_image | {'boundary_side': 0})
  at_input = write_run(tmp_path / 'input', 'method=xtc')
  larger = write_run(tmp_path / 'larger', 'method=mtl_baseline', data__size=(64, 64))
  for pair in ((image, whole), (image, at_input), (larger, at_input)):
    assert 'Scores under different protocols or sizes are not comparable.' in make(tmp_path, *pair)[1]
  seeds = [write_run(tmp_path / f'seed{i}', seed=i, by=by) for i, by in enumerate((at_image, BY))]
  assert len(make(tmp_path, *seeds)[2]) == 2  # two scores of one experiment are no mean


def test_last_weights_stand_beside_the_best(tmp_path):
  """50 becomes 60 by the best weights, +20%, and 55 by the last, +10%; normals and depth stay: a third of it."""
  last = {'step': 9, 'final': {'semseg': {'mIoU': 55}, 'normals': {'mErr': 20}, 'depth': {'absErr': 1}}}
  single = write_run(tmp_path / 's', 'method=single_task', (50, 20, 1))
  run = write_run(tmp_path / 'p', final=(60, 20, 1), by=BY | {'protocol': 'mtpsl', 'last': last | {'delta_m': None}})
  config = {'eval__single_task': dict(semseg=50.0, normals=20.0, depth=1.0)}
  page, text, _ = make(tmp_path, single, run)
  table = text.split('### Best and last weights')[1].split('###')[0]
  assert '| DiffusionMTL (Prediction), best | 60.00 | 20.00 | 1.0000 | +6.67 |' in table
  assert '| DiffusionMTL (Prediction), last | 55.00 | 20.00 | 1.0000 | +3.33 |' in table
  assert 'Best and last weights' in page and 'Single-Task' not in table
  given = write_run(tmp_path / 'q', final=(60, 20, 1), by=BY | {'last': last}, **config)
  _, text, _ = make(tmp_path, given)
  assert '+6.67' in text.split('### Best and last weights')[1] and '+3.33' in text.split('### Best and last weights')[1]
  assert 'Best and last weights' not in ''.join(make(tmp_path, single)[:2])


def test_a_backbone_is_compared_to_its_own_single_task_run(tmp_path):
  runs = [
    write_run(tmp_path / f'{b}{m}', f'method={m},backbone=resnet{b}', (score, 20, 1))
    for b, m, score in [(18, 'single_task', 50), (50, 'single_task', 60), (18, 'feature', 55), (50, 'feature', 54)]
  ]
  _, _, rows = make(tmp_path, *runs)
  deltas = {row['method']: row['Δm %'] for row in rows}
  assert float(deltas['DiffusionMTL (Feature)']) == pytest.approx(10 / 3)
  assert float(deltas['DiffusionMTL (Feature), R50']) == pytest.approx(-10 / 3)


def test_parameters_are_counted_where_training_did_not_write_them(tmp_path):
  small = dict(model__width=4, model__channels=8, model__depth=1)
  run = write_run(tmp_path / 'p', 'method=mtl_baseline', cost=False, final=None, **small)
  _, _, rows = make(tmp_path, run)
  config = workdir_lib.read_config(run)
  shapes = jax.eval_shape(
    lambda key: inputs.init_variables(build_model(config, TASKS), key, (32, 32)), jax.random.key(0)
  )
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes['params']))
  assert float(rows[0]['params M']) == pytest.approx(count / 1e6) and float(rows[0]['compute GMAC']) > 0


# --- What may be missing ---------------------------------------------------------------------


def test_data_sets_and_label_settings_have_their_own_tables(tmp_path):
  runs = [
    write_run(tmp_path / 'a'),
    write_run(tmp_path / 'b', 'labels=random'),
    write_run(tmp_path / 'c', tasks=TASKS[:2], final=(1, 2), data__name='streets'),
  ]
  page, text, rows = make(tmp_path, *runs)
  assert re.findall('^## (.*)', text, re.M) == [
    'rooms, one labelled task per image',
    'rooms, random labelled tasks',
    'streets, one labelled task per image',
  ]
  assert rows[2]['depth absErr'] == '' and page.count('<article class="part"') == 3
  assert 'depth' not in text.split('## streets')[1]


def test_a_run_without_scores_is_told_and_has_its_curves(tmp_path, capsys):
  run = write_run(tmp_path / 'late', 'method=feature', final=None)
  write_log(run, [{'step': s, 'loss/total': 1 / s} for s in (1, 2, 3)])
  page, text, _ = make(tmp_path, write_run(tmp_path / 'done'), run)
  assert f'run --mode=evaluate --workdir={run}' in capsys.readouterr().out
  assert 'Not evaluated yet: DiffusionMTL (Feature)' in page and 'training loss, all tasks' in page
  assert '| DiffusionMTL (Feature) | – | – | – |' in text
  page, _, _ = make(tmp_path, run)
  assert 'No run here was evaluated yet' in page


def test_a_task_or_a_score_may_be_missing(tmp_path):
  whole = write_run(tmp_path / 'whole', 'method=single_task', (50, 20, 1))
  part = write_run(tmp_path / 'part', tasks=(DEPTH, SEMSEG), final=(0.5, 40), initial=(0.4, 40))
  null = write_run(tmp_path / 'null', 'method=feature', (float('nan'), 10, 2), initial=(30, float('nan'), 3))
  page, text, rows = make(tmp_path, whole, part, null)
  assert [row.get('Δm %', '') for row in rows] == ['', '', '']
  assert '| DiffusionMTL (Prediction) | 40.00 | – | **0.5000** |' in text and '| – | **10.00** | 2.0000 |' in text
  assert '(Prediction)</strong> worse at 1 of 2 tasks' in page  # 0.5 is worse than 0.4, 40 is 40
  assert '(Feature)</strong> better at 1 of 1 tasks' in page
  gains = text.split('### Initial against denoised')[1]
  assert '| DiffusionMTL (Prediction) | 40.00 → 40.00 (+0.00) | – | 0.4000 → 0.5000 (-0.1000) |' in gains
  assert '| DiffusionMTL (Feature) | – | – | **3.0000 → 2.0000** (+1.0000) |' in gains and 'Single-Task' not in gains
  assert 'nan' not in text and not re.search(r'\bnan\b', page)


def test_one_bare_run_is_a_report(tmp_path):
  page, text, _ = make(tmp_path, write_run(tmp_path / 'p'))
  assert '50.00' in text and '**' not in text and '<svg' not in page and 'Image by image' not in page


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda run: (run / 'metrics.json').write_text('{"final": '), r'metrics\.json: not JSON'),
    (lambda run: (run / 'panels').mkdir() or (run / 'panels/index.json').write_text('x'), r'index\.json: not JSON'),
    (lambda run: (run / 'metrics.json').write_text('{"protocol": 3}'), r'metrics\.json: not what evaluation writes'),
    (lambda run: shutil.rmtree(run), r'config\.json: no such file'),
  ],
)
def test_a_damaged_run_is_named(tmp_path, spoil, message):
  run = write_run(tmp_path / 'p')
  spoil(run)
  with pytest.raises(UserError, match=message):
    report.write_report([str(run)], str(tmp_path / 'out'))
  with pytest.raises(UserError, match='names no run'):
    report.write_report([''], str(tmp_path / 'out'))


def test_methods_are_held_against_a_baseline_seed_by_seed(tmp_path):
  """Seeds 0 and 1 gain 8% and 6% of a score on the baseline's run of the same seed, whatever the seeds' own luck."""
  runs = [
    write_run(tmp_path / f'b{i}', 'method=mtl_baseline', (s,), tasks=TASKS[:1], seed=i) for i, s in [(0, 50), (1, 100)]
  ]
  runs += [write_run(tmp_path / f'p{i}', final=(s,), tasks=TASKS[:1], seed=i) for i, s in [(0, 54), (1, 106), (2, 1)]]
  _, text, _ = make(tmp_path, *runs)
  assert '| DiffusionMTL (Prediction) | **+7.00 ± 1.00** |' in text
  assert 'against MTL Baseline' in text and '| MTL Baseline | – |' not in text


def test_one_seed_is_not_compared_seed_by_seed(tmp_path):
  a, b = write_run(tmp_path / 'a', 'method=mtl_baseline', (50, 20, 1)), write_run(tmp_path / 'b', final=(60, 20, 1))
  assert 'Seed by seed' not in make(tmp_path, a, b)[1]


def test_the_drawing_of_gains_has_a_bar_a_task_and_method_up_where_it_gained(tmp_path):
  run = write_run(tmp_path / 'p', final=(60, 25, 1), initial=(50, 20, 1))  # +20%, 25% worse, no change
  (section,) = results.sections([results.read_run(run)])
  svg = gains.drawing(section)
  assert len(svg.splitlines()) < 200 and xml.etree.ElementTree.fromstring(svg).get('aria-label')
  bars = [
    list(map(float, found))
    for found in re.findall(r'<rect x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)" fill', svg)
  ]
  zero = {round(y + height, 1) for y, height in bars[:1]}.pop()
  assert [round(bars[1][0], 1), bars[2][1]] == [zero, 0.0]
  assert bars[0][1] / bars[1][1] == pytest.approx(20 / 25, abs=0.02)
