"""Methods, one file each: network, own loss, name. `base` defines what a method is, `parts` holds shared layers."""

import importlib
import pkgutil

from dmtl_jax.models.base import build_model, find, Forward, METHODS, Network, Output, register

__all__ = ['METHODS', 'Forward', 'Network', 'Output', 'build_model', 'find', 'register']

for _file in pkgutil.iter_modules(__path__):
  importlib.import_module(f'{__name__}.{_file.name}')
