"""The images that are held out to validate on: shares of tasks and classes, stability, copies."""

import dataclasses

import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs.scenes import get_config
from dmtl_jax.data import label_settings
from dmtl_jax.data.holdout import hold_out
from dmtl_jax.datasets.source import Source
from dmtl_jax.jobs import evaluate
from dmtl_jax.runs import workdir
from dmtl_jax.tasks import make_task

TASKS = tuple(make_task(name, 'saliency') for name in ('a', 'b', 'c'))


def make_source(mask, **fields):
  return Source(TASKS, [f'IMG_{n}' for n in range(len(mask))], np.asarray(mask, bool), None, **fields)


def one_label(count):
  return np.eye(3, dtype=bool)[np.random.default_rng(0).integers(0, 3, count)]


def test_each_task_keeps_its_share_and_unlabelled_images_are_never_held_out():
  mask = one_label(300)
  mask[250:] = False
  chosen = hold_out(make_source(mask), 0.2)
  assert not chosen[250:].any()
  assert mask[chosen].sum(0).tolist() == [round(0.2 * n) for n in mask.sum(0)]


def test_a_rare_task_has_a_label_on_either_side_and_a_rare_class_its_share():
  mask = np.zeros((100, 3), bool)
  mask[:, 0] = True
  mask[:2, 1] = True
  classes = np.arange(100)[:, None] % 10 == 3
  chosen = hold_out(make_source(mask, classes_shown=classes), 0.2)
  assert chosen.sum() == 20
  assert chosen[:2].sum() == 1
  assert (chosen & classes[:, 0]).sum() == 2


def test_the_same_images_are_chosen_in_any_order_and_more_images_move_few():
  mask = one_label(1000)
  source = make_source(mask)
  chosen = {source.ids[i] for i in np.flatnonzero(hold_out(source, 0.2))}
  backwards = source.subset(range(999, -1, -1))
  assert {backwards.ids[i] for i in np.flatnonzero(hold_out(backwards, 0.2))} == chosen
  fewer = make_source(mask[:900])
  moved = {fewer.ids[i] for i in np.flatnonzero(hold_out(fewer, 0.2))} ^ (chosen & {*fewer.ids})
  assert len(moved) <= 15  # a new draw would move 288 on average


def test_classes_too_rare_for_a_share_do_not_keep_a_task_from_its_own():
  """Every class is in one image, as where each photograph is of another thing."""
  mask = np.zeros((20, 3), bool)
  mask[:10, 0] = mask[10:, 1] = True
  chosen = hold_out(make_source(mask, classes_shown=np.eye(20, dtype=bool)), 0.2)
  assert mask[chosen].sum(0).tolist() == [2, 2, 0]


def count_positives(positives, chosen):
  return positives[chosen].sum(0).tolist(), positives[~chosen].sum(0).tolist()


def test_a_few_positives_are_on_either_side_and_little_else_changes():
  """500 sets of 30 images with three labels each, of which one task has 2 to 4 positives."""
  rng = np.random.default_rng(0)
  mended = 0
  for n in range(500):
    source = Source(TASKS, [f'{n}_{i}' for i in range(30)], np.ones((30, 3), bool), None)
    positives = np.zeros((30, 1), bool)
    positives[rng.choice(30, rng.integers(2, 5), replace=False)] = True
    before = hold_out(source, 0.2)
    after = hold_out(dataclasses.replace(source, positives_shown=positives), 0.2)
    (held_out,), (learned,) = count_positives(positives, before)
    if held_out and learned:
      np.testing.assert_array_equal(after, before)
      continue
    mended += 1
    held_out, learned = count_positives(positives, after)
    assert min(held_out + learned) == 1
    assert after.sum() == 6
    assert (before ^ after).sum() == 2  # one image in, one out
  assert 100 < mended < 300


def test_positives_of_several_tasks_and_rare_labels():
  """Whatever is labelled, every task keeps its share, and each has positives on either side if there are two."""
  rng = np.random.default_rng(0)
  for n in range(300):
    mask = rng.random((20, 3)) < rng.uniform(0.2, 1, 3)
    mask[:, 2] = True
    positives = (rng.random((20, 2)) < rng.uniform(0, 0.5, 2)) & mask[:, :2]
    source = Source(TASKS, [f'{n}_{i}' for i in range(20)], mask, None, positives_shown=positives)
    chosen = hold_out(source, 0.2)
    assert chosen.sum() <= 7
    held_out, learned = count_positives(positives, chosen)
    for there, kept in zip(held_out, learned):
      assert there + kept < 2 or min(there, kept) > 0, (n, there, kept)


def test_one_positive_moves_nothing():
  source = make_source(np.ones((20, 3)))
  base = hold_out(source, 0.2)
  for i in range(20):
    positives = np.arange(20)[:, None] == i
    np.testing.assert_array_equal(hold_out(dataclasses.replace(source, positives_shown=positives), 0.2), base)


def test_more_images_move_few_where_positives_are_rare():
  moved = []
  for n in range(50):
    positives = np.random.default_rng(n).random((60, 1)) < 0.06
    source = Source(TASKS, [f'{n}_{i}' for i in range(60)], np.ones((60, 3), bool), None, positives_shown=positives)
    fewer = source.subset(range(54))
    moved.append((hold_out(source, 0.2)[:54] ^ hold_out(fewer, 0.2)).sum())
  assert np.mean(moved) <= 3  # a new draw would move 17 on average


def test_copies_of_a_picture_stay_together():
  rng = np.random.default_rng(0)
  thumbnails = rng.integers(0, 256, (50, 256)).astype(np.uint8).repeat(2, 0)
  chosen = hold_out(make_source(one_label(100), thumbnails=thumbnails), 0.2)
  assert 16 <= chosen.sum() <= 26
  assert (chosen[::2] == chosen[1::2]).all()


def test_held_out_images_that_a_run_learned_from_are_not_scored(tmp_path):
  """They were in its training part, before images were added."""
  mask = one_label(5)
  source = make_source(mask)
  config = get_config()
  config.data.holdout_fraction = 0.2
  workdir.write_config(tmp_path, config)
  assert evaluate.without_learned(source, config, tmp_path) is source
  label_settings.save_mapping(tmp_path / 'labels.json', ['IMG_1', 'IMG_3', 'other'], TASKS, mask[:3])
  assert evaluate.without_learned(source, config, tmp_path).ids == ['IMG_0', 'IMG_2', 'IMG_4']
  label_settings.save_mapping(tmp_path / 'labels.json', source.ids, TASKS, mask)
  with pytest.raises(UserError, match='labels.json: the run learned from every image that is held out now'):
    evaluate.without_learned(source, config, tmp_path)
  config.data.name = 'pascal'  # other images may use the same names
  assert evaluate.without_learned(source, config, tmp_path) is source
  config.data.name = 'scenes'
  config.data.holdout_fraction = 0.0  # a split of its own may use the same names
  assert evaluate.without_learned(source, config, tmp_path) is source
