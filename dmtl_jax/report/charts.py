"""Charts of a report's page: learning curves as SVG, ranks and bars as HTML."""

from collections.abc import Sequence
import math

from dmtl_jax.report.markup import escape
from dmtl_jax.tasks import Task

POINTS = 60  # of a curve, at most

Curve = tuple[str, str, Sequence[int], Sequence[float]]  # name, colour, steps, values


def plot(curves: Sequence[Curve], label: str, before: Sequence[Curve] = ()) -> str:
  """A line plot, dashed of initial maps (`before`); points tell their values, a start far off the rest is cut off."""
  curves, before = (
    [(name, color, *_thinned(steps, values)) for name, color, steps, values in group] for group in (curves, before)
  )
  last = max(max(steps) for _, _, steps, _ in curves) or 1
  ticks = _ticks(*_range([*curves, *before]))
  return _svg(curves, (), ticks, {0: 'step 0', last: f'{last:,}'}, 'step ', label, before)


def plot_steps(curves: Sequence[Curve], levels: Sequence[tuple[str, str, float]], label: str) -> str:
  """A line plot against numbers of denoising steps S, with dashed lines at `levels`, (name, colour, value)."""
  values = [v for *_, vs in curves for v in vs] + [level for *_, level in levels]
  marks = {s: str(s) for s in sorted({s for _, _, steps, _ in curves for s in steps})}
  return _svg(curves, levels, _ticks(min(values), max(values)), marks, 'S = ', label)


