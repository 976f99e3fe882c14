"""The report about the data, against numbers worked out by hand."""

import csv
import json

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import label_settings
from dmtl_jax.inference import calibration
from dmtl_jax.metrics.segmentation import intersection_over_union
from dmtl_jax.report import pictures, results
from dmtl_jax.report.data import classes, part, poorest, prospects, sentence
from dmtl_jax.tasks import make_task
from tests import calibrations
from tests.report_runs import DEPTH, find_class, find_section, make, read_table, words, write_log, write_run

NAMES = ('sky', 'road', 'pole', 'car', 'train')
CONFUSION = np.array(
  [[80, 10, 0, 0, 0], [0, 40, 0, 10, 0], [30, 20, 0, 0, 0], [0, 9, 0, 1, 0], [0, 0, 0, 0, 0]]
)  # of 200 pixels
SEMSEG = make_task('semseg', 'semseg', NAMES)


def write(path, arg='method=prediction', confusion=CONFUSION, rows=(), labels=None, final=(31.2, 0.5), **more):
  """A run of semseg and depth with confusion.json, per_image.csv and labels.json."""
  write_run(path, arg, final, tasks=(SEMSEG, DEPTH), **more)
  atomic.write_json(path / 'confusion.json', {'semseg': np.asarray(confusion).tolist()})
  if final is not None and np.shape(confusion) == CONFUSION.shape:
    metrics = json.loads((path / 'metrics.json').read_text())
    atomic.write_json(path / 'metrics.json', metrics | {'per_class': {'semseg': per_class(confusion)}})
  if rows:
    atomic.write_csv(path / 'per_image.csv', list(rows))
  if labels is not None:
    atomic.write_json(path / 'labels.json', labels)
  return path


def per_class(confusion, refuted=0):
  """As in metrics.json."""
  ious = 100 * intersection_over_union(np.asarray(confusion), refuted)
  return {name: None if np.isnan(iou) else iou for name, iou in zip(NAMES, ious)}


def read_sentences(path, **fields):
  return sentence.describe(results.read_run(write(path, **fields)))


def test_labels_that_a_model_predicted_are_counted_apart(tmp_path):
  labels = {'a': ['semseg', 'predicted:depth'], 'b': ['depth'], 'c': ['predicted:semseg', 'predicted:depth']}
  config = 'method=prediction,labels=full'
  section = results.sections([results.read_run(write(tmp_path / 'run', config, labels=labels))])[0]
  assert section.title == (
    'rooms, as labelled: semseg 1, depth 1 of 3 images; labels that a model predicted: semseg 1, depth 2'
  )
  rows = part._label_rows(section.entries[0].runs[0])
  assert [(row.training, row.predicted) for row in rows] == [(1, 1), (1, 2)]


# --- Classes -----------------------------------------------------------------------------------


def test_a_class_has_its_iou_share_and_what_it_is_taken_for():
  sky, _, pole, car, train = classes.class_rows(CONFUSION, NAMES, per_class(CONFUSION))
  assert sky[1:] == (pytest.approx(80 / 120), 0.45, pytest.approx(80 / 90), 'road', pytest.approx(10 / 90))
  assert pole[1:] == (0, 0.25, 0, 'sky', 0.6)
  assert car[1:] == (pytest.approx(1 / 20), 0.05, 0.1, 'road', 0.9)
  assert (train.share, train.taken_for) == (0, '')
  assert np.isnan([train.iou, train.found, train.taken]).all()


def test_an_iou_is_that_of_the_evaluation_where_labels_are_partly_annotated():
  """40 more pixels were predicted as sky, of which is only known that they are not."""
  rows = classes.class_rows(CONFUSION, NAMES, per_class(CONFUSION, refuted=np.array([40, 0, 0, 0, 0])))
  assert rows[0].iou == pytest.approx(80 / 160)


def test_rows_of_the_heat_map_are_shares_of_labelled_pixels():
  heat = classes.heat_map(CONFUSION, NAMES)
  assert heat.heads == ['sky', 'road', 'pole', 'car']  # no label of a train, and none predicted
  assert [[cell.text for cell in row.cells] for row in heat.rows] == [
    ['89', '11', '', ''],
    ['', '80', '', '20'],
    ['60', '40', '', ''],
    ['', '90', '', '10'],
  ]
  assert [[cell.is_diagonal for cell in row.cells].index(True) for row in heat.rows] == [0, 1, 2, 3]
  assert heat.rows[2].cells[0].title == 'pole predicted as sky: 60.0%'
  assert heat.hidden == 0


