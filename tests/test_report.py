"""The report of runs that the test writes itself, against tables worked out by hand."""

import base64
import csv
import html.parser
import io
import json
import re
import shutil
import statistics

from PIL import Image
import jax
import numpy as np
import pytest

from configs import common
from dmtl_jax import pictures, report, report_charts, report_pictures, report_table, state, workdir as workdir_lib
from dmtl_jax.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.tasks import Task

SEMSEG, NORMALS, DEPTH = Task('semseg', 'semseg', ('sky', 'road')), Task('normals', 'normals'), Task('depth', 'depth')
TASKS = (SEMSEG, NORMALS, DEPTH)
STAGES = ('label', 'initial', 'step0', 'step1', 'final')


def write_run(path, arg='method=prediction', final=(50, 20, 1), initial=None, tasks=TASKS, seed=0, cost=True, **fields):
  """A workdir as training and evaluation leave it, without pictures; scores are in the order of the tasks."""
  config = common.base(arg)
  config.seed, config.data.name, config.data.size = seed, 'rooms', (32, 32)
  for name, value in fields.items():
    group, _, field = name.partition('__')
    config[group][field] = value
  workdir_lib.write_json(path / 'config.json', workdir_lib.to_json(config))
  workdir_lib.write_tasks(path, tasks)
  table = lambda values: {task.name: {task.metric: value} for task, value in zip(tasks, values)}
  if final is not None:
    stages = {'final': table(final)} | ({'initial': table(initial)} if initial else {})
    workdir_lib.write_json(path / 'metrics.json', {'step': 7, **stages, 'seconds_per_image': 0.25})
  if cost:
    workdir_lib.write_json(path / 'cost.json', {'parameters': 2_500_000, 'gmac': 3.5, 'train_memory_bytes': None})
  return path


def write_pictures(path, ids=('a', 'b'), tasks=TASKS, stages=STAGES, color=None, size=(12, 8)):
  """W/panels with pictures of one colour each; returns {(id, task, stage): colour}."""
  images, colors = [], {}
  rng = np.random.default_rng(abs(hash(path.name)) % 1000)
  for index, id in enumerate(ids):
    entry = {'id': id, 'index': index, 'input': f'{id}/input.jpg', 'tasks': {}}
    (path / 'panels' / id).mkdir(parents=True)
    Image.new('RGB', size, (10, 20, 30)).save(path / 'panels' / entry['input'])
    for task in tasks:
      files = {stage: f'{id}/{task.name}_{stage}.png' for stage in stages}
      for stage, file in files.items():
        colors[id, task.name, stage] = tuple(rng.integers(0, 256, 3).tolist())
        pixels = color(rng, size) if color else np.full((*size[::-1], 3), colors[id, task.name, stage], np.uint8)
        Image.fromarray(pixels).save(path / 'panels' / file)
      why = ['panel', *(['best'] if index == 0 else []), *(['worst'] if index == len(ids) - 1 else [])]
      entry['tasks'][task.name] = {'why': why, 'scores': {'initial': 40.0, 'final': 30.0 + index}, 'files': files}
    images.append(entry)
  workdir_lib.write_json(path / 'panels' / 'index.json', {'images': images})
  return colors


def write_log(path, rows):
  (path / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"step": 9, "loss/to')


def make(tmp_path, *runs):
  """The page, the Markdown and the CSV rows of some runs."""
  page = report.write_report([str(run) for run in runs], str(tmp_path / 'out')).read_text()
  Checker().check(page)
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'report.csv').read_text())))
  return page, (tmp_path / 'out' / 'report.md').read_text(), rows


class Checker(html.parser.HTMLParser):
  """What every page must be: well nested, self-contained, without scripts, pictures described, labels of inputs."""

  VOID = {'meta', 'img', 'input', 'line', 'circle', 'polyline'}

  def check(self, page):
    self.open, self.ids, self.targets = [], [], []
    self.feed(page)
    assert not self.open and len(set(self.ids)) == len(self.ids)
    assert set(self.targets) <= set(self.ids)
    assert len(page) < 5_000_000

  def handle_starttag(self, tag, attributes):
    values = dict(attributes)
    if tag not in self.VOID:
      self.open.append(tag)
    self.ids += [values['id']] if 'id' in values else []
    self.targets += [values[name].lstrip('#') for name in ('for', 'href') if name in values]
    assert tag != 'script' and not any(name.startswith('on') for name in values)
    assert values.get('src', 'data:').startswith('data:') and values.get('href', '#').startswith('#')
    assert tag != 'img' or values.get('alt')

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag


