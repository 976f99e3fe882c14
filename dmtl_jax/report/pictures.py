"""Pictures of a report's page: one image and task at a time, the methods below each other, stages side by side.

As the paper's Figures 5, 7 and 9: input, ground truth, then of each method the initial, decayed and denoised
maps. Images and tasks are chosen by radio buttons and CSS, so that the page needs no script.
"""

import base64
from collections.abc import Sequence
import functools
import html
import io
import math
import pathlib

import numpy as np
from PIL import Image

from dmtl_jax.basics import files as files_lib
from dmtl_jax.draw import legends
from dmtl_jax.inference import pictures
from dmtl_jax.tasks import Task

BUDGET = 4_000_000  # characters of all pictures of a page
SIDE = 256  # pixels of an embedded picture's longer side, at most
THUMB = 72


class Album:
  """Embeds pictures in the page, and counts what they take."""

  def __init__(self, budget: int = BUDGET):
    self.left = budget

  def uri(self, path: pathlib.Path, side: int = SIDE) -> str | None:
    """A picture file as a data URI; None where it cannot be read."""
    data = _encoded(path, side)
    if data is not None:
      self.left -= len(data)
    return data


@functools.lru_cache(maxsize=4096)
def _encoded(path: pathlib.Path, side: int) -> str | None:
  """The smaller of lossless and lossy WebP: maps of few colours are smallest, and sharpest, without loss."""
  try:
    picture = files_lib.open_image(path).convert('RGB')
  except ValueError:
    return None
  picture.thumbnail((side, side), Image.Resampling.BOX)
  files = []
  for options in ({'lossless': True}, {'quality': 80}):
    file = io.BytesIO()
    picture.save(file, 'WEBP', method=4, **options)
    files.append(file.getvalue())
  return 'data:image/webp;base64,' + base64.b64encode(min(files, key=len)).decode()


# --- One image and task, by method -----------------------------------------------------------


def viewer(section, colors: dict[str, str], name: str, album: Album) -> str:
  """The chooser of a section: as many of its panels' images as the album has room for."""
  drawn = {entry.name: _panels(entry) for entry in section.entries}
  ids = list(dict.fromkeys(id for images in drawn.values() for id in images))
  ids.sort(key=lambda id: -sum(id in images for images in drawn.values()))
  thumbs, shots, rules = [], [], []
  share = album.left
  for id in ids:
    before = album.left
    image = len(thumbs)
    run, entry = next(images[id] for images in drawn.values() if id in images)
    thumb = album.uri(run.path / 'panels' / entry['input'], THUMB)
    parts = [_shot(section, task, id, drawn, colors, album) for task in section.tasks]
    if thumb is None or not any(parts):
      continue
    thumbs.append((id, thumb))
    for t, part in enumerate(parts):
      shots.append(f'<div class="shot {name}-{image}-{t}">{part or _nothing(section.tasks[t], id)}</div>')
      rules.append(
        f'#{name}:has(#{name}i{image}:checked):has(#{name}t{t}:checked) .{name}-{image}-{t}{{display:block}}'
      )
    if album.left - (before - album.left) < 0.1 * share:  # another one as large would not fit
      break
  if not thumbs:
    return ''
  return (
    f'<style>@supports selector(:has(*)){{#{name} .shot{{display:none}}{"".join(rules)}}}</style>'
    f'<div class="viewer" id="{name}"><div class="choose">'
    + _choice(f'{name}t', 'Task', [html.escape(task.name) for task in section.tasks])
    + _choice(f'{name}i', 'Image', [f'<img src="{uri}" alt="{html.escape(id)}">' for id, uri in thumbs], 'thumbs')
    + f'</div>{"".join(shots)}</div>'
  )


def _panels(entry) -> dict[str, tuple]:
  """{id: (run, its entry in index.json)} of the images drawn with all tasks, of the first run that has any."""
  for run in entry.runs:
    found = {i['id']: (run, i) for i in run.images if any('panel' in t['why'] for t in i['tasks'].values())}
    if found:
      return found
  return {}


