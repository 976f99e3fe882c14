"""Evaluation of a stub model, against metrics of the whole set at once; the files it leaves."""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import threading
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder
from dmtl_jax.data import pipeline, transforms
from dmtl_jax.draw.colors import ORANGE
from dmtl_jax.inference import evaluation, gallery
from dmtl_jax.inference.calibration_fit import Evidence
from dmtl_jax.jobs import evaluate
from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.boundary import folders, pascal
from dmtl_jax.runs import workdir
from tests import evaluation_stub as stub
from tests import faults

SEMSEG, SALIENCY, NORMALS, BOUNDARY, DEPTH = stub.TASKS


def expected(count):
  """Final scores by numpy alone: every image once, one state for the whole set."""
  totals = {task.name: task.scorer().empty() for task in stub.TASKS}
  source = stub.Rooms(count)
  for index in range(count):
    example = source[index]
    x = 1.5 * ((example['image'] / 255 - transforms.MEAN) / transforms.STD).astype(np.float32)
    maps = {
      'semseg': x.argmax(-1),
      'saliency': 1 / (1 + np.exp(x[..., 0] - x[..., 1])),
      'depth': x[..., 0],
      'normals': x / np.linalg.norm(x, axis=-1, keepdims=True),
      'boundary': 1 / (1 + np.exp(-x[..., 0])),
    }
    for task in stub.TASKS:
      if task.name in example['labels']:
        state = task.scorer().image(maps[task.name].astype(np.float32), example['labels'][task.name])
        totals[task.name] = merge(totals[task.name], state)
  return {task.name: task.scorer().compute(totals[task.name]) for task in stub.TASKS}


def assert_scores(got, wanted):
  for task, scores in wanted.items():
    assert got[task] == pytest.approx(scores, rel=1e-4, nan_ok=True), task


@pytest.fixture(scope='module')
def five():
  return stub.run(5, 4)


def test_an_odd_last_batch_counts_each_image_once(five):
  scores, rows, *_ = five
  assert_scores(scores['final'], expected(5))
  assert [row['id'] for row in rows] == [f'room{i}' for i in range(5)]
  assert scores['seconds_per_image'] > 0
  assert set(scores['per_class']) == {'semseg'}
  assert list(scores['per_class']['semseg']) == ['sky', 'road', 'car']
  assert np.mean(list(scores['per_class']['semseg'].values())) == pytest.approx(scores['final']['semseg']['mIoU'])
  assert set(evaluation.flatten_scores(scores)) == {
    f'eval/{stage}/{name}/{metric}'
    for stage in ('initial', 'final')
    for name, values in scores['final'].items()
    for metric in values
  }


def test_one_image_and_a_limit():
  one, three = stub.run(1, 4), stub.run(5, 2, limit=3)
  assert_scores(one.scores['final'], expected(1))
  assert_scores(three.scores['final'], expected(3))
  assert (len(one.rows), len(three.rows)) == (1, 3)
  assert one.scores['seconds_per_image'] > 0


def test_the_padding_of_pascals_images_is_not_scored():
  assert_scores(stub.run(3, 2, size=(40, 48), geometry='pad').scores['final'], expected(3))


def test_a_row_is_the_score_of_its_own_image(five):
  rows, first = five.rows, expected(1)
  assert rows[0]['normals/mErr final'] == pytest.approx(first['normals']['mErr'], rel=1e-4)
  assert rows[0]['boundary/odsF final'] == pytest.approx(first['boundary']['odsF'], rel=1e-3)
  assert not any(name.startswith('boundary') for name in rows[2])
  assert [name for name in rows[3] if name.startswith('depth')] == ['depth/labelled %']
  assert rows[3]['depth/labelled %'] == 0


def test_a_class_that_an_image_does_not_show_does_not_lower_its_row():
  metrics = stub.make(1, 1, protocol='pascal')[0].metrics
  truth = np.zeros((*stub.SIZE, 1), np.uint8)
  state = metrics['semseg'].image(truth[..., 0], truth)
  assert metrics['semseg'].compute(state)['mIoU'] == pytest.approx(100 / 3)  # of the set: PASCAL's protocol
  assert evaluation._row({('final', 'semseg'): state}, metrics)['semseg/mIoU final'] == 100


