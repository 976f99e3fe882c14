"""What the builders of raw benchmark data share: finding, checking and encoding raw files.

A builder names the files it needs and a function `encode(root, id) -> example` that turns
the raw files of one image into what is stored. Here the files are looked for, the images
are encoded by several processes, and whatever is missing or broken is told all at once.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import functools
import itertools
import multiprocessing
import os
from pathlib import Path
import signal
import threading

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress

NAMED = 5  # problems an error names; of the rest it gives the number
IMAGES_A_PROCESS = 16  # fewer are not worth a process's start


def find_root(raw: Path, marker: str) -> Path:
  """The folder at or up to two levels below `raw` that holds the file or folder `marker`.

  Raises:
    UserError: no such folder.
  """
  for pattern in (marker, f'*/{marker}', f'*/*/{marker}'):
    for found in sorted(raw.glob(pattern)):
      return found.parents[len(Path(marker).parts) - 1]
  raise UserError(f"{raw}: found no '{marker}' in it; give the data set's folder in --config.data.raw")


def require(root: Path, files: Sequence[str]):
  """Checks that all `files` (paths relative to root) exist.

  Raises:
    UserError: with the number of missing files and the first of them.
  """
  missing = [file for file in files if not (root / file).is_file()]
  if missing:
    raise UserError(f'{root}: {len(missing)} of {len(files)} files are missing: {listed(missing)}; add them')


def listed(names: Sequence[str]) -> str:
  """'a, b, c and 12 more'."""
  more = len(names) - NAMED
  return ', '.join(names[:NAMED]) + (f' and {more} more' if more > 0 else '')


def examples(encode: Callable, root: Path, splits: dict, split: str, processes: int) -> Iterator:
  """Encodes the images of a split, in order.

  Args:
    encode: picklable function (root, id) -> example; raises UserError for a broken file.
    splits: {split: ids}, all of the data set's.
    split: the one to encode.
    processes: how many encode at most; 1 encodes in this process.

  Yields:
    (position in the split, example).

  Raises:
    UserError: at the end, naming the broken files; those of later splits are then looked for too,
      so that one run finds all of them.
  """
  broken, names = [], list(splits)
  attempt = functools.partial(_attempt, encode, root)
  for name in names[names.index(split) :]:
    with Progress(f'preparing {name}', len(splits[name]), 'img') as progress:
      for position, result in enumerate(_encoded(attempt, splits[name], processes)):
        progress.update(note=f'{len(broken)} broken' if broken else '')
        if isinstance(result, UserError):
          broken.append(str(result))
        elif name == split:
          yield position, result
    if not broken:
      return
  raise UserError(f'{root}: {len(broken)} images have broken files: {listed(broken)}; mend them')


def _attempt(encode, root, id):
  """The example, or the UserError as a value: one broken file must not end the search for others."""
  try:
    return encode(root, id)
  except UserError as error:
    return error


def _encoded(attempt, ids, processes):
  processes = min(processes or os.cpu_count(), -(-len(ids) // IMAGES_A_PROCESS))
  if processes <= 1:
    yield from map(attempt, ids)
    return
  context = multiprocessing.get_context('spawn')  # forking a process that has threads may hang
  with concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
    waiting, ids = collections.deque(), iter(ids)
    try:
      while True:  # a bounded queue: the writer may be slower than the encoders
        waiting.extend(pool.submit(attempt, id) for id in itertools.islice(ids, 8 * processes - len(waiting)))
        if not waiting:
          return
        yield waiting.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)


def _end_with_parent():
  """Ends a worker when its parent is gone: a killed pool leaves its workers waiting for ever."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which ends the pool
  parent = multiprocessing.parent_process()
  threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def prepared(builder_class: type, data_config):
  """The builder of a data set that `--mode=prepare` has built in `data_config.dir`.

  Raises:
    UserError: it is not there.
  """
  builder = builder_class(data_dir=data_config.dir, file_format='array_record')
  if not builder.data_path.exists():
    raise UserError(
      f'{builder.data_path}: the data set is not prepared; run main.py --mode=prepare '
      f'--config=configs/{data_config.name}.py --config.data.raw=PATH --config.data.dir={data_config.dir}'
    )
  return builder
