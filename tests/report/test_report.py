"""The report's tables, for runs that the test writes itself, against tables worked out by hand."""

import json
import statistics

import jax
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import calibration
from dmtl_jax.jobs import report
from dmtl_jax.models import build_model, inputs
from dmtl_jax.report import charts, results, table
from dmtl_jax.runs import workdir as workdir_lib
from tests import calibrations
from tests.report_runs import (
  BY,
  DEPTH,
  find_class,
  find_section,
  make,
  SEMSEG,
  TASKS,
  words,
  write_log,
  write_pictures,
  write_run,
)

SINGLE_TASK = dict(semseg=50.0, normals=20.0, depth=1.0)


def read_methods(rows):
  return [row['method'] for row in rows if not row.get('S')]


# --- Tables ----------------------------------------------------------------------------------


def test_seeds_are_joined_and_delta_m_is_against_the_single_task_run(tmp_path):
  single = write_run(tmp_path / 's', 'method=single_task', (50, 20, 1))
  scores = [(55, 18, 1.1), (57, 19, 0.9)]
  first, second = [write_run(tmp_path / f'p{seed}', seed=seed, final=scores[seed]) for seed in range(2)]
  _, text, (reference, row) = make(tmp_path, first, single, second)
  deltas = [100 * ((s - 50) / 50 + (20 - n) / 20 + (1 - d)) / 3 for s, n, d in scores]
  assert reference['Δm %'] == ''
  assert row['runs'] == '2'
  expected = {
    'semseg mIoU': (56, 2**0.5),
    'normals mErr': (18.5, 0.5**0.5),
    'depth absErr': (1, 0.02**0.5),
    'Δm %': (statistics.mean(deltas), statistics.stdev(deltas)),
    'time s/image': (0.25, 0),
  }
  for name, (mean, spread) in expected.items():
    assert float(row[name]) == pytest.approx(mean), name
    assert float(row[f'{name} spread']) == pytest.approx(spread), name
  assert '| method | semseg mIoU ↑ | normals mErr ↓ | depth absErr ↓ | Δm % ↑ |' in text
  assert '| DiffusionMTL (Prediction) | **56.00 ± 1.41** | **18.50 ± 0.71** | 1.0000 ± 0.1414 | +' in text


def test_the_best_of_a_column_is_bold_by_its_direction_unless_all_read_the_same(tmp_path):
  a = write_run(tmp_path / 'a', 'method=mtl_baseline', (50.001, 21, 1))
  b = write_run(tmp_path / 'b', 'method=feature', (50.002, 20, 1))
  page, text, _ = make(tmp_path, a, b)
  assert '| MTL Baseline | 50.00 | 21.00 | 1.0000 |' in text
  assert '| DiffusionMTL (Feature) | 50.00 | **20.00** | 1.0000 |' in text
  assert [words(cell) for cell in page.findall('.//td/b')] == ['20.00']
  assert 'DiffusionMTL (Feature) is best at 1 of 3 tasks.' in words(page)


def test_config_gives_the_single_task_scores_where_no_run_does(tmp_path):
  run = write_run(tmp_path / 'p', final=(60, 20, 1), eval__single_task=SINGLE_TASK)
  _, text, rows = make(tmp_path, run)
  assert float(rows[0]['Δm %']) == pytest.approx(100 * 0.2 / 3)
  assert 'against config.eval.single_task' in text


def test_a_backbone_is_compared_to_its_own_single_task_run(tmp_path):
  runs = [
    write_run(tmp_path / f'{b}{m}', f'method={m},backbone=resnet{b}', (score, 20, 1))
    for b, m, score in [(18, 'single_task', 50), (50, 'single_task', 60), (18, 'feature', 55), (50, 'feature', 54)]
  ]
  deltas = {row['method']: row['Δm %'] for row in make(tmp_path, *runs)[2]}
  assert float(deltas['DiffusionMTL (Feature)']) == pytest.approx(10 / 3)
  assert float(deltas['DiffusionMTL (Feature), R50']) == pytest.approx(-10 / 3)


