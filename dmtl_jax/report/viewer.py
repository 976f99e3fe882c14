"""Pictures of a report's page: one image and task at a time, the methods below each other, stages side by side.

As the paper's Figures 5, 7 and 9: input, ground truth, then of each method the initial, decayed and denoised
maps. Images and tasks are chosen by radio buttons and CSS, so that the page needs no script.
"""

import base64
from collections.abc import Sequence
import functools
import io
import math
import pathlib

from PIL import Image

from dmtl_jax.basics import files
from dmtl_jax.inference import gallery
from dmtl_jax.report.markup import card, change, entry_name, escape, legend
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
    picture = files.open_image(path).convert('RGB')
  except ValueError:
    return None
  picture.thumbnail((side, side), Image.Resampling.BOX)
  encoded = []
  for options in ({'lossless': True}, {'quality': 80}):
    file = io.BytesIO()
    picture.save(file, 'WEBP', method=4, **options)
    encoded.append(file.getvalue())
  return 'data:image/webp;base64,' + base64.b64encode(min(encoded, key=len)).decode()


# --- One image and task, by method -----------------------------------------------------------


def by_image(section, name: str, album: Album) -> str:
  """The viewer of a section: as many of its panels' images as the album has room for."""
  drawn = {entry.name: _panels(entry) for entry in section.entries}
  ids = list(dict.fromkeys(id for images in drawn.values() for id in images))
  ids.sort(key=lambda id: -sum(id in images for images in drawn.values()))
  thumbs, shots = [], {}
  share = album.left
  for id in ids:
    before = album.left
    run, entry = next(images[id] for images in drawn.values() if id in images)
    thumb = album.uri(run.path / 'panels' / entry['input'], THUMB)
    parts = [_shot(section, task, id, drawn, album) for task in section.tasks]
    if thumb is None or not any(parts):
      continue
    for t, (task, part) in enumerate(zip(section.tasks, parts)):
      nothing = f'<p class="none">No method has drawn {escape(task.name)} of {escape(id)}.</p>'
      shots[f'i{len(thumbs)}', f't{t}'] = part or nothing
    thumbs.append(f'<img src="{thumb}" alt="{escape(id)}">')
    if album.left - (before - album.left) < 0.1 * share:  # another one as large would not fit
      break
  choices = _tasks_choice(name, section.tasks) + _choice(f'{name}i', 'Image', thumbs, 'thumbs')
  return _chooser(name, choices, shots)


def _chooser(name: str, choices: str, shots: dict[tuple, str], style: str = '', display: str = 'block') -> str:
  """Radio buttons and what belongs to their choices, {ends of the ids of buttons: HTML}; '' without any."""
  if not shots:
    return ''
  rules = shown = ''
  for ids, content in shots.items():
    shot = '-'.join((name, *ids))
    checked = ''.join(f':has(#{name}{id}:checked)' for id in ids)
    rules += f'#{name}{checked} .{shot}{{display:{display}}}'
    shown += f'<div class="{style}shot {shot}">{content}</div>'
  return (
    f'<style>@supports selector(:has(*)){{#{name} .shot{{display:none}}{rules}}}</style>'
    f'<div class="viewer" id="{name}"><div class="choose">{choices}</div>{shown}</div>'
  )


def _tasks_choice(name: str, tasks: Sequence[Task]) -> str:
  return _choice(f'{name}t', 'Task', [escape(task.name) for task in tasks])


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


def _shot(section, task: Task, id: str, drawn: dict, album: Album) -> str:
  """Input and ground truth of one image, then a row per method; '' where no method has the task."""
  rows, top = [], ''
  stages = _stages(drawn, id, task)
  for entry in section.entries:
    run, image = drawn[entry.name].get(id, (None, None))
    shown = image['tasks'].get(task.name) if image else None
    who = f'<div class="who">{entry_name(entry)}'
    if shown is None:
      rows.append(f'<div class="strip">{who}</div><p class="none">{_absent(entry, task)}</p></div>')
      continue
    top = top or _top(run, image, shown, task, album)
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
  order = {'initial': (-1,), 'final': (math.inf, 0), 'change': (math.inf, 1)}
  return sorted(found, key=lambda stage: order.get(stage) or (int(stage[4:]),))


