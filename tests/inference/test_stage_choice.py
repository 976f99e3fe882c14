"""When initial maps count as better: against the t-test, and on maps that are equally good."""

import numpy as np
import pytest
from scipy import stats

from dmtl_jax.inference import stage_choice
from dmtl_jax.metrics.segmentation import Segmentation
from tests.evaluation_stub import TASKS

SEMSEG = Segmentation(TASKS[0])


def mean_score(state):
  return float(state['sum'] / state['count']) if state['count'] else float('nan')


def states(values, count=5):
  return [{'sum': np.float64(value * count), 'count': np.int64(count)} for value in values]


@pytest.mark.parametrize('count', [2, 3, 8])
def test_of_mean_scores_it_is_the_paired_t_test(count):
  """Leads around the critical one, so that both answers occur."""
  rng = np.random.default_rng(count)
  answers = set()
  for _ in range(40):
    others = rng.normal(50, 10, count)
    ours = others + rng.normal(0.7 * stats.t.ppf(0.975, count - 1), 1, count)
    wanted = stats.ttest_rel(ours, others, alternative='greater').pvalue < 0.025
    assert stage_choice.is_higher(mean_score, states(ours), states(others)) == wanted
    answers.add(bool(wanted))
  assert answers == {False, True}


def test_of_equally_good_maps_one_in_forty_is_higher():
  """Counts of three classes in 40 images of unequal content, each image wrong by chance; scored by mIoU."""
  rng = np.random.default_rng(0)
  chosen = 0
  repeats = 400
  for _ in range(repeats):
    pixels = rng.multinomial(1000, [0.6, 0.3, 0.1], 40) * (rng.random((40, 3)) < 0.7)
    maps = []
    for _ in range(2):
      right = rng.binomial(pixels, rng.beta(4, 2, (40, 3)))
      counts = np.zeros((40, 3, 3), np.int64)
      for label in range(3):
        counts[:, label, label] = right[:, label]
        counts[:, label, label - 1] += (pixels - right)[:, label]
      maps.append([{'confusion': group.sum(0)} for group in np.split(counts, 8)])
    chosen += stage_choice.is_higher(lambda state: SEMSEG.compute(state)['mIoU'], *maps)
  assert 0.005 < chosen / repeats < 0.05


def test_groups_without_labels_are_left_out():
  ours, others = states([3.0, 2.2, 2.9]), states([1.0, 1.0, 1.0])
  assert stage_choice.is_higher(mean_score, ours, others)
  empty = states([0.0], count=0)
  assert stage_choice.is_higher(mean_score, [*empty, *ours, *empty], [*empty, *others, *empty])
  # Of two groups alone, with the same mean lead, the spread is too large; empty groups must not hide it.
  assert not stage_choice.is_higher(mean_score, ours[:2], others[:2])
  assert not stage_choice.is_higher(mean_score, [*ours[:2], *empty * 6], [*others[:2], *empty * 6])


def test_a_group_without_a_score_of_its_own_counts_in_the_lead():
  """False alarms where nothing is to be found, as of boundaries, undo a lead in the other groups."""

  def f_measure(state):
    return 2 * float(state['hits'] / (state['guesses'] + state['truth'])) if state['truth'] else float('nan')

  def groups(*counts):
    return [dict(zip(('hits', 'guesses', 'truth'), map(np.int64, count))) for count in counts]

  ours, others = groups((9, 10, 10), (8, 10, 10), (9, 10, 10)), groups((6, 10, 10), (5, 10, 10), (6, 10, 10))
  assert stage_choice.is_higher(f_measure, ours, others)
  assert stage_choice.is_higher(f_measure, [*ours, *groups((0, 1, 0))], [*others, *groups((0, 1, 0))])
  assert not stage_choice.is_higher(f_measure, [*ours, *groups((0, 90, 0))], [*others, *groups((0, 0, 0))])


def test_one_group_is_no_evidence():
  assert not stage_choice.is_higher(mean_score, states([9.0]), states([1.0]))
  assert not stage_choice.is_higher(mean_score, [], [])
