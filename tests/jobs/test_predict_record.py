"""Predictions go on where they stopped, and never take the files of other weights or settings for theirs."""

import dataclasses
import json
import os
import re

import numpy as np
from PIL import Image
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference import videos
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import predict, predict_labels
from dmtl_jax.jobs.predict_record import describe_item, NAME, Record
from tests.predicting import photo
from tests.tiny import TASKS, tiny_config

COUNT = 7


@dataclasses.dataclass
class Network:
  """Stands in for a predictor: the raw maps of an image are random, from its first pixel and the weight."""

  weight: float = 1
  calibration: Calibration = UNCALIBRATED
  step: int = 3
  seen: int = 0
  tasks = TASKS
  config = tiny_config()

  @property
  def variables(self):
    return {'params': np.full(2, self.weight)}

  def check(self, samples, zoom):
    pass

  def raw_of_many(self, images, samples, zoom, batch):
    for image in images:
      self.seen += 1
      rng = np.random.default_rng([int(self.weight), *image[0, 0]])
      stages = ('final', 'uncertainty') if samples > 1 else ('final',)
      maps = {
        (stage, task.name): rng.random((4, 5, 1 if stage == 'uncertainty' else task.channels), np.float32)
        for stage in stages
        for task in TASKS
      }
      yield RawMaps(TASKS, maps, (4, 5), samples)

  def raw(self, image, samples=1, zoom=None):
    return next(self.raw_of_many([image], samples, zoom, 1))


@pytest.fixture
def photos(tmp_path):
  (tmp_path / 'photos').mkdir()
  for n in range(COUNT):
    Image.fromarray(photo(20, 30, n)).save(tmp_path / 'photos' / f'{n}.png')
  return tmp_path / 'photos'


@pytest.fixture
def job(photos, tmp_path, monkeypatch):
  """Predicts with a network; returns how many images that saw."""

  def run(network, out='out', module=predict, **settings) -> int:
    before = network.seen
    monkeypatch.setattr(module, 'load', lambda *_: network)
    module.run('run', 'best', str(photos), str(tmp_path / out), **settings)
    return network.seen - before

  return run


def contents(folder):
  paths = [path for path in folder.rglob('*') if path.is_file() and path.name != NAME]
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def entries(folder):
  lines = [json.loads(line) for line in (folder / NAME).read_text().split('\n') if line.endswith('}')]
  return {entry['name']: entry for entry in lines}


def stop(monkeypatch, module, function, count):
  """Makes a function of a module raise KeyboardInterrupt after some calls."""
  calls = iter(range(100))
  kept = getattr(module, function)

  def interrupted(*arguments):
    if next(calls) == count:
      raise KeyboardInterrupt
    return kept(*arguments)

  monkeypatch.setattr(module, function, interrupted)


@pytest.mark.parametrize('module, function, settings', [
  (predict, 'save', {'samples': 2}), (predict_labels, '_write_labels', {'confidence': 0.4})
])  # fmt: skip
def test_what_is_stopped_goes_on_and_ends_as_if_unbroken(
  module, function, settings, job, tmp_path, monkeypatch, capsys
):
  network = Network()
  with monkeypatch.context() as patch:
    stop(patch, module, function, 3)
    with pytest.raises(UserError, match='of 7 images predicted in .*; the same command goes on with the others'):
      job(network, 'out', module, **settings)
  stored = len(entries(tmp_path / 'out'))
  assert 3 <= stored < COUNT
  with open(tmp_path / 'out' / NAME, 'rb+') as file:  # a kill cut off the last line
    file.truncate(os.path.getsize(tmp_path / 'out' / NAME) - 5)
  capsys.readouterr()
  assert job(network, 'out', module, **settings) == COUNT - stored + 1
  resumed = capsys.readouterr().out
  job(network, 'unbroken', module, **settings)
  unbroken = capsys.readouterr().out
  assert f'already in {tmp_path}/out: {stored - 1} of 7 files; predicting the rest' in resumed
  assert resumed.split('\n')[-2] == unbroken.split('\n')[-2].replace('/unbroken', '/out')
  new, whole = contents(tmp_path / 'out'), contents(tmp_path / 'unbroken')
  source = new.pop('source.json', b'{}')
  date = re.compile(rb'"date": "[^"]*"')
  assert date.sub(b'', source) == date.sub(b'', whole.pop('source.json', b'{}'))
  assert new == whole
  assert entries(tmp_path / 'out') == entries(tmp_path / 'unbroken')


@pytest.mark.parametrize('module', [predict, predict_labels])
def test_a_finished_folder_is_left_as_it_is(module, job, tmp_path, capsys):
  assert job(Network(), 'out', module) == COUNT
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.*') if path.name != 'source.json'}
  source = (tmp_path / 'out' / 'source.json').read_bytes() if module is predict_labels else b''
  capsys.readouterr()
  assert job(Network(), 'out', module) == 0
  assert 'out: 7 of 7 files; delete that folder to predict them again' in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in before}
  assert source in (b'', (tmp_path / 'out' / 'source.json').read_bytes() if source else b'')