def test_of_many_classes_the_most_wrong_are_shown_and_the_rest_share_a_column():
  names = [f'class{i}' for i in range(150)]
  confusion = np.diag(np.full(150, 100))
  for i in range(30, 50):
    confusion[i, 0] = i  # of the wrong pixels of these 20, classes 30 and 31 have the fewest
  heat = classes.heat_map(confusion, names)
  assert [row.name for row in heat.rows] == names[32:50]
  assert heat.heads == [*names[32:50], 'others']
  assert heat.rows[-1].cells[-1].title == f'class49 predicted as others: {49 / 149:.1%}'
  assert heat.hidden == 132


def test_letters_are_legible_on_every_cell():
  def luminance(color):
    values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

  for share in np.linspace(0, 1, 101):
    pair = sorted(luminance(color(share)) for color in (classes.heat_color, classes.letter_color))
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, share  # WCAG 2, AA


def test_the_page_has_the_matrix_and_a_table_that_sorts(tmp_path):
  page = make(tmp_path, write(tmp_path / 'p'))[0]
  table = find_class(page, 'classes-table')[0]
  assert read_table(table)[3] == ['pole', '0.0', '25.0', '0.0', 'sky (60.0)']
  assert read_table(table)[5] == ['train', '–', '0.0', '–', '–']
  assert [cell.get('data-value') for cell in list(table.iter('tr'))[3].iter('td')] == ['0.0', '0.25', '0.0', '0.6']
  assert list(table.iter('tr'))[5].find('td').get('data-value') is None
  assert 'sortable' in next(table.iter('table')).get('class')
  heat = find_class(page, 'heat')[0]
  assert read_table(heat)[3] == ['pole', '60', '40', '', '']
  assert 'sortable' not in next(heat.iter('table')).get('class', '')
  assert find_class(find_section(page, 'Scores and costs'), 'sortable')
  assert next(iter(find_section(page, 'Scores and costs').iter('td'))).get('data-value') == '31.2'
  assert 'IoU by class' not in words(page)  # it is in the table


@pytest.mark.parametrize('content', ['{"semseg": [[1, 2], [3, 4]]}', '{"semseg": 3}', '[]', '{"semseg": [[-1]]}', '{'])
def test_a_damaged_matrix_is_named(tmp_path, content):
  (write(tmp_path / 'p') / 'confusion.json').write_text(content)
  with pytest.raises(UserError, match=r'confusion\.json: not .*; run --mode=evaluate again'):
    results.read_run(tmp_path / 'p')


# --- The first sentence ------------------------------------------------------------------------


def test_the_first_sentence_names_what_is_never_found(tmp_path):
  assert read_sentences(tmp_path / 'p') == [
    'semseg 31.20 mIoU, depth 0.5000 absErr; pole (25% of pixels) is never found.',
    'Annotated in no validation label: train.',
  ]
  confusion = CONFUSION.copy()
  confusion[3] = [0, 998, 0, 2, 0]
  confusion[0] = [0, 250, 0, 0, 0]
  assert read_sentences(tmp_path / 'q', confusion=confusion)[0] == (
    'semseg 31.20 mIoU, depth 0.5000 absErr; sky and pole (3.7 to 19% of pixels) are never found, car (74%) hardly ever.'
  )


def test_where_everything_is_found_the_weakest_class_is_named(tmp_path):
  confusion = np.full((5, 5), 5) + np.diag([10, 20, 30, 40, 50])
  assert read_sentences(tmp_path / 'p', confusion=confusion) == [
    'semseg 31.20 mIoU, depth 0.5000 absErr.',
    'Every labelled class is found; the weakest is sky, with an IoU of 27.3%.',
  ]


def test_what_has_no_score_is_said(tmp_path):
  nan = float('nan')
  assert read_sentences(tmp_path / 'p', final=(nan, 0.5), confusion=0 * CONFUSION) == [
    'depth 0.5000 absErr.',
    'Not scored, as it appears in no validation label: semseg.',
  ]
  assert read_sentences(tmp_path / 'q', final=(nan, nan)) == [
    'Nothing was scored, as no task appears in a validation label; add labels to the validation images.'
  ]
  assert read_sentences(tmp_path / 'r', final=None) == []


