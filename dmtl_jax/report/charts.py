"""Geometry of a report's charts: where templates/chart.svg and templates/gains.svg draw lines, bars and text."""

from collections.abc import Sequence
import dataclasses
import math
from typing import NamedTuple

MOST_POINTS = 60  # per curve


@dataclasses.dataclass(frozen=True)
class Curve:
  """Values over steps; `level` is a value independent of the steps, drawn as a dashed line."""

  name: str
  color: str
  steps: Sequence[int]
  values: Sequence[float]
  level: float | None = None
  is_dashed: bool = False


class Point(NamedTuple):
  """A place in a chart, with the text to show when it is pointed at."""

  x: float
  y: float
  text: str = ''


class Line(NamedTuple):
  """A line through points, which are marked if they are few."""

  title: str
  color: str
  is_dashed: bool
  points: list[Point]
  has_marks: bool


class LineChart(NamedTuple):
  """Curves with the numbers at their axes, in the coordinates of chart.svg."""

  title: str
  ticks: list[Point]
  marks: list[Point]
  lines: list[Line]


def curve_chart(title: str, curves: Sequence[Curve]) -> LineChart:
  """Values during training; the high start of a curve is cut off if it would flatten the rest."""
  curves = [_thin(curve) for curve in curves]
  last = max(curve.steps[-1] for curve in curves) or 1
  return _line_chart(title, curves, _usual_range(curves), {0: 'step 0', last: f'{last:,}'}, 'step ')


def step_chart(title: str, curves: Sequence[Curve]) -> LineChart:
  """Values by the number of denoising steps S."""
  values = [value for curve in curves for value in (*curve.values, curve.level) if value is not None]
  steps = sorted({step for curve in curves for step in curve.steps})
  return _line_chart(title, curves, (min(values), max(values)), {step: str(step) for step in steps}, 'S = ')


def _line_chart(title: str, curves: Sequence[Curve], limits, marks: dict[int, str], unit: str) -> LineChart:
  """A chart from the first to the last tick (values) and mark (steps)."""
  ticks = make_ticks(*limits)
  first, last = min(marks), max(marks)
  left, right, top, bottom = 46, 348, 10, 166

  def x(step: float) -> float:
    return round(left + (right - left) * (step - first) / (last - first or 1), 1)

  def y(value: float) -> float:
    value = min(max(value, ticks[0]), ticks[-1])
    return round(bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

  lines = []
  for curve in curves:
    name = f'{curve.name}, initial' if curve.is_dashed else curve.name
    if curve.level is not None:
      text = f'{name}, initial: {curve.level:.4g}'
      level = [Point(x(first), y(curve.level)), Point(x(last), y(curve.level))]
      lines.append(Line(text, curve.color, True, level, has_marks=False))
    points = [Point(x(s), y(v), f'{name}, {unit}{s:,}: {v:.4g}') for s, v in zip(curve.steps, curve.values)]
    lines.append(Line(name, curve.color, curve.is_dashed, points, has_marks=len(points) < 12))
  shown = []
  for step in sorted(marks):
    if step in (first, last) or shown[-1].x + 14 < x(step) < x(last) - 14:  # else the numbers overlap
      shown.append(Point(x(step), bottom, marks[step]))
  return LineChart(title, [Point(left, y(tick), f'{tick:.6g}') for tick in ticks], shown, lines)


def _thin(curve: Curve) -> Curve:
  """At most MOST_POINTS points: means of neighbours, at the last of their steps."""
  size = math.ceil(len(curve.steps) / MOST_POINTS)
  parts = [slice(i, i + size) for i in range(0, len(curve.steps), size)]
  means = [sum(curve.values[part]) / len(curve.values[part]) for part in parts]
  return dataclasses.replace(curve, steps=[curve.steps[part][-1] for part in parts], values=means)


def _usual_range(curves: Sequence[Curve]) -> tuple[float, float]:
  """Range of the values, without the highest 5% if they are far off."""
  values = sorted(value for curve in curves for value in curve.values)
  if len(values) < 20:  # too few to say which are usual
    return values[0], values[-1]
  usual = values[int(0.95 * (len(values) - 1))]
  is_far_off = values[-1] - values[0] >= 3 * (usual - values[0])
  return values[0], usual if is_far_off else values[-1]


def make_ticks(low: float, high: float) -> list[float]:
  """Three to six round numbers around the range."""
  span = high - low or abs(high) or 1
  unit = 10 ** math.floor(math.log10(span / 3))
  step = next(unit * f for f in (1, 2, 5, 10) if span / (unit * f) <= 4)
  first = math.floor(low / step)
  last = max(math.ceil(high / step), first + 1)
  return [round(step * i, 12) for i in range(first, last + 1)]


class Bar(NamedTuple):
  """A bar from the axis to a value, with the ends of its error bar; the axis is below or above it."""

  x: float
  y: float
  height: float
  error: tuple[float, float] | None


class BarChart(NamedTuple):
  """Bars in groups, in the coordinates of gains.svg: bars[method][task]."""

  ticks: list[tuple[float, float]]
  group_width: float
  bar_width: float
  bars: list[list[Bar | None]]


def bar_chart(rows: Sequence[Sequence[tuple[float, float] | None]]) -> BarChart:
  """A group of bars per task with a bar per method, from rows[method][task], each a value and its error (or NaN)."""
  left, right, top, bottom = 46, 750, 10, 256
  pairs = [(value, 0 if math.isnan(error) else error) for row in rows for value, error in filter(None, row)]
  low = min([0, *(value - error for value, error in pairs)])
  high = max([0, *(value + error for value, error in pairs)])
  ticks = make_ticks(low, high)
  group_width = (right - left) / len(rows[0])
  bar_width = 0.8 * group_width / len(rows)

  def y(value: float) -> float:
    return top + (bottom - top) * (ticks[-1] - value) / (ticks[-1] - ticks[0])

  def bar(method: int, task: int, value: float, error: float) -> Bar:
    x = left + group_width * (task + 0.1) + bar_width * method
    ends = None if math.isnan(error) else (y(value - error), y(value + error))
    return Bar(x, min(y(0), y(value)), abs(y(0) - y(value)), ends)

  bars = [[pair and bar(i, j, *pair) for j, pair in enumerate(row)] for i, row in enumerate(rows)]
  return BarChart([(tick, y(tick)) for tick in ticks], group_width, bar_width, bars)
