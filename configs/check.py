"""Checks a config's types and ranges before anything is built from it.

A config.json may come with a run that somebody else trained, and any field may be set on the command
line: a wrong type should not surface deep in the network, and a number should not ask for terabytes.
"""

from collections.abc import Iterable, Iterator
import difflib
import functools
import re

from ml_collections import ConfigDict

from dmtl_jax.basics.errors import check_local, sanitize, unknown_value_error, UserError
from dmtl_jax.configs import common
from dmtl_jax.models.parts.encoder import STAGES

# Least and greatest value, of which fields.
LIMITS = {
  (0, 2**32 - 1): 'seed',
  (0, 2**63): 'data.label_seed',
  (0, 0.9): 'data.holdout_fraction',
  (0, 1): 'eval.boundary_tolerance',
  (1, 64): 'model.depth model.heads model.token_stride',
  (1, 1000): 'model.diffusion_steps',
  (0, 1000): 'model.step_offset eval.diffusion_steps',
  (1, 1024): 'model.width',
  (0, 1024): 'data.workers data.threads data.prefetch eval.workers',
  (1, 8192): 'model.channels',
  (1, 1 << 16): 'train.batch train.accumulate train.fsdp eval.batch',
  (1, 10**6): 'data.train_count data.val_count',
  (0, 1e6): 'initial_loss model.cross_task_weight optim.l2',
  (1e-12, 1e6): 'optim.lr',  # of 0 nothing would be learned, nor of gradients clipped to 0
  (1, 10**9): 'train.log_every',
  (0, 10**9): 'train.steps train.epochs train.eval_every train.save_every train.eval_images train.keep '
  'train.keep_every eval.panels eval.boundary_side optim.denoiser_fan_in optim.warmup',
  (1e-9, 1e12): 'optim.clip',
}
RANGES = {field: limits for limits, fields in LIMITS.items() for field in fields.split()}
CHOICES = {
  'data.augment': ('pascal', 'mtan', 'light', 'none'),
  'model.backbone': tuple(STAGES),
  'model.condition': ('predictions', 'features', 'concat', 'none'),
  'model.initial_weights': ('paper', 'released', 'identity'),
  'eval.protocol': ('plain', 'pascal', 'mtpsl'),
  'eval.weights': ('best', 'latest'),
  'eval.resolution': ('input', 'image'),
  'eval.geometry': ('fit', 'pad'),
  'dtype': ('float32', 'bfloat16', 'float16'),
  'optim.name': ('adam', 'adamw', 'sgd'),
  'optim.schedule': ('poly', 'cosine', 'constant'),
  'train.nan_policy': ('stop', 'skip'),
}
SIDE = (5, 1 << 14)  # pixels of data.size: of 4 the maps of stride 4, halved, would have none
TEXTS = ('data.path', 'data.dir', 'data.raw', 'data.raw_sha256')  # of some data sets only
PATHS = ('init_from', 'data.path', 'data.dir', 'data.labels')
NUMBERS = {
  'loss_weights': (0, 1e6),
  'eval.single_task': (-1e9, 1e9),
  'optim.part_lr': (0, 1e6),
}  # {task or part: number}


def check(values: dict, where: str = 'config'):
  """Checks a config against `configs.common.base`; of fields that it has not, only that they are plain values.

  Args:
    values: nested dicts.
    where: of the file or flag; begins the sentence.

  Raises:
    UserError: names the field and what it must be.
  """
  if not isinstance(values, dict):
    raise UserError(f'{where}: not a config, which is an object of fields; restore it or train again')
  _check_section(values, common.defaults(values), where, '')


def check_fields(fields: Iterable[tuple[str, str | None]], values: dict):
  """Checks that a config has the fields (of `NUMBERS`, any task's) that flags `--config.PATH=TEXT` set.

  Raises:
    UserError: names the closest field, or of a number, what its text must be.
  """
  known = dict(_fields(values, ''))
  for path, text in fields:
    section, _, key = path.rpartition('.')
    if path not in known and section not in NUMBERS:
      others = [*known, *(f'{near}.{key}' for near in difflib.get_close_matches(section, NUMBERS, 1, 0.8))]
      likely = max(others, key=functools.partial(_likeness, path))
      raise UserError(f'--config.{sanitize(path, 80)}: no such field; did you mean --config.{likely}?')
    if text is not None and isinstance(known.get(path), (bool, int, float)):
      _need(_reads(text, type(known[path])), '--config', path, _number(path, known[path]), text)