def test_pascals_boundaries_are_scored_against_the_benchmarks_own_truth(monkeypatch):
  """Of listed images only, without their padding, at their own size; the plain score of the same images stands beside."""
  truths = [np.zeros(stub.SIZE, bool), None, np.zeros(stub.SIZE, bool)]
  truths[0][:, 10], truths[2][12] = True, True
  monkeypatch.setattr(stub.Rooms, 'truth', lambda self, index: {'boundary': truths[index]}, raising=False)
  scores, rows, *_ = stub.run(3, 2, size=(40, 48), geometry='pad', protocol='pascal')
  table, probabilities = 0, {}
  for index in (0, 2):
    image = stub.Rooms(3)[index]['image']
    x = 1.5 * ((image[..., 0] / 255 - transforms.MEAN[0]) / transforms.STD[0]).astype(np.float32)
    probabilities[index] = 1 / (1 + np.exp(-x))
    table = table + pascal.counts(pascal.quantize(probabilities[index]), truths[index], 0.0075)
  assert scores['final']['boundary']['odsF'] == pytest.approx(100 * pascal.curve(table)['f'].max(), abs=1e-9)
  assert 'boundary/odsF final' in rows[0]
  assert 'boundary/odsF final' not in rows[1]
  state = BOUNDARY.scorer().image(probabilities[0], stub.Rooms(3)[0]['labels']['boundary'])  # image 2 has no label
  assert scores['final']['boundary']['odsF_plain'] == pytest.approx(BOUNDARY.scorer().compute(state)['odsF'], rel=1e-3)


def test_delta_m_leaves_out_what_only_the_quick_metric_measures():
  single_task = {'semseg': 50.0, 'boundary': 60.0}
  for boundary, delta in (({'tolF': 90}, 10), ({'odsF': 57}, 2.5)):
    scores = {'semseg': {'mIoU': 55}, 'boundary': boundary}
    assert evaluation.delta_to_single(scores, single_task, (SEMSEG, BOUNDARY)) == pytest.approx(delta)


class Host(NamedTuple):
  """What evaluation_stub.main writes."""

  result: tuple
  seen: list[str]
  gathered: list[dict]
  batch: int
  at_image_size: tuple
  evidence: Evidence
  better_initial: tuple[str, ...]


def assert_same(got, wanted: stub.Evaluated):
  scores, rows, *_ = got
  for stage in ('initial', 'final'):
    assert_scores(scores[stage], wanted.scores[stage])
  assert [row['id'] for row in rows] == [row['id'] for row in wanted.rows]


def test_two_hosts_of_two_devices_get_what_one_gets(five, tmp_path):
  """Each host takes its images, both get all scores and rows; counts and sums travel bit by bit."""
  address = f'localhost:{faults.free_port()}'
  environment = os.environ | {'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=2'}
  files = [tmp_path / f'{i}' for i in range(2)]
  command = [sys.executable, stub.__file__, address]
  processes = [subprocess.Popen([*command, str(i), str(file)], env=environment) for i, file in enumerate(files)]
  assert [process.wait(timeout=240) for process in processes] == [0, 0]
  hosts = [Host(*pickle.loads(file.read_bytes())) for file in files]
  here = stub.run(5, 4, shape=(30, 50), resolution='image')
  mirrored, variables = stub.make_mirrored(6, 6)
  better_initial = mirrored.run(variables).better_initial
  assert 'semseg' in better_initial
  assert all(host.seen for host in hosts)
  assert sorted(hosts[0].seen + hosts[1].seen) == [f'room{i}' for i in range(5)]
  for host in hosts:
    assert host.batch == 4
    assert_same(host.result, five)
    assert host.better_initial == better_initial
    assert_same(host.at_image_size, here)  # each host has predicted its share at the images' own sizes
    assert host.result[1][4]['semseg/mIoU final'] == pytest.approx(five.rows[4]['semseg/mIoU final'])
    assert [value['from'] for value in host.gathered] == [0, 1]
    for value in host.gathered:
      assert value['count'].dtype == np.int64
      assert (value['count'], value['sum']) == (2**40 + 1, 1 / 3)
  assert hosts[0].result[0]['final'] == hosts[1].result[0]['final']
  assert hosts[0].at_image_size[:2] == hosts[1].at_image_size[:2]
  for confusion in (hosts[0].at_image_size[2], hosts[1].at_image_size[2]):
    np.testing.assert_array_equal(confusion['semseg'], here.confusion['semseg'])
  evaluator, variables = stub.make(5, 4)
  wanted = Evidence(stub.TASKS, 5, 0)
  evaluator.run(variables, evidence={'final': wanted})
  for host in hosts:
    assert host.evidence.operating_points == wanted.operating_points
    assert list(host.evidence.samples['boundary']) == [0, 1, 3, 4]
    assert list(host.evidence.samples) == ['semseg', 'saliency', 'boundary']
    for name, samples in wanted.samples.items():
      for index, sample in samples.items():
        got = host.evidence.samples[name][index]
        np.testing.assert_array_equal(got.labels, sample.labels)
        np.testing.assert_allclose(got.logits, sample.logits, rtol=1e-6)


