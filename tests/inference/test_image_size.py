"""Scores at the size of each image: what --mode=predict writes, scored by hand against labels as they are in the file."""

import contextlib
import dataclasses
import json
import pathlib
import pickle
from typing import Any, NamedTuple

import cv2
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import scenes
from dmtl_jax.inference import evaluation, pieces
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import evaluate, predict
from dmtl_jax.metrics import boundary
from dmtl_jax.runs import workdir
from dmtl_jax.training import setup
from tests import evaluation_stub as stub
from tests.tiny import TASKS

SIZES = {'a': (64, 96), 'b': (150, 260), 'c': (40, 33)}  # the network's input is of 64x96: as it is, in tiles, enlarged
SIDE = 200
UNLABELLED = ('c', 'normals')


def labels_of(size, seed):
  """Random labels with unlabelled pixels; lines a pixel wide, which nearest neighbour would break."""
  rng = np.random.default_rng(seed)
  hole = rng.random(size) < 0.1
  normals = rng.standard_normal((*size, 3))
  lines = np.zeros(size, np.uint8)
  lines[:: size[0] // 5] = 1
  lines[:, size[1] // 2] = 1
  return {
    'semseg': np.where(hole, 255, rng.integers(0, 4, size)).astype(np.uint8),
    'parsing': rng.integers(0, 3, size).astype(np.uint8),
    'saliency': np.where(hole, 255, rng.integers(0, 2, size)).astype(np.uint8),
    'normals': np.where(hole[..., None], 0, normals / np.linalg.norm(normals, axis=-1, keepdims=True)),
    'boundary': lines,
    'depth': np.where(hole, 0, rng.uniform(1, 5, size)),
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A data set of three photographs of different sizes; one is not labelled for normals."""
  root = tmp_path_factory.mktemp('photos')
  entries = {task.name: {'classes': task.classes} if task.classes else {} for task in TASKS}
  (root / 'dataset.json').write_text(json.dumps({'tasks': entries}))
  (root / 'val/images').mkdir(parents=True)
  for seed, (name, size) in enumerate(SIZES.items()):
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)).save(root / f'val/images/{name}.png')
    for task, label in labels_of(size, seed).items():
      path = root / 'val/labels' / task / f'{name}.npy'
      path.parent.mkdir(parents=True, exist_ok=True)
      if (name, task) != UNLABELLED:
        if label.dtype == np.uint8:
          Image.fromarray(label).save(path.with_suffix('.png'))
        else:
          np.save(path, label.astype(np.float32))
  return root


class Scored(NamedTuple):
  """An evaluated run: metrics.json, its workdir, and {(task, image): raw prediction} that --mode=predict writes.

  Also its config, and the content of calibration.json, which was removed before the prediction.
  """

  metrics: dict
  workdir: pathlib.Path
  maps: dict[tuple[str, str], np.ndarray]
  config: Any
  calibrated: bytes

  def pairs(self, task):
    """(prediction, label) of every image that is labelled for a task."""
    for seed, (name, size) in enumerate(SIZES.items()):
      prediction = self.maps[task, name]
      assert prediction.shape[:2] == size
      if (name, task) != UNLABELLED:
        yield prediction, labels_of(size, seed)[task]

  def pixels(self, task):
    """Predictions and labels of all labelled pixels of a task with class ids for labels."""
    prediction, label = (np.concatenate([x.ravel() for x in side]) for side in zip(*self.pairs(task)))
    return prediction[label != 255], label[label != 255]


@pytest.fixture(scope='module')
def scored(tiny_run, folder, tmp_path_factory):
  config = workdir.read_config(tiny_run)
  config.data.update(name='folder', path=str(folder), predicted_labels=False, predicted_weight=0.3)
  config.eval.resolution, config.eval.boundary_side, config.eval.panels = 'image', SIDE, 1
  workdir.write_config(tiny_run, config)  # as if it had learned from these data
  evaluate.run(config, str(tiny_run), predictions=True)
  calibrated = (tiny_run / 'calibration.json').read_bytes()
  (tiny_run / 'calibration.json').unlink()  # scores are of raw maps
  out = tmp_path_factory.mktemp('maps')
  assert predict.run(str(tiny_run), 'best', str(folder / 'val/images'), str(out)) == 0
  maps = {(task.name, name): np.load(out / task.name / f'{name}.npy') for task in TASKS for name in SIZES}
  return Scored(json.loads((tiny_run / 'metrics.json').read_text()), tiny_run, maps, config, calibrated)


def test_scores_are_those_of_the_files_that_predict_writes(scored):
  """By numpy only, over all pixels of all images at their own sizes."""
  final = scored.metrics['final']
  for name, count in (('semseg', 4), ('parsing', 3)):
    guess, truth = scored.pixels(name)
    ious = [((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(count)]
    assert final[name]['mIoU'] == pytest.approx(100 * np.mean(ious), rel=1e-12)
    assert final[name]['pixelAcc'] == pytest.approx(100 * np.mean(guess == truth), rel=1e-12)
  errors = [np.abs(np.maximum(guess, 1e-9) - truth)[truth > 0] for guess, truth in scored.pairs('depth')]
  assert final['depth']['absErr'] == pytest.approx(np.concatenate(errors).mean(), rel=1e-6)
  angles = []
  for guess, truth in scored.pairs('normals'):
    cosine = (guess * truth).sum(-1) / np.maximum(np.linalg.norm(guess, axis=-1), 1e-12)
    angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1)))[(truth != 0).any(-1)])
  assert len(angles) == 2
  assert final['normals']['mErr'] == pytest.approx(np.concatenate(angles).mean(), rel=1e-5)
  guess, truth = scored.pixels('saliency')
  best = 0.0
  for level in range(1, 256):
    inside = np.floor(guess * np.float32(255)) >= level
    hit = (inside & (truth == 1)).sum()
    precision, recall = hit / max(inside.sum(), 1), hit / (truth == 1).sum()
    best = max(best, 1.3 * precision * recall / max(0.3 * precision + recall, 1e-12))
  assert final['saliency']['maxF'] == pytest.approx(100 * best, rel=1e-9)


def test_another_evaluation_fits_the_same_calibration_and_changes_no_score(scored):
  """To the bit, though predict now writes other probabilities than the raw ones that are scored."""
  (scored.workdir / 'calibration.json').write_bytes(scored.calibrated)
  again = evaluate.run(scored.config, str(scored.workdir))
  assert (scored.workdir / 'calibration.json').read_bytes() == scored.calibrated
  assert again['final']['saliency'] == scored.metrics['final']['saliency']
  content = json.loads(scored.calibrated)
  assert (content['step'], content['diffusion_steps']) == (7, 2)
  assert list(content['tasks']) == ['semseg', 'parsing', 'saliency', 'boundary']
  assert [content['tasks'][name]['images'] for name in ('semseg', 'boundary')] == [len(SIZES), len(SIZES)]
  assert content['tasks']['saliency']['f'] == pytest.approx(scored.metrics['final']['saliency']['maxF'], rel=1e-9)


def test_boundaries_of_large_images_are_scored_at_the_side_that_metrics_name(scored):
  """The map that predict writes averaged over the pixels that become one; a label's lines stay whole."""
  metrics, states = scored.metrics, []
  for prediction, label in scored.pairs('boundary'):
    if max(label.shape) > SIDE:
      size = round(150 * SIDE / 260), SIDE
      prediction = cv2.resize(prediction, size[::-1], interpolation=cv2.INTER_AREA)
      label = TASKS[4].resize_label(label[..., None], size)[..., 0]
    states.append(boundary.counts(prediction, [label == 1]))
  total = {name: sum(state[name] for state in states) for name in states[0]}
  assert metrics['final']['boundary']['odsF'] == pytest.approx(100 * boundary.summary(total)['ods']['f'], rel=1e-12)
  entries = ('resolution', 'boundary_side', 'boundary_shrunk')
  assert [metrics[name] for name in entries] == ['image', SIDE, 1]


def test_prediction_files_are_those_very_maps(scored):
  for name in SIZES:
    ids = np.asarray(Image.open(scored.workdir / 'predictions/semseg' / f'{name}.png'))
    np.testing.assert_array_equal(ids, scored.maps['semseg', name])
    depth = np.load(scored.workdir / 'predictions/depth' / f'{name}.npy')
    np.testing.assert_allclose(depth, scored.maps['depth', name], atol=1e-6)  # predicted in a batch


def test_every_image_has_a_row_and_panels_have_the_networks_size(scored):
  lines = (scored.workdir / 'per_image.csv').read_text().splitlines()
  assert [line.split(',')[0] for line in lines] == ['id', *SIZES]
  assert 'normals/mErr final' in lines[0]
  assert scored.metrics['initial']['normals'].keys() == scored.metrics['final']['normals'].keys()
  assert Image.open(scored.workdir / 'panels/b/input.jpg').size == (96, round(150 * 96 / 260))
  assert scored.metrics['seconds_per_image'] > 0


# --- A network that copies pixels ------------------------------------------------------------


def test_at_the_networks_own_size_both_resolutions_score_alike():
  def run(resolution):
    evaluator, variables = stub.make(4, 2, resolution=resolution)
    return evaluator.run(variables)

  at_input = run('input').scores
  at_image, rows, *_ = run('image')
  for stage in ('initial', 'final'):
    for task, scores in at_input[stage].items():
      assert at_image[stage][task] == pytest.approx(scores, rel=1e-4, nan_ok=True), task
  assert [row['id'] for row in rows] == [f'room{i}' for i in range(4)]
  assert not any(name.startswith('boundary') for name in rows[2])  # not labelled
  assert 'boundary_side' not in at_input
  assert at_image['boundary_shrunk'] == 0


def test_a_limit_and_the_periodic_evaluation():
  evaluator, variables = stub.make(5, 2, limit=3, resolution='image')
  assert len(evaluator.run(variables)[1]) == 3
  quick = evaluation.Evaluator(
    evaluator.model,
    evaluator.source,
    evaluator.mesh,
    evaluator.eval_config,
    evaluator.data_config,
    seed=0,
    quick=True,
  )
  assert evaluator.at_image_size
  assert not quick.at_image_size


def test_a_photograph_is_scored_in_pieces_that_processes_can_take(monkeypatch):
  """None is larger than a band of rows, but the boundary's, which is at most of the side asked for."""
  sent = []

  def send(function, items):
    for item in items:
      data = pickle.dumps(item)
      sent.append(len(data))
      yield function(pickle.loads(data))

  monkeypatch.setattr(evaluation, 'mapper', lambda workers, field: contextlib.nullcontext(send))
  evaluator, variables = stub.make(1, 1, shape=(900, 1200), resolution='image', boundary_side=64)
  scores = evaluator.run(variables).scores
  assert len(sent) == 2 * (4 * 8 + 1)  # stages; bands of at most 2**18 pixels of four tasks, and the boundary
  assert max(sent) < 2**18 * 2 * 12 + 5000  # three float32 of a prediction, and of its label
  assert scores['boundary_shrunk'] == 1
  assert all(np.isfinite(scores['final'][task.name][task.metric]) for task in stub.TASKS)


def test_bands_of_an_image_add_up_to_it():
  """States of bands, summed, are the state of the whole image, for every metric that says so."""
  rng = np.random.default_rng(0)
  size = (37, 23)
  labels = stub.Rooms(1, size)[0]['labels']
  maps = {('final', t.name): rng.standard_normal((5, 7, t.channels)).astype(np.float32) for t in stub.TASKS}
  raw = RawMaps(stub.TASKS, maps, (4.5, 7.0), 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('dmtl_jax.inference.raw_maps.BAND', 100)
    metrics = {task.name: task.scorer() for task in stub.TASKS}
    example = {'image': np.zeros((*size, 3), np.uint8), 'labels': labels, 'index': 0}
    scored = list(map(pieces.score, pieces.cut_image(raw, example, metrics, 0, pieces.Tally())))
  whole = raw.predictions('final', size)
  for task in stub.TASKS:
    states = [state for _, _, name, state in scored if name == task.name]
    assert len(states) == (1 if task.kind == 'boundary' else 10)
    for name, value in metrics[task.name].image(whole[task.name], labels[task.name]).items():
      np.testing.assert_allclose(sum(state[name] for state in states), value, rtol=1e-9)


def test_pascals_protocol_has_sizes_of_its_own():
  message = 'config.eval.resolution=image: protocol pascal .*; set --config.eval.resolution=input'
  with pytest.raises(UserError, match=message):
    stub.make(1, 1, protocol='pascal', resolution='image')
  config = scenes.get_config()
  config.eval.update(protocol='pascal', resolution='image')
  with pytest.raises(UserError, match=message):
    setup.check(config)


# --- The last weights ------------------------------------------------------------------------


@dataclasses.dataclass
class TwoCheckpoints:
  """A run with a best and a last checkpoint."""

  config: ConfigDict
  best: dict  # weights
  last: dict
  last_step: int = 5  # best is of step 3
  evaluations: int = 0

  def load(self, workdir, which, *_):
    if which == 'best' or self.last_step == 3:
      return self.best, 3
    return self.last, self.last_step


@pytest.fixture
def run(monkeypatch, tmp_path):
  config = stub.make_config(2, protocol='mtpsl')
  config.eval.single_task = {task.name: 50.0 for task in stub.TASKS}
  _, variables = stub.make(3, 2)
  run = TwoCheckpoints(config, variables, jax.tree.map(lambda x: 0.1 * x, variables))
  evaluate_once = evaluation.Evaluator.run

  def counted(*args, **options):
    run.evaluations += 1
    return evaluate_once(*args, **options)

  monkeypatch.setattr(evaluation.Evaluator, 'run', counted)
  monkeypatch.setattr(evaluate, 'load', run.load)
  monkeypatch.setattr(evaluate, 'build_model', lambda *_: stub.Model())
  monkeypatch.setattr(evaluate.source_lib, 'open_source', lambda *_: stub.Rooms(3))
  monkeypatch.setattr(evaluate.source_lib, 'data_tasks', lambda _: stub.TASKS)
  monkeypatch.setattr(evaluate.source_lib, 'holdout_fraction', lambda _: 0)
  workdir.write_tasks(tmp_path, stub.TASKS)
  return run


def test_mtpsls_last_weights_are_scored_beside_the_best(run, tmp_path, capsys):
  result = evaluate.run(run.config, str(tmp_path))
  evaluator, _ = stub.make(3, 2, protocol='mtpsl')
  best, last = (evaluator.run(variables)[0]['final']['depth'] for variables in (run.best, run.last))
  assert best != last
  assert (result['step'], result['final']['depth']) == (3, best)
  stored = json.loads((tmp_path / 'metrics.json').read_text())['last']
  assert stored.keys() == {'step', 'final', 'initial', 'delta_m'}
  assert (stored['step'], stored['final']['depth']) == (5, last)
  assert stored['delta_m'] != result['delta_m']
  output = capsys.readouterr().out
  assert 'the last weights, step 5:' in output
  assert output.count('absErr') == 2


def test_a_best_that_is_the_last_is_evaluated_once(run, tmp_path):
  run.last_step = 3
  result = evaluate.run(run.config, str(tmp_path))
  assert run.evaluations == 1
  assert result['last']['final'] == result['final']
  assert result['last']['step'] == 3


@pytest.mark.parametrize('protocol, which', [('mtpsl', 'latest'), ('plain', 'best')])
def test_no_other_evaluation_scores_last_weights(run, tmp_path, protocol, which):
  run.config.eval.protocol = protocol
  assert 'last' not in evaluate.run(run.config, str(tmp_path), which)
  assert run.evaluations == 1
