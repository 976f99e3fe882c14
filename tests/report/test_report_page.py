"""The report's page: pictures in their places, honest words, and nothing in names that could break it."""

import base64
import io
import json

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.inference import gallery
from dmtl_jax.report import charts, pictures, reading, table, verdict
from dmtl_jax.tasks import make_task
from tests.report_runs import (
  find_class,
  find_section,
  make,
  read_table,
  STAGES,
  TASKS,
  words,
  write_log,
  write_pictures,
  write_run,
)

SEMSEG, NORMALS, DEPTH = TASKS
FULL = ['Initial', 'Decayed', 'Denoised 1/2', 'Denoised 2/2', 'Nearer the truth: blue']


def test_names_cannot_break_the_page(tmp_path):
  hostile = '</td><script>alert("1")</script>\'&'
  tasks = (make_task('semseg', 'semseg', (hostile, 'road')), DEPTH)
  run = write_run(
    tmp_path / 'a<img src=x onerror=y>', f'labels={hostile.replace("/", "")}', (1, 2), (2, 1), tasks, data__name=hostile
  )
  write_pictures(run, tasks=tasks, ids=('x"><script>',))
  write_log(run, [{'step': s, 'loss/final/depth': 1.0} for s in (1, 2)])
  page, _, rows = make(tmp_path, run)  # whose parser refuses scripts and event handlers
  assert page.findtext('head/title') == f'DiffusionMTL on {hostile}'
  assert hostile in words(find_class(page, 'classes')[0])
  assert 'x"><script>' in [image.get('alt') for image in page.iter('img')]
  assert rows[0]['data'] == hostile


# --- Pictures --------------------------------------------------------------------------------


def read_figures(page, image, task):
  """{caption: colour of the picture} per row of the viewer, for an image (by its place) and a task (by its place)."""
  (shot,) = find_class(page, f's0v-{image}-{task}')
  return [
    {figure.findtext('figcaption'): read_color(figure.find('img').get('src')) for figure in strip.iter('figure') if len(figure)}
    for strip in find_class(shot, 'strip')
  ]  # fmt: skip


def read_color(uri):
  picture = Image.open(io.BytesIO(base64.b64decode(uri.partition('base64,')[2])))
  return picture.convert('RGB').getpixel((2, 2))


def read_thumbnails(page):
  return [image.get('alt') for image in find_class(page, 'thumbs')[0].iter('img')]


def test_pictures_stand_by_image_task_method_and_stage(tmp_path):
  baseline, prediction, feature = [
    write_run(tmp_path / method, f'method={method}') for method in ('mtl_baseline', 'prediction', 'feature')
  ]
  plain = write_pictures(baseline, stages=('label', 'final'))
  full = write_pictures(prediction)
  write_pictures(feature, ids=('b',), tasks=(SEMSEG,))
  page, _, _ = make(tmp_path, baseline, prediction, feature)
  ids = read_thumbnails(page)
  assert sorted(ids) == ['a', 'b']
  for place, id in enumerate(ids):
    top, *rows = read_figures(page, place, task=1)
    assert list(top) == ['Input', 'Ground truth']
    assert top['Ground truth'] == plain[id, 'normals', 'label']
    assert rows[0] == {'Prediction': plain[id, 'normals', 'final']}
    assert rows[1] == {title: full[id, 'normals', stage] for title, stage in zip(FULL, STAGES[1:])}
    assert list(rows[1]) == FULL
    assert rows[2] == {}
  assert list(read_figures(page, ids.index('b'), task=0)[3]) == FULL
  texts = {words(score) for score in find_class(page, 'score')}
  assert 'mIoU 40.00 → 31.00 ▼ worse by 9.00' in texts
  assert 'mErr 40.00 → 31.00 ▲ better by 9.00' in texts


def test_only_methods_of_the_report_have_colours_and_notes(tmp_path):
  runs = [write_run(tmp_path / 'p'), write_run(tmp_path / 'f', 'method=feature')]
  for run in runs:
    write_pictures(run)
  note = 'Feature Diffusion decays and denoises features'
  assert note in words(make(tmp_path, *runs)[0])
  assert note not in words(make(tmp_path, runs[0])[0])