def _choice(name: str, legend: str, labels: Sequence[str], style: str = 'pills') -> str:
  options = ''.join(
    f'<input type="radio" name="{name}" id="{name}{i}"{" checked" if i == 0 else ""}>'
    f'<label for="{name}{i}">{label}</label>'
    for i, label in enumerate(labels)
  )
  return f'<fieldset class="{style}"><legend>{legend}</legend>{options}</fieldset>'


def _shot(section, task: Task, id: str, drawn: dict, colors: dict, album: Album) -> str:
  """Input and ground truth of one image, then a row a method; '' where no method has the task."""
  rows, top = [], ''
  stages = _stages(drawn, id, task)
  for entry in section.entries:
    run, image = drawn[entry.name].get(id, (None, None))
    shown = image['tasks'].get(task.name) if image else None
    who = f'<div class="who">{swatch(colors[entry.name])}{html.escape(entry.name)}'
    if shown is None:
      rows.append(f'<div class="strip">{who}</div><p class="none">{_absent(entry, task)}</p></div>')
      continue
    top = top or _top(run, image, shown, task, id, album)
    figures = [
      _figure(run, shown['files'].get(stage), title, f'{task.name} of {id} by {entry.name}: {title}', album)
      for stage, title in _titles(entry, stages, shown['files'])
    ]
    rows.append(
      f'<div class="strip">{who}{change(task, shown["scores"])}</div>'
      f'<div class="frames" style="--n:{len(stages)}">{"".join(figures)}</div></div>'
    )
  return f'{top}{"".join(rows)}' if top else ''


def _stages(drawn: dict, id: str, task: Task) -> list[str]:
  """Stages that some method has of the image, in their order: a column each."""
  shown = [images[id][1]['tasks'].get(task.name, {'files': {}}) for images in drawn.values() if id in images]
  found = {stage for entry in shown for stage in entry['files']} - {'label'}
  return sorted(found, key=lambda stage: {'initial': -1, 'final': math.inf}.get(stage) or int(stage[4:]))


def _titles(entry, stages: Sequence[str], files: dict) -> list[tuple[str, str]]:
  """(stage, caption) of every column; an empty caption where the method has no such stage."""
  steps = sum(stage.startswith('step') for stage in files)
  titles = {stage: pictures.stage_title(stage, steps) if stage in files else '' for stage in stages}
  if not entry.config['model'].get('add_noise', True) and titles.get('step0'):
    titles['step0'] = 'Unchanged (no noise)'
  return list(titles.items())


def _top(run, image: dict, shown: dict, task: Task, id: str, album: Album) -> str:
  truth = shown['files'].get('label')
  figures = _figure(run, image['input'], 'Input', f'input {id}', album)
  figures += (
    _figure(run, truth, 'Ground truth', f'{task.name} of {id}: ground truth', album)
    if truth
    else ('<figure class="empty"><span>not labelled</span><figcaption>Ground truth</figcaption></figure>')
  )
  return (
    f'<div class="strip first"><div class="who">{html.escape(id)}{legend(task, shown.get("limits"))}</div>'
    f'<div class="frames two">{figures}</div></div>'
  )


def _figure(run, file: str | None, title: str, alt: str, album: Album) -> str:
  if not title:
    return '<figure class="gap"></figure>'
  uri = album.uri(run.path / 'panels' / file) if file else None
  if uri is None:
    return f'<figure class="empty"><span>no picture</span><figcaption>{html.escape(title)}</figcaption></figure>'
  alt = html.escape(alt, quote=True)
  caption = f'<figcaption>{html.escape(title)}</figcaption>'
  return f'<figure><img src="{uri}" alt="{alt}" loading="lazy">{caption}</figure>'


def _nothing(task: Task, id: str) -> str:
  return f'<p class="none">No method has drawn {html.escape(task.name)} of {html.escape(id)}.</p>'


