"""The folder of one run: lock, config, label mapping, logs.

W/config.json, W/tasks.json, W/labels.json (which labels training saw), W/log.jsonl (one line a logged
step), W/tensorboard/, W/checkpoints/, W/panels/, W/metrics.json, W/report.html.
"""

import contextlib
import fcntl
import json
import os
import pathlib

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from dmtl_jax.basics import files, sharding, stopping
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import check_local, is_plain, sanitize, UserError
from dmtl_jax.configs import check
from dmtl_jax.tasks import make_task, Task

# Fields that may differ between a run and its resumption: they do not change what is learned.
FREE = (
  *('data.workers', 'data.threads', 'data.prefetch', 'eval.workers', 'eval.weights'),
  *('train.log_every', 'train.save_every', 'train.keep', 'train.keep_every', 'train.nan_policy'),
  *('train.fsdp', 'train.remat', 'model.initial_weights'),
)


@contextlib.contextmanager
def locked(workdir: str | os.PathLike):
  """Holds the run's folder for this job, making it if need be; all hosts must call it.

  Raises:
    UserError: another job trains there, the folder cannot be written, or see `stopping.report_interruption`.
  """
  check_local('--workdir', os.fspath(workdir))
  file = sharding.on_first_host(_lock, pathlib.Path(workdir))
  try:
    with stopping.report_interruption(lambda: stopping.WHOLE, workdir):
      yield
  finally:
    if file:
      file.close()


def _lock(path: pathlib.Path):
  """The file that is locked until it is closed."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = open(path / '.lock', 'ab')  # noqa: SIM115 (the lock lasts until it is closed)
  except OSError as error:
    raise UserError(f'--workdir={path}: cannot be written ({error.strerror}); choose another folder') from error
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(
      f'--workdir={path}: another process is training there; wait for it or choose another folder'
    ) from None
  for pattern in ('.*.tmp', '*/.*.tmp', '*/*/.*.tmp'):  # of a run that was killed while it wrote
    for left in path.glob(pattern):
      left.unlink(missing_ok=True)
  return file


def to_json(config: ConfigDict) -> dict:
  """The config as plain JSON values (tuples become lists)."""
  return json.loads(config.to_json())


def check_config(workdir: str | os.PathLike, config: ConfigDict):
  """Raises UserError, with the difference, where a field that matters is another than a run was started with.

  The order of the tasks does not matter, and which they are `run_tasks.match` compares.
  """
  path = pathlib.Path(workdir) / 'config.json'
  before, after = (flatten_dict(to_json(c), sep='.') for c in (read_config(workdir), config))
  changed = [
    f'  {k}: {before.get(k)!r} -> {after.get(k)!r}'
    for k in sorted(before.keys() | after.keys())
    if before.get(k) != after.get(k) and k not in (*FREE, 'data.tasks')
  ]
  if changed:
    lines = '\n'.join(changed)
    raise UserError(
      f'{path}: this run was started with another config; choose a new --workdir, or --force to go on with:\n{lines}'
    )


def write_config(workdir: str | os.PathLike, config: ConfigDict):
  """Stores the config of a run."""
  write_json(pathlib.Path(workdir) / 'config.json', to_json(config))


def read_config(workdir: str | os.PathLike) -> ConfigDict:
  """The config a run was trained with; raises UserError where there is none, or one with other fields."""
  path = pathlib.Path(workdir) / 'config.json'
  with _of_a_run(path, 'config'):
    values = json.loads(files.read_text(path))
  check.check(values, str(path))
  values['data'].update({field: tuple(values['data'][field]) for field in ('size', 'tasks')})
  return ConfigDict(values)


def write_tasks(workdir: str | os.PathLike, tasks: tuple[Task, ...]):
  """Stores what a run predicts, so that prediction needs no data set."""
  write_json(
    pathlib.Path(workdir) / 'tasks.json', [{'name': t.name, 'kind': t.kind, 'classes': t.classes} for t in tasks]
  )


def read_tasks(workdir: str | os.PathLike) -> tuple[Task, ...]:
  """The tasks of a run, in the order of its training; raises UserError where there are none, or damaged ones."""
  path = pathlib.Path(workdir) / 'tasks.json'
  with _of_a_run(path, 'tasks'):
    tasks = tuple(
      make_task(t['name'], t['kind'], tuple(map(_text, t['classes']))) for t in json.loads(files.read_text(path))
    )
    if not tasks or len({task.name for task in tasks}) < len(tasks):
      raise ValueError('none, or two of one name')
  return tasks


@contextlib.contextmanager
def _of_a_run(path: pathlib.Path, what: str):
  """Turns the errors of reading a file that holds something else into a UserError."""
  try:
    yield
  except FileNotFoundError:
    raise UserError(f'{path}: no such file; --workdir must name the folder of a trained run') from None
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise UserError(f'{path}: not the {what} of a run ({sanitize(str(error))}); restore it or train again') from error


def _text(value) -> str:
  if not isinstance(value, str) or not is_plain(value):
    raise ValueError('a class without a plain name')
  return value