# --- Tables ----------------------------------------------------------------------------------


def test_seeds_are_joined_and_delta_m_is_against_the_single_task_run(tmp_path):
  single = write_run(tmp_path / 's', 'method=single_task', (50, 20, 1))
  runs = [write_run(tmp_path / f'p{i}', seed=i, final=scores) for i, scores in enumerate([(55, 18, 1.1), (57, 19, 0.9)])]
  _, text, rows = make(tmp_path, runs[0], single, runs[1])
  assert [row['method'] for row in rows] == ['Single-Task', 'DiffusionMTL (Prediction)']
  deltas = [100 * ((s - 50) / 50 + (20 - n) / 20 + (1 - d)) / 3 for s, n, d in [(55, 18, 1.1), (57, 19, 0.9)]]
  assert rows[1]['runs'] == '2' and rows[0]['Δm %'] == ''
  expected = {'semseg mIoU': (56, 2**0.5), 'normals mErr': (18.5, 0.5**0.5), 'depth absErr': (1, 0.02**0.5),
              'Δm %': (statistics.mean(deltas), statistics.stdev(deltas)), 'time s/image': (0.25, 0)}
  for name, (mean, spread) in expected.items():
    assert float(rows[1][name]) == pytest.approx(mean) and float(rows[1][f'{name} spread']) == pytest.approx(spread), name
  line = next(line for line in text.splitlines() if line.startswith('| DiffusionMTL'))
  assert '| **56.00 ± 1.41** | **18.50 ± 0.71** | 1.0000 ± 0.1414 | +' in line and line.endswith('| 2 |')
  assert '| semseg mIoU ↑ | normals mErr ↓ | depth absErr ↓ | Δm % ↑ |' in text


def test_the_best_of_a_column_is_bold_by_its_direction_and_ties_share_it(tmp_path):
  a = write_run(tmp_path / 'a', 'method=mtl_baseline', (50.001, 21, 1))
  b = write_run(tmp_path / 'b', 'method=feature', (50.002, 20, 1))
  page, text, _ = make(tmp_path, a, b)
  assert '| MTL Baseline | 50.00 | 21.00 | 1.0000 |' in text  # all the same: nothing is bold
  assert '| DiffusionMTL (Feature) | 50.00 | **20.00** | 1.0000 |' in text
  assert 'is best at 1 of 3 tasks' in page and page.count('class=best') == 1


def test_config_gives_the_single_task_scores_where_no_run_does(tmp_path):
  run = write_run(tmp_path / 'p', final=(60, 20, 1), eval__single_task=dict(semseg=50.0, normals=20.0, depth=1.0))
  _, text, rows = make(tmp_path, run)
  assert float(rows[0]['Δm %']) == pytest.approx(100 * 0.2 / 3) and 'against config.eval.single_task' in text


def test_what_differs_between_runs_of_a_method_is_named(tmp_path):
  runs = [write_run(tmp_path / '1', 'method=prediction,steps=1'), write_run(tmp_path / '3', 'method=prediction,steps=3'),
          write_run(tmp_path / 'r', 'method=feature,backbone=resnet50'), write_run(tmp_path / '4', train__log_every=99)]
  _, _, rows = make(tmp_path, *runs)
  assert [(row['method'], row['runs']) for row in rows] == [
      ('DiffusionMTL (Prediction), steps=1', '1'), ('DiffusionMTL (Prediction), steps=3', '1'),
      ('DiffusionMTL (Prediction), steps=2', '1'), ('DiffusionMTL (Feature), R50', '1')]


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


def test_a_backbone_is_compared_to_its_own_single_task_run(tmp_path):
  runs = [write_run(tmp_path / f'{b}{m}', f'method={m},backbone=resnet{b}', (score, 20, 1))
          for b, m, score in [(18, 'single_task', 50), (50, 'single_task', 60), (18, 'feature', 55), (50, 'feature', 54)]]
  _, _, rows = make(tmp_path, *runs)
  deltas = {row['method']: row['Δm %'] for row in rows}
  assert float(deltas['DiffusionMTL (Feature)']) == pytest.approx(10 / 3)
  assert float(deltas['DiffusionMTL (Feature), R50']) == pytest.approx(-10 / 3)