def test_best_and_worst_are_shown_with_their_scores(tmp_path):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  best, worst, *_ = find_class(find_section(make(tmp_path, run)[0], 'Best and worst images'), 'card')
  assert words(best).startswith('bestDiffusionMTL (Prediction) a mIoU 40.00 → 30.00')
  assert words(worst).startswith('worstDiffusionMTL (Prediction) b mIoU 40.00 → 31.00')


def test_a_picture_that_is_missing_or_damaged_is_said_to_be(tmp_path):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  (run / 'panels/a/semseg_step1.png').unlink()
  (run / 'panels/b/semseg_step1.png').write_text('no picture')
  empty = find_class(make(tmp_path, run)[0], 'empty')
  assert [words(figure.find('span')) for figure in empty] == ['no picture'] * 2


def test_pictures_stay_within_their_budget(tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, 'BUDGET', 180_000)
  runs = [write_run(tmp_path / 'p'), write_run(tmp_path / 'q', 'method=feature')]
  for run in runs:
    write_pictures(
      run, ids='abcdef', color=lambda rng, size: rng.integers(0, 256, (*size[::-1], 3), np.uint8), size=(64, 48)
    )
  page, _, _ = make(tmp_path, *runs)
  assert 1 <= len(read_thumbnails(page)) < 6
  assert sum(len(image.get('src')) for image in page.iter('img')) < 180_000 * 1.3


def test_pictures_outside_the_run_are_refused(tmp_path):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  index = run / 'panels/index.json'
  index.write_text(index.read_text().replace('a/input.jpg', '../../secret.jpg'))
  with pytest.raises(ValueError, match=r'index\.json: .* is not in this folder'):
    reading.read_images(index)


def test_stages_keep_their_order_and_names():
  assert gallery.stage_names({'step10', 'final', 'step2', 'initial', 'step0'}) == ['initial', 'step0', 'step2', 'final']
  assert [gallery.stage_title(stage, 2) for stage in STAGES] == ['Ground truth', *FULL]


# --- Words and tables ------------------------------------------------------------------------


def test_denoising_is_judged_by_the_direction_of_the_metric(tmp_path):
  page, _, _ = make(tmp_path, write_run(tmp_path / 'p', final=(48, 21, 0.5), initial=(50, 20, 0.6)))
  cards = [words(card) for card in find_class(find_class(page, 'winners')[0], 'card')]
  assert cards == [
    'semseg mIoU ↑ 50.00 → 48.00 ▼ worse by 2.00',
    'normals mErr ↓ 20.00 → 21.00 ▼ worse by 1.00',
    'depth absErr ↓ 0.6000 → 0.5000 ▲ better by 0.1000',
  ]
  assert words(find_class(page, 'lead')[1]) == (
    'Denoising helped at 1 of 3 tasks and hurt semseg and normals, in 2 steps, by a network trained for 7 steps.'
  )


def test_methods_that_do_not_denoise_are_not_said_to(tmp_path):
  run = write_run(tmp_path / 'p', 'method=invpt', final=(48, 19, 0.5), initial=(50, 20, 0.6))
  write_pictures(run, stages=('label', 'initial', 'final'))
  page, text, _ = make(tmp_path, run)
  assert words(find_class(page, 'lead')[1]) == (
    'Refining the initial maps helped at 2 of 3 tasks and hurt semseg, by a network trained for 7 steps.'
  )
  assert '### Initial against final\n' in text
  assert 'enois' not in text + words(page)


def test_every_metric_and_class_is_in_the_details(tmp_path):
  runs = [write_run(tmp_path / f'p{seed}', seed=seed, initial=(1, 2, 3)) for seed in range(2)]
  for run, value in zip(runs, (10.0, 20.5)):
    scores = json.loads((run / 'metrics.json').read_text())
    scores['final']['normals']['median'] = value
    scores['per_class'] = {'semseg': {'sky': value, 'road': None}}
    (run / 'metrics.json').write_text(json.dumps(scores))
  page, _, _ = make(tmp_path, *runs)
  tables = {region.get('aria-label'): read_table(region) for region in find_class(page, 'scroll')}
  name = 'DiffusionMTL (Prediction)'
  assert tables['normals'] == [
    ['normals', 'mErr ↓', 'median ↓'],
    [f'{name}: initial', '2.00 ± 0.00', '–'],
    [f'{name}: final', '20.00 ± 0.00', '15.25 ± 7.42'],
  ]
  classes = read_table(page.findall('.//details[@open]')[0])
  assert classes == [['semseg', 'sky% ↑', 'road% ↑'], [name, '15.25 ± 7.42', '–']]
  assert [row[0] for row in tables['Runs'][1:]] == [str(run) for run in runs]