def _reads(text: str, kind: type) -> bool:
  """Whether a flag's text is a value of this kind."""
  if kind is bool:
    return text.lower() in ('true', 'false', 't', 'f', '1', '0')
  try:
    kind(text)
  except ValueError:
    return False
  return True


def _likeness(path: str, other: str) -> float:
  pairs = ((path, other), (path.split('.')[-1], other.split('.')[-1]))
  return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _fields(values: dict, prefix: str) -> Iterator[tuple[str, object]]:
  """('a', value), ('a.b', value), ... of all sections and fields."""
  for key, value in values.items():
    yield f'{prefix}{key}', value
    if isinstance(value, dict):
      yield from _fields(value, f'{prefix}{key}.')


def _check_section(values: dict, defaults: dict, where: str, prefix: str):
  for key, value in values.items():
    field = f'{prefix}{key}'
    if not isinstance(key, str) or not re.fullmatch('[A-Za-z][A-Za-z0-9_]{0,63}', key) or hasattr(ConfigDict, key):
      raise UserError(f"{where}: '{sanitize(str(field), 80)}' is no name of a field; remove it")
    if field in NUMBERS:
      _need(isinstance(value, dict), where, field, 'a number for each name', value)
      low, high = NUMBERS[field]
      for name, number in value.items():
        fits = _is_number(number) and low <= number <= high
        _need(fits, where, f'{field}.{sanitize(str(name), 64)}', f'a number from {low:g} to {high:g}', number)
    elif isinstance(defaults.get(key), dict):
      _need(isinstance(value, dict), where, field, 'a section of fields', value)
      _check_section(value, defaults[key], where, f'{field}.')
    elif key in defaults or field in TEXTS:
      _check_field(value, defaults.get(key, ''), where, field)
    else:
      plain = [value, *value] if isinstance(value, (list, tuple)) else [value]
      fits = all(isinstance(v, (str, int, float, type(None), list, tuple)) for v in plain)
      _need(fits, where, field, 'a number, a text or a list of them', value)


def _check_field(value, default, where: str, field: str):
  if isinstance(default, bool):
    _need(isinstance(value, bool), where, field, _number(field, default), value)
  elif isinstance(default, (int, float)):
    low, high = RANGES.get(field, (float('-inf'), float('inf')))
    fits = isinstance(value, int if isinstance(default, int) else (int, float)) and _is_number(value)
    _need(fits and low <= value <= high, where, field, _number(field, default), value)
  elif field in CHOICES:
    if value not in CHOICES[field]:
      raise unknown_value_error(f'{where}: {field}', str(value), CHOICES[field])
  elif isinstance(default, str):
    _need(isinstance(value, str) and len(value) < 4096, where, field, 'a text', value)
    if field in PATHS or field == 'data.raw':
      check_local(f'{where}: {field}', value, ('http', 'https') if field == 'data.raw' else ())
  elif field == 'data.size':
    fits = isinstance(value, (list, tuple)) and len(value) == 2
    fits = fits and all(isinstance(n, int) and _is_number(n) and SIDE[0] <= n <= SIDE[1] for n in value)
    _need(fits, where, field, f'height and width, {SIDE[0]} to {SIDE[1]} pixels, as (96,128)', value)
  else:  # data.tasks
    fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
    _need(fits, where, field, "a list of names, as ('depth',)", value)


def _number(field: str, default) -> str:
  """What a field whose default is a number or a truth value must be."""
  if isinstance(default, bool):
    return 'true or false'
  low, high = RANGES.get(field, (float('-inf'), float('inf')))
  return f'a {"whole " if isinstance(default, int) else ""}number from {low:g} to {high:g}'


def _is_number(value) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float('inf')


def _need(fits: bool, where: str, field: str, what: str, value):
  if not fits:
    raise UserError(f"{where}: {field} must be {what}, not '{sanitize(str(value), 80)}'")
