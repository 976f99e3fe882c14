"""Tasks, one file per kind: labels, activation, loss, metric, geometry, colours. `base.Task` is the interface."""

from collections.abc import Iterable, Mapping, Sequence
import importlib
import pkgutil

from dmtl_jax.basics.errors import sanitize, unknown_value_error
from dmtl_jax.tasks.base import IGNORE, KINDS, MAX_NAME_LENGTH, Task

__all__ = ['IGNORE', 'KINDS', 'MAX_NAME_LENGTH', 'Task', 'check_keys', 'make_task', 'values_by_task']

for _file in pkgutil.iter_modules(__path__):
  importlib.import_module(f'{__name__}.{_file.name}')


def make_task(name: str, kind: str, classes: tuple[str, ...] = ()) -> Task:
  """Makes a task of the kind of that name; raises ValueError for an unknown kind and as `Task` does."""
  if kind not in KINDS:
    raise unknown_value_error(f"task '{sanitize(name, MAX_NAME_LENGTH)}': kind", kind, KINDS)
  return KINDS[kind](name, tuple(classes))


def values_by_task(values: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, float]:
  """Looks up each task in a field like config.loss_weights: by its name, else by its kind.

  Returns:
    {name: value}, without the tasks that have no value.
  """
  keys = {task.name: _key(values, task) for task in tasks}
  return {name: float(values[key]) for name, key in keys.items() if key in values}


def check_keys(where: str, keys: Iterable[str], values: Mapping[str, float], tasks: Sequence[Task]):
  """Raises UserError if one of these keys of `values` belongs to no task (see `values_by_task`).

  Args:
    where: the field, which starts the message.
  """
  used = [_key(values, task) for task in tasks]
  for key in sorted(set(keys) - set(used)):
    raise unknown_value_error(where, key, dict.fromkeys([*(task.name for task in tasks), *used]))


def _key(values: Mapping[str, float], task: Task) -> str:
  return task.name if task.name in values else task.kind
