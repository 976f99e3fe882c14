"""The input pipeline: the order of images, hosts, workers, exact resumption, evaluation."""

import dataclasses
import math
import os
import signal
import subprocess
import sys

from ml_collections import ConfigDict
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.data import pipeline
from dmtl_jax.tasks import make_task

TASKS = (make_task('saliency', 'saliency'), make_task('normals', 'normals'), make_task('depth', 'depth'))
SIZE = (16, 24)


@dataclasses.dataclass(frozen=True, eq=False)
class Numbered:
  """Image i is noise drawn from i, of its own size; image i has the tasks of mask row i."""

  label_mask: np.ndarray
  tasks: tuple = TASKS

  def __len__(self):
    return len(self.label_mask)

  def __getitem__(self, index):
    return self.example(index)

  def example(self, index, least=None):
    rng = np.random.default_rng(index)
    height, width = 20 + index % 3, 30
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = {
      'saliency': rng.integers(0, 2, (height, width, 1)).astype(np.uint8),
      'normals': np.full((height, width, 3), [0, 0.6, 0.8], np.float32),
      'depth': np.full((height, width, 1), 4, np.float32),
    }
    visible = [task.name for t, task in enumerate(self.tasks) if self.label_mask[index, t]]
    return {'image': image, 'labels': {name: labels[name] for name in visible}, 'index': index}


def numbered(count=10):
  mask = np.random.default_rng(0).random((count, len(TASKS))) < 0.5
  mask[~mask.any(1), 0] = True
  return Numbered(mask)


def make_config(**data):
  return ConfigDict(dict(augment='light', size=SIZE, workers=0, threads=2, prefetch=2) | data)


def train_iterator(source=None, batch=4, seed=3, host=0, hosts=1, **data):
  return pipeline.train_iterator(source or numbered(), make_config(**data), batch, seed, host, hosts)


def eval_batches(source, host=0, hosts=1, **data):
  return list(pipeline.eval_batches(source, make_config(**data), 4, 'fit', host, hosts))


def take(count, source=None, **options):
  iterator = train_iterator(source, **options)
  return [next(iterator) for _ in range(count)]


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right):
    assert a.keys() == b.keys()
    for name in a.keys() - {'labels'}:
      np.testing.assert_array_equal(a[name], b[name])
    for name in a['labels']:
      np.testing.assert_array_equal(a['labels'][name], b['labels'][name])


@pytest.fixture(scope='module')
def ten():
  return take(10)


