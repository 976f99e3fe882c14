"""What probabilities are worth: how often they come true, before and after calibration, and F of the masks."""

from collections.abc import Sequence
from typing import NamedTuple

from dmtl_jax.inference.calibration import Bin, TaskCalibration
from dmtl_jax.report.charts import Point
from dmtl_jax.report.results import Entry, Section
from dmtl_jax.report.table import markdown_table
from dmtl_jax.tasks import Task

LEFT, BOTTOM, SIDE = 30, 158, 148  # of the diagram in reliability.html
SMALLEST = 0.001  # share of the pixels that a point stands for; fewer scatter
TITLE = 'What probabilities mean'
NOTE = (
  'Calibration error: the mean distance between a probability and how often it comes true, over the pixels, in %; of '
  'the predicted class, or of the positive class of saliency and boundaries. Temperature and biases are fitted on the '
  'validation labels; the error is that of each half of the images under the fit on the other half. F in %, on the '
  'images of the fit: maxF of saliency, odsF of boundaries, at one threshold for all images. Points of fewer than 0.1% '
  'of the pixels are left out.'
)


class Card(NamedTuple):
  """The calibration of one method and task, with the points of its diagram."""

  entry: Entry
  task: Task
  fitted: TaskCalibration
  raw: list[Point]
  calibrated: list[Point]


def make_cards(section: Section) -> list[Card]:
  """A card per task and method, of the method's first run whose scored weights are calibrated."""
  cards = []
  for entry in section.entries:
    if fit := next((run.calibration for run in entry.runs if run.calibration), None):
      cards += [_card(entry, task, fit.tasks[task.name]) for task in section.tasks if task.name in fit.tasks]
  return sorted(cards, key=lambda card: section.tasks.index(card.task))


def _card(entry: Entry, task: Task, fitted: TaskCalibration) -> Card:
  return Card(entry, task, fitted, _points(fitted.raw.bins, 'raw'), _points(fitted.calibrated.bins, 'calibrated'))


def _points(bins: Sequence[Bin], name: str) -> list[Point]:
  return [
    Point(
      round(LEFT + SIDE * b.confidence, 1),
      round(BOTTOM - SIDE * b.accuracy, 1),
      f'{name}, {100 * b.share:.2g}% of the pixels: probability {b.confidence:.2f}, true {100 * b.accuracy:.0f}%',
    )
    for b in bins
    if b.share >= SMALLEST
  ]


def markdown(section: Section) -> str:
  """The numbers as text; '' if nothing is calibrated."""
  cards = make_cards(section)
  if not cards:
    return ''
  heads = ['task', 'method', 'calibration error raw %', 'calibrated %', 'F raw at 0.5', 'F of the masks', 'from']
  rows = []
  for card in cards:
    fitted = card.fitted
    masks = (fitted.f_at_half, fitted.f, fitted.threshold)
    texts = ['–' if value is None else f'{value:.{digits}f}' for value, digits in zip(masks, (1, 1, 3))]
    rows.append([card.task.name, card.entry.name, f'{fitted.raw.ece:.1f}', f'{fitted.calibrated.ece:.1f}', *texts])
  return f'\n### {TITLE}\n\n{markdown_table(heads, rows)}\n\n{NOTE}\n'
