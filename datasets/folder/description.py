"""Reads dataset.json, which names the tasks of a folder and says how their label files are stored."""

import pathlib
import unicodedata

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import is_plain, sanitize, UserError
from dmtl_jax.tasks import KINDS, make_task, MAX_NAME_LENGTH, Task

FIELDS = {'kind', 'classes', 'ignore', 'positive', 'scale'}
MIN_SCALE, MAX_SCALE = 1e-9, 1e9  # metres; beyond, depths may not fit float32
EXAMPLE = '{"tasks": {"saliency": {}}}'


def read_description(path: pathlib.Path) -> tuple[tuple[Task, ...], dict[str, dict]]:
  """Reads tasks and encodings (see `Files`) from dataset.json; raises UserError with the field and what it must be."""
  if not path.is_file():
    raise UserError(
      f'{path}: no such file; --mode=check with the same --config and --config.data.path proposes one from your labels'
    )
  content = files.read_json(path)
  entries = content.get('tasks') if isinstance(content, dict) else None
  if not isinstance(entries, dict) or not entries:
    raise UserError(f'{path}: "tasks" must map at least one task name to its description, e.g. {EXAMPLE}')
  for field in sorted(FIELDS & content.keys()):  # other fields may document the data
    raise UserError(f'{path}: "{field}" has no effect beside "tasks"; move it into the description of a task')
  tasks, encodings = [], {}
  for name, entry in entries.items():
    task, encodings[name] = _read_entry(f'{path}: "tasks"."{sanitize(name, MAX_NAME_LENGTH)}"', name, entry)
    tasks.append(task)
  return tuple(tasks), encodings


def _read_entry(where: str, name: str, entry) -> tuple[Task, dict]:
  if not isinstance(entry, dict):
    raise UserError(f'{where} must be an object like {{}}')
  unknown = entry.keys() - FIELDS
  if unknown:
    raise UserError(f'{where}: unknown field "{sanitize(min(unknown), 40)}"; use {", ".join(sorted(FIELDS))}')
  kind = entry.get('kind', name)
  classes = entry.get('classes', [])
  if not isinstance(kind, str):
    raise UserError(f'{where}."kind" must be one of {", ".join(KINDS)}')
  _check_classes(f'{where}."classes"', classes)
  encoding = _read_encoding(where, entry)
  try:
    task = make_task(name, kind, tuple(classes))
  except ValueError as error:
    raise UserError(f'{where}: {error}') from error
  allowed = ['kind', *(['classes'] if task.raw_channels is None else []), *task.file_fields]
  for field in sorted(entry.keys() - {*allowed}):
    subject = f'{kind} with {len(classes)} classes' if classes else kind
    raise UserError(f'{where}."{field}" would have no effect: {subject} takes {", ".join(allowed)}; remove it')
  return task, encoding


def _check_classes(where: str, classes):
  """Raises UserError unless class names, which label tables, legends and files, are legible and distinct."""
  if not isinstance(classes, list) or not all(isinstance(c, str) and is_plain(c) for c in classes):
    raise UserError(f'{where} must be a list of names, without control characters')
  first: dict[str, int] = {}
  for i, name in enumerate(classes):
    visible = unicodedata.normalize('NFC', name.strip())
    if not any(c.isprintable() and not c.isspace() for c in visible):
      raise UserError(f'{where}[{i}] is blank; name the class')
    if len(name) > MAX_NAME_LENGTH:
      raise UserError(f'{where}[{i}]: a name has at most {MAX_NAME_LENGTH} characters, not {len(name)}; shorten it')
    if first.setdefault(visible, i) != i:
      raise UserError(f'{where}[{i}]: [{first[visible]}] is also named "{visible}"; rename one of them')


def _read_encoding(where: str, entry: dict) -> dict:
  """Reads the fields that say how label files are stored."""
  for field, low in (('ignore', 0), ('positive', 1)):
    value = entry.get(field, low)
    if type(value) is not int or not low <= value <= 65535:
      raise UserError(f'{where}."{field}" must be a whole number from {low} to 65535')
  scale = entry.get('scale', 1)
  if type(scale) not in (int, float) or not MIN_SCALE <= scale <= MAX_SCALE:
    raise UserError(f'{where}."scale" must be a positive number, {MIN_SCALE:g} to {MAX_SCALE:g} metres')
  encoding = {field: entry[field] for field in ('ignore', 'positive', 'scale') if field in entry}
  if 'positive' in encoding and encoding['positive'] == encoding.get('ignore'):
    raise UserError(f'{where}: "positive" and "ignore" are both {encoding["positive"]}; change one of them')
  return encoding
