"""The report as one self-contained HTML page: no network, no scripts; light and dark, phone to projector."""

import base64
import html

import cv2

COLORS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#7f7f7f', '#8c564b')
PANELS = 3  # of each run

STYLE = """
:root { --ink: #1d232b; --soft: #5c6673; --line: #e3e7ec; --paper: #ffffff; --card: #f6f8fa; --track: #b9c3cf; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf1; --soft: #9aa6b4; --line: #2c343e; --paper: #12161b; --card: #1a2027; --track: #4d5a68; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 20px 64px; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 1.25rem; margin: 44px 0 12px; }
p { color: var(--soft); margin: 4px 0 12px; max-width: 70ch; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 10px; font-size: .92rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { font-size: .8rem; color: var(--soft); font-weight: 600; background: var(--card); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card h3 { margin: 0; font-size: .95rem; } .card small { color: var(--soft); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px 0 14px; vertical-align: -1px; }
figure { margin: 0 0 22px; } figure img { width: 100%; border: 1px solid var(--line); border-radius: 10px; background: #fff; }
figcaption { color: var(--soft); font-size: .85rem; }
@media print { h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""


def page(runs, header: list[str], rows: list[list[str]]) -> str:
  """The whole page.

  Args:
    runs: `report.Run`s.
    header, rows: of the table of scores.
  """
  data = ', '.join(sorted({run.config['data']['name'] for run in runs}))
  parts = [
      f'<h1>DiffusionMTL on {html.escape(data)}</h1>',
      f'<p>{len(runs)} run{"s" * (len(runs) > 1)}; scores of the denoised maps on the validation images.</p>',
      _table(header, rows),
      _denoising(runs),
      _curves(runs),
      *(_panels(run) for run in runs if run.panels),
  ]
  head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
  return f'<!doctype html><html lang="en"><head>{head}<title>DiffusionMTL report</title><style>{STYLE}</style></head><body>{"".join(parts)}</body></html>'


def title_of(run) -> str:
  """Method and folder of a run: runs of one method stay apart."""
  return f'{run.name} ({run.path.name})'


def _table(header, rows) -> str:
  cells = lambda tag, line: ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in line)
  body = ''.join(f'<tr>{cells("td", row)}</tr>' for row in rows)
  return f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def _denoising(runs) -> str:
  """Initial against denoised maps, a card a task (the paper's Figure 8)."""
  runs = [run for run in runs if 'initial' in run.scores]
  if not runs:
    return ''
  cards = []
  for task in runs[0].tasks:
    bars = []
    for run in runs:
      bars += [(f'{title_of(run)}, initial', run.scores['initial'][task.name], 'var(--track)')]
      bars += [(f'{title_of(run)}, denoised', run.scores['final'][task.name], COLORS[0])]
    direction = 'higher' if task.higher_is_better else 'lower'
    title = f'<h3>{html.escape(task.name)}</h3><small>{task.metric}, {direction} is better</small>'
    cards.append(f'<div class="card">{title}{_bars(bars)}</div>')
  intro = 'The first prediction of each task, and what the denoising network makes of it.'
  return f'<h2>Initial against denoised</h2><p>{intro}</p><div class="cards">{"".join(cards)}</div>'


def _bars(bars: list[tuple[str, float, str]]) -> str:
  most = max((value for _, value, _ in bars if value == value), default=1) or 1
  lines = []
  for i, (label, value, color) in enumerate(bars):
    y = 34 * i
    width = 250 * value / most if value == value else 0
    lines.append(f'<text x="0" y="{y + 12}">{html.escape(label)}</text>')
    lines.append(f'<rect x="0" y="{y + 16}" width="{width:.1f}" height="12" rx="3" fill="{color}"/>')
    lines.append(f'<text x="{width + 6:.1f}" y="{y + 26}">{value:.4g}</text>')
  return f'<svg viewBox="0 0 310 {34 * len(bars)}" role="img">{"".join(lines)}</svg>'


def _curves(runs) -> str:
  """Learning curves: the training loss and each task's loss on the denoised maps, all runs in one plot."""
  names = [('loss/total', 'training loss')] + [(f'loss/final/{t.name}', f'{t.name} loss') for t in runs[0].tasks]
  cards = []
  for name, title in names:
    lines = [(run.curves[name], COLORS[i % len(COLORS)]) for i, run in enumerate(runs) if name in run.curves]
    if lines:
      cards.append(f'<div class="card"><h3>{html.escape(title)}</h3>{_plot(lines)}</div>')
  if not cards:
    return ''
  keys = ''.join(
      f'<span class="key" style="background:{COLORS[i % len(COLORS)]}"></span>{html.escape(title_of(run))}'
      for i, run in enumerate(runs)
  )
  return f'<h2>Learning curves</h2><p>{keys}</p><div class="cards">{"".join(cards)}</div>'


def _plot(lines, width: int = 300, height: int = 150) -> str:
  """An SVG line plot of [((steps, values), color)]."""
  left, bottom, top = 40, 18, 8
  last = max(max(steps) for (steps, _), _ in lines) or 1
  values = [v for (_, vs), _ in lines for v in vs if v == v]
  low, high = min(0, *values), max(values) or 1
  x = lambda step: left + (width - left - 6) * step / last
  y = lambda value: top + (height - top - bottom) * (1 - (value - low) / (high - low))
  grid = ''.join(
      f'<line x1="{left}" x2="{width}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="var(--line)"/>'
      f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
      for v in (low, (low + high) / 2, high)
  )
  ends = f'<text x="{left}" y="{height - 4}">0</text><text x="{width}" y="{height - 4}" text-anchor="end">step {last}</text>'
  paths = ''.join(
      f'<polyline fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round" points="'
      + ' '.join(f'{x(s):.1f},{y(v):.1f}' for s, v in zip(*curve) if v == v)
      + '"/>'
      for curve, color in lines
  )
  return f'<svg viewBox="0 0 {width} {height}" role="img">{grid}{ends}{paths}</svg>'


def _panels(run) -> str:
  figures = ''.join(
      f'<figure><img alt="{html.escape(path.stem)}" src="data:image/jpeg;base64,{_jpeg(path)}">'
      f'<figcaption>{html.escape(path.stem)}: input and labels, then from the initial to the denoised maps</figcaption></figure>'
      for path in run.panels[:PANELS]
  )
  return f'<h2>Predictions of {html.escape(title_of(run))}</h2>{figures}'


def _jpeg(path, width: int = 1500) -> str:
  """A picture file as base64 JPEG, at most `width` pixels wide."""
  picture = cv2.imread(str(path))
  if picture.shape[1] > width:
    size = (width, round(picture.shape[0] * width / picture.shape[1]))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
  return base64.b64encode(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()).decode()
