"""The report as one self-contained HTML page: no network, no scripts; light and dark, phone to projector."""

import collections
from collections.abc import Sequence
import pathlib

from dmtl_jax.report import charts, last, scoring, steps, viewer
from dmtl_jax.report.details import details
from dmtl_jax.report.gains import gain
from dmtl_jax.report.markup import card, entry_name, escape, html_table, swatch, verdict
from dmtl_jax.report.results import unequal
from dmtl_jax.tasks import Task

STYLE = (pathlib.Path(__file__).parent / 'report.css').read_text(encoding='utf-8')


def page(parts: Sequence[tuple]) -> str:
  """The whole page, of (`results.Section`, `table.Table`) of every data set and label setting."""
  album = viewer.Album()
  title = f'DiffusionMTL on {" and ".join(dict.fromkeys(section.data for section, _ in parts))}'
  body = ''.join(_section(*part, f's{i}', album, len(parts) - i) for i, part in enumerate(parts))
  nav = ''.join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, (section, _) in enumerate(parts))
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    f'<title>{escape(title)}</title><style>{STYLE}</style></head><body>'
    f'<header><h1>{escape(title)}</h1>{f"<nav>{nav}</nav>" if len(parts) > 1 else ""}</header>'
    f'<main>{body}</main></body></html>\n'
  )


def _section(section, table, name: str, album, left: int) -> str:
  """One data set and label setting, from the verdict to the single runs; `left` sections share the album."""
  whole = album.left
  album.left = whole // left
  # The images that tell most are embedded first; `by_image` takes what room is left.
  extremes = viewer.extremes(section, f'{name}x', album)
  by_image = viewer.by_image(section, f'{name}v', album)
  album.left += whole - whole // left
  methods = ['Each row is a method, from its first prediction to its last. Choose a task and an image.']
  if any(entry.method.network.diffuses for entry in section.entries):
    methods.append('<em>Decayed</em> is the initial map with noise added: denoising starts from it.')
  methods += dict.fromkeys(entry.method.note for entry in section.entries if entry.method.note)
  single = (
    'By the score of the final map on the single image. Class averages are over the classes that the image shows.'
  )
  blocks = [
    ('', _verdict(section, table)),
    ('Scores and costs', _scores(section, table)),
    (last.TITLE, last.html(section)),
    ('What denoising changes', len(section.entries) > 1 and _denoising(section)),  # of one, the first cards tell
    ('How many denoising steps', steps.cards(section)),
    ('Image by image', by_image and _note(' '.join(methods)) + by_image),
    ('Best and worst images', extremes and _note(single) + extremes),
    ('Learning curves', _curves(section)),
    ('More', details(section)),
  ]
  body = ''.join(f'<section>{f"<h3>{title}</h3>" if title else ""}{text}</section>' for title, text in blocks if text)
  return f'<article class="part" id="{name}"><h2>{escape(section.title)}</h2>{body}</article>'


def _note(text: str) -> str:
  return f'<p class="note">{text}</p>'


# --- Who won ---------------------------------------------------------------------------------


def _verdict(section, table) -> str:
  """One sentence on who won, and a card a task with the ranking."""
  ranks = {task.name: _ranking(section, table, t) for t, task in enumerate(section.tasks)}
  cards = [
    _winner_card(task, column, ranks[task.name])
    for task, column in zip(section.tasks, table.columns)
    if ranks[task.name]
  ]
  if not cards:
    return '<p class="lead">No run here was evaluated yet: run <code>--mode=evaluate</code> on each.</p>'
  texts = dict.fromkeys((_winner(section, table, ranks), _denoised(section), _caution(section)))
  lead, *rest = filter(None, texts)
  more = ''.join(f'<p class="more">{text}</p>' for text in rest)
  dots = _note('Each dot is a method; further right is better.') if len(section.entries) > 1 else ''
  columns = f'style="--n:{min(len(cards), 6)}"'
  return f'<p class="lead">{lead}</p>{more}<div class="cards winners" {columns}>{"".join(cards)}</div>{dots}'


def _ranking(section, table, t: int) -> list[tuple]:
  """(entry, cell) of the t-th task, the best first; those without a score left out."""
  found = [(entry, row[t]) for entry, row in zip(section.entries, table.rows) if row[t].values]
  return sorted(found, key=lambda pair: pair[1].mean, reverse=table.columns[t].higher)