@pytest.mark.parametrize('upside_down, better', [(0, False), (4, False), (6, True)])
def test_initial_maps_are_better_where_more_than_chance_explains_their_lead(upside_down, better):
  """They lead on none, four and all of six images."""
  evaluator, variables = stub.make_mirrored(6, upside_down)
  result = evaluator.run(variables)
  assert ('semseg' in result.better_initial) == better
  scores = [result.scores[stage]['semseg']['mIoU'] for stage in ('initial', 'final')]
  assert (scores[0] > scores[1]) == (upside_down > 3)


def test_only_what_is_compiled_is_predicted_in_a_thread(monkeypatch):
  """Ctrl-C cannot end a thread that compiles, and tracing depends on the thread."""
  evaluator, variables = stub.make(5, 2)
  predict = evaluator._predict_local
  in_main_thread = []

  def record(*inputs):
    in_main_thread.append(threading.current_thread() is threading.main_thread())
    return predict(*inputs)

  monkeypatch.setattr(evaluator, '_predict_local', record)
  for compiles in ([True], []):
    evaluator.run(variables)
    assert in_main_thread == compiles + 3 * [False]
    in_main_thread.clear()


def test_what_tasks_are_predicted_by():
  scores = {'final': {'semseg': 1, 'depth': 2}, 'initial': {'semseg': 3, 'depth': 4}}
  for stage, wanted in (('best', ['depth']), ('final', []), ('initial', ['semseg', 'depth'])):
    assert list(evaluate._initial_tasks(stage, scores, ('depth',))) == wanted
  assert not evaluate._initial_tasks('initial', {'final': scores['final']}, ())


@pytest.mark.parametrize(
  'stage, initial, before, wanted',
  [
    ('best', (), (), '^$'),
    ('best', ('depth',), (), 'depth: predicted by the initial maps from now on, .*stage=final returns'),
    ('best', ('depth',), ('depth', 'semseg'), 'depth: .* initial .* semseg: predicted by the final maps again'),
    ('final', (), ('depth',), '^depth: predicted by the final .* Later evaluations keep this; .*stage=best lets'),
    ('initial', ('depth',), (), '^depth: predicted by the initial maps .* Later evaluations keep this'),
  ],
)
def test_evaluation_says_what_predictions_are_made_of(stage, initial, before, wanted):
  assert re.search(wanted, evaluate._describe_choice(stage, initial, before))


@pytest.mark.parametrize(
  'path, name',
  [('a/rooms', 'rooms'), ('b/../a/rooms', 'rooms'), ('b/rooms', 'rooms at another path'), ('b/sea', 'sea')],
)
def test_other_data_have_another_name_also_if_their_folder_has_the_same(tmp_path, path, name):
  config = folder.get_config()
  config.data.path = str(tmp_path / 'a/rooms')
  workdir.write_config(tmp_path, config)
  config.data.path = f'{tmp_path}/{path}'
  assert evaluate._scored_name(config.data, tmp_path) == name
  assert evaluate._scored_name(config.data, tmp_path / 'without_config') == name.split()[0]


def test_scores_are_not_written_beside_those_of_another_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  out, run = tmp_path / 'out', pathlib.Path('runs/a')
  evaluate._check_free(out, run)
  atomic.write_json(out / 'metrics.json', {'run': str(tmp_path / 'runs/a')})
  evaluate._check_free(out, run)
  for name, words in (('runs/b', 'scores of runs/b are there; choose'), ('', 'scores of another run are')):
    atomic.write_json(out / 'metrics_4.json', {'run': name} if name else {})
    with pytest.raises(UserError, match=f'metrics_4.json: {words}'):
      evaluate._check_free(out, run)