def test_last_weights_stand_beside_the_best(tmp_path):
  """50 becomes 60 by the best weights, +20%, and 55 by the last, +10%; normals and depth stay: a third of it."""
  last = {'step': 9, 'final': {'semseg': {'mIoU': 55}, 'normals': {'mErr': 20}, 'depth': {'absErr': 1}}}
  by = BY | {'protocol': 'mtpsl', 'last': last | {'delta_m': None}}
  single = write_run(tmp_path / 's', 'method=single_task', (50, 20, 1))
  runs = [single, write_run(tmp_path / 'p', final=(60, 20, 1), by=by)]
  by_config = [write_run(tmp_path / 'q', final=(60, 20, 1), by=by, eval__single_task=SINGLE_TASK)]
  for compared in (runs, by_config):
    page, text, _ = make(tmp_path, *compared)
    rows = text.split('### Best and last weights')[1].split('###')[0]
    assert '| DiffusionMTL (Prediction), best | 60.00 | 20.00 | 1.0000 | +6.67 |' in rows
    assert '| DiffusionMTL (Prediction), last | 55.00 | 20.00 | 1.0000 | +3.33 |' in rows
    assert 'Single-Task' not in rows
    assert find_section(page, 'Best and last weights') is not None
  page, text, _ = make(tmp_path, single)
  assert 'Best and last weights' not in text + words(page)


def test_parameters_are_counted_where_training_did_not_write_them(tmp_path):
  small = dict(model__width=4, model__channels=8, model__depth=1)
  run = write_run(tmp_path / 'p', 'method=mtl_baseline', cost=False, final=None, **small)
  (row,) = make(tmp_path, run)[2]
  model = build_model(workdir_lib.read_config(run), TASKS)
  shapes = jax.eval_shape(lambda key: inputs.init_variables(model, key, (32, 32)), jax.random.key(0))
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes['params']))
  assert float(row['params M']) == pytest.approx(count / 1e6)
  assert float(row['compute GMAC']) > 0


def test_a_markdown_table_keeps_its_columns():
  heads = ['method', 'S', table.task_column(DEPTH).heading, table.task_column(SEMSEG).heading]
  assert table.markdown_table(heads, [['a|b', '1', '–', '2']]).splitlines() == [
    '| method | S | depth absErr ↓ | semseg mIoU ↑ |', '| --- | ---: | ---: | ---: |', '| a\\|b | 1 | – | 2 |'
  ]  # fmt: skip


def test_where_predictions_are_made_of_initial_maps_their_scores_are_named(tmp_path):
  runs = [write_run(tmp_path / f'p{seed}', seed=seed, initial=(60 + seed, 22, 0.5)) for seed in range(2)]
  calibration.write(runs[0], calibrations.calibration(TASKS, initial=('semseg', 'depth')))
  calibration.write(runs[1], calibrations.calibration(TASKS, initial=('depth',)))
  sentence = (
    'Predictions are made of the initial maps, not of the final maps in the table, for '
    'semseg by DiffusionMTL (Prediction) (60.00 mIoU, 1 of 2 runs), depth by DiffusionMTL (Prediction) (0.5000 absErr).'
  )
  page, text, _ = make(tmp_path, *runs)
  assert sentence in text
  assert sentence in words(page)
  cards = [words(card) for card in find_class(page, 'winners')[0].iter('article')]
  assert 'Predictions are made of the initial maps of 1 of 2 runs.' in cards[0]
  assert 'initial maps' not in cards[1]
  assert '0.5000 ± 0.0000 → 1.0000 ± 0.0000' in cards[2]
  assert 'Predictions are made of the initial maps.' in cards[2]
  _, text, _ = make(tmp_path, runs[0])
  assert 'semseg 60.00 mIoU (initial maps), normals 20.00 mErr, depth 0.5000 absErr (initial maps).' in text
  calibration.write(runs[0], calibrations.calibration(TASKS, step=8, initial=('semseg', 'depth')))
  _, text, _ = make(tmp_path, runs[0])
  assert 'initial maps)' not in text


