"""Tasks, one file per kind: labels, activation, loss, metric, geometry, colours. `base.Task` says what a kind has."""

import importlib
import pkgutil

from dmtl_jax.basics.errors import none_of, printable
from dmtl_jax.tasks.base import IGNORE, KINDS, LONGEST, Task

__all__ = ['IGNORE', 'KINDS', 'LONGEST', 'Task', 'make_task']

for _file in pkgutil.iter_modules(__path__):
  importlib.import_module(f'{__name__}.{_file.name}')


def make_task(name: str, kind: str, classes: tuple[str, ...] = ()) -> Task:
  """The task of a kind given by name, as files give it; raises ValueError for no kind, and what `Task` refuses."""
  if kind not in KINDS:
    raise none_of(f"task '{printable(name, LONGEST)}': kind", kind, KINDS)
  return KINDS[kind](name, tuple(classes))
