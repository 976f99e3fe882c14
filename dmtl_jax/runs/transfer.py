"""Starts a network from the weights of a run that may have other tasks, classes, sizes or another method.

Weights are taken part by part (`PARTS`); a part is taken whole or left fresh. A task starts from the task of its name
and kind; where no name matches, from the only unmatched task of its kind.
"""

from collections.abc import Iterator, Sequence
import os
import re
from typing import NamedTuple

import jax
import numpy as np

from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.models import build_model
from dmtl_jax.runs import checkpoints as checkpoints_lib
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

# Names of the parts for people. All but the first two, the shared denoiser and the rest exist once per task.
PARTS = {
  'encoder': 'encoder',
  'reduce': "encoder's last layer",
  'decoder': 'decoder',
  'head': 'head',
  'denoiser': 'denoiser',
  'rest': 'other layers',
}
WITH_CLASSES = ('head', 'denoiser')  # parts of a task with weights per class


class Part(NamedTuple):
  """A part of a network: one of `PARTS`, and its task, or '' where tasks share it."""

  kind: str
  task: str = ''


class Piece(NamedTuple):
  """A view of what an array holds of one part.

  Attributes:
    name: of the array, with * for the name of a task.
    view: of the array.
    class_axis: axis of the task's output channels, which are its classes where it has some; None without.
  """

  part: Part
  name: str
  view: np.ndarray
  class_axis: int | None = None


class Transfer(NamedTuple):
  """What was taken from a run.

  Attributes:
    variables: of the network, numpy.
    taken: parts with weights from the run.
    fresh: {part: why its weights are still the initial ones}.
    share: of the network's weights that come from the run.
    renamed: {task: the run's task of another name that it starts from}.
  """

  variables: dict
  taken: list[Part]
  fresh: dict[Part, str]
  share: float
  renamed: dict[str, str]

  def describe(self) -> str:
    """'took 93% of the weights: encoder, decoder (semseg, depth); fresh: head (semseg: 6 classes there, 4 here)'."""
    tasks: dict[str, list[str]] = {}
    for part in self.taken:
      tasks.setdefault(part.kind, []).append(part.task)
    reasons: dict[tuple[str, str], list[str]] = {}
    for part, reason in self.fresh.items():
      reasons.setdefault((part.kind, reason), []).append(part.task)
    took = ', '.join(_title(kind, names) for kind, names in tasks.items())
    text = f'took {100 * self.share:.3g}% of the weights: {took}' if reasons else 'took all weights'
    if self.renamed:
      text += '; ' + ', '.join(f'{ours} starts from {theirs}' for ours, theirs in self.renamed.items())
    if reasons:
      text += '; fresh: ' + ', '.join(_title(kind, names, reason) for (kind, reason), names in reasons.items())
    return text


def _title(kind: str, tasks: Sequence[str], reason: str = '') -> str:
  """'denoiser (shared, semseg, depth)', 'head (semseg: 6 classes there, 4 here)'."""
  names = join_names([task or 'shared' for task in tasks], 8)
  if tuple(tasks) == ('',):
    return PARTS[kind] + (f' ({reason})' if reason else '')
  return f'{PARTS[kind]} ({names}{": " if reason else ""}{reason})'


def load(source: str | os.PathLike, variables: dict, tasks: tuple[Task, ...]) -> Transfer:
  """Starts from the best weights of a run.

  Args:
    source: the run's folder.
    variables: the network's initial ones.
    tasks: of the network.

  Raises:
    UserError: no run is there, it is damaged, or nothing in it fits.
  """
  config = workdir_lib.read_config(source)
  their_tasks = workdir_lib.read_tasks(source)
  model = build_model(config, their_tasks)
  theirs, _ = checkpoints_lib.load(source, 'best', model, tuple(config.data.size))
  result = transfer(variables, tasks, jax.tree.map(np.asarray, theirs), their_tasks)
  if not result.taken:
    fields = ', '.join(f'{name} {config.model[name]}' for name in ('backbone', 'width', 'channels'))
    raise UserError(
      f'config.init_from: nothing in {sanitize(str(source))} fits this network; that run has method {config.method}, '
      f'{fields}: set --config.model.width={config.model.width} --config.model.channels={config.model.channels}, '
      f'or start from another run'
    )
  return result