def test_the_best_method_stands_furthest_right():
  for task, best in ((SEMSEG, 3.0), (NORMALS, 1.0)):
    column = table.task_column(task)
    cells = [table.Cell(column, (value,)) for value in (1.0, 2.0, 3.0)]
    ranking = verdict.Ranking(column, [(None, cell) for cell in cells], gain=None)
    assert max(cells, key=ranking.place).mean == best


def test_a_spread_needs_two_runs():
  column = table.task_column(DEPTH)
  assert table.Cell(column, ()).text == '–'
  assert table.Cell(column, (0.5,)).text == '0.5000'
  assert table.Cell(column, (0.5, 0.6)).text == '0.5500 ± 0.0707'


# --- Curves ----------------------------------------------------------------------------------


def test_a_log_is_read_without_its_broken_line_and_undefined_values(tmp_path):
  path = tmp_path / 'log.jsonl'
  assert reading.read_curves(path) == {}
  write_log(tmp_path, [{'step': 1, 'loss/total': 2.0, 'x': None}, {'step': 2, 'loss/total': float('nan'), 'x': 1}])
  assert reading.read_curves(path) == {'loss/total': ([1], [2.0]), 'x': ([2], [1])}


def test_a_step_that_was_repeated_after_resuming_counts_once(tmp_path):
  write_log(tmp_path, [{'step': s, 'x': v} for s, v in [(1, 5.0), (3, 7.0), (2, 6.0), (3, 8.0)]])
  assert reading.read_curves(tmp_path / 'log.jsonl') == {'x': ([1, 2, 3], [5, 6, 8])}


def test_long_curves_are_thinned_and_fall_where_their_values_fall():
  steps = range(1, 241)
  (line,) = charts.curve_chart('loss', [charts.Curve('a', '#123456', steps, [300 - s for s in steps])]).lines
  assert len(line.points) == 60
  assert all(np.diff([point.x for point in line.points]) > 0)
  assert all(np.diff([point.y for point in line.points]) > 0)  # y of SVG grows downwards
  assert line.points[0].text == 'a, step 4: 297.5'
  assert not line.has_marks


def test_short_curves_have_marks_and_are_not_cut_off():
  curves = [charts.Curve('few', '#123456', [1, 2, 3], [1.0, 2.0, 13.78])]
  dashed = [charts.Curve('few', '#123456', [1, 2], [0.5, 1.0], is_dashed=True)]
  initial, final = charts.curve_chart('loss', [*dashed, *curves]).lines
  assert final.has_marks
  assert final.points[2].y < final.points[1].y
  assert initial.points[1].text == 'few, initial, step 2: 1'


def test_equal_values_have_a_chart():
  (line,) = charts.curve_chart('loss', [charts.Curve('flat', '#000000', [5, 10], [0.0, 0.0])]).lines
  assert line.points[0].y == line.points[1].y


@pytest.mark.parametrize('low, high', [(0, 1), (0.031, 0.0312), (-3, 250), (7, 7), (0, 0), (1e-9, 3e4)])
def test_ticks_are_few_and_hold_the_range(low, high):
  ticks = charts.make_ticks(low, high)
  assert 2 <= len(ticks) <= 7
  assert ticks[0] <= low + 1e-12
  assert ticks[-1] >= high - 1e-12


@pytest.mark.parametrize('width', [360, 1280])
def test_long_names_do_not_widen_the_page(tmp_path, browser, width):
  tasks = (
    make_task('semseg', 'semseg', ('a class with a name of several words', 'road')),
    make_task('marks_on_the_road_surface', 'saliency'),
  )
  run = write_run(
    tmp_path / 'a_run_that_is_named_by_all_its_settings_and_a_date', final=(1, 2), initial=(2, 1), tasks=tasks
  )
  write_pictures(run, tasks=tasks, ids=('IMG_2024-05-11_12-30-59_a_photograph_with_a_long_name',))
  make(tmp_path, run)
  tab = browser.new_page(viewport={'width': width, 'height': 844})
  tab.goto(f'file://{tmp_path}/out/report.html')
  assert tab.evaluate('document.documentElement.scrollWidth') == width
