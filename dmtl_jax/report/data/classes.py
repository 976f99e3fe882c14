"""Classes of a class map: how well each is found, and what it is taken for, from a run's confusion counts."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np

MOST_SHOWN = 18  # rows of a confusion matrix, so that it can be read
OTHERS = 'others'  # column of the classes without a column
FOUND = 0.01  # share of a class's pixels below which it is hardly ever found
LIGHT, DARK = np.array([247, 251, 255]), np.array([8, 48, 107])  # colours of 0% and 100%, legible in print
DARK_FROM = 0.65  # share from which letters are white; either way their contrast is at least 4.5


class ClassRow(NamedTuple):
  """One class on the validation images; shares are from 0 to 1, NaN where there is nothing to divide by.

  Attributes:
    share: of all labelled pixels.
    found: of the class's labelled pixels that are predicted as it.
    taken_for: name of the class that most of the others are predicted as; '' if there are none.
    taken: share of the class's labelled pixels that are predicted as `taken_for`.
  """

  name: str
  iou: float
  share: float
  found: float
  taken_for: str
  taken: float

  @property
  def is_labelled(self) -> bool:
    return self.share > 0


def class_rows(confusion: np.ndarray, names: Sequence[str], scores: Mapping[str, float | None]) -> list[ClassRow]:
  """A row per class, in order.

  Args:
    confusion: pixel counts [label, prediction].
    scores: {class: IoU in %} of the evaluation, which also counts pixels that are only known to be of another class.
  """
  labelled = confusion.sum(1)
  total = int(labelled.sum())
  wrong = confusion - np.diag(np.diag(confusion))
  rows = []
  for i, name in enumerate(names):
    other = int(wrong[i].argmax())
    count = int(labelled[i])
    rows.append(
      ClassRow(
        name,
        iou=math.nan if scores.get(name) is None else scores[name] / 100,
        share=count / total if total else math.nan,
        found=int(confusion[i, i]) / count if count else math.nan,
        taken_for=names[other] if wrong[i, other] else '',
        taken=int(wrong[i, other]) / count if count else math.nan,
      )
    )
  return rows


# --- The confusion matrix ----------------------------------------------------------------------


class HeatCell(NamedTuple):
  """One cell: its share of the row as whole percent, '' below 1%, and the colours of ground and letters."""

  text: str
  color: str
  ink: str
  is_diagonal: bool
  title: str


class HeatRow(NamedTuple):
  """The pixels labelled as one class, by what they are predicted as."""

  name: str
  cells: list[HeatCell]


class HeatMap(NamedTuple):
  """A confusion matrix in shares of its rows; `hidden` classes have no row of their own."""

  heads: list[str]
  rows: list[HeatRow]
  hidden: int


def heat_map(confusion: np.ndarray, names: Sequence[str]) -> HeatMap:
  """The confusion matrix of the classes with labels.

  Where these are more than MOST_SHOWN, only of those with the most wrongly predicted pixels; the other classes share
  a column.
  """
  labelled = confusion.sum(1)
  wrong = labelled - np.diag(confusion)
  present = np.flatnonzero(labelled)
  shown = sorted(sorted(present, key=lambda i: -wrong[i])[:MOST_SHOWN])
  others = sorted(set(range(len(names))) - set(shown))
  has_others = bool(confusion[np.ix_(shown, others)].any())
  heads = [names[i] for i in shown] + ([OTHERS] if has_others else [])
  rows = []
  for i in shown:
    counts = [*confusion[i, shown], *([confusion[i, others].sum()] if has_others else [])]
    cells = []
    for column, count in enumerate(counts):
      share = int(count) / int(labelled[i])
      title = f'{names[i]} predicted as {heads[column]}: {share:.1%}'
      text = f'{100 * share:.0f}' if share >= 0.005 else ''
      cells.append(HeatCell(text, heat_color(share), letter_color(share), heads[column] == names[i], title))
    rows.append(HeatRow(names[i], cells))
  return HeatMap(heads, rows, len(present) - len(shown))


def heat_color(share: float) -> str:
  """The ground of a cell, from nearly white over blue to nearly black: one hue, for every kind of colour vision."""
  red, green, blue = (int(x) for x in np.round(LIGHT + share * (DARK - LIGHT)))
  return f'#{red:02x}{green:02x}{blue:02x}'


def letter_color(share: float) -> str:
  return '#ffffff' if share >= DARK_FROM else '#000000'
