"""The task that an export becomes: its kind, its classes, and what pixels mean of which the export says nothing."""

import dataclasses
from typing import NamedTuple

from dmtl_jax.basics.errors import join_names, sanitize, unknown_value_error, UserError
from dmtl_jax.imports.export import class_name, REST
from dmtl_jax.tasks import IGNORE, KINDS, make_task

CATCH_ALL = ('background', '_background_')  # classes in which any other class may be hidden
MAX_CLASSES = REST  # ids below it


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags say.

  Attributes:
    task, kind: name and kind of the task.
    classes: those to take; None for all.
    background: class of the pixels of which the export says nothing; '' if they are unlabelled.
    annotated: classes of which every object was drawn; 'all'; '' for none.
    empty: whether an image in which nothing is drawn shows none of the classes; otherwise it is unlabelled.
    force: whether labels that are there are replaced, or removed where nothing is drawn any more.
  """

  task: str = 'semseg'
  kind: str = ''
  classes: tuple[str, ...] | None = None
  background: str = ''
  annotated: tuple[str, ...] = ()
  empty: bool = False
  force: bool = False

  def __post_init__(self):
    kinds = [kind for kind, task in KINDS.items() if task.binary or task.raw_channels is None]
    if not self.kind and self.task in KINDS:
      object.__setattr__(self, 'kind', self.task)
    object.__setattr__(self, 'kind', self.kind or 'semseg')
    if self.kind not in kinds:
      raise unknown_value_error('--kind', self.kind, kinds)
    try:
      make_task(self.task, self.kind, () if self.is_binary else ('a', 'b'))
    except ValueError as error:
      raise UserError(f'--task: {error}') from error
    if self.background and self.annotated:
      raise UserError('--background and --annotated exclude each other: both say what pixels are that were not drawn')
    if self.is_binary and (self.background or self.annotated):
      flag = 'background' if self.background else 'annotated'
      raise UserError(f'--{flag}: of {self.kind}, what was not drawn is 0 anyway; leave it out')
    if self.empty and not (self.is_binary or self.background or self.annotated):
      raise UserError('--empty: say what pixels are that were not drawn, with --background=NAME or --annotated=all')
    for flag, names in (('classes', self.classes or ()), ('background', [self.background] if self.background else [])):
      for name in names:
        class_name(f'--{flag}', name)

  @property
  def is_binary(self) -> bool:
    return KINDS[self.kind].binary


class Plan(NamedTuple):
  """How the labels of an export are written.

  Attributes:
    classes: of the task, old and new; () if it is binary.
    ids: value of each class of the export that is taken.
    rest: value of the pixels of which the export says nothing.
    annotated: classes for annotated.json; () for none.
    remarks: what the user should know.
  """

  classes: tuple[str, ...]
  ids: dict[str, int]
  rest: int
  annotated: tuple[str, ...]
  remarks: list[str]


def plan(exported: list[str], known: tuple[str, ...], known_background: str, options: Options, where: str) -> Plan:
  """Merges the classes of an export with those the task already has: new ones are appended, so ids never change.

  Args:
    exported: classes of the export.
    known: classes of the task.
    known_background: its class that an earlier import gave to what was not drawn.
    where: dataset.json, which begins messages about the task.

  Raises:
    UserError: there is nothing to take, too many classes, or one may be hidden in another's background.
  """
  taken = _taken(exported, options)
  if options.is_binary:
    return Plan((), {name: int(name not in CATCH_ALL) for name in taken}, 0, (), [])
  if options.background:
    taken = [options.background, *(name for name in taken if name != options.background)]
  else:
    taken.sort(key=lambda name: name not in CATCH_ALL)  # background first, as usual; the others stay in order
  if options.kind == 'parsing' and not known and not {*taken[:1]} & {*CATCH_ALL, options.background}:
    raise UserError(
      '--kind=parsing: its class 0 is what belongs to no part; name it, for instance --background=background'
    )
  _check_hidden(taken, known, known_background, options, where)
  classes = tuple(dict.fromkeys((*known, *taken)))
  if len(classes) > MAX_CLASSES:
    raise UserError(
      f'{where}: {len(classes)} classes, and a task has at most {MAX_CLASSES}; choose with --classes=NAME,NAME'
    )
  annotated = _annotated(taken, options)
  rest = REST if annotated else classes.index(options.background) if options.background else IGNORE
  return Plan(classes, {name: classes.index(name) for name in taken}, rest, annotated, _remarks(classes, annotated))


def _taken(exported: list[str], options: Options) -> list[str]:
  if options.classes is None:
    return list(exported)
  for name in options.classes:
    if name not in exported:
      raise unknown_value_error('--classes', name, _quoted(exported) or ['(none)'])
  return list(dict.fromkeys(options.classes))


def _annotated(taken: list[str], options: Options) -> tuple[str, ...]:
  if options.annotated == ('all',):
    return tuple(taken)
  for name in options.annotated:
    if name not in taken:
      raise unknown_value_error('--annotated', name, ['all', *_quoted(taken)])
  return options.annotated


def _quoted(names: list[str]) -> list[str]:
  """As they are given in a list on the command line: a name with a comma is quoted."""
  return [f'"{name}"' if ',' in name else name for name in names]


def _check_hidden(taken: list[str], known: tuple[str, ...], known_background: str, options: Options, where: str):
  """Refuses a join where pixels of one class may be called background in the other's labels."""
  if not known:
    return
  old = next((name for name in known if name == known_background or name in CATCH_ALL), None)
  new = next((name for name in taken if name == options.background or name in CATCH_ALL), None)
  added = [name for name in taken if name not in known]
  absent = [name for name in known if name not in taken]
  fix = (
    'import it as another task with --task=NAME, or both exports with --annotated=all; if all labels of the task came '
    'from exports of this format and this one names all their images, --force replaces labels and classes'
  )
  if old and added:
    raise UserError(
      f"{where}: {join_names(added)} of this export may be hidden in the class {old} of task '{options.task}'; {fix}"
    )
  if new and absent:
    raise UserError(
      f"{where}: {join_names(absent)} of task '{options.task}' may be hidden in the class {new} of this export; {fix}"
    )


def _remarks(classes: tuple[str, ...], annotated: tuple[str, ...]) -> list[str]:
  by_case: dict[str, list[str]] = {}
  for name in classes:
    by_case.setdefault(name.casefold(), []).append(name)
  remarks = [
    f'{" and ".join(names)} differ only in case and are different classes'
    for names in by_case.values()
    if len(names) > 1
  ]
  if len(classes) == 1:
    remarks.append(
      f'{classes[0]} is the only class and training needs two: import another export, or this one again with '
      '--background=NAME --force, or into another folder with --task=saliency'
    )
  elif set(annotated) == set(classes):
    remarks.append(
      'pixels of none of these classes stay unlabelled until another export adds classes; if they are a class of their '
      'own, import this one again with --background=NAME --force instead of --annotated'
    )
  return [sanitize(remark, 300) for remark in remarks]
