"""Compares the tasks of a config's data with those of a run, whose weights fit no others."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.data import source
from dmtl_jax.tasks import Task


def match(config: ConfigDict, tasks: Sequence[Task], workdir, force: bool = False) -> ConfigDict:
  """A copy of the config with config.data.tasks in the order of a run's tasks, in which its weights are arranged.

  Args:
    tasks: of the run that is evaluated or resumed, see `workdir.read_tasks`.
    workdir: the run's folder, for the message.
    force: allow renamed classes; their number may not change.

  Raises:
    UserError: the data have other tasks, kinds or classes; names the file, the task and the difference.
  """
  data = source.data_tasks(config.data)
  _check(f'{workdir}/tasks.json', tasks, data, force)
  names = tuple(task.name for task in tasks)
  config = config.copy_and_resolve_references()
  if names != tuple(task.name for task in data):
    config.data.tasks = names
  return config


def _check(path: str, run: Sequence[Task], data: Sequence[Task], force: bool):
  ours = {task.name: task for task in run}
  theirs = {task.name: task for task in data}
  missing = sorted(ours.keys() - theirs.keys())
  extra = sorted(theirs.keys() - ours.keys())
  if missing:
    raise UserError(
      f'{path}: the data (or config.data.tasks) do not have {join_names(missing)} of this run; '
      f'they have {join_names(list(theirs), 8)}'
    )
  if extra:
    chosen = ','.join(f"'{name}'" for name in ours)
    raise UserError(
      f'{path}: this run does not have {join_names(extra)} of the data; choose its own, '
      f'--config.data.tasks="({chosen},)"'
    )
  for name, task in ours.items():
    if theirs[name].kind != task.kind:
      raise UserError(f'{path}: {name} is of kind {task.kind} in this run, of kind {theirs[name].kind} in the data')
    if theirs[name].channels != task.channels:
      raise UserError(
        f'{path}: {name} has {len(task.classes)} classes in this run, {len(theirs[name].classes)} in the data'
      )
    if theirs[name].classes != task.classes and not force:
      c = next(c for c, pair in enumerate(zip(task.classes, theirs[name].classes)) if pair[0] != pair[1])
      before = sanitize(task.classes[c], 64)
      after = sanitize(theirs[name].classes[c], 64)
      raise UserError(
        f"{path}: class {c} of {name} is '{before}' in this run, '{after}' in the data; "
        f'restore their order and names, or --force if only a name changed'
      )
