"""The folder of one run: lock, config, label mapping, logs.

W/config.json, W/tasks.json, W/labels.json (the labels that training saw), W/predicted_by.json (what predicted some of
them), W/class_weights.json (only with config.class_weights), W/log.jsonl (one line per logged step), W/tensorboard/,
W/checkpoints/, W/panels/, W/metrics.json, W/calibration.json, W/report.html, W/tracker.json
(the run's id in a tracker).
"""

import contextlib
import difflib
import fcntl
import json
import os
import pathlib

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from dmtl_jax import datasets
from dmtl_jax.basics import bucket, files, sharding, stopping
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import check_local, is_plain, sanitize, UserError
from dmtl_jax.configs import check
from dmtl_jax.runs import hub
from dmtl_jax.runs.bucket_lock import BucketLock
from dmtl_jax.tasks import make_task, Task

# Fields that a resumed run may change, since they do not change what is learned.
FREE_FIELDS = (
  *('data.workers', 'data.threads', 'data.prefetch', 'eval.workers', 'eval.weights', 'eval.stage'),
  *('train.log_every', 'train.save_every', 'train.keep', 'train.keep_every', 'train.nan_policy'),
  *('train.tracker', 'train.fsdp', 'train.remat', 'model.initial_weights'),
)


@contextlib.contextmanager
def locked(workdir: str | os.PathLike):
  """Makes and locks the run's folder for this job; all hosts must call it.

  Raises:
    UserError: another job trains there, the folder cannot be written, or see `stopping.report_interruption`.
  """
  hub.check_folder('--workdir', workdir)
  check_local('--workdir', os.fspath(workdir))
  with (
    sharding.on_first_host(_lock, pathlib.Path(workdir)) or contextlib.nullcontext(),
    stopping.report_interruption(lambda: stopping.RUN_IS_WHOLE, workdir),
  ):
    yield


def _lock(path: pathlib.Path):
  """The lock file, or the object in a bucket, locked until it is closed."""
  if mirror := bucket.find(path):
    return BucketLock(mirror)
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = open(path / '.lock', 'ab')  # noqa: SIM115 (closing it would unlock)
  except OSError as error:
    raise UserError(f'--workdir={path}: cannot be written ({error.strerror}); choose another folder') from error
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(
      f'--workdir={path}: another process is training there; wait for it or choose another folder'
    ) from None
  for pattern in ('.*.tmp', '*/.*.tmp', '*/*/.*.tmp'):  # of a run that was killed while writing
    for temporary in path.glob(pattern):
      temporary.unlink(missing_ok=True)
  return file


def find_run(name: str | os.PathLike) -> pathlib.Path | None:
  """The folder of a path or an address, or else the trained network of the data set of that name ('scenes').

  An address hf://OWNER/RUN gives the copy of the run in the Hub's cache, gs://BUCKET/FOLDER a local mirror.

  Returns None without one; raises UserError for an address that cannot be read, see `hub.download_run`.
  """
  if bucket.is_address(name):
    return pathlib.Path(bucket.mirror(os.fspath(name), 'workdir'))
  name = hub.local(name)
  shipped = pathlib.Path(datasets.__path__[0]) / name / 'trained'
  return next((folder for folder in (pathlib.Path(name), shipped) if os.path.isdir(folder)), None)


def resolve_run(name: str | os.PathLike) -> pathlib.Path:
  """As `find_run`; raises UserError, with the closest name, if there is none."""
  if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
    raise UserError(
      f"workdir: {name!r} is no path; give the folder of a trained run, or the name of a network: 'scenes'"
    )
  check_local('--workdir', os.fspath(name), ('hf', bucket.SCHEME))
  folder = find_run(name)
  if folder is None:
    shipped = [path.parent.name for path in pathlib.Path(datasets.__path__[0]).glob('*/trained')]
    close = difflib.get_close_matches(os.fspath(name), shipped, 1)
    hint = f'; did you mean {close[0]}?' if close else ''
    raise UserError(
      f'{sanitize(os.fspath(name))}: no such folder; --workdir must name the folder of a trained run{hint}'
    )
  return folder


def to_json(config: ConfigDict) -> dict:
  """The config as plain JSON values (tuples become lists)."""
  return json.loads(config.to_json())


def check_config(workdir: str | os.PathLike, config: ConfigDict):
  """Raises UserError, with the differences, if a run was started with another config; ignores `FREE_FIELDS`.

  Also ignores the tasks, which `run_tasks.match` compares.
  """
  path = pathlib.Path(workdir) / 'config.json'
  before = flatten_dict(to_json(read_config(workdir)), sep='.')
  after = flatten_dict(to_json(config), sep='.')
  changed = [
    f'  {k}: {before.get(k)!r} -> {after.get(k)!r}'
    for k in sorted(before.keys() | after.keys())
    if before.get(k) != after.get(k) and k not in (*FREE_FIELDS, 'data.tasks')
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
  """The config a run was trained with; raises UserError if there is none, or it is damaged or has other fields."""
  path = pathlib.Path(workdir) / 'config.json'
  with _not_a_run_error(path, 'config'):
    values = json.loads(files.read_text(path))
  check.check(values, str(path))
  values['data'].update({field: tuple(values['data'][field]) for field in ('size', 'tasks')})
  return ConfigDict(values)


def write_tasks(workdir: str | os.PathLike, tasks: tuple[Task, ...]):
  """Stores the tasks of a run, so that prediction needs no data set."""
  write_json(
    pathlib.Path(workdir) / 'tasks.json', [{'name': t.name, 'kind': t.kind, 'classes': t.classes} for t in tasks]
  )


def read_tasks(workdir: str | os.PathLike) -> tuple[Task, ...]:
  """The tasks of a run in its order; raises UserError if there are none or the file is damaged."""
  path = pathlib.Path(workdir) / 'tasks.json'
  with _not_a_run_error(path, 'tasks'):
    tasks = tuple(
      make_task(t['name'], t['kind'], tuple(map(_check_name, t['classes']))) for t in json.loads(files.read_text(path))
    )
    if not tasks or len({task.name for task in tasks}) < len(tasks):
      raise ValueError('none, or two of one name')
  return tasks


@contextlib.contextmanager
def _not_a_run_error(path: pathlib.Path, what: str):
  """Turns errors of reading a run's file into a UserError."""
  try:
    yield
  except FileNotFoundError:
    inside = sorted(config.parent for config in path.parent.glob('*/config.json'))
    hint = f', such as {sanitize(str(inside[0]))}' if inside else ''
    raise UserError(f'{path}: no such file; --workdir must name the folder of a trained run{hint}') from None
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise UserError(f'{path}: not the {what} of a run ({sanitize(str(error))}); restore it or train again') from error


def _check_name(value) -> str:
  if not isinstance(value, str) or not is_plain(value):
    raise ValueError('a class without a plain name')
  return value
