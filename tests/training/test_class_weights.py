"""Class weights: the formula, what is counted, the loss against numpy, and that a run keeps what it started with."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import dmtl_jax
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import folder as folder_config
from dmtl_jax.data.source import Source
from dmtl_jax.jobs import train
from dmtl_jax.models import losses
from dmtl_jax.tasks import make_task
from dmtl_jax.tasks.semseg import Semseg
from dmtl_jax.training import class_weights, setup
from tests import faults, toy

SEMSEG = make_task('semseg', 'semseg', ('a', 'b', 'c'))
TASKS = (SEMSEG, make_task('depth', 'depth'))


def test_balanced_weights_are_inverse_roots_with_mean_1():
  shares = np.array([0.81, 0.16, 0.03])
  weights = np.array(class_weights.balanced(shares))
  assert (weights * shares).sum() == pytest.approx(1, rel=1e-3)
  assert weights[1] / weights[0] == pytest.approx(9 / 4, rel=1e-3)
  assert class_weights.balanced(2 * shares) == tuple(weights)


def test_rare_and_absent_classes_have_the_largest_weight():
  assert class_weights.balanced(np.array([0.9999, 0.0001, 0])) == (0.9902, 10, 10)


def source(labels: dict[int, np.ndarray], count: int, task=SEMSEG, hidden=()) -> Source:
  """Images of which some have a label of segmentation, all of them one of depth."""
  image = np.zeros((*np.shape(next(iter(labels.values()))), 3), np.uint8)
  mask = np.array([[i in labels and i not in hidden, True] for i in range(count)])

  def read(index, tasks):
    maps = {'semseg': np.uint8(labels.get(index, 0))[..., None], 'depth': np.float32(image[..., :1])}
    return {'image': image, 'labels': {task.name: maps[task.name] for task in tasks}}

  return Source((task, TASKS[1]), [str(i) for i in range(count)], mask, read)


DATA = ConfigDict({'augment': 'none', 'size': (1, 4)})


def test_shares_are_means_over_images_of_visible_labels():
  labels = {0: [[0, 0, 0, 1]], 2: [[1, 255, 255, 255]], 3: [[255] * 4], 4: [[2] * 4]}
  shares = class_weights.shares(source(labels, 6, hidden=[4]), DATA)
  assert list(shares) == ['semseg']
  np.testing.assert_allclose(shares['semseg'], [(0.75 + 0) / 2, (0.25 + 1) / 2, 0])


def test_a_partly_annotated_label_counts_for_its_classes_only():
  task = Semseg('semseg', ('a', 'b', 'c'), annotated=((0,),))
  labels = {0: [[0, 3, 3, 255]], 1: [[0, 1, 1, 2]]}  # a third is a, the rest b or c; a quarter is a, ...
  np.testing.assert_allclose(
    class_weights.shares(source(labels, 2, task), DATA)['semseg'], [(1 / 3 + 1 / 4) / 2, 1 / 2, 1 / 4]
  )


def test_predicted_labels_are_not_counted():
  both = source({0: [[0, 0, 0, 1]], 1: [[2] * 4]}, 2)
  predicted = np.array([[False, False], [True, False]])
  own = dataclasses.replace(both, predicted=predicted)
  np.testing.assert_allclose(class_weights.shares(own, DATA)['semseg'], [0.75, 0.25, 0])


def test_labels_are_sampled_evenly(monkeypatch):
  monkeypatch.setattr(class_weights, 'COUNTED', 2)
  labels = {i: [[0 if i in (1, 9) else 1] * 4] for i in range(1, 10)}
  np.testing.assert_array_equal(class_weights.shares(source(labels, 10), DATA)['semseg'], [1, 0, 0])


@pytest.mark.parametrize('ids', [[[0, 1, 2, 255]], [[2, 2, 255, 255]]])
def test_the_loss_is_the_mean_of_weighted_losses_over_labelled_pixels(ids):
  weights = np.array([0.5, 1, 4])
  logits = np.random.default_rng(0).standard_normal((1, 1, 4, 3))
  label = np.uint8(ids)[None, ..., None]
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  terms = [-weights[i] * np.log(p[0, 0, x, i]) for x, i in enumerate(ids[0]) if i != 255]
  (task,) = class_weights.apply((SEMSEG,), {'semseg': tuple(weights.tolist())})
  loss = losses.task_loss(task, jnp.float32(logits), label)
  np.testing.assert_allclose(loss, [np.mean(terms)], rtol=1e-6)


# --- Files and runs --------------------------------------------------------------------------


@pytest.mark.parametrize('content, words', [
    ([], 'must map tasks to the weights of their classes'),
    ({'semseg': [1, 2, 3]}, 'must map tasks to the weights of their classes'),
    ({'semsge': {'a': 1}}, "a task: 'semsge' is none of semseg; did you mean semseg"),
    ({'depth': {}}, "a task: 'depth' is none of semseg"),
    ({'semseg': {'d': 1}}, "\"semseg\": 'd' is none of a, b, c"),
    ({'semseg': {'a': -1}}, '"semseg"."a" must be a number from 0 to 1e+06'),
    ({'semseg': {'a': float('nan')}}, '"semseg"."a" must be a number'),
    ({'semseg': {'a': True}}, '"semseg"."a" must be a number'),
    ({'semseg': {'a': 0, 'b': 0, 'c': 0}}, 'every class of "semseg" has weight 0'),
])  # fmt: skip
def test_a_wrong_file_is_refused_in_a_sentence(content, words, tmp_path):
  path = tmp_path / 'w.json'
  path.write_text(json.dumps(content))
  with pytest.raises(UserError) as caught:
    class_weights.check(str(path), TASKS)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_setting_that_has_no_effect_or_no_meaning_is_refused(tmp_path):
  with pytest.raises(UserError, match='would have no effect: no task has named classes'):
    class_weights.check('balanced', TASKS[1:])
  with pytest.raises(UserError, match="'balance' is none of none, balanced, a file; did you mean balanced"):
    class_weights.check('balance', TASKS)
  class_weights.check('none', TASKS[1:])


def test_a_file_names_some_classes_and_the_others_weigh_1(tmp_path):
  path = tmp_path / 'w.json'
  path.write_text('{"semseg": {"b": 3}}')
  weights = class_weights.of_run(str(path), source({0: [[0] * 4]}, 1), DATA, str(tmp_path / 'run'), restart=True)
  assert weights == {'semseg': (1, 3, 1)}


def test_another_file_than_that_of_the_start_is_refused_unless_forced(tmp_path):
  path = tmp_path / 'w.json'
  path.write_text('{"semseg": {"b": 3}}')
  (tmp_path / 'class_weights.json').write_text('{"semseg": {"a": 1, "b": 2, "c": 1}}')
  given = (str(path), source({0: [[0] * 4]}, 1), DATA, str(tmp_path))
  with pytest.raises(UserError, match='w.json: this run was started with other weights, .*class_weights.json; restore'):
    class_weights.of_run(*given, restart=False)
  assert class_weights.of_run(*given, restart=True) == {'semseg': (1, 3, 1)}
  path.write_text('{"semseg": {"b": 2}}')
  assert class_weights.of_run(*given, restart=False) == {'semseg': (1, 2, 1)}


@pytest.fixture
def config(tmp_path, monkeypatch):
  faults.use_toy_model(monkeypatch.setattr)
  toy.write(tmp_path / 'toy', 4, 1)
  config = folder_config.get_config('method=mtl_baseline,labels=full')
  config.class_weights = 'balanced'
  config.data.update(path=str(tmp_path / 'toy'), tasks=('semseg', 'depth'), size=(64, 96))
  config.train.update(batch=2, steps=4, eval_every=4, save_every=2)
  config.eval.update(batch=1, panels=0)
  return config


def test_a_run_shows_and_keeps_its_weights_and_resumes_with_them(config, tmp_path, monkeypatch, capsys):
  assert train.run(config, str(tmp_path / 'whole'))
  kept = json.loads((tmp_path / 'whole/class_weights.json').read_text())
  values = kept['semseg']
  assert values['box'] > values['floor']
  assert f'class weights: semseg wall {values["wall"]:.3g}, floor' in capsys.readouterr().out

  def stop():
    raise KeyboardInterrupt

  faults.at_batch(monkeypatch, 4, stop)
  with pytest.raises(UserError, match='stopped by Ctrl-C'):
    train.run(config, str(tmp_path / 'parts'))
  monkeypatch.undo()
  faults.use_toy_model(monkeypatch.setattr)
  monkeypatch.setattr(class_weights, 'shares', None)  # a resumed run does not count again
  train.run(config, str(tmp_path / 'parts'))
  runs = [dmtl_jax.load(str(tmp_path / name), 'latest').variables for name in ('whole', 'parts')]
  jax.tree.map(np.testing.assert_array_equal, *runs)


def test_weights_reach_the_network_that_is_trained_and_no_other(config):
  data = setup.open_data(config)
  training = setup.build(config, *data, class_weights={'semseg': (1.0, 2.0, 3.0)})
  assert [task.class_weights for task in training.model.tasks] == [(1.0, 2.0, 3.0), ()]
  assert not any(task.class_weights for task in (*training.source.tasks, *training.val.tasks))


def test_a_run_without_weights_has_no_file(config, tmp_path):
  config.class_weights = 'none'
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/class_weights.json').write_text('{}')  # of an earlier start
  training = setup.build(config, *setup.open_data(config))
  train.write_start(str(tmp_path / 'run'), config, training)
  assert not (tmp_path / 'run/class_weights.json').exists()