def test_a_card_has_the_mean_of_all_initial_scores_that_predictions_are_made_of(tmp_path):
  """Also of a run whose final maps have no score."""
  runs = [
    write_run(tmp_path / f'p{i}', seed=i, final=(50, 20, i or None), initial=(60, 22, 0.25 + 0.5 * i)) for i in range(2)
  ]
  for run in runs:
    calibration.write(run, calibrations.calibration(TASKS, initial=('depth',)))
  page, text, _ = make(tmp_path, *runs)
  assert 'depth by DiffusionMTL (Prediction) (0.5000 absErr)' in text
  cards = [words(card) for card in find_class(page, 'winners')[0].iter('article')]
  assert '0.5000 ± 0.3536 → 1.0000' in cards[2]


def test_scores_on_other_data_are_named_by_them(tmp_path):
  run = write_run(tmp_path / 'p', by=BY | {'data': 'streets'})
  own = write_run(tmp_path / 'own', by=BY | {'data': 'rooms'})
  page, text, rows = make(tmp_path, run, own)
  assert [row['data'] for row in rows] == ['streets (trained on rooms)', 'rooms']
  assert '## streets (trained on rooms), ' in text
  assert page.findtext('head/title') == 'DiffusionMTL on streets (trained on rooms) and rooms'


def test_data_are_named_by_their_folder_but_not_by_a_user(monkeypatch):
  monkeypatch.setenv('HOME', '/home/alice')
  for path, name in (('data/rooms/', 'rooms'), ('', 'folder'), ('.', 'folder'), ('/home/alice', 'folder')):
    assert results.data_name({'name': 'folder', 'path': path}) == name


# --- Names, and what is comparable -----------------------------------------------------------


def test_what_differs_between_runs_of_a_method_is_named(tmp_path):
  runs = [
    write_run(tmp_path / '1', 'method=prediction,diffusion_steps=1'),
    write_run(tmp_path / '3', 'method=prediction,diffusion_steps=3'),
    write_run(tmp_path / 'r', 'method=feature,backbone=resnet50'),
    write_run(tmp_path / '4', train__log_every=99),
  ]
  assert read_methods(make(tmp_path, *runs)[2]) == [
    'DiffusionMTL (Prediction), diffusion_steps=1',
    'DiffusionMTL (Prediction), diffusion_steps=3',
    'DiffusionMTL (Prediction), diffusion_steps=2',
    'DiffusionMTL (Feature), R50',
  ]


def test_runs_that_differ_in_many_fields_keep_names_of_their_own(tmp_path):
  fields = ('optim__lr', 'optim__l2', 'optim__clip', 'train__batch', 'train__epochs')
  runs = [
    write_run(tmp_path / f'{value}{depth}', **dict.fromkeys(fields, value), model__depth=depth)
    for value, depth in [(1, 4), (2, 4), (1, 9)]
  ]
  assert len(set(read_methods(make(tmp_path, *runs)[2]))) == 3


def test_page_and_text_say_how_scores_were_made_and_who_was_treated_differently(tmp_path):
  fair = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'method=feature', seed=3)]
  unfair = write_run(tmp_path / 'c', 'method=mtl_baseline', train__steps=500)
  made = 'Scored under protocol plain, weights best, at the network input, 32x32.'
  differ = (
    'These runs also differ in train.steps (500: MTL Baseline; 0: DiffusionMTL (Prediction), DiffusionMTL (Feature)).'
  )
  for runs, is_fair in ((fair, True), ([*fair, unfair], False)):
    page, text, _ = make(tmp_path, *runs)
    for shown in (text, words(page)):
      assert made in shown
      assert (differ not in shown) == is_fair
      assert 'not comparable' not in shown


def test_the_weight_of_losses_on_initial_maps_differs_only_between_methods_that_have_some(tmp_path):
  def write(method, weight, **more):
    run = write_run(tmp_path / f'{method}{weight}', f'method={method}', **more)
    values = json.loads((run / 'config.json').read_text()) | {'initial_loss': weight}
    (run / 'config.json').write_text(json.dumps(values))
    return run

  runs = [write('mtl_baseline', 0.5), write('prediction', 0.1, initial=(40, 30, 2))]
  assert 'differ in' not in make(tmp_path, *runs)[1]
  invpt = write('invpt', 1.0, initial=(40, 30, 2))
  assert 'differ in initial_loss (1.0: InvPT; 0.1: DiffusionMTL (Prediction)).' in make(tmp_path, *runs, invpt)[1]


