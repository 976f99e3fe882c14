"""Checks a config's fields, types and ranges before anything is built from it.

A config.json may come with a run that somebody else trained, and any field may be set on the command
line: a wrong type should not surface deep in the network, and a number should not ask for terabytes.
"""

from collections.abc import Iterable
import dataclasses
import difflib
import functools

from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.configs.fields import all_fields, data_fields, Field, FIELDS, flat
from dmtl_jax.models import METHODS


def check(values: dict, where: str = 'config'):
  """Checks that a config has all fields and no other, each with a value that it can have.

  Args:
    values: nested dicts.
    where: file or flag; begins the sentence.

  Raises:
    UserError: names the field, and what it must be.
  """
  if not isinstance(values, dict):
    raise UserError(f'{where}: not a config, which is an object of fields; restore it or train again')
  data = values.get('data')
  own = data_fields().get(str(data.get('name')), {}) if isinstance(data, dict) else {}
  _check_section(values, _known(), FIELDS | {'data': FIELDS['data'] | own}, where, '')


def check_flags(flags: Iterable[tuple[str, str | None]], values: dict):
  """Checks that flags `--config.PATH=TEXT` set fields that a config has, and numbers to numbers.

  A field that maps names to numbers, such as loss_weights, takes any name.

  Raises:
    UserError: names the closest field, or says what the number must be.
  """
  known = dict(flat(_known()))
  by_name = [path for path, field in known.items() if isinstance(field.default, dict)]
  there = [path for path, _ in flat(values)]
  there += {path.rpartition('.')[0] for path in there}
  for path, text in flags:
    section, _, name = path.rpartition('.')
    if path not in there and section not in by_name:
      near = [f'{other}.{name}' for other in difflib.get_close_matches(section, by_name, 1, 0.8)]
      likely = max([*there, *near], key=functools.partial(_likeness, path))
      raise UserError(f'--config.{sanitize(path, 80)}: no such field; did you mean --config.{likely}?')
    field = known[section].of_name() if section in by_name else known.get(path)
    if field and text is not None and not field.reads(text):
      raise field.error(text, f'--config: {path}')


def _likeness(path: str, other: str) -> float:
  pairs = ((path, other), (path.split('.')[-1], other.split('.')[-1]))
  return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _known() -> dict:
  """Every field, with those that only the network of a method of your own has."""
  attributes = [attribute for method in METHODS.values() for attribute in dataclasses.fields(method.network)]
  model = {x.name: Field(x.default, '') for x in attributes if isinstance(x.default, (bool, int, float, str))}
  return all_fields() | {'model': model | FIELDS['model']}


def _check_section(values, known: dict, required: dict, where: str, prefix: str):
  if not isinstance(values, dict):
    raise UserError(f"{where}: {prefix[:-1]} must be a section of fields, not '{sanitize(str(values), 80)}'")
  for name, value in values.items():
    if name not in known:
      raise UserError(f"{where}: '{sanitize(f'{prefix}{name}', 80)}' is not a field; remove it")
    if isinstance(known[name], Field):
      known[name].check(value, f'{where}: {prefix}{name}')
    else:
      _check_section(value, known[name], required[name], where, f'{prefix}{name}.')
  for name in required:
    if name not in values:
      raise UserError(f'{where}: the field {prefix}{name} is missing; add it, or train again')