def _winner(section, table, ranks) -> str:
  """Who is best at how many tasks, and by Delta_m."""
  known = {name: ranking for name, ranking in ranks.items() if len(ranking) > 1}
  if not known:
    return _denoised(section) or 'Scores of the final maps on the validation images.'
  wins = collections.Counter(entry.name for ranking in known.values() for entry, cell in ranking if cell.best)
  most = max(wins.values(), default=0)
  leaders = [name for name, count in wins.items() if count == most]
  deltas = [(cell.mean, entry.name, cell.text) for entry, cell in zip(section.entries, table.delta) if cell.values]
  _, first, delta = max(deltas, default=(0, '', ''))
  by_delta = f'Δm {delta}% against Single-Task' if deltas else ''
  if deltas and leaders == [first]:
    return f'{_names(leaders)} comes first: best at {most} of {len(known)} tasks, {by_delta}.'
  verb = 'are each' if len(leaders) > 1 else 'is'
  parts = [f'{_names(leaders)} {verb} best at {most} of {len(known)} tasks.'] if wins else []
  parts += [f'Over all tasks, {_names([first])} comes first: {by_delta}.'] if deltas else []
  return ' '.join(parts) or 'All methods score the same.'


def _denoised(section) -> str:
  """Whether denoising made the maps better: of one method a sentence, of several a count each."""
  told = []
  for entry in section.entries:
    pairs = [(task, *pair) for task in section.tasks if (pair := gain(entry, task))]
    better = [
      task.name for task, before, after, _ in pairs if (after - before) * (1 if task.higher_is_better else -1) > 0
    ]
    worse = [task.name for task, before, after, _ in pairs if after != before and task.name not in better]
    if not pairs:
      continue
    if len(section.entries) == 1:
      return f'{_helped(better, worse, len(pairs))} {_after(entry)}.'
    counts = {'better': len(better), 'worse': len(worse)}
    counts = [f'{word} at {count}' for word, count in counts.items() if count] or ['no different']
    told.append(f'{_names([entry.name])} {", ".join(counts)} of {len(pairs)} tasks')
  return f'Denoised against initial maps: {"; ".join(told)}.' if told else ''


def _helped(better: Sequence[str], worse: Sequence[str], count: int) -> str:
  """'Denoising helped at 4 of 5 tasks and hurt depth,'."""
  if not better and not worse:
    return 'Denoising changed no score,'
  where = 'all' if len(better) == count else f'{len(better)} of'
  helped = f'Denoising helped at {where} {count} tasks' if better else f'Denoising helped at none of {count} tasks'
  return helped + (f' and hurt {_names(worse)},' if worse else ',')


def _after(entry) -> str:
  """'in 2 steps, by a network trained for 2,000 steps'."""
  steps = entry.config['eval']['diffusion_steps'] or entry.runs[0].diffusion_steps
  trained = sorted({run.metrics['step'] for run in entry.runs if run.metrics.get('step')})
  told = f'in {steps} step{"s" if steps > 1 else ""}'
  return told + (f', by a network trained for {" and ".join(f"{n:,}" for n in trained)} steps' if trained else '')


def _caution(section) -> str:
  """What a fair reader should know before believing the numbers."""
  scored = [entry for entry in section.entries if entry.scored]
  single = [entry.name for entry in scored if len(entry.runs) == 1]
  parts = []
  if len(scored) > 1 and single:
    who = 'Every method' if len(single) == len(scored) else _names(single)
    parts.append(f'{who} ran with one seed: small differences may be chance.')
  return ' '.join([*parts, *map(escape, filter(None, (unequal(section), scoring.warning(section))))])


def _names(names: Sequence[str]) -> str:
  *first, last = [f'<strong>{escape(name)}</strong>' for name in names]
  return f'{", ".join(first)} and {last}' if first else last


def _winner_card(task: Task, column, ranking) -> str:
  """A task's winner, the runner-up, and where the others are."""
  (entry, cell), others = ranking[0], ranking[1:]
  by = entry_name(entry) if cell.best or not others else 'no difference'
  value, rank, second = _spread(cell), '', ''
  if not others and (pair := gain(entry, task)):
    before, after, _ = pair
    value = f'<small>{column.text(before)} →</small> {value}'
    by = verdict(task, before, after)
  if others:
    rank = charts.strip(task, [(e.name, e.color, c.mean) for e, c in ranking])
  if others and cell.best:
    second = _note(f'then {escape(others[0][0].name)} {column.text(others[0][1].mean)}')
  return card(
    escape(task.name),
    f'<p class="metric">{column.unit} {column.arrow}</p><p class="value">{value}</p>'
    f'<p class="by">{by}</p>{rank}{second}',
  )