def _titles(entry, stages: Sequence[str], files: dict) -> list[tuple[str, str]]:
  """(stage, caption) of every column; an empty caption where the method has no such stage."""
  steps = sum(stage.startswith('step') for stage in files)
  titles = {stage: gallery.stage_title(stage, steps) if stage in files else '' for stage in stages}
  if not entry.config['model'].get('add_noise', True) and titles.get('step0'):
    titles['step0'] = 'Unchanged (no noise)'
  return list(titles.items())


def _top(run, image: dict, shown: dict, task: Task, album: Album) -> str:
  truth, id = shown['files'].get('label'), image['id']
  figures = _figure(run, image['input'], 'Input', f'input {id}', album)
  if truth:
    figures += _figure(run, truth, 'Ground truth', f'{task.name} of {id}: ground truth', album)
  else:
    figures += _empty('not labelled', 'Ground truth')
  return (
    f'<div class="strip first"><div class="who">{escape(id)}{legend(task, shown.get("limits"))}</div>'
    f'<div class="frames two">{figures}</div></div>'
  )


def _figure(run, file: str | None, title: str, alt: str, album: Album) -> str:
  if not title:
    return '<figure class="gap"></figure>'
  uri = album.uri(run.path / 'panels' / file) if file else None
  if uri is None:
    return _empty('no picture', title)
  caption = f'<figcaption>{escape(title)}</figcaption>'
  return f'<figure><img src="{uri}" alt="{escape(alt)}" loading="lazy">{caption}</figure>'


def _empty(text: str, title: str) -> str:
  return f'<figure class="empty"><span>{text}</span><figcaption>{escape(title)}</figcaption></figure>'


def _absent(entry, task: Task) -> str:
  if not any(t.name == task.name for run in entry.runs for t in run.tasks):
    return f'does not learn {escape(task.name)}'
  if not any(run.images for run in entry.runs):
    return 'no pictures; run <code>--mode=evaluate</code> on it'
  return 'not among the images that were drawn'


# --- Best and worst --------------------------------------------------------------------------


def extremes(section, name: str, album: Album) -> str:
  """Of every task, each method's best and worst image: input, truth, initial and final map, with the scores."""
  shots, tasks = {}, []
  for task in section.tasks:
    cards = ''.join(_extreme(entry, task, why, album) for entry in section.entries for why in ('best', 'worst'))
    if cards:
      shots[(f't{len(tasks)}',)] = cards
      tasks.append(task)
  return _chooser(name, _tasks_choice(name, tasks), shots, 'extremes ', 'grid')


def _extreme(entry, task: Task, why: str, album: Album) -> str:
  found = [(run, i) for run in entry.runs for i in run.images if why in i['tasks'].get(task.name, {}).get('why', ())]
  if not found or album.left < 0:
    return ''
  run, image = found[0]
  shown = image['tasks'][task.name]
  final = 'Denoised' if 'initial' in shown['files'] else 'Prediction'
  titles = {'label': 'Ground truth', 'initial': 'Initial', 'final': final}
  alt = f'{task.name} of {image["id"]} by {entry.name}: '
  figures = _figure(run, image['input'], 'Input', f'input {image["id"]}', album) + ''.join(
    _figure(run, shown['files'][stage], title, alt + title, album)
    for stage, title in titles.items()
    if stage in shown['files']
  )
  return card(
    f'<span class="tag">{why}</span>{entry_name(entry)}',
    f'<p class="note">{escape(image["id"])} {change(task, shown["scores"])}</p>'
    f'<div class="frames four">{figures}</div>',
    f' {why}',
  )