def test_page_and_text_begin_with_the_sentence_for_one_run_and_fold_it_for_several(tmp_path):
  runs = [write(tmp_path / 'a'), write(tmp_path / 'b', 'method=feature', final=(40, 0.4))]
  page, text, _ = make(tmp_path, runs[0])
  assert words(find_class(page, 'lead')[0]).endswith('pole (25% of pixels) is never found.')
  assert text.splitlines()[2].endswith('never found. Annotated in no validation label: train.')
  page, text, _ = make(tmp_path, *runs)
  (folded,) = find_class(page, 'data')
  assert folded.tag == 'details'
  assert f'Scores are those of the run in {runs[1]}.' in words(folded)  # the better one
  assert 'never found' not in ' '.join(map(words, find_class(page, 'lead'))) + text


def test_several_label_settings_of_one_data_set_have_one_data_part(tmp_path):
  few = write(tmp_path / 'few', labels={'a': ['semseg'], 'b': []})
  many = write(tmp_path / 'many', 'labels=random', labels={'a': ['semseg'], 'b': ['depth']})
  page = make(tmp_path, few, many)[0]
  assert len(find_class(page, 'data')) == 1
  assert find_class(find_class(page, 'part')[1], 'data')  # with the run of most labels


# --- Labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize('labels, title', [
  ({'a': ['semseg', 'depth'], 'b': ['semseg', 'depth']}, 'all tasks labelled'),
  ({'a': ['semseg'], 'b': ['depth'], 'c': ['depth'], 'd': []}, 'as labelled: semseg 1, depth 2 of 4 images'),
  ({'a': ['semseg']}, 'as labelled: semseg 1, depth 0 of 1 images'),
  (None, 'every label that exists'),
])  # fmt: skip
def test_the_title_says_what_is_labelled(tmp_path, labels, title):
  page = make(tmp_path, write(tmp_path / 'p', 'labels=full', labels=labels))[0]
  assert words(page.find('.//h2')) == f'rooms, {title}'


def test_labels_are_counted_by_task(tmp_path):
  rows = [{'id': 'x', 'semseg/labelled %': 50.0, 'depth/labelled %': 0.0}, {'id': 'y', 'semseg/labelled %': 100.0}]
  run = write(tmp_path / 'p', labels={'a': ['semseg'], 'b': ['semseg', 'depth'], 'c': []}, rows=rows)
  table = read_table(find_class(make(tmp_path, run)[0], 'labels-table')[0])
  assert table[1:] == [['semseg', '2 of 3', '2 of 2', '75.0'], ['depth', '1 of 3', '–', '–']]


# --- The poorest images ------------------------------------------------------------------------


def write_poorest(path, scores, task=SEMSEG):
  """The index and strips of images with these scores, in this order."""
  images = []
  for id, score in scores.items():
    (path / 'panels' / id).mkdir(parents=True)
    for file in ('input.jpg', 's.jpg'):
      Image.new('RGB', (30, 10)).save(path / 'panels' / id / file)
    drawing = {'why': ['poor'], 'scores': {'final': score}, 'files': {'strip': f'{id}/s.jpg'}}
    images.append({'id': id, 'index': 0, 'input': f'{id}/input.jpg', 'tasks': {task.name: drawing}})
  atomic.write_json(path / 'panels/index.json', {'images': images})


def make_row(i, **more):
  """A row of an image like every other."""
  row = {'id': f'i{i}', 'height': 100, 'width': 100, 'brightness': 100.0 + i / 100, 'sharpness': 1.0}
  return row | {'semseg/mIoU final': 50.0, 'semseg/labelled %': 90.0, **more}


