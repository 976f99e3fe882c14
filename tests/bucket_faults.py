"""Runs a toy in a bucket that fails, or kills it at its requests, and compares it with an undisturbed run on disk.

  python -m tests.bucket_faults --kills=20 [--seed=0] [--processes=2]

A kill is a SIGKILL by the storage itself, at a random request of the process: before the request is carried out, or
after that but before it is answered. Compared are the same things, bit for bit, as in tests/faults.py. Needs gcsfs.
"""

import argparse
from collections.abc import Callable
import contextlib
import os
import pathlib
import random
import shutil
import signal
import tempfile
import time
from typing import Any

from tests import faults, gcs

WORKDIR = f'gs://{gcs.BUCKET}/runs/toy'
IMPATIENT = {'max_retries': 3, 'initial_delay': '50ms', 'max_delay': '200ms'}


class Trial:
  """A folder with data, the run on disk, and a bucket."""

  def __init__(self, folder: pathlib.Path, bucket: gcs.Bucket, processes: int = 1):
    from tests import toy

    self.folder, self.bucket, self.processes = folder, bucket, processes
    self.data = folder / 'data'
    toy.write(self.data, size=(16, 24))
    results = faults.wait(faults.start(self.data, folder / 'reference', processes, {}))
    assert not any(results), (folder / 'reference.out').read_text()
    self.expected = faults.in_fork(_content, folder / 'reference')

  def live(self, fault: Callable[[int, str, str], Any] | None = None, victim: int = 0) -> tuple[list, str]:
    """One life of the run; returns how each process ended, and what they printed.

    Args:
      fault: see `gcs.Bucket`; its numbers begin at 1. It may return 'kill' too, which ends the process `victim`.
    """
    output = self.folder / 'life.out'
    output.unlink(missing_ok=True)
    pids: list[int] = []

    def counted(number: int, method: str, name: str):
      answer = fault(number - before, method, name) if fault else None
      if answer != 'kill':
        return answer
      os.kill(pids[victim], signal.SIGKILL)
      return ('cut', 'lose')[number % 2]

    before = self.bucket.requests
    self.bucket.fault = counted
    pids += _start(self.data, output, self.processes)
    try:
      return faults.wait(pids), output.read_text()
    finally:
      self.bucket.fault = lambda *_: None

  def differences(self) -> list[str]:
    """What differs, in the bucket, from the run on disk; then the bucket is emptied."""
    copy = self.bucket.download('runs/toy', self.folder / 'copy')
    try:
      return faults.differences(self.expected, faults.in_fork(_content, copy))
    finally:
      shutil.rmtree(copy)
      self.bucket.objects.clear()


def _content(workdir: pathlib.Path) -> dict:
  (workdir / '.lock').unlink(missing_ok=True)  # of a run on disk
  return faults.content(workdir)


def _start(data, output: pathlib.Path, processes: int) -> list[int]:
  """Forks the processes of a life; returns their pids."""
  port, pids = faults.free_port(), []
  for n in range(processes):
    pid = os.fork()
    if not pid:
      with contextlib.suppress(BaseException):
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from dmtl_jax.basics import bucket

        bucket.PATIENT = bucket.IMPATIENT = IMPATIENT
        join = [f'--distributed=localhost:{port},{processes},{n}', '--config.eval.panels=0'] if processes > 1 else []
        os._exit(faults.main(data, WORKDIR, *join))
      import traceback

      traceback.print_exc()
      os._exit(1)
    pids.append(pid)
  return pids


def check_life(results: list, printed: str):
  """Asserts that a life ended well, was killed, or ended with sentences."""
  assert 'Traceback' not in printed, printed
  assert set(results) <= ({'killed', 1, -signal.SIGABRT} if 'killed' in results else {0}), f'{results}\n{printed}'


@contextlib.contextmanager
def trial(processes: int = 1):
  """A `Trial` in a temporary folder, with everything imported."""
  faults.imports()
  with tempfile.TemporaryDirectory() as folder, gcs.Bucket() as bucket:
    before = os.environ | {}
    os.environ.update(bucket.environment())
    try:
      yield Trial(pathlib.Path(folder), bucket, processes)
    finally:
      for name in bucket.environment():
        os.environ.pop(name)
      os.environ.update(before)


def kill_runs(kills: int, seed: int, processes: int, longest: int):
  """Runs through random lives until there were so many kills."""
  rng = random.Random(seed)
  with trial(processes) as tried:
    began, first = time.monotonic(), tried.bucket.requests
    check_life(*tried.live())
    count = tried.bucket.requests - first
    assert not tried.differences()
    print(f'a life takes {time.monotonic() - began:.1f} s and {count} requests', flush=True)
    done = runs = 0
    while done < kills:
      lives = [(rng.randint(1, count), rng.randrange(processes)) for _ in range(rng.randint(1, longest))]
      for number, victim in lives:
        results, printed = tried.live(lambda n, *_: 'kill' if n == number else None, victim)
        check_life(results, printed)
        done += results.count('killed')
      check_life(*tried.live())
      different = tried.differences()
      assert not different, '\n'.join([f'{lives}:', *different[:20]])
      runs += 1
      print(f'{done} kills in {runs} runs, all ended with the same bits', flush=True)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  for flag, default in {'kills': 20, 'seed': 0, 'processes': 1, 'longest': 3}.items():
    parser.add_argument(f'--{flag}', type=type(default), default=default)
  kill_runs(**vars(parser.parse_args()))