def test_batch_has_every_task_and_hidden_labels_are_blank(ten):
  source = numbered()
  for batch in ten:
    assert batch['image'].shape == (4, *SIZE, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['index'].shape == (4,)
    assert batch['index'].dtype == np.int32
    assert batch['label_mask'].dtype == bool
    np.testing.assert_array_equal(batch['label_mask'], source.label_mask[batch['index']])
    for t, task in enumerate(TASKS):
      label = batch['labels'][task.name]
      assert label.shape == (4, *SIZE, task.label_channels)
      assert label.dtype == task.label_dtype
      np.testing.assert_array_equal(task.valid(label).any((1, 2)), batch['label_mask'][:, t])


def test_an_epoch_holds_whole_batches_of_different_images(ten):
  epochs = np.concatenate([batch['index'] for batch in ten]).reshape(5, 8)  # 10 images, batch 4: 2 are left out
  assert all(len(set(epoch)) == 8 for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 5
  assert set(epochs.ravel()) == set(range(10))


def test_seed_changes_order_and_augmentation(ten):
  assert any((a['index'] != b['index']).any() for a, b in zip(ten, take(10, seed=4)))
  assert_same(ten, take(10))


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_share_each_batch_in_order(ten, hosts):
  parts = [take(10, host=h, hosts=hosts) for h in range(hosts)]
  joined = [
    {name: np.concatenate([part[name] for part in batch]) for name in ('image', 'region', 'label_mask', 'index')}
    | {'labels': {t.name: np.concatenate([part['labels'][t.name] for part in batch]) for t in TASKS}}
    for batch in zip(*parts)
  ]
  assert_same(joined, ten)


def test_augmentation_depends_on_seed_epoch_and_index_alone(ten):
  """Another batch size puts images elsewhere in the epoch: they must look the same."""
  images = lambda batches: {int(i): image for b in batches for i, image in zip(b['index'], b['image'])}
  twos = take(10, batch=2)  # 5 batches an epoch, against 2
  epochs = [(images(ten[:2]), images(twos[:5])), (images(ten[2:4]), images(twos[5:]))]
  for fours_seen, twos_seen in epochs:
    assert len(fours_seen) == 8
    assert len(twos_seen) == 10
    for index, image in fours_seen.items():
      np.testing.assert_array_equal(image, twos_seen[index])
  assert all((epochs[0][1][i] != epochs[1][1][i]).any() for i in range(10))


def test_resumes_exactly_in_the_middle_of_an_epoch(ten):
  iterator = train_iterator()
  for _ in range(3):
    next(iterator)
  state = iterator.get_state()
  assert_same([next(iterator) for _ in range(3)], ten[3:6])
  fresh = train_iterator(threads=4, prefetch=5)
  fresh.set_state(state)
  assert_same([next(fresh) for _ in range(3)], ten[3:6])
  iterator.set_state(state)  # back
  assert_same([next(iterator) for _ in range(2)], ten[3:5])


def test_worker_processes_resume_with_the_same_batches(ten):
  iterator = train_iterator(workers=2)
  iterator.set_state({'next_index': 1})
  assert_same([next(iterator) for _ in range(5)], ten[1:6])
  iterator.close()


PARENT = """
import os, signal
from tests.data import test_pipeline
if __name__ == '__main__':
  signal.signal(signal.SIGINT, lambda *_: print('Ctrl-C', flush=True))
  iterator = test_pipeline.train_iterator(workers=1)
  next(iterator)
  os.killpg(0, signal.SIGINT)  # as a terminal does
  for _ in range(20):  # more than the worker has ahead
    next(iterator)
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_their_parent_and_not_by_its_ctrl_c(tmp_path):
  (tmp_path / 'parent.py').write_text(PARENT)
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  done = subprocess.run(  # returns when nobody holds the outputs any more
    [sys.executable, tmp_path / 'parent.py'],
    env=environment,
    capture_output=True,
    text=True,
    timeout=60,
    start_new_session=True,
  )
  assert done.returncode == -signal.SIGKILL and done.stdout == 'Ctrl-C\n' and 'Error' not in done.stderr, done


def test_fewer_images_than_a_batch_repeat():
  batches = take(3, numbered(3), batch=8)
  for batch in batches:
    assert sorted(np.bincount(batch['index'])) == [2, 3, 3]


def test_batch_must_divide_over_hosts():
  with pytest.raises(UserError, match='a batch of 4 images cannot be split over 3 hosts'):
    train_iterator(hosts=3)


@pytest.mark.parametrize('count, hosts', [(10, 1), (10, 2), (5, 4), (8, 2), (1, 4)])
def test_evaluation_takes_each_image_once(count, hosts):
  source = numbered(count)
  parts = [eval_batches(source, h, hosts) for h in range(hosts)]
  assert {len(part) for part in parts} == {math.ceil(count / 4)}
  order = []
  for batches in zip(*parts):
    for batch in batches:
      assert len(batch['index']) == len(batch['valid']) == 4 // hosts
      assert batch['valid'].dtype == bool
      np.testing.assert_array_equal(batch['label_mask'], source.label_mask[batch['index']])
      order += batch['index'][batch['valid']].tolist()
  assert order == list(range(count))


def test_evaluation_is_not_augmented():
  first, second = (eval_batches(numbered(), threads=n) for n in (2, 1))
  assert_same(first, second)
  assert (first[0]['labels']['depth'][first[0]['label_mask'][:, 2]].max((1, 2, 3)) == 4).all()


def test_unlabelled_images_take_at_most_half_of_an_epoch():
  mask = np.zeros((30, len(TASKS)), bool)
  mask[:4, 0] = True
  assert pipeline.images_per_epoch(mask) == 8
  iterator = train_iterator(Numbered(mask))
  epochs = [np.concatenate([next(iterator)['index'] for _ in range(2)]) for _ in range(12)]
  for epoch in epochs:
    assert sorted(epoch[epoch < 4]) == [0, 1, 2, 3]
    assert len(set(epoch[epoch >= 4])) == 4
  assert len({*np.concatenate(epochs)}) > 20  # other ones in each epoch, of which 12 x 4 are drawn


def test_labelled_images_come_in_the_order_they_always_had():
  """The draw of NumPy's generator, which stored runs go on with."""
  iterator = train_iterator(seed=3)
  for epoch in range(2):
    drawn = np.concatenate([next(iterator)['index'] for _ in range(2)])
    np.testing.assert_array_equal(drawn, np.random.default_rng((3, epoch)).permutation(10)[:8])
