"""The table of all config fields, from the declarations in configs/."""

import importlib

from dmtl_jax.configs import common
from dmtl_jax.configs import fields as declared
from dmtl_jax.data import source

TITLES = {
  '': 'The run',
  'model': 'model: the network',
  'data': 'data: images and labels',
  'train': 'train: the loop',
  'eval': 'eval: scores',
  'optim': 'optim: the optimiser',
}


def as_markdown() -> str:
  """A table for each section: field, meaning, values, default, and what the configs of data sets have instead."""
  known = dict(declared.flat(declared.all_fields()))
  base = values(common.base(None), known)
  configs = {name: values(load(name).get_config(), known) for name in source.names()}
  lines = []
  for section, title in TITLES.items():
    lines += [f'\n## {title}\n', '| field | | values | default | elsewhere |', '|---|---|---|---|---|']
    for path in sorted(path for path in known if path.rpartition('.')[0] == section):
      elsewhere = {}
      for name, config in configs.items():
        if path in config and config[path] != base.get(path) and path != 'data.name':
          elsewhere.setdefault(f'`{config[path]!r}`', []).append(name)
      others = '; '.join(f'{", ".join(names)}: {value}' for value, names in elsewhere.items())
      default = f'`{base[path]!r}`' if path in base else ''
      lines.append(f'| `{path}` | {known[path].doc} | {known[path].values} | {default} | {others} |')
  return '\n'.join(lines)


def load(name: str):
  """The module of a data set's config."""
  return importlib.import_module(f'{common.__package__}.{name}')


def values(config, known) -> dict:
  """{'train.batch': 8, ...} of the fields that a config has; loss_weights and the like are one field."""
  by_path = {}
  for path in known:
    section, _, name = path.rpartition('.')
    place = config[section] if section else config
    if name in place:
      value = place[name]
      by_path[path] = value.to_dict() if hasattr(value, 'to_dict') else value
  return by_path