def test_the_table_shows_initial_and_final_and_what_is_undefined():
  scores = {
    stage: {'semseg': {'mIoU': value}, 'depth': {'absErr': float('nan')}}
    for stage, value in (('initial', 41.5), ('final', 40.25))
  }
  lines = evaluate.as_text(scores, (SEMSEG, DEPTH)).splitlines()
  assert lines[1].split()[:5] == ['semseg', 'mIoU', '41.5', '40.25', '-1.25']
  assert lines[2].split()[:5] == ['depth', 'absErr', '-', '-', '-']
  assert 'lower is better' in lines[2]
  assert evaluate.as_text({'final': scores['final']}, (SEMSEG,)).splitlines()[1].split()[2:5] == ['-', '40.25', '-']


# --- Pictures --------------------------------------------------------------------------------


def test_the_first_the_best_and_the_worst_images_are_chosen():
  def row(semseg, depth):
    return {'id': 'x', 'semseg/mIoU final': semseg, 'semseg/mIoU initial': 1.0, 'depth/absErr final': depth}

  rows = [row(50, 3.0), row(70, 1.0), {'id': 'x', 'depth/absErr final': 0.5}, row(20, 2.0)]
  chosen = gallery.choose(rows, (SEMSEG, DEPTH), panels=1)
  why = {index: {name: task['why'] for name, task in tasks.items()} for index, tasks in chosen.items()}
  assert why == {
    0: {'semseg': ['panel'], 'depth': ['panel', 'worst', 'poor']},
    1: {'semseg': ['best']},
    2: {'depth': ['best']},
    3: {'semseg': ['worst', 'poor'], 'depth': ['poor']},  # the poorer half: of 3 images 1, of 4 images 2
  }
  assert chosen[1]['semseg']['scores'] == {'initial': 1.0, 'final': 70}
  assert chosen[2]['depth']['scores'] == {'final': 0.5}
  assert gallery.choose([], (SEMSEG,), 3) == {}
  assert gallery.choose([{'id': 'x'}], (SEMSEG,), 0) == {}


def test_evaluation_leaves_pictures_of_each_map_and_an_index(tmp_path):
  evaluator, variables = stub.make(3, 2, size=(40, 64), shape=(30, 48))  # scaled up to 40x64: no padding
  rows = evaluator.run(variables).rows
  example = lambda index: evaluator.stages(variables, index)
  gallery.save_panels(tmp_path, stub.TASKS, gallery.choose(rows, stub.TASKS, 2), example)
  images = json.loads((tmp_path / 'index.json').read_text())['images']
  assert [entry['id'] for entry in images][:2] == ['room0', 'room1']
  for entry in images:
    assert Image.open(tmp_path / entry['input']).size == (64, 40)
    for _name, task in entry['tasks'].items():
      assert set(task['files']) - {'strip'} == {'label', 'initial', 'final', 'change'}
      assert ('strip' in task['files']) == ('poor' in task['why'])
      assert set(task['scores']) == {'initial', 'final'}
      sizes = {stage: Image.open(tmp_path / file).size for stage, file in task['files'].items()}
      assert sizes.pop('strip', (3 * 64 + 8, 40)) == (3 * 64 + 8, 40)
      assert set(sizes.values()) == {(64, 40)}
  assert {'room0.png', 'room1.png', 'index.json'} <= {path.name for path in tmp_path.iterdir()}
  colors = np.asarray(Image.open(tmp_path / 'room0/semseg_label.png')).reshape(-1, 3)
  assert len(np.unique(colors, axis=0)) == 3
  assert (np.asarray(Image.open(tmp_path / 'room0.png')) == ORANGE).all(-1).any()  # where denoising harmed, and the key
  (tmp_path / 'mine.txt').write_text('kept')
  gallery.save_panels(tmp_path, stub.TASKS, {1: {'depth': {'why': ['best'], 'scores': {'final': 1.0}}}}, example)
  assert {path.name for path in tmp_path.iterdir()} == {'room1', 'index.json', 'mine.txt'}
  assert {path.name for path in (tmp_path / 'room1').iterdir()} == {
    'input.jpg',
    'depth_label.png',
    'depth_initial.png',
    'depth_final.png',
    'depth_change.png',
  }