def test_other_weights_or_settings_predict_all_anew(job, photos, tmp_path, capsys):
  for n in range(2, COUNT):
    (photos / f'{n}.png').unlink()
  assert job(Network()) == 2
  for network, settings in (
    (Network(weight=2), {}),
    (Network(calibration=Calibration(initial=('depth',))), {'zoom': 1.5, 'samples': 2}),
    (Network(), {'zoom': 1.5, 'samples': 2}),
    (Network(), {'samples': 2}),
    (Network(), {}),
  ):
    capsys.readouterr()
    assert job(network, **settings) == 2
    assert '2 files predicted by other weights or settings will be predicted again' in capsys.readouterr().out
  job(Network(), 'fresh')
  assert contents(tmp_path / 'out') == contents(tmp_path / 'fresh')  # no uncertainty of the earlier samples


def test_what_changed_is_predicted_again(job, photos, tmp_path):
  job(Network())
  whole = contents(tmp_path / 'out')
  os.utime(photos / '1.png')
  (tmp_path / 'out' / 'depth' / '2.npy').unlink()
  os.truncate(tmp_path / 'out' / 'semseg' / '3.png', 20)
  assert job(Network()) == 3
  assert contents(tmp_path / 'out') == whole


def test_a_label_of_ones_own_that_is_gone_is_predicted(job, photos, tmp_path):
  root = tmp_path / 'data'
  out = root / 'train' / 'predicted'
  own = root / 'train' / 'labels' / 'depth' / '4.npy'
  own.parent.mkdir(parents=True)
  np.save(own, np.ones((20, 30), np.float32))
  tasks = {task.name: {'classes': list(task.classes)} if task.classes else {} for task in TASKS}
  (root / 'dataset.json').write_text(json.dumps({'tasks': tasks}))
  assert job(Network(), out, predict_labels) == COUNT
  assert not (out / 'depth' / '4.png').exists()
  own.unlink()
  assert job(Network(), out, predict_labels) == 1
  assert (out / 'depth' / '4.png').exists()


def test_files_with_labels_of_their_own_are_not_said_to_be_predicted_again(job, photos, tmp_path, capsys):
  root = tmp_path / 'data'
  out = root / 'train' / 'predicted'
  root.mkdir()
  tasks = {task.name: {'classes': list(task.classes)} if task.classes else {} for task in TASKS}
  (root / 'dataset.json').write_text(json.dumps({'tasks': tasks}))
  job(Network(), out, predict_labels)
  for task in TASKS:
    (root / 'train' / 'labels' / task.name).mkdir(parents=True)
    (root / 'train' / 'labels' / task.name / '4.npy').touch()
  capsys.readouterr()
  assert job(Network(weight=2), out, predict_labels) == COUNT - 1
  printed = capsys.readouterr().out
  assert f'{COUNT - 1} files predicted by other weights or settings will be predicted again' in printed
  assert 'also holds predictions' not in printed


def test_what_other_weights_predicted_of_other_files_is_named(job, photos, tmp_path, capsys):
  job(Network())
  (photos / '5.png').rename(photos / 'new.png')
  capsys.readouterr()
  assert job(Network()) == 1
  assert 'other weights' not in capsys.readouterr().out
  job(Network(weight=2))
  assert 'out also holds predictions of 1 other file (5) by other weights or settings' in capsys.readouterr().out


def test_videos_that_end_are_not_predicted_again(job, photos, tmp_path):
  with videos.VideoWriter(photos / 'walk.webm', 10) as writer:
    for n in range(3):
      writer.write(photo(20, 30, n))
  (photos / 'broken.mp4').write_bytes(b'no video')
  assert job(Network()) == COUNT + 3
  assert job(Network()) == 0
  assert entries(tmp_path / 'out').keys() == {*map(str, range(COUNT)), 'walk'}


def test_a_record_from_elsewhere_removes_nothing_but_results_of_the_name(tmp_path):
  folder = tmp_path / 'out'
  (folder / 'x' / 'y' / 'z').mkdir(parents=True)
  (folder / 'depth').mkdir()
  names = ['../a.png', 'x/../../a.png', str(tmp_path / 'a.png'), 'b.png', 'a.txt', 'x/y/z/a.png', 'depth/a.png']
  for name in names:
    (folder / name).write_bytes(b'1')
  item = describe_item(tmp_path / 'a.png', 'a', 'f')
  entry = {'name': 'a', 'source': item.source, 'fingerprint': 'f', 'files': dict.fromkeys(names, 1)}
  lines = [
    '{"name": "a", "sou',
    '[' * 5000,
    '7',
    '[1]',
    '{"name": ["a"]}',
    '{"name": "b", "source": 1, "fingerprint": 2}',
  ]
  lines += ['{"name": 1, "source": 1, "fingerprint": "g", "files": {"x": 1}}', '{"name": "c", "source": 1, "x": 1}']
  (folder / NAME).write_text('\n'.join([json.dumps(entry), *lines]))
  Record(folder).replace(item, [])
  assert [name for name in names if not (folder / name).exists()] == ['depth/a.png']


def test_a_kill_between_replacing_files_and_recording_them_leaves_neither(tmp_path):
  (tmp_path / 'photo').touch()
  (tmp_path / 'a.png').write_bytes(b'1')
  old = describe_item(tmp_path / 'photo', 'a', 'old')
  new = describe_item(tmp_path / 'photo', 'a', 'new')
  Record(tmp_path).add(old, [tmp_path / 'a.png'])
  assert Record(tmp_path).holds(old)
  Record(tmp_path).replace(new, [tmp_path / 'a.png'])
  assert not Record(tmp_path).holds(old)
  assert not Record(tmp_path).holds(new)
