"""Who comes first and what a reader should know before believing it: the top of a report's section."""

import collections
import dataclasses
from typing import NamedTuple

from dmtl_jax.report import scoring
from dmtl_jax.report.charts import rank_position
from dmtl_jax.report.gains import Gain, gain, gains_by_entry
from dmtl_jax.report.results import describe_differences, Entry, Section
from dmtl_jax.report.table import Cell, Column, Table


class Ranked(NamedTuple):
  """A method's score for one task and its place, in % of the axis of all."""

  entry: Entry
  cell: Cell
  place: float


class Ranking(NamedTuple):
  """The methods with a score for one task, best first; `gain` only if there is a single method."""

  column: Column
  methods: list[Ranked]
  gain: Gain | None


class Denoising(NamedTuple):
  """Tasks for which denoising made a method's scores better or worse, of all with both scores."""

  entry: Entry
  better: list[str]
  worse: list[str]
  count: int

  @property
  def steps(self) -> int:
    return self.entry.config['eval']['diffusion_steps'] or self.entry.runs[0].diffusion_steps

  @property
  def training_steps(self) -> list[str]:
    """Of the checkpoints that were evaluated, as they are written."""
    return [f'{step:,}' for step in sorted({run.evaluation.step for run in self.entry.runs if run.evaluation})]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the sentences and cards at the top say.

  Attributes:
    compared: number of tasks for which several methods have scores.
    leaders: names of the methods that are best at most tasks; [] if none is better than another.
    wins: number of tasks that each leader is best at.
    first: name of the method with the highest Delta_m; '' if there is none.
    delta: its Delta_m.
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
  rankings = [ranking for ranking in _rankings(table) if ranking.methods]
  compared = [ranking for ranking in rankings if len(ranking.methods) > 1]
  wins = collections.Counter(m.entry.name for ranking in compared for m in ranking.methods if m.cell.is_best)
  most = max(wins.values(), default=0)
  deltas = [(cell, row.entry) for row, cell in zip(table.rows, table.delta) if cell.values]
  best, first = max(deltas, key=lambda delta: delta[0].mean, default=(None, None))
  single_seed = [entry.name for entry in section.evaluated if len(entry.runs) == 1]
  return Verdict(
    rankings=rankings,
    compared=len(compared),
    leaders=[name for name, count in wins.items() if count == most],
    wins=most,
    first=first.name if first else '',
    delta=best.text if best else '',
    denoising=_denoising(section),
    single_seed=single_seed if len(section.evaluated) > 1 else [],
    notes=list(filter(None, (describe_differences(section), scoring.warn(section)))),
  )


def _rankings(table: Table) -> list[Ranking]:
  rankings = []
  for i, task in enumerate(table.section.tasks):
    column = table.columns[i]
    scored = [(row.entry, row.cells[i]) for row in table.rows if row.cells[i].values]
    scored.sort(key=lambda pair: pair[1].mean, reverse=column.higher_is_better)
    means = [cell.mean for _, cell in scored]
    methods = [Ranked(entry, cell, rank_position(column, cell.mean, means)) for entry, cell in scored]
    rankings.append(Ranking(column, methods, gain(scored[0][0], task) if len(scored) == 1 else None))
  return rankings


def _denoising(section: Section) -> list[Denoising]:
  counts = []
  for entry, gains in gains_by_entry(section):
    gains = [gain for gain in gains if gain]
    better = [gain.column.title for gain in gains if gain.improvement > 0]
    worse = [gain.column.title for gain in gains if gain.improvement < 0]
    counts.append(Denoising(entry, better, worse, len(gains)))
  return counts