def test_parameters_are_counted_where_training_did_not_write_them(tmp_path):
  small = dict(model__width=4, model__channels=8, model__depth=1)
  run = write_run(tmp_path / 'p', 'method=mtl_baseline', cost=False, final=None, **small)
  _, _, rows = make(tmp_path, run)
  config = workdir_lib.read_config(run)
  shapes = jax.eval_shape(lambda key: state.init_variables(build_model(config, TASKS), key, (32, 32)), jax.random.key(0))
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes['params']))
  assert float(rows[0]['params M']) == pytest.approx(count / 1e6) and float(rows[0]['compute GMAC']) > 0


# --- What may be missing ---------------------------------------------------------------------


def test_data_sets_and_label_settings_have_their_own_tables(tmp_path):
  runs = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'labels=random'),
          write_run(tmp_path / 'c', tasks=TASKS[:2], final=(1, 2), data__name='streets')]
  page, text, rows = make(tmp_path, *runs)
  assert re.findall('^## (.*)', text, re.M) == [
      'rooms, one labelled task an image', 'rooms, random labelled tasks', 'streets, one labelled task an image']
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
  assert [row['Δm %'] if 'Δm %' in row else '' for row in rows] == ['', '', '']
  assert '| DiffusionMTL (Prediction) | 40.00 | – | **0.5000** |' in text and '| – | **10.00** | 2.0000 |' in text
  assert '(Prediction)</strong> worse at 1 of 2 tasks' in page  # 0.5 is worse than 0.4, 40 is 40
  assert '(Feature)</strong> better at 1 of 1 tasks' in page
  assert 'nan' not in text and not re.search(r'\bnan\b', page)


def test_one_bare_run_is_a_report(tmp_path):
  page, text, _ = make(tmp_path, write_run(tmp_path / 'p'))
  assert '50.00' in text and '**' not in text and '<svg' not in page and 'Image by image' not in page


@pytest.mark.parametrize('spoil, message', [
    (lambda run: (run / 'metrics.json').write_text('{"final": '), r'metrics\.json: not JSON'),
    (lambda run: (run / 'panels').mkdir() or (run / 'panels/index.json').write_text('x'), r'index\.json: not JSON'),
    (lambda run: shutil.rmtree(run), r'config\.json: no such file'),
])
def test_a_damaged_run_is_named(tmp_path, spoil, message):
  run = write_run(tmp_path / 'p')
  spoil(run)
  with pytest.raises(UserError, match=message):
    report.write_report([str(run)], str(tmp_path / 'out'))
  with pytest.raises(UserError, match='names no run'):
    report.write_report([''], str(tmp_path / 'out'))


# --- The page --------------------------------------------------------------------------------


def test_names_cannot_break_the_page(tmp_path):
  evil = '</td><script>alert("1")</script>\'&'
  tasks = (Task('semseg', 'semseg', (evil, 'road')), DEPTH)
  run = write_run(tmp_path / 'a<img src=x onerror=y>', f'labels={evil.replace("/", "")}', (1, 2), (2, 1), tasks, data__name=evil)
  write_pictures(run, tasks=tasks, ids=('x"><script>',))
  write_log(run, [{'step': s, 'loss/final/depth': 1.0} for s in (1, 2)])
  page, text, rows = make(tmp_path, run)  # the checker finds scripts and foreign attributes
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
  runs = [write_run(tmp_path / 'm', 'method=mtl_baseline'), write_run(tmp_path / 'p'), write_run(tmp_path / 'f', 'method=feature')]
  plain = write_pictures(runs[0], stages=('label', 'final'))
  full = write_pictures(runs[1])
  write_pictures(runs[2], ids=('b',), tasks=(SEMSEG,))
  page, _, _ = make(tmp_path, *runs)
  images = {alt: i for i, alt in enumerate(re.findall(r'<label for="s0vi\d"><img [^>]*alt="(\w)"', page))}
  assert set(images) == {'a', 'b'}
  for id in 'ab':
    top, first, second, third = figures(page, f's0v-{images[id]}-1')
    assert top['Ground truth'] == plain[id, 'normals', 'label'] and set(top) == {'Input', 'Ground truth'}
    assert first == {'Prediction': plain[id, 'normals', 'final']}
    assert second == {
        'Initial': full[id, 'normals', 'initial'], 'Decayed': full[id, 'normals', 'step0'],
        'Denoised 1/2': full[id, 'normals', 'step1'], 'Denoised 2/2': full[id, 'normals', 'final']}
    assert third == {}
  assert len(figures(page, f's0v-{images["b"]}-0')[3]) == 4  # feature has drawn b, semseg alone
  assert 'mIoU 40.00 → 31.00 <span class="chip bad">▼ worse by 9.00' in page
  assert 'mErr 40.00 → 31.00 <span class="chip good">▲ better by 9.00' in page


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
  monkeypatch.setattr(report_pictures.Album.__init__, '__defaults__', (150_000,))
  noise = lambda rng, size: rng.integers(0, 256, (*size[::-1], 3), np.uint8)
  runs = [write_run(tmp_path / 'p'), write_run(tmp_path / 'q', 'method=feature')]
  for run in runs:
    write_pictures(run, ids='abcdef', color=noise, size=(64, 48))
  page, _, _ = make(tmp_path, *runs)
  assert 1 <= len(set(re.findall(r'id="s0vi\d"', page))) < 6
  assert len(page) < 150_000 * 1.3 + 60_000