def transfer(variables: dict, tasks: tuple[Task, ...], theirs: dict, their_tasks: tuple[Task, ...]) -> Transfer:
  """Fills the parts of a network that those of another fit.

  Args:
    variables: the network's initial ones; not changed.
    theirs: of the other network, numpy.
  """
  variables = jax.tree.map(np.array, variables)
  by_name = {task.name: task for task in tasks}
  partners = match_tasks(tasks, their_tasks)
  source = {(piece.part, piece.name): piece for piece in pieces(theirs, their_tasks)}
  by_part: dict[Part, list[Piece]] = {Part(kind, name): [] for kind in PARTS for name in ('', *by_name)}
  for piece in pieces(variables, tasks):
    by_part[piece.part].append(piece)
  by_part = {part: ours for part, ours in by_part.items() if ours}
  matches = {part: [_find(source, piece, partners.get(part.task)) for piece in ours] for part, ours in by_part.items()}
  obstacles = {}
  for part, ours in by_part.items():
    if part.kind == 'rest':
      obstacles[part] = _order_obstacle(tasks, partners, their_tasks)
    elif part.task:
      obstacles[part] = _task_obstacle(part, by_name[part.task], partners.get(part.task))
    obstacles[part] = obstacles.get(part) or _misfit(ours, matches[part])
  _join_denoiser(obstacles)
  taken = [part for part in by_part if not obstacles[part]]
  for part in taken:
    for piece, match in zip(by_part[part], matches[part]):
      assert match  # or `_misfit` says so
      piece.view[...] = _in_our_order(match, by_name.get(part.task), partners.get(part.task))
  fresh = {part: obstacle for part, obstacle in obstacles.items() if obstacle}
  sizes = {part: sum(piece.view.size for piece in ours) for part, ours in by_part.items()}
  share = sum(sizes[part] for part in taken) / sum(sizes.values())
  renamed = {name: partner.name for name, partner in partners.items() if partner.name != name}
  return Transfer(variables, taken, fresh, share, renamed)


def match_tasks(tasks: Sequence[Task], theirs: Sequence[Task]) -> dict[str, Task]:
  """{task: the other network's task it starts from}: of its name and kind, else the only one left of its kind."""
  named = {task.name: task for task in theirs}
  partners = {t.name: named[t.name] for t in tasks if t.name in named and named[t.name].kind == t.kind}
  ours_left = [task for task in tasks if task.name not in partners]
  used = {task.name for task in partners.values()}
  theirs_left = [task for task in theirs if task.name not in used]
  for task in ours_left:
    alike = [other for other in theirs_left if other.kind == task.kind]
    if len(alike) == 1 and sum(other.kind == task.kind for other in ours_left) == 1:
      partners[task.name] = alike[0]
  return partners


def _find(source: dict, piece: Piece, partner: Task | None) -> Piece | None:
  """The piece of the other network; that shared by its tasks if each task has a network of its own only here."""
  kind, task = piece.part
  for part in (Part(kind, partner.name if task and partner else task), Part(kind)):
    if (part, piece.name) in source:
      return source[part, piece.name]
  return None


def _task_obstacle(part: Part, task: Task, partner: Task | None) -> str:
  """Why a part of a task cannot start from its partner's, whatever its shapes; '' if it can."""
  if partner is None:
    return '' if part.kind in ('encoder', 'reduce') else 'no such task there'
  if part.kind in WITH_CLASSES and set(task.classes) != set(partner.classes):
    if len(task.classes) != len(partner.classes):
      return f'{len(partner.classes)} classes there, {len(task.classes)} here'
    return 'other classes there'
  return ''


def _order_obstacle(tasks: Sequence[Task], partners: dict[str, Task], theirs: Sequence[Task]) -> str:
  """Why layers that are not known by part cannot be taken: they hold all tasks in order."""
  found = [partners.get(task.name) for task in tasks]
  in_order = [task.name for task in found if task] == [task.name for task in theirs] and None not in found
  same = in_order and all(task.classes == other.classes for task, other in zip(tasks, theirs))
  return '' if same else 'other tasks or classes there, or another order'


