"""Data sets that TFDS stores: built once, by one process, then read in any order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import fcntl
import functools
import io
import multiprocessing
from pathlib import Path
import shutil
import sys

from absl import logging
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from dmtl_jax.basics.errors import program, sanitize, UserError
from dmtl_jax.basics.files import is_id
from dmtl_jax.datasets.source import Source
from dmtl_jax.tasks import Task

OFFICIAL = 'label_mappings'  # folder in the prepared data with the benchmark's files listed in checksums.tsv


def open_split(
  builder,
  split: str,
  tasks: Sequence[Task],
  decode: Callable,
  read_truth: Callable | None = None,
  units: Mapping[str, str] = {},
) -> Source:
  """Opens a split of a data set that has been built, with all labels.

  Args:
    builder: `info.metadata['ids']` is {split: ids}; `OFFICIAL`, if present, is {label setting: file}.
    decode: (stored example, tasks) -> {'image', 'labels'}.
    read_truth: stored example -> the result of `Source.truth`; None: {}.
    units: see `Source`.

  Raises:
    UserError: an id is not usable as a file name.
  """
  ids = builder.info.metadata['ids'][split]
  if not all(map(is_id, ids)):
    raise UserError(f'{builder.data_path}: its image ids are not usable as file names; prepare it again')
  official = getattr(builder, 'OFFICIAL', {})
  read = functools.partial(_read, f'{builder.data_path}: image {{}} of {split}', builder.as_data_source(split))
  return Source(
    tasks=tuple(tasks),
    ids=ids,
    label_mask=np.ones((len(ids), len(tasks)), bool),
    read=functools.partial(read, decode),
    read_truth=read_truth and functools.partial(read, read_truth),
    official={setting: official_file(builder, file) for setting, file in official.items()},
    units=dict(units),
  )


def _read(where: str, examples, decode: Callable, index: int, *tasks):
  try:
    example = examples[index]  # ArrayRecord checks a sum of every record
  except Exception as error:  # ArrayRecord has no error class of its own
    reason = f'cannot be read ({sanitize(str(error))}); delete the folder and prepare the data set again'
    raise UserError(f'{where.format(index)} {reason}') from error
  return decode(example, *tasks)


def official_file(builder, name: str) -> Path:
  """Where `--mode=prepare` stores a file that the data set's checksums.tsv lists."""
  return Path(builder.data_path) / OFFICIAL / name


@contextlib.contextmanager
def lock(builder, wait: bool) -> Iterator[None]:
  """Locks a data set while it is built, and removes what a killed process left.

  Raises UserError if another process holds the lock and `wait` is False, or in a worker, which would deadlock.
  """
  if getattr(multiprocessing.current_process(), '_inheriting', False):
    raise UserError(
      "data are prepared by worker processes, which import this script; put its code under if __name__ == '__main__'"
    )
  folder = Path(builder.data_path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'wb') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      raise UserError(f'{folder}: another process is preparing this data set; wait for it') from None
    for leftover in folder.glob('incomplete.*'):
      logging.info('%s: removing the remains of an interrupted run', leftover)
      shutil.rmtree(leftover)
    yield


def build(builder, raw: Path | None = None):
  """Builds the data set, from the folder `raw` if it needs one."""
  tfds.disable_progress_bar()  # `raw.encode_split` shows progress
  shuffle.MAX_MEM_BUFFER_SIZE = sys.maxsize  # above 1 GB per split TFDS would need TensorFlow
  options = {'download_config': tfds.download.DownloadConfig(manual_dir=str(raw))} if raw else {}
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads of unknown size
    builder.download_and_prepare(**options)


def prepared(builder_class: type, data_config):
  """Opens the builder of a data set in `data_config.dir`; raises UserError if this version is not prepared there."""
  builder = builder_class(data_dir=data_config.dir, file_format='array_record')
  path = Path(builder.data_path)
  if not path.exists():
    older = [version for version in builder.RELEASE_NOTES if (path.parent / version).exists()]
    state = f'prepared in version {older[-1]} only ({builder.RELEASE_NOTES[path.name]})' if older else 'not prepared'
    raise UserError(
      f'{path}: the data set is {state}; run {program()} --mode=prepare --config=configs/{data_config.name}.py '
      f'--config.data.raw=PATH --config.data.dir={data_config.dir}'
    )
  return builder