# --- Table -----------------------------------------------------------------------------------


def _scores(section, table) -> str:
  """The table, with the best of a column marked."""
  runs = lambda text: [text] if section.seeds else []
  heads = [f'{escape(c.title)}<small>{escape(c.unit)} {c.arrow}</small>' for c in table.columns]
  rows = []
  for entry, cells in zip(section.entries, table.rows):
    texts = [f'<b>{_spread(cell)}</b>' if cell.best else _spread(cell) for cell in cells]
    rows.append([entry_name(entry), *texts, *runs(str(len(entry.runs)))])
  notes = ['Scores of the final maps; the best of a column is bold.', scoring.told(section)]
  notes += runs('± is the standard deviation over runs that differ in their seeds alone.')
  notes += [f'Δm is the mean gain over tasks against {table.reference}.'] if table.reference else []
  missing = [entry.name for entry in section.entries if not entry.scored]
  notes += [f'Not evaluated yet: {", ".join(missing)}.'] if missing else []
  table = html_table('Scores', ['method', *heads, *runs('runs')], rows)
  return table + _note(escape(' '.join(notes)))


def _spread(cell) -> str:
  mean, plus, spread = cell.text.partition(' ± ')
  return f'{mean}<small> ± {spread}</small>' if plus else mean


# --- Initial against denoised ----------------------------------------------------------------


def _denoising(section) -> str:
  """Initial against denoised maps, a card a task (the paper's Figure 8)."""
  cards = []
  for task in section.tasks:
    pairs = [(entry, *pair) for entry in section.entries if (pair := gain(entry, task))]
    if not pairs:
      continue
    most = max(max(before, after) for _, before, after, _ in pairs)
    rows = ''.join(
      f'<div class="pair"><p>{entry_name(entry)} {verdict(task, before, after)}</p>'
      + charts.bar(before, most, 'var(--track)', f'{before:.{task.digits}f}')
      + charts.bar(after, most, entry.color, f'{after:.{task.digits}f}')
      + '</div>'
      for entry, before, after, _ in pairs
    )
    direction = 'higher' if task.higher_is_better else 'lower'
    metric = f'<p class="metric">{task.metric}, {direction} is better</p>'
    cards.append(card(escape(task.name), metric + rows))
  intro = _note(
    swatch('var(--track)', 'the first prediction, above the coloured bar of what the denoising network makes of it, ')
    + 'both scored on all validation images.'
  )
  return f'{intro}<div class="cards">{"".join(cards)}</div>' if cards else ''


# --- Learning curves ----------------------------------------------------------------


def _curves(section) -> str:
  """Scores during training where there are several, and losses."""
  plots = [
    (f'eval/final/{t.name}/{metric}', f'{t.name}: validation {metric}')
    for t in section.tasks
    for metric in (t.metric, *([t.quick_metric] if t.quick_metric else []))
  ]
  plots += [('loss/total', 'training loss, all tasks')]
  plots += [(f'loss/final/{t.name}', f'{t.name}: training loss') for t in section.tasks]
  cards = []
  for key, title in plots:
    if curves := _logged(section, key):
      before = _logged(section, key.replace('eval/final/', 'eval/initial/')) if key.startswith('eval/') else []
      cards.append(card(escape(title), charts.plot(curves, title, before)))
  if not cards:
    return ''
  keys = ''.join(f'<span>{entry_name(entry)}</span>' for entry in section.entries)
  note = 'Dashed: initial maps. Losses that sum different terms do not compare; point at a curve for its numbers.'
  return f'<p class="keys">{keys}</p><div class="cards plots">{"".join(cards)}</div>{_note(note)}'


def _logged(section, key: str) -> list[charts.Curve]:
  """The curves of a scalar that runs logged more than once."""
  return [
    (entry.name, entry.color, *run.curves[key])
    for entry in section.entries
    for run in entry.runs
    if len(run.curves.get(key, ((),))[0]) > 1
  ]