def _join_denoiser(obstacles: dict[Part, str]):
  """Leaves the shared denoiser fresh without any task's layers of it, and these without it: they share channels."""
  shared = Part('denoiser')
  by_task = [part for part in obstacles if part.kind == 'denoiser' and part.task]
  if obstacles.get(shared):
    obstacles.update({part: obstacles[part] or obstacles[shared] for part in by_task})
  elif by_task and all(obstacles[part] for part in by_task):
    obstacles[shared] = 'no task has layers there that fit'


def _misfit(ours: Sequence[Piece], matches: Sequence[Piece | None]) -> str:
  """Why the shapes of a part do not fit; '' if they do."""
  for piece, match in zip(ours, matches):
    if match is None:
      return 'not in that run'
    if match.view.shape != piece.view.shape:
      return 'of another size there'
  return ''


def _in_our_order(match: Piece, task: Task | None, partner: Task | None) -> np.ndarray:
  """The weights of a piece, with the classes of its task in the order of ours."""
  if match.class_axis is None or not task or not partner or task.classes == partner.classes:
    return match.view
  order = [partner.classes.index(name) for name in task.classes]
  return np.take(match.view, order, match.class_axis)


def pieces(variables: dict, tasks: tuple[Task, ...]) -> Iterator[Piece]:
  """Every array of a network, divided among its parts."""
  names = [task.name for task in tasks]
  conditioning = variables['params'].get('conditioning', {})
  is_embedded = any(f'{name}_embed' in conditioning for name in names)  # before its maps are fused
  for path, array in jax.tree_util.tree_leaves_with_path(variables):
    collection, *module = [key.key for key in path]
    owner = ''
    if (
      len(module) > 1 and module[0] in names and module[1] in ('backbone', 'decoders')
    ):  # each task has a network of its own
      owner, *module = module
    for piece in _divide('/'.join(module), array, tasks, is_embedded):
      part = Part(piece.part.kind, piece.part.task or owner)
      yield piece._replace(part=part, name=f'{collection}/{piece.name}')


def _divide(path: str, array: np.ndarray, tasks: tuple[Task, ...], is_embedded: bool) -> Iterator[Piece]:
  """The pieces of one array.

  Args:
    path: of the array, such as 'decoders/semseg_block0/conv1/kernel'.
    is_embedded: whether the condition embeds the maps of each task before it joins them.
  """
  names = '|'.join(re.escape(task.name) for task in tasks)
  by_name = {task.name: task for task in tasks}

  def stacked(parts, class_axis: int | None = None) -> Iterator[Piece]:
    for task, part in zip(tasks, parts):
      yield Piece(Part('denoiser', task.name), path, part, class_axis)

  def slots(axis: int) -> list[np.ndarray]:
    ends = np.cumsum([task.channels for task in tasks])[:-1]
    return np.split(array, ends, axis)

  if path.startswith('backbone/'):
    yield Piece(Part('encoder' if path.startswith('backbone/encoder/') else 'reduce'), path, array)
  elif match := re.fullmatch(rf'decoders/({names})_(block\d+/.+)', path):
    yield Piece(Part('decoder', match[1]), f'decoders/*_{match[2]}', array)
  elif match := re.fullmatch(rf'decoders/({names})_(head/.+)', path):
    yield Piece(Part('head', match[1]), f'decoders/*_{match[2]}', array, array.ndim - 1)
  elif match := re.fullmatch(rf'conditioning/({names})_(embed/.+)', path):
    of_classes = array.ndim == 4 and array.shape[2] == by_name[match[1]].channels
    yield Piece(Part('denoiser', match[1]), f'conditioning/*_{match[2]}', array, 2 if of_classes else None)
  elif path == 'conditioning/fuse/kernel':
    yield from stacked(np.split(array, len(tasks), 2)) if is_embedded else stacked(slots(2), 2)
  elif path == 'denoiser/embed/kernel' and array.ndim == 4:
    yield from stacked(slots(2), 2)
  elif re.fullmatch(r'denoiser/predict/.+|head/.+', path):
    yield from stacked(slots(array.ndim - 1), array.ndim - 1)
  elif re.match(r'denoiser/(embed|heads)/', path):
    yield from stacked(array)
  elif re.match(r'(denoiser|conditioning)/', path):
    yield Piece(Part('denoiser'), path, array)
  else:
    yield Piece(Part('rest'), path, array)