def _svg(
  curves, levels, ticks, marks: dict[int, str], unit: str, label: str, before=(), width: int = 360, height: int = 190
) -> str:
  """Curves, dashed curves and levels between the first and last of the ticks (values) and of the marks (steps)."""
  low, high, first, last = ticks[0], ticks[-1], min(marks), max(marks)
  left, right, top, bottom = 46, 12, 10, 24
  x = lambda step: left + (width - left - right) * (step - first) / (last - first or 1)
  y = lambda value: top + (height - top - bottom) * (1 - (min(max(value, low), high) - low) / (high - low))
  across = lambda value: f'x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
  parts = [
    f'<line class="grid" {across(t)}/><text x="{left - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.6g}</text>'
    for t in ticks
  ]
  end = 0.0
  for step, text in marks.items():
    anchor = {first: 'start', last: 'end'}.get(step, 'middle')
    if step in (first, last) or end + 14 < x(step) < x(last) - 14:  # else they overlap
      parts.append(f'<text x="{x(step):.1f}" y="{height - 6}" text-anchor="{anchor}">{text}</text>')
      end = x(step)
  for name, color, level in levels:
    title = f'<title>{escape(name)}, initial: {level:.4g}</title>'
    parts.append(f'<g stroke="{color}" stroke-dasharray="5 4">{title}<line {across(level)}/></g>')
  dashed = [(f'{name}, initial', *rest, ' stroke-dasharray="5 4"') for name, *rest in before]
  for name, color, steps, values, dash in [*dashed, *((*curve, '') for curve in curves)]:
    points = ' '.join(f'{x(s):.1f},{y(v):.1f}' for s, v in zip(steps, values))
    size = 'r="3"' if len(steps) < 12 else 'r="6" fill-opacity="0"'
    dots = ''.join(
      f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" {size}><title>{escape(name)}, {unit}{s:,}: {v:.4g}</title></circle>'
      for s, v in zip(steps, values)
    )
    parts.append(f'<g stroke="{color}" fill="{color}"{dash}><polyline points="{points}"/>{dots}</g>')
  return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _thinned(steps, values) -> tuple[list[int], list[float]]:
  """At most POINTS points: means of neighbours, at the step of the last of them."""
  size = -(-len(steps) // POINTS)
  parts = [slice(i, i + size) for i in range(0, len(steps), size)]
  return [steps[p][-1] for p in parts], [sum(values[p]) / len(values[p]) for p in parts]


def _range(curves) -> tuple[float, float]:
  values = sorted(v for *_, vs in curves for v in vs)
  if len(values) < 20:  # too few to say which is usual
    return values[0], values[-1]
  usual = values[int(0.95 * (len(values) - 1))]
  high = values[-1] if values[-1] - values[0] < 3 * (usual - values[0]) else usual
  return values[0], high


def _ticks(low: float, high: float) -> list[float]:
  """Three to six round numbers around the range."""
  span = high - low or abs(high) or 1
  unit = 10 ** math.floor(math.log10(span / 3))
  step = next(unit * f for f in (1, 2, 5, 10) if span / (unit * f) <= 4)
  first, last = math.floor(low / step), math.ceil(high / step)
  return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def strip(task: Task, values: Sequence[tuple[str, str, float]]) -> str:
  """One axis with a dot a method, (name, colour, score), the best first; the better the further right."""
  scores = [score for *_, score in values]
  low, high = min(scores), max(scores)
  dots = ''
  for name, color, score in reversed(values):
    place = 50.0 if high == low else 100 * (score - low) / (high - low) * 0.92 + 4
    place = place if task.higher_is_better else 100 - place
    dots += f'<i style="left:{place:.1f}%;background:{color}" title="{escape(name)}: {score:.4g}"></i>'
  return f'<div class="rank" aria-hidden="true">{dots}</div>'


def bar(value: float, most: float, color: str, text: str) -> str:
  """A bar from 0 with its number behind it."""
  return (
    f'<div class="bar"><i style="width:{100 * max(value, 0) / (most or 1) * 0.78:.1f}%;background:{color}"></i>'
    f'<b>{text}</b></div>'
  )


Gain = tuple[str, str, Sequence[tuple[float, float] | None]]  # name, colour, (gain in %, its standard error) a task


def gains(names: Sequence[str], methods: Sequence[Gain], label: str, width: int = 760, height: int = 280) -> str:
  """A drawing by itself, for Markdown: a group of bars a task (`names`), a bar a method, up where it gained."""
  known = [pair for *_, pairs in methods for pair in pairs if pair]
  reach = [mean + sign * (0 if math.isnan(error) else error) for mean, error in known for sign in (-1, 1)]
  ticks = _ticks(min([0.0, *reach]), max([0.0, *reach]))
  left, right, top, bottom = 46, 10, 34, 24
  y = lambda value: top + (height - top - bottom) * (ticks[-1] - value) / (ticks[-1] - ticks[0])
  group = (width - left - right) / len(names)
  thick = 0.8 * group / len(methods)
  parts = [
    f'<path d="M{left} {y(t):.1f}H{width - right}" stroke="#8a94a6" stroke-opacity="{1 if t == 0 else 0.3}"/>'
    f'<text x="{left - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:+.6g}%</text>'
    for t in ticks
  ]
  place = left
  for name, color, _ in methods:
    parts.append(f'<rect x="{place}" y="10" width="10" height="10" rx="2" fill="{color}"/>')
    parts.append(f'<text x="{place + 15}" y="19">{escape(name)}</text>')
    place += 32 + 7 * len(name)
  for i, name in enumerate(names):
    parts.append(
      f'<text x="{left + group * (i + 0.5):.1f}" y="{height - 6}" text-anchor="middle">{escape(name)}</text>'
    )
    for j, (_, color, pairs) in enumerate(methods):
      if pairs[i]:
        parts.append(_gain(left + group * (i + 0.1) + thick * j, thick, color, y, *pairs[i]))
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
    'font-family="system-ui, sans-serif" font-size="12" fill="#7d8794">\n' + '\n'.join(parts) + '\n</svg>\n'
  )


def _gain(x: float, thick: float, color: str, y, mean: float, error: float) -> str:
  """One bar from 0, and a line of a standard error both ways."""
  high, low = sorted((y(0), y(mean)))
  bar = f'<rect x="{x:.1f}" y="{high:.1f}" width="{0.9 * thick:.1f}" height="{low - high:.1f}" fill="{color}"/>'
  if math.isnan(error):
    return bar
  return bar + f'<path d="M{x + 0.45 * thick:.1f} {y(mean - error):.1f}V{y(mean + error):.1f}" stroke="#4b5563"/>'
