"""The report's page: pictures in their places, honest words, curves; nothing in it that could break it."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image
import pytest
from report_runs import DEPTH, make, NORMALS, SEMSEG, STAGES, write_log, write_pictures, write_run

from dmtl_jax.inference import gallery
from dmtl_jax.report import charts, results, table, viewer
from dmtl_jax.tasks import make_task

# --- The page --------------------------------------------------------------------------------


def test_names_cannot_break_the_page(tmp_path):
  evil = '</td><script>alert("1")</script>\'&'
  tasks = (make_task('semseg', 'semseg', (evil, 'road')), DEPTH)
  run = write_run(
    tmp_path / 'a<img src=x onerror=y>', f'labels={evil.replace("/", "")}', (1, 2), (2, 1), tasks, data__name=evil
  )
  write_pictures(run, tasks=tasks, ids=('x"><script>',))
  write_log(run, [{'step': s, 'loss/final/depth': 1.0} for s in (1, 2)])
  page, _text, rows = make(tmp_path, run)  # the checker finds scripts and foreign attributes
  assert '<script' not in page and '&lt;script&gt;alert' in page
  assert rows[0]['data'] == evil


def figures(page, shot):
  """Colour of each picture of a shot of the viewer, by caption, row after row."""
  part = page.split(f'class="shot {shot}"')[1].split('class="shot')[0]
  rows = []
  for strip in part.split('<div class="strip')[1:]:
    row = {}
    for uri, caption in re.findall(r'<img src="data:image/webp;base64,([^"]+)"[^>]*><figcaption>([^<]*)', strip):
      pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert('RGB'))
      row[caption] = tuple(pixels[2, 2].tolist())
    rows.append(row)
  return rows


def test_pictures_stand_by_image_task_method_and_stage(tmp_path):
  runs = [
    write_run(tmp_path / 'm', 'method=mtl_baseline'),
    write_run(tmp_path / 'p'),
    write_run(tmp_path / 'f', 'method=feature'),
  ]
  plain = write_pictures(runs[0], stages=('label', 'final'))
  full = write_pictures(runs[1])
  write_pictures(runs[2], ids=('b',), tasks=(SEMSEG,))
  page, _, _ = make(tmp_path, *runs)
  images = {alt: i for i, alt in enumerate(re.findall(r'<label for="s0vi\d"><img [^>]*alt="(\w)"', page))}
  assert set(images) == {'a', 'b'}
  for id in 'ab':
    top, first, second, third = figures(page, f's0v-i{images[id]}-t1')
    assert top['Ground truth'] == plain[id, 'normals', 'label'] and set(top) == {'Input', 'Ground truth'}
    assert first == {'Prediction': plain[id, 'normals', 'final']}
    assert second == {
      'Initial': full[id, 'normals', 'initial'],
      'Decayed': full[id, 'normals', 'step0'],
      'Denoised 1/2': full[id, 'normals', 'step1'],
      'Denoised 2/2': full[id, 'normals', 'final'],
      'Nearer the truth: blue': full[id, 'normals', 'change'],
    }
    assert list(second) == ['Initial', 'Decayed', 'Denoised 1/2', 'Denoised 2/2', 'Nearer the truth: blue']
    assert third == {}
  assert len(figures(page, f's0v-i{images["b"]}-t0')[3]) == 5  # feature has drawn b, semseg alone
  assert 'mIoU 40.00 → 31.00 <span class="chip bad">▼ worse by 9.00' in page
  assert 'mErr 40.00 → 31.00 <span class="chip good">▲ better by 9.00' in page


def test_a_method_brings_its_colour_and_what_to_know_of_its_pictures(tmp_path):
  runs = [write_run(tmp_path / 'p'), write_run(tmp_path / 'f', 'method=feature')]
  for run in runs:
    write_pictures(run)
  both, alone = make(tmp_path, *runs)[0], make(tmp_path, runs[0])[0]
  assert '#0b9a74' in both and '#4f7df0' in both and '#4f7df0' not in alone
  assert 'Feature Diffusion decays and denoises features' in both and 'decays and denoises' not in alone


def test_best_and_worst_are_shown_with_their_scores(tmp_path):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  page, _, _ = make(tmp_path, run)
  cards = re.findall(r'<article class="card (best|worst)">.*?<p class="note">(\w) .*?mIoU 40.00 → (\d+)', page)
  assert cards[:2] == [('best', 'a', '30'), ('worst', 'b', '31')]


def test_a_picture_that_is_gone_is_told(tmp_path):
  run = write_run(tmp_path / 'p')
  write_pictures(run)
  (run / 'panels/a/semseg_step1.png').unlink()
  (run / 'panels/b/semseg_step1.png').write_text('no picture')
  page, _, _ = make(tmp_path, run)
  assert page.count('no picture') == 2


def test_pictures_stay_within_their_budget(tmp_path, monkeypatch):
  monkeypatch.setattr(viewer.Album.__init__, '__defaults__', (180_000,))
  noise = lambda rng, size: rng.integers(0, 256, (*size[::-1], 3), np.uint8)
  runs = [write_run(tmp_path / 'p'), write_run(tmp_path / 'q', 'method=feature')]
  for run in runs:
    write_pictures(run, ids='abcdef', color=noise, size=(64, 48))
  page, _, _ = make(tmp_path, *runs)
  assert 1 <= len(set(re.findall(r'id="s0vi\d"', page))) < 6
  assert len(page) < 180_000 * 1.3 + 60_000


def test_denoising_is_judged_by_the_direction_of_the_metric(tmp_path):
  run = write_run(tmp_path / 'p', final=(48, 21, 0.5), initial=(50, 20, 0.6))
  page, _, _ = make(tmp_path, run)
  section = page.split('<h3>')[0]
  assert re.findall(r'<h4>(\w+)</h4>.*?class="chip (good|bad)">. (\w+) by ([\d.]+)', section) == [
    ('semseg', 'bad', 'worse', '2.00'),
    ('normals', 'bad', 'worse', '1.00'),
    ('depth', 'good', 'better', '0.1000'),
  ]
  told = 'Denoising helped at 1 of 3 tasks and hurt <strong>semseg</strong> and <strong>normals</strong>, in 2 steps'
  assert f'<p class="lead">{told}, by a network trained for 7 steps.</p>' in page
  assert '<small>50.00 →</small> 48.00' in section


def test_every_metric_and_class_is_in_the_details(tmp_path):
  runs = [write_run(tmp_path / f'p{seed}', seed=seed, initial=(1, 2, 3)) for seed in range(2)]
  for run, value in zip(runs, (10.0, 20.5)):
    scores = json.loads((run / 'metrics.json').read_text())
    scores['final']['normals']['median'] = value
    scores['per_class'] = {'semseg': {'sky': value, 'road': None}}
    (run / 'metrics.json').write_text(json.dumps(scores))
  page, _, _ = make(tmp_path, *runs)
  assert re.search(r'>normals</th><th scope="col">mErr</th><th scope="col">median</th>', page)
  assert re.search(r'\(Prediction\): initial</th><td>2.00</td><td>–</td>', page)
  assert re.search(r'\(Prediction\): final</th><td>20.00</td><td>15.25</td>', page)
  assert re.search(r'>sky</th><th scope="col">road</th>.*?</th><td>15.25</td><td>–</td>', page)
  assert all(f'>{run}</th>' in page for run in runs)


# --- Curves ----------------------------------------------------------------------------------


def test_a_log_is_read_without_its_broken_line_and_undefined_values(tmp_path):
  write_log(tmp_path, [{'step': 1, 'loss/total': 2.0, 'x': None}, {'step': 2, 'loss/total': float('nan'), 'x': 1}])
  assert results.read_curves(tmp_path / 'log.jsonl') == {'loss/total': ([1], [2.0]), 'x': ([2], [1])}
  assert results.read_curves(tmp_path / 'none.jsonl') == {}
  write_log(tmp_path, [{'step': s, 'x': v} for s, v in [(1, 5.0), (3, 7.0), (2, 6.0), (3, 8.0)]])  # resumed
  assert results.read_curves(tmp_path / 'log.jsonl') == {'x': ([1, 2, 3], [5, 6, 8])}


def test_curves_fall_where_their_values_fall():
  svg = charts.plot([('a & b', '#123456', range(1, 241), [300 - s for s in range(1, 241)])], 'loss')
  points = [tuple(map(float, p.split(','))) for p in re.search('points="([^"]+)"', svg).group(1).split()]
  x, y = zip(*points)
  assert len(points) == 60 and all(np.diff(x) > 0) and all(np.diff(y) > 0)  # y of SVG grows downwards
  assert 'a &amp; b, step 4: 297.5' in svg and '#123456' in svg
  few = charts.plot(
    [('few', '#123456', [1, 2, 3], [1.0, 2.0, 13.78])], 'loss', [('few', '#123456', [1, 2], [0.5, 1.0])]
  )
  dots = [float(y) for y in re.findall(r'cy="([\d.]+)"', few)]
  assert dots == sorted(dots[:2], reverse=True) + sorted(dots[2:], reverse=True)  # 13.78 is not cut off
  assert few.count('stroke-dasharray') == 1 and 'few, initial, step 2: 1' in few
  flat = charts.plot([('flat', '#000000', [5, 10], [0.0, 0.0])], 'loss')
  assert 'nan' not in flat


@pytest.mark.parametrize('low, high', [(0, 1), (0.031, 0.0312), (-3, 250), (7, 7), (0, 0), (1e-9, 3e4)])
def test_ticks_are_few_and_hold_the_range(low, high):
  ticks = charts._ticks(low, high)
  assert 2 <= len(ticks) <= 7 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


def test_the_best_method_stands_furthest_right():
  for task, order in ((SEMSEG, [3.0, 2.0, 1.0]), (NORMALS, [1.0, 2.0, 3.0])):
    strip = charts.strip(task, [(f'm{v}', '#fff', v) for v in order])
    places = {name: float(left) for left, name in re.findall(r'left:([\d.]+)%[^>]*title="(m[\d.]+):', strip)}
    assert sorted(places, key=places.get, reverse=True) == [f'm{v}' for v in order]


def test_stages_keep_their_order_and_names():
  assert gallery.stage_names({'step10', 'final', 'step2', 'initial', 'step0'}) == ['initial', 'step0', 'step2', 'final']
  assert [gallery.stage_title(s, 2) for s in STAGES] == [
    'Ground truth',
    'Initial',
    'Decayed',
    'Denoised 1/2',
    'Denoised 2/2',
    'Nearer the truth: blue',
  ]


def test_a_spread_needs_two_runs():
  column = table.Column('depth', 'absErr', False, 4)
  assert table.Cell(column, ()).text == '–' and table.Cell(column, (0.5,)).text == '0.5000'
  assert table.Cell(column, (0.5, 0.6)).text == '0.5500 ± 0.0707'
