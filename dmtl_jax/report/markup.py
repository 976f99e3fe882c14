"""Pieces of HTML that a report's page is made of."""

from collections.abc import Sequence
import html

import numpy as np

from dmtl_jax.draw.legends import Swatches
from dmtl_jax.tasks import Task


def escape(text: object) -> str:
  return html.escape(str(text))


def swatch(color: str, name: str) -> str:
  """A patch of colour with the name that it stands for."""
  return f'<span class="key" style="background:{color}"></span>{escape(name)}'


def entry_name(entry) -> str:
  return swatch(entry.color, entry.name)


def card(head: str, body: str, style: str = '') -> str:
  return f'<article class="card{style}"><h4>{head}</h4>{body}</article>'


def html_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], style: str = '') -> str:
  """A table that scrolls in its own box where the page is narrow.

  Args:
    heads, rows: HTML of their cells; the first of a row is its head.
  """
  head = ''.join(f'<th scope="col">{text}</th>' for text in heads)
  body = ''.join(
    f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in cells)}</tr>' for first, *cells in rows
  )
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    f'<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
  )


def headed(task: Task) -> str:
  """The head of a column of a task's scores: 'semseg mIoU ↑'."""
  return f'{task.name} {task.metric} {"↑" if task.higher_is_better else "↓"}'


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """The same as Markdown: a first column of words, and columns of numbers."""
  body = [[first.replace('|', '\\|'), *cells] for first, *cells in rows]
  lines = [heads, ['---', *['---:'] * (len(heads) - 1)], *body]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def change(task: Task, scores: dict[str, float]) -> str:
  """One image's or set's scores in words: 'mIoU 21.30 to 24.10, better by 2.80'."""
  final, initial = scores.get('final'), scores.get('initial')
  if final is None:
    return '<span class="score">no score</span>'
  before = '' if initial is None else f'{initial:.{task.digits}f} → '
  more = '' if initial is None else f' {verdict(task, initial, final)}'
  return f'<span class="score">{task.metric} {before}{final:.{task.digits}f}{more}</span>'


def verdict(task: Task, before: float, after: float) -> str:
  """A chip that says in words, sign and colour whether the second score is better than the first."""
  size = f'{abs(after - before):.{task.digits}f}'
  if float(size) == 0:
    return '<span class="chip">no change</span>'
  better = (after > before) == task.higher_is_better
  return f'<span class="chip {"good" if better else "bad"}">{"▲ better" if better else "▼ worse"} by {size}</span>'


def legend(task: Task, limits=None) -> str:
  """What the colours of a task mean."""
  key = task.key(limits)
  if isinstance(key, Swatches):
    return f'<ul class="classes">{"".join(f"<li>{swatch(_css(color), name)}</li>" for name, color in key.entries)}</ul>'
  colors = ','.join(_css(key.colors[i]) for i in np.linspace(0, 255, 9).astype(int))
  return (
    f'<div class="scale"><i style="background:linear-gradient(90deg,{colors})"></i>'
    f'<span>{escape(key.low)}</span><span>{escape(key.high)}</span></div>'
  )


def _css(color) -> str:
  return f'rgb({",".join(str(int(c)) for c in color)})'