def test_the_poorest_images_stand_worst_first_with_what_sets_them_apart(tmp_path):
  rows = [make_row(i) for i in range(40)]
  missed = {'semseg/most missed': 'car', 'semseg/missed %': 62.4, 'semseg/taken for': 'road'}
  rows[7] |= {'brightness': 30.0, 'semseg/labelled %': 20.0, **missed}
  rows[8] |= {'brightness': 220.0, 'sharpness': 0.5, **missed}
  rows[9] |= {'height': 50, 'width': 60}
  run = results.read_run(write(tmp_path / 'p', rows=rows))
  write_poorest(run.path, {'i7': 12.0, 'i9': 3.0, 'i8': 11.0, 'i0': 13.0})
  found = poorest.poorest_images(results.read_run(run.path), SEMSEG, pictures.Album())
  assert [(image.id, image.score) for image in found.images] == [
    ('i9', 'mIoU 3.00'), ('i8', 'mIoU 11.00'), ('i7', 'mIoU 12.00'), ('i0', 'mIoU 13.00'),
  ]  # fmt: skip
  assert [image.reasons for image in found.images] == [
    ['among the smallest (0.003 megapixels)'],
    ['car: 62% missed, mostly taken for road', 'among the brightest (brightness 220 of 255)', 'among the most blurred'],
    ['car: 62% missed, mostly taken for road', 'among the darkest (brightness 30 of 255)',
     'among the least labelled (20% of its pixels)'],
    [],  # by its brightness in the lowest tenth, but hardly darker than the median
  ]  # fmt: skip
  assert all(image.picture.startswith('data:image/webp;base64,') for image in found.images)
  assert found.patterns == ['In 2 of 4, car is missed most.']


def test_of_an_error_the_highest_is_the_poorest(tmp_path):
  run = write(tmp_path / 'p')
  write_poorest(run, {'low': 0.1, 'high': 9.0}, DEPTH)
  found = poorest.poorest_images(results.read_run(run), DEPTH, pictures.Album())
  assert [image.id for image in found.images] == ['high', 'low']
  assert poorest.poorest_images(results.read_run(run), SEMSEG, pictures.Album()) is None


def test_a_trait_that_the_poorest_share_is_said(tmp_path):
  rows = [make_row(i, brightness=20.0 if i < 4 else 100.0) for i in range(40)]
  run = write(tmp_path / 'p', rows=rows)
  write_poorest(run, {f'i{i}': 1.0 for i in (0, 1, 2, 10, 11)})
  found = poorest.poorest_images(results.read_run(run), SEMSEG, pictures.Album())
  assert found.patterns == ['3 of 5 are among the darkest tenth of all, where 0.5 would be chance.']
  section = find_class(make(tmp_path, run)[0], 'poorest')[0]
  assert words(next(section.iter('li'))) == 'mIoU 1.00 i0 among the darkest (brightness 20 of 255)'


# --- Would more help? --------------------------------------------------------------------------


def write_curve(run, values, metric='semseg/mIoU'):
  write_log(run, [{'step': 10 * (i + 1), f'eval/final/{metric}': value} for i, value in enumerate(values)])


def test_a_trend_is_that_of_a_least_squares_line(tmp_path):
  run = write(tmp_path / 'p')
  values = [0.0, 9.0, 1.0, 2.0, 4.0, 5.0]
  write_curve(run, values)
  found = prospects.trend(results.read_run(run), SEMSEG)
  x, y = np.array([30.0, 40, 50, 60]), np.array(values[2:])
  design = np.stack([x, np.ones(4)], 1)
  (slope, _), (squares,), *_ = np.linalg.lstsq(design, y, rcond=None)
  error = np.sqrt(squares / 2 * np.linalg.inv(design.T @ design)[0, 0])
  assert (found.change, found.error, found.steps) == (pytest.approx(30 * slope), pytest.approx(30 * error), 30)
  assert found.improves
  assert not found.worsens


@pytest.mark.parametrize('metric, values, text', [
  ('semseg/mIoU', [1, 2, 3, 4, 5, 6.6],
   'would probably help semseg (better by 3.5 mIoU over the last 30 steps), which still improves.'),
  ('depth/absErr', [4, 3, 2.1, 1],
   'would probably help depth (better by 3 absErr over the last 30 steps), which still improves.'),
  ('semseg/mIoU', [4, 6, 4, 6, 4, 6], 'semseg no longer improves beyond the noise.'),
  ('depth/absErr', [1, 2, 3.1, 4], 'depth gets worse towards the end.'),
  ('semseg/mIoU', [1, 2, 3],
   'not known, as training took its scores fewer than 4 times; --config.train.eval_every=3 takes them often enough.'),
])  # fmt: skip
def test_the_end_of_the_curve_tells_whether_more_steps_would_help(tmp_path, metric, values, text):
  run = write(tmp_path / 'p')
  write_curve(run, values, metric)
  assert prospects.more_steps(results.read_run(run)) == f'More steps: {text}'
  assert f'More steps: {text}' in words(make(tmp_path, run)[0])