def test_the_ground_truth_of_a_panel_is_what_the_network_is_taught(monkeypatch):
  """The label of the network's size, with its lines whole; the picture is drawn from nothing else."""
  room = stub.Rooms.__getitem__
  line = cv2.line(np.zeros((48, 64), np.uint8), (0, 40), (63, 3), 1)[..., None]
  monkeypatch.setattr(stub.Rooms, '__getitem__', lambda self, index: room(self, index) | {'labels': {'boundary': line}})
  evaluator, variables = stub.make(1, 1, shape=(48, 64))
  label = evaluator.stages(variables, 0).labels['boundary']
  assert label.shape == (24, 32, 1)
  assert ndimage.label(label[..., 0], np.ones((3, 3)))[1] == 1
  assert label.sum() >= 31
  data_config, geometry = evaluator.data_config, evaluator.eval_config.geometry
  batch = next(iter(pipeline.eval_batches(evaluator.source, data_config, evaluator.batch, geometry)))
  np.testing.assert_array_equal(label, batch['labels']['boundary'][0])


def test_padding_is_not_shown():
  evaluator, variables = stub.make(1, 1, size=(64, 64), shape=(16, 64))
  example = evaluator.stages(variables, 0)
  assert example.image.shape == (16, 64, 3)
  assert example.stages['final']['depth'].shape == (16, 64)
  assert example.labels['normals'].shape == (16, 64, 3)


# --- Prediction files ------------------------------------------------------------------------


@pytest.fixture
def maps():
  rng = np.random.default_rng(0)
  normals = rng.standard_normal((32, 40, 3)).astype(np.float32)
  return {
      'semseg': rng.integers(0, 3, (32, 40)).astype(np.uint8), 'saliency': rng.random((32, 40), np.float32),
      'boundary': rng.random((32, 40), np.float32), 'depth': rng.uniform(1, 9, (32, 40)).astype(np.float32),
      'normals': normals / np.linalg.norm(normals, axis=-1, keepdims=True),
  }  # fmt: skip


def test_prediction_files_hold_the_maps_without_padding(maps, tmp_path):
  gallery.save_predictions(tmp_path, stub.TASKS, 'a', maps, (4, 7, 20, 30), (20, 30))
  inside = {name: values[4:24, 7:37] for name, values in maps.items()}
  ids = cv2.imread(str(tmp_path / 'semseg/a.png'), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(ids, inside['semseg'])
  for name in ('saliency', 'boundary'):
    np.testing.assert_allclose(folders.read_prediction(tmp_path / name / 'a.png'), inside[name], atol=1 / 65535)
  normals, depth = np.load(tmp_path / 'normals/a.npy'), np.load(tmp_path / 'depth/a.npy')
  assert normals.dtype == np.float16
  assert depth.dtype == np.float32
  np.testing.assert_allclose(normals, inside['normals'], atol=1e-3)
  np.testing.assert_array_equal(depth, inside['depth'])


def test_prediction_files_have_the_images_own_size(maps, tmp_path):
  gallery.save_predictions(tmp_path, stub.TASKS, 'a', maps, (0, 0, 16, 32), np.int32([32, 64]))
  ids = np.asarray(Image.open(tmp_path / 'semseg/a.png'))
  np.testing.assert_array_equal(ids, maps['semseg'][:16, :32].repeat(2, 0).repeat(2, 1))
  normals = np.load(tmp_path / 'normals/a.npy').astype(np.float32)
  assert normals.shape == (32, 64, 3)
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=2e-3)
  assert np.load(tmp_path / 'depth/a.npy').shape == Image.open(tmp_path / 'saliency/a.png').size[::-1] == (32, 64)


def test_the_longest_names(maps, tmp_path):
  """255 bytes, as many as a file's name has."""
  longest = 'ố' * 83 + 'xx'
  gallery.save_predictions(tmp_path, stub.TASKS, longest, maps, (0, 0, 32, 40), (32, 40))
  assert {path.stem for path in tmp_path.rglob('*.*')} == {longest}
  example = gallery.Example(longest, np.zeros((32, 40, 3), np.uint8), {}, {'final': maps})
  chosen = {0: {task.name: {'why': ['panel'], 'scores': {}} for task in stub.TASKS}}
  gallery.save_panels(tmp_path / 'panels', stub.TASKS, chosen, lambda index: example)
  assert (tmp_path / 'panels' / f'{longest}.png').exists()
  assert (tmp_path / 'panels' / longest / 'input.jpg').exists()


def test_every_image_is_handed_over_once_with_its_size():
  evaluator, variables = stub.make(3, 2, size=(48, 48), shape=(24, 32))
  got = {}
  evaluator.run(
    variables, lambda id, maps, region, size: got.update({id: (maps['depth'].shape, tuple(region), tuple(size))})
  )
  assert got == {f'room{i}': ((48, 48), (0, 0, 36, 48), (24, 32)) for i in range(3)}
