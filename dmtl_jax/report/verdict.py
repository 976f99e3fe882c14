"""Who comes first, and what to know before believing it: the top of a report's section."""

import collections
import dataclasses
from typing import NamedTuple

from dmtl_jax.report import scoring
from dmtl_jax.report.gains import Gain, gain, gains_by_entry
from dmtl_jax.report.results import describe_differences, describe_predictions, Entry, Section
from dmtl_jax.report.table import Cell, Column, Table


class Ranking(NamedTuple):
  """The methods with a score for one task, best first.

  Attributes:
    gain: only if there is a single method.
    by_initial: for how many of that method's runs predictions are made of the initial maps.
    initial: scores of these maps, if all of that method's runs predict by them.
  """

  column: Column
  methods: list[tuple[Entry, Cell]]
  gain: Gain | None
  by_initial: int = 0
  initial: Cell | None = None

  def place(self, cell: Cell) -> float:
    """Place of a score on an axis of them all, in %; the better, the further right."""
    means = [cell.mean for _, cell in self.methods]
    low, high = min(means), max(means)
    place = 50 if high == low else 4 + 92 * (cell.mean - low) / (high - low)
    return round(place if self.column.higher_is_better else 100 - place, 1)


class Denoising(NamedTuple):
  """Names of tasks whose final maps score better or worse than the initial ones, of `count` tasks with both scores.

  Attributes:
    steps: number of denoising steps S; 0 for methods that refine their maps in another way.
  """

  entry: Entry
  better: list[str]
  worse: list[str]
  count: int
  steps: int
  training_steps: list[int]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the sentences and cards at the top say.

  Attributes:
    compared: number of tasks for which several methods have scores.
    leaders: names of the methods that are best at most tasks; [] if none is better than another.
    wins: number of tasks that each leader is best at.
    first: name of the method with the highest Delta_m, and `delta` what it is; '' if there is none.
    single_seed: names of methods that ran with one seed, if there are methods to compare.
    notes: sentences on unequal conditions.
  """

  rankings: list[Ranking]
  compared: int
  leaders: list[str]
  wins: int
  first: str
  delta: str
  denoising: list[Denoising]
  single_seed: list[str]
  notes: list[str]


def judge(table: Table) -> Verdict:
  """The verdict on a section."""
  section = table.section
  rankings = _rankings(table)
  compared = [ranking for ranking in rankings if len(ranking.methods) > 1]
  wins = collections.Counter(entry.name for ranking in compared for entry, cell in ranking.methods if cell.is_best)
  most = max(wins.values(), default=0)
  deltas = [(row.entry.name, cell) for row, cell in zip(table.rows, table.delta) if cell.values]
  first, delta = max(deltas, key=lambda pair: pair[1].mean, default=('', None))
  evaluated = section.evaluated
  return Verdict(
    rankings=rankings,
    compared=len(compared),
    leaders=[name for name, count in wins.items() if count == most],
    wins=most,
    first=first,
    delta=delta.text if delta else '',
    denoising=_denoising(section),
    single_seed=[entry.name for entry in evaluated if len(entry.runs) == 1] if len(evaluated) > 1 else [],
    notes=list(filter(None, (t(section) for t in (describe_predictions, describe_differences, scoring.warn)))),
  )


def _rankings(table: Table) -> list[Ranking]:
  rankings = []
  for i, task in enumerate(table.section.tasks):
    column = table.columns[i]
    methods = [(row.entry, row.cells[i]) for row in table.rows if row.cells[i].values]
    methods.sort(key=lambda pair: pair[1].mean, reverse=column.higher_is_better)
    if len(methods) == 1:
      entry = methods[0][0]
      by_initial = sum(run.predicts_by_initial(task) for run in entry.runs)
      has_one_kind = by_initial == len(entry.runs)
      initial = Cell(column, tuple(entry.scores('initial', task))) if has_one_kind else None
      rankings.append(Ranking(column, methods, gain(entry, task), by_initial, initial))
    elif methods:
      rankings.append(Ranking(column, methods, gain=None))
  return rankings


def _denoising(section: Section) -> list[Denoising]:
  results = []
  for entry, gains in gains_by_entry(section):
    gains = [gain for gain in gains if gain]
    better = [gain.column.title for gain in gains if gain.improvement > 0]
    worse = [gain.column.title for gain in gains if gain.improvement < 0]
    steps = (entry.config['eval']['diffusion_steps'] or entry.runs[0].diffusion_steps) if entry.diffuses else 0
    training_steps = sorted({run.evaluation.step for run in entry.runs if run.evaluation})
    results.append(Denoising(entry, better, worse, len(gains), steps, training_steps))
  return results