def test_a_run_on_fewer_labels_tells_what_more_would_bring(tmp_path):
  names = 'abcdefgh'
  whole = {name: ['semseg', 'depth'] for name in names}
  half = {name: tasks if name in 'abcd' else [] for name, tasks in whole.items()}
  runs = [
    write(tmp_path / 'half', 'labels=half.json', final=(20, 0.4), labels=half),
    write(tmp_path / 'all', 'labels=full', final=(30, 0.5), labels=whole),
    write(tmp_path / 'other', 'labels=full,method=feature', final=(1, 9), labels=half),  # another method
  ]
  for run in runs:
    write_curve(run, [1, 2])
  text = (
    'More labels: would probably help semseg. semseg has 30.00 mIoU with 8 labels and 20.00 with 4; '
    'depth has 0.5000 absErr with 8 labels and 0.4000 with 4. These are single runs, so small differences may be chance.'
  )
  page = words(make(tmp_path, *runs[:2])[0])
  assert text in page
  assert '--workdir=' not in page
  assert 'More labels: would' not in words(make(tmp_path, runs[1], runs[2])[0])
  write_curve(runs[0], [1, 2, 3])  # a longer run
  assert 'More labels: would' not in words(make(tmp_path, *runs[:2])[0])


def test_of_a_task_predicted_by_initial_maps_the_sentences_are_on_these(tmp_path):
  labels = {'half': {'a': ['semseg'], 'b': []}, 'full': {'a': ['semseg'], 'b': ['semseg']}}
  for name, final in (('half', 40), ('full', 30)):
    run = write(
      tmp_path / name, f'labels={name}', final=(final, 0.4), initial=(2 * len(name) + final, 0.5), labels=labels[name]
    )
    calibration.write(run, calibrations.calibration((SEMSEG,), initial=('semseg',)))
    rows = [
      {'step': s, 'eval/final/semseg/mIoU': -s, 'eval/initial/semseg/mIoU': s, 'eval/final/depth/absErr': s}
      for s in range(4)
    ]
    write_log(run, rows)
  half, full = (results.read_run(tmp_path / name) for name in labels)
  assert prospects.trend(full, SEMSEG).improves
  assert prospects.trend(full, DEPTH).worsens
  (gain,) = prospects.label_gains(full, half)
  assert (gain.before, gain.after) == (48, 38)
  said = sentence.describe(full)
  assert 'Classes and poorest images are those of the final maps, also for semseg.' in said
  (full.path / 'calibration.json').unlink()
  assert len(sentence.describe(results.read_run(full.path))) == len(said) - 1


SCENES = dict(data__name='scenes', data__dir='runs/data', data__train_count=9, data__val_count=200)


def test_a_single_run_gets_the_command_that_tells_about_labels(tmp_path):
  labels = {f'{i}': ['semseg'] if i < 5 else ['depth', 'semseg'] if i < 8 else [] for i in range(9)}
  run = write(tmp_path / 'p', labels=labels, optim__lr=0.25, **SCENES)
  write_curve(run, [1, 2])
  page = make(tmp_path, run)[0]
  command = words(find_class(page, 'command')[0])
  assert '--config=configs/scenes.py:method=prediction' in command
  for flag in (
    'optim.lr=0.25',
    'data.train_count=9',
    'train.steps=20',
    'data.size=32,32',
    f'data.labels={tmp_path}/out/half_labels.json',
  ):
    assert f'--config.{flag} ' in command
  assert command.endswith(f'--workdir={run}_half')
  half = json.loads((tmp_path / 'out/half_labels.json').read_text())
  assert half == label_settings.draw_half(labels)
  kinds = [tuple(tasks) for tasks in half.values()]
  assert (kinds.count(('semseg',)), kinds.count(('depth', 'semseg')), len(kinds)) == (3, 2, 5)


def test_a_table_of_images_from_elsewhere_is_refused_or_ignored(tmp_path):
  run = write(tmp_path / 'p')
  (run / 'per_image.csv').write_bytes(b'\xff\xfe')
  with pytest.raises(UserError, match=r'per_image\.csv: not CSV in UTF-8 .*; run --mode=evaluate again'):
    results.read_run(run)
  with (run / 'per_image.csv').open('w', newline='') as file:
    csv.writer(file).writerows([['id', 'semseg/labelled %'], ['x', 'nan'], ['y'], ['z', 'many']])
  assert 'never found' in words(make(tmp_path, run)[0])
