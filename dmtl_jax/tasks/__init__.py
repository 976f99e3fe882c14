"""Tasks, one file per kind: labels, activation, loss, metric, geometry, colours. `base.Task` says what a kind has."""

from collections.abc import Iterable, Mapping, Sequence
import importlib
import pkgutil

from dmtl_jax.basics.errors import sanitize, unknown_value_error
from dmtl_jax.tasks.base import IGNORE, KINDS, LONGEST, Task

__all__ = ['IGNORE', 'KINDS', 'LONGEST', 'Task', 'check_keys', 'make_task', 'values_by_task']

for _file in pkgutil.iter_modules(__path__):
  importlib.import_module(f'{__name__}.{_file.name}')


def make_task(name: str, kind: str, classes: tuple[str, ...] = ()) -> Task:
  """The task of a kind given by name, as files give it; raises ValueError for no kind, and what `Task` refuses."""
  if kind not in KINDS:
    raise unknown_value_error(f"task '{sanitize(name, LONGEST)}': kind", kind, KINDS)
  return KINDS[kind](name, tuple(classes))


def values_by_task(values: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, float]:
  """What a field like config.loss_weights gives each task: the value of its name, or else that of its kind.

  Args:
    values: {name or kind: value}.

  Returns:
    {name: value} of the tasks that have one.
  """
  keys = {task.name: _key(values, task) for task in tasks}
  return {name: float(values[key]) for name, key in keys.items() if key in values}


def check_keys(where: str, keys: Iterable[str], values: Mapping[str, float], tasks: Sequence[Task]):
  """Raises UserError where a value, of those with these keys, reaches no task (see `values_by_task`).

  Args:
    where: the field; begins the sentence.
  """
  reached = {_key(values, task) for task in tasks}
  known = dict.fromkeys([*(task.name for task in tasks), *(_key(values, task) for task in tasks)])
  for key in sorted(set(keys) - reached):
    raise unknown_value_error(where, key, known)


def _key(values: Mapping[str, float], task: Task) -> str:
  return task.name if task.name in values else task.kind