def _absent(entry, task: Task) -> str:
  if not any(t.name == task.name for run in entry.runs for t in run.tasks):
    return f'does not learn {html.escape(task.name)}'
  if not any(run.images for run in entry.runs):
    return 'no pictures; run <code>--mode=evaluate</code> on it'
  return 'not among the images that were drawn'


# --- Best and worst --------------------------------------------------------------------------


def extremes(section, colors: dict[str, str], name: str, album: Album) -> str:
  """Of every task, each method's best and worst image: input, truth, initial and final map, with the scores."""
  parts = []
  for task in section.tasks:
    cards = [
      card
      for entry in section.entries
      for why in ('best', 'worst')
      if (card := _extreme(entry, task, why, colors[entry.name], album))
    ]
    parts.append((task, ''.join(cards)))
  parts = [(task, cards) for task, cards in parts if cards]
  if not parts:
    return ''
  rules = ''.join(f'#{name}:has(#{name}t{t}:checked) .{name}-{t}{{display:grid}}' for t in range(len(parts)))
  shots = ''.join(f'<div class="extremes shot {name}-{t}">{cards}</div>' for t, (_, cards) in enumerate(parts))
  return (
    f'<style>@supports selector(:has(*)){{#{name} .shot{{display:none}}{rules}}}</style>'
    f'<div class="viewer" id="{name}"><div class="choose">'
    + _choice(f'{name}t', 'Task', [html.escape(task.name) for task, _ in parts])
    + f'</div>{shots}</div>'
  )


def _extreme(entry, task: Task, why: str, color: str, album: Album) -> str:
  found = [
    (run, image)
    for run in entry.runs
    for image in run.images
    if why in image['tasks'].get(task.name, {}).get('why', ())
  ]
  if not found or album.left < 0:
    return ''
  run, image = found[0]
  shown = image['tasks'][task.name]
  titles = {
    'label': 'Ground truth',
    'initial': 'Initial',
    'final': 'Denoised' if 'initial' in shown['files'] else 'Prediction',
  }
  alt = f'{task.name} of {image["id"]} by {entry.name}: '
  figures = _figure(run, image['input'], 'Input', f'input {image["id"]}', album) + ''.join(
    _figure(run, shown['files'][stage], title, alt + title, album)
    for stage, title in titles.items()
    if stage in shown['files']
  )
  return (
    f'<article class="card {why}"><h4><span class="tag">{why}</span>'
    f'{swatch(color)}{html.escape(entry.name)}</h4>'
    f'<p class="note">{html.escape(image["id"])} {change(task, shown["scores"])}</p>'
    f'<div class="frames four">{figures}</div></article>'
  )


# --- Words and colours -----------------------------------------------------------------------


def swatch(color: str) -> str:
  return f'<span class="key" style="background:{color}"></span>'


def change(task: Task, scores: dict[str, float]) -> str:
  """One image's or set's scores in words: 'mIoU 21.30 to 24.10, better by 2.80'."""
  final, initial = scores.get('final'), scores.get('initial')
  if final is None:
    return '<span class="score">no score</span>'
  if initial is None:
    return f'<span class="score">{task.metric} {final:.{task.digits}f}</span>'
  numbers = f'{initial:.{task.digits}f} → {final:.{task.digits}f}'
  return f'<span class="score">{task.metric} {numbers} {verdict(task, initial, final)}</span>'


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
  if isinstance(key, legends.Swatches):
    names = ''.join(f'<li>{swatch(_css(color))}{html.escape(name)}</li>' for name, color in key.entries)
    return f'<ul class="classes">{names}</ul>'
  colors = ','.join(_css(key.colors[i]) for i in np.linspace(0, 255, 9).astype(int))
  return (
    f'<div class="scale"><i style="background:linear-gradient(90deg,{colors})"></i>'
    f'<span>{key.low}</span><span>{key.high}</span></div>'
  )


def _css(color) -> str:
  return f'rgb({",".join(str(int(c)) for c in color)})'
