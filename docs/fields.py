"""The table of all config fields: names and defaults from the configs, descriptions from the comments beside them."""

import ast
from collections.abc import Iterator
import importlib
import io
import pathlib
import tokenize

from ml_collections import ConfigDict

from dmtl_jax.configs import check, common
from dmtl_jax.data import source
from dmtl_jax.models import METHODS

TITLES = {
  '': 'The run',
  'model': 'model: the network',
  'data': 'data: images and labels',
  'train': 'train: the loop',
  'eval': 'eval: scores',
  'optim': 'optim: the optimiser',
}


def as_markdown() -> str:
  """A table for each section: field, default, what other configs have instead, description."""
  configs = {name: flat(load(name).get_config()) for name in source.names()}
  base, told, lines = flat(common.base(None)), descriptions(), []
  fields = sorted(set(base).union(*fields_of_all()), key=lambda field: (list(TITLES).index(section(field)), field))
  for title in TITLES:
    lines += [f'\n## {TITLES[title]}\n', '| field | | default | elsewhere |', '|---|---|---|---|']
    for field in (field for field in fields if section(field) == title):
      default, others = cell(base[field]) if field in base else '', {}
      for name, config in configs.items():
        if field in config and cell(config[field]) != default and field != 'data.name':
          others.setdefault(cell(config[field]), []).append(name)
      elsewhere = '; '.join(f'{", ".join(names)}: {value}' for value, names in others.items())
      lines.append(f'| `{field}` | {told[field]} | {default} | {elsewhere} |')
  return '\n'.join(lines)


def section(field: str) -> str:
  """'train' of 'train.batch', '' of 'seed'."""
  return field.rpartition('.')[0]


def cell(value) -> str:
  return f'`{dict(value) if isinstance(value, ConfigDict) else value!r}`'


def load(name: str):
  """The module of a data set's config."""
  return importlib.import_module(f'{common.__package__}.{name}')


def fields_of_all() -> list[dict]:
  """The fields of every config with every method."""
  return [flat(load(name).get_config(f'method={method}')) for name in source.names() for method in METHODS]


def flat(config, prefix: str = '') -> dict:
  """{'train.batch': 8, ...}; a dictionary of numbers by name, such as loss_weights, is one field."""
  found = {}
  for key, value in config.items():
    field = f'{prefix}{key}'
    of_fields = isinstance(value, ConfigDict) and field not in check.NUMBERS
    found |= flat(value, f'{field}.') if of_fields else {field: value}
  return found


def descriptions() -> dict[str, str]:
  """{field: the comment at the end of the line that sets it}; configs/common.py has the first word."""
  found, folder = {}, pathlib.Path(common.__file__).parent
  for path in sorted(folder.glob('*.py'), key=lambda path: path.name != 'common.py'):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    comments = {token.start[0]: token.string.lstrip('# ') for token in tokens if token.type == tokenize.COMMENT}
    for field, line in _set_fields(ast.parse(path.read_text()), ''):
      if line in comments:
        found.setdefault(field, comments[line])
  return found


def _set_fields(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
  """(field, line) of `config.a.b = value` and of the keywords of `dict(...)` and `config.a.update(...)`, nested too."""
  if isinstance(node, ast.Assign):
    prefix = ast.unparse(node.targets[0]).removeprefix('config.')
    yield prefix, node.end_lineno
    prefix += '.'
  called = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
  if called.endswith('.update'):
    prefix = called.removeprefix('config.').removesuffix('update')
  for child in ast.iter_child_nodes(node):
    if (called == 'dict' or called.endswith('.update')) and isinstance(child, ast.keyword) and child.arg:
      yield f'{prefix}{child.arg}', child.end_lineno
      yield from _set_fields(child.value, f'{prefix}{child.arg}.')
    else:
      yield from _set_fields(child, prefix)