def test_another_protocol_is_another_entry_and_not_comparable(tmp_path):
  runs = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'method=feature')]
  pascal = write_run(tmp_path / 'c', by=BY | {'protocol': 'pascal', 'weights': 'latest'}, seed=1)  # no seed of a
  page, text, rows = make(tmp_path, *runs, pascal)
  assert len(rows) == 3
  for shown in (text, words(page)):
    assert 'weights latest, at the network input, 32x32 (DiffusionMTL (Prediction), protocol=pascal' in shown
    assert 'Scores under different protocols or sizes are not comparable.' in shown


def test_a_seed_without_scores_joins_those_with(tmp_path):
  runs = [write_run(tmp_path / 'a'), write_run(tmp_path / 'late', seed=1, final=None)]
  assert [row['runs'] for row in make(tmp_path, *runs)[2]] == ['2']


def test_the_size_of_scores_is_said_and_sizes_are_not_comparable(tmp_path):
  at_image = BY | {'resolution': 'image', 'boundary_side': 640, 'boundary_shrunk': 0}
  image = write_run(tmp_path / 'image', 'method=feature', by=at_image)
  text = make(tmp_path, image)[1]
  assert 'weights best, at the size of each image.' in text
  assert 'not comparable' not in text
  shrunk = write_run(tmp_path / 'shrunk', 'method=feature', by=at_image | {'boundary_shrunk': 2})
  assert 'at the size of each image (boundaries at most 640 pixels a side).' in make(tmp_path, shrunk)[1]
  whole = write_run(tmp_path / 'whole', 'method=mtl_baseline', by=at_image | {'boundary_side': 0})
  at_input = write_run(tmp_path / 'input', 'method=xtc')
  larger = write_run(tmp_path / 'larger', 'method=mtl_baseline', data__size=(64, 64))
  for pair in ((image, whole), (image, at_input), (larger, at_input)):
    assert 'not comparable' in make(tmp_path, *pair)[1]
  seeds = [write_run(tmp_path / f'seed{i}', seed=i, by=by) for i, by in enumerate((at_image, BY))]
  assert len(make(tmp_path, *seeds)[2]) == 2  # scores at two sizes have no mean


def test_data_sets_and_label_settings_have_their_own_tables(tmp_path):
  runs = [
    write_run(tmp_path / 'a'),
    write_run(tmp_path / 'b', 'labels=random'),
    write_run(tmp_path / 'c', tasks=TASKS[:2], final=(1, 2), data__name='streets'),
  ]
  page, text, rows = make(tmp_path, *runs)
  titles = [
    'rooms, one labelled task per image',
    'rooms, random labelled tasks',
    'streets, one labelled task per image',
  ]
  assert [line.removeprefix('## ') for line in text.splitlines() if line.startswith('## ')] == titles
  assert [words(heading) for heading in page.iter('h2')] == titles
  assert rows[2]['depth absErr'] == ''
  assert 'depth' not in text.split('## streets')[1]


# --- What may be missing ---------------------------------------------------------------------


def test_of_the_folder_around_runs_one_is_named(tmp_path):
  for name in ('b', 'a'):
    write_run(tmp_path / 'runs' / name)
  with pytest.raises(UserError, match=r'runs/config\.json: no such file; .* of a trained run, such as .*runs/a$'):
    report.run([str(tmp_path / 'runs')], str(tmp_path / 'out'))


def test_a_run_without_scores_is_named_and_has_its_curves(tmp_path, capsys):
  run = write_run(tmp_path / 'late', 'method=feature', final=None)
  write_log(run, [{'step': s, 'loss/total': 1 / s} for s in (1, 2, 3)])
  page, text, _ = make(tmp_path, write_run(tmp_path / 'done'), run)
  assert f'run --mode=evaluate --workdir={run}' in capsys.readouterr().out
  assert 'Not evaluated yet: DiffusionMTL (Feature).' in words(page)
  assert '| DiffusionMTL (Feature) | – | – | – |' in text
  assert words(find_section(page, 'Learning curves').find('.//h4')) == 'training loss, all tasks'
  assert 'No run here was evaluated yet' in words(make(tmp_path, run)[0])