def test_denoising_is_judged_by_the_direction_of_the_metric(tmp_path):
  run = write_run(tmp_path / 'p', final=(48, 21, 0.5), initial=(50, 20, 0.6))
  page, _, _ = make(tmp_path, run)
  section = page.split('What denoising changes')[1].split('<h3>')[0]
  assert re.findall(r'<h4>(\w+)</h4>.*?class="chip (good|bad)">. (\w+) by ([\d.]+)', section) == [
      ('semseg', 'bad', 'worse', '2.00'), ('normals', 'bad', 'worse', '1.00'), ('depth', 'good', 'better', '0.1000')]
  assert '(Prediction)</strong> better at 1, worse at 2 of 3 tasks' in page


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
  assert report.read_curves(tmp_path / 'log.jsonl') == {'loss/total': ([1], [2.0]), 'x': ([2], [1])}
  assert report.read_curves(tmp_path / 'none.jsonl') == {}
  write_log(tmp_path, [{'step': s, 'x': v} for s, v in [(1, 5.0), (3, 7.0), (2, 6.0), (3, 8.0)]])  # resumed
  assert report.read_curves(tmp_path / 'log.jsonl') == {'x': ([1, 2, 3], [5, 6, 8])}


def test_curves_fall_where_their_values_fall():
  svg = report_charts.plot([('a & b', '#123456', range(1, 241), [300 - s for s in range(1, 241)])], 'loss')
  points = [tuple(map(float, p.split(','))) for p in re.search('points="([^"]+)"', svg).group(1).split()]
  x, y = zip(*points)
  assert len(points) == 60 and all(np.diff(x) > 0) and all(np.diff(y) > 0)  # y of SVG grows downwards
  assert 'a &amp; b, step 4: 297.5' in svg and '#123456' in svg
  flat = report_charts.plot([('flat', '#000000', [5, 10], [0.0, 0.0])], 'loss')
  assert 'nan' not in flat


@pytest.mark.parametrize('low, high', [(0, 1), (0.031, 0.0312), (-3, 250), (7, 7), (0, 0), (1e-9, 3e4)])
def test_ticks_are_few_and_hold_the_range(low, high):
  ticks = report_charts._ticks(low, high)
  assert 2 <= len(ticks) <= 7 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


def test_the_best_method_stands_furthest_right():
  for task, order in ((SEMSEG, [3.0, 2.0, 1.0]), (NORMALS, [1.0, 2.0, 3.0])):
    strip = report_charts.strip(task, [(f'm{v}', '#fff', v) for v in order])
    places = {name: float(left) for left, name in re.findall(r'left:([\d.]+)%[^>]*title="(m[\d.]+):', strip)}
    assert sorted(places, key=places.get, reverse=True) == [f'm{v}' for v in order]


def test_stages_keep_their_order_and_names():
  assert pictures.stage_names({'step10', 'final', 'step2', 'initial', 'step0'}) == ['initial', 'step0', 'step2', 'final']
  assert [pictures.stage_title(s, 2) for s in STAGES] == ['Ground truth', 'Initial', 'Decayed', 'Denoised 1/2', 'Denoised 2/2']


def test_a_spread_needs_two_runs():
  column = report_table.Column('depth', 'absErr', False, 4)
  assert report_table.Cell(column, ()).text == '–' and report_table.Cell(column, (0.5,)).text == '0.5000'
  assert report_table.Cell(column, (0.5, 0.6)).text == '0.5500 ± 0.0707'
