"""Data sets that TFDS stores: built once, by one process, and then read in any order."""

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

OFFICIAL = 'label_mappings'  # folder in the prepared data, of the benchmark's files that checksums.tsv lists


def open_split(
  builder,
  split: str,
  tasks: Sequence[Task],
  decode: Callable,
  read_truth: Callable | None = None,
  units: Mapping[str, str] = {},
) -> Source:
  """The split of a data set that is built, with every label.

  Args:
    builder: `info.metadata['ids']` is {split: ids}; `OFFICIAL`, if it has one, {label setting: file}.
    decode: (stored example, tasks) -> {'image', 'labels'}.
    read_truth: stored example -> what `Source.truth` gives; None: {}.
    units: see `Source`.

  Raises:
    UserError: an id that could not name files.
  """
  ids = builder.info.metadata['ids'][split]
  if not all(map(is_id, ids)):
    raise UserError(f'{builder.data_path}: its ids of images are no names of files; prepare it again')
  mask = np.ones((len(ids), len(tasks)), bool)
  official = {setting: official_file(builder, file) for setting, file in getattr(builder, 'OFFICIAL', {}).items()}
  read = functools.partial(_read, f'{builder.data_path}: image {{}} of {split}', builder.as_data_source(split))
  truth = read_truth and functools.partial(read, read_truth)
  return Source(tuple(tasks), ids, mask, functools.partial(read, decode), truth, official, units=dict(units))


def _read(what: str, examples, decode: Callable, index: int, *tasks):
  try:
    example = examples[index]  # ArrayRecord has a sum of every record, by which a damaged one is told
  except Exception as error:  # of no class of its own
    reason = f'cannot be read ({sanitize(str(error))}); delete the folder and prepare the data set again'
    raise UserError(f'{what.format(index)} {reason}') from error
  return decode(example, *tasks)


def official_file(builder, name: str) -> Path:
  """Where `--mode=prepare` puts a file that the data set's checksums.tsv lists."""
  return Path(builder.data_path) / OFFICIAL / name


@contextlib.contextmanager
def alone(builder, wait: bool) -> Iterator[None]:
  """One process a data set; what a killed one left is removed.

  Raises UserError if not to `wait` for another, or for the process that starts this one, which would wait for it too.
  """
  if getattr(multiprocessing.current_process(), '_inheriting', False):
    raise UserError("data are prepared by processes that run this script again; put it under if __name__ == '__main__'")
  folder = Path(builder.data_path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'wb') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      raise UserError(f'{folder}: another process prepares this data set; wait for it') from None
    for leftover in folder.glob('incomplete.*'):
      logging.info('%s: removing what an interrupted run left', leftover)
      shutil.rmtree(leftover)
    yield


def build(builder, raw: Path | None = None):
  """Builds the data set, of the folder `raw` where it needs one."""
  tfds.disable_progress_bar()  # ours tell more
  shuffle.MAX_MEM_BUFFER_SIZE = sys.maxsize  # TFDS would spill a split above 1 GB with TensorFlow
  options = {'download_config': tfds.download.DownloadConfig(manual_dir=str(raw))} if raw else {}
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS would speak of downloads of unknown size
    builder.download_and_prepare(**options)


def prepared(builder_class: type, data_config):
  """The builder of a data set prepared in `data_config.dir`; raises UserError where none is, or an older version."""
  builder = builder_class(data_dir=data_config.dir, file_format='array_record')
  path = Path(builder.data_path)
  if not path.exists():
    older = [found for found in builder.RELEASE_NOTES if (path.parent / found).exists()]
    state = f'only version {older[-1]} is there ({builder.RELEASE_NOTES[path.name]})' if older else 'not prepared'
    raise UserError(
      f'{path}: the data set is {state}; run {program()} --mode=prepare --config=configs/{data_config.name}.py '
      f'--config.data.raw=PATH --config.data.dir={data_config.dir}'
    )
  return builder