def test_a_task_or_a_score_may_be_missing(tmp_path):
  whole = write_run(tmp_path / 'whole', 'method=single_task', (50, 20, 1))
  part = write_run(tmp_path / 'part', tasks=(DEPTH, SEMSEG), final=(0.5, 40), initial=(0.4, 40))
  null = write_run(tmp_path / 'null', 'method=feature', (float('nan'), 10, 2), initial=(30, float('nan'), 3))
  page, text, rows = make(tmp_path, whole, part, null)
  assert [row.get('Δm %', '') for row in rows] == ['', '', '']
  assert '| DiffusionMTL (Prediction) | 40.00 | – | **0.5000** |' in text
  assert '| – | **10.00** | 2.0000 |' in text
  assert 'DiffusionMTL (Prediction): denoising helped at 0 of 2 tasks and hurt depth, in 2 steps' in words(page)
  assert 'DiffusionMTL (Feature): denoising helped at 1 of 1 tasks' in words(page)
  changes = text.split('### Initial against denoised')[1]
  assert '| DiffusionMTL (Prediction) | 40.00 → 40.00 (+0.00) | – | 0.4000 → 0.5000 (-0.1000) |' in changes
  assert '| DiffusionMTL (Feature) | – | – | **3.0000 → 2.0000** (+1.0000) |' in changes
  assert 'Single-Task' not in changes
  assert 'nan' not in (text + words(page)).split()


def test_one_bare_run_is_a_report(tmp_path):
  page, text, _ = make(tmp_path, write_run(tmp_path / 'p'))
  assert '50.00' in text
  assert '**' not in text
  assert [words(heading) for heading in page.iter('h3')] == ['The method', 'Scores and costs', 'More']


@pytest.mark.parametrize(
  'file, content, message',
  [
    ('metrics.json', '{"final": ', 'not JSON'),
    ('metrics.json', '[]', 'not what evaluation writes'),
    ('metrics.json', '{"step": "x"}', 'not what evaluation writes'),
    ('cost.json', '{"gmac": []}', 'not what evaluation writes'),
    ('panels/index.json', 'x', 'not JSON'),
    ('panels/index.json', '{"images": [{}]}', 'not what evaluation writes'),
  ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, file, content, message):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  (run / file).write_text(content)
  with pytest.raises(UserError, match=f'{run / file}: .*{message}'):
    report.run([str(run)], str(tmp_path / 'out'))


@pytest.mark.parametrize('workdir, message', [('nowhere', r'config\.json: no such file'), ('', 'names no run')])
def test_what_is_no_run_is_refused(tmp_path, workdir, message):
  with pytest.raises(UserError, match=message):
    report.run([workdir and str(tmp_path / workdir)], str(tmp_path / 'out'))


# --- Baselines and gains ---------------------------------------------------------------------


def test_methods_are_compared_to_a_baseline_seed_by_seed(tmp_path):
  """Seeds 0 and 1 gain 8% and 6% of a score on the baseline's run of the same seed, however lucky the seeds are."""
  semseg = TASKS[:1]
  baseline = [
    write_run(tmp_path / f'b{i}', 'method=mtl_baseline', (s,), tasks=semseg, seed=i) for i, s in [(0, 50), (1, 100)]
  ]
  runs = [write_run(tmp_path / f'p{i}', final=(s,), tasks=semseg, seed=i) for i, s in [(0, 54), (1, 106), (2, 1)]]
  text = make(tmp_path, *baseline, *runs)[1].split('### Seed by seed')[1]
  assert '| method | against MTL Baseline % |' in text
  assert '| DiffusionMTL (Prediction) | **+7.00 ± 1.00** |' in text
  assert '| MTL Baseline |' not in text
  assert 'Seed by seed' not in make(tmp_path, baseline[0], *runs)[1]


def test_bars_stand_on_the_axis_as_tall_as_their_values():
  ((gained, lost, same),) = charts.bar_chart([[(20, 1), (-25, float('nan')), (0, float('nan'))]]).bars
  axis = gained.y + gained.height
  assert lost.y == pytest.approx(axis)
  assert same.height == 0
  assert gained.height / lost.height == pytest.approx(20 / 25)
  assert gained.error[0] > gained.y > gained.error[1]  # y of SVG grows downwards
  assert lost.error is None
