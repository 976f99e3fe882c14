"""Runs a toy in a bucket that fails, or kills it at its requests, and compares it with an undisturbed run on disk.

  python -m tests.bucket_faults --kills=20 [--seed=0] [--processes=2]
  python -m tests.bucket_faults --outages
  python -m tests.bucket_faults --others
  python -m tests.bucket_faults --changing

A kill is a SIGKILL by the storage itself, at a random request of the process: before the request is carried out, or
after that but before it is answered. Compared are the same things, bit for bit, as in tests/faults.py. Needs gcsfs.
"""

import argparse
from collections.abc import Callable
import contextlib
import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

from tests import faults, gcs

WORKDIR = f'gs://{gcs.BUCKET}/runs/toy'
CLOSED = 'RuntimeError: Event loop is closed'
IMPATIENT = {'max_retries': 3, 'initial_delay': '50ms', 'max_delay': '200ms'}


def without_closed_loops(text: str) -> str:
  """Without what TensorStore's threads print, mixed up, when Orbax has given up a save (0.1.86, 0.12.8)."""
  if CLOSED not in text:
    return text
  traceback = re.compile(rf'Traceback |  |{CLOSED}')
  return ''.join(line for line in text.splitlines(keepends=True) if not traceback.match(line))


class Trial:
  """A folder with data, the run on disk, and a bucket."""

  def __init__(self, folder: pathlib.Path, bucket: gcs.Bucket, processes: int = 1):
    from tests import toy

    self.folder, self.bucket, self.processes = folder, bucket, processes
    self.data = folder / 'data'
    self.flags: tuple[str, ...] = ()  # of each life, besides `faults.COMMAND`
    toy.write(self.data, size=(16, 24))
    results = faults.wait(faults.start(self.data, folder / 'reference', processes, {}))
    assert not any(results), (folder / 'reference.out').read_text()
    self.expected = faults.in_fork(_content, folder / 'reference')

  def live(self, fault: Callable[[int, str, str], Any] | None = None, victim: int = 0) -> tuple[list, str]:
    """One life of the run; returns how each process ended, and what they printed.

    Args:
      fault: see `gcs.Bucket`; its numbers begin at 1. It may return 'kill' or 'term' too, for the process `victim`.
    """
    output = self.folder / 'life.out'
    output.unlink(missing_ok=True)
    pids: list[int] = []

    def counted(number: int, method: str, name: str):
      answer = fault(number - before, method, name) if fault else None
      if answer == 'term':
        os.kill(pids[victim], signal.SIGTERM)
        return None
      if answer != 'kill':
        return answer
      os.kill(pids[victim], signal.SIGKILL)
      return ('cut', 'lose')[number % 2]

    before = self.bucket.requests
    self.bucket.fault = counted
    pids += _start(self.data, output, self.processes, *self.flags)
    try:
      return faults.wait(pids), without_closed_loops(output.read_text())
    finally:
      self.bucket.fault = lambda *_: None

  def command(self, *flags: str) -> str:
    """What a command prints, which must succeed."""
    output = self.folder / 'command.out'
    output.unlink(missing_ok=True)
    results = faults.wait([_fork(output, _run_command, flags)])
    assert results == [0], output.read_text()
    return output.read_text()

  def differences(self, *left_out: str, keep: bool = False) -> list[str]:
    """What differs, in the bucket, from the run on disk but for some files; empties the bucket, unless `keep`."""
    copy = self.bucket.download('runs/toy', self.folder / 'copy')
    try:
      different = faults.differences(self.expected, faults.in_fork(_content, copy))
      return [line for line in different if not any(f'/{name}:' in line for name in left_out)]
    finally:
      shutil.rmtree(copy)
      if not keep:
        self.bucket.reset()


def _content(workdir: pathlib.Path) -> dict:
  (workdir / '.lock').unlink(missing_ok=True)  # of a run on disk
  return faults.content(workdir)


def _start(data, output: pathlib.Path, processes: int, *flags: str) -> list[int]:
  """Forks the processes of a life; returns their pids."""
  port, pids = faults.free_port(), []
  for n in range(processes):
    join = [f'--distributed=localhost:{port},{processes},{n}', '--config.eval.panels=0'] if processes > 1 else []
    pids.append(_fork(output, faults.main, data, WORKDIR, *join, *flags))
  return pids


def _fork(output: pathlib.Path, function: Callable, *args) -> int:
  """Calls a function in a fork, which ends with the status that it returns; returns the pid."""
  if pid := os.fork():
    return pid
  try:
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from dmtl_jax.basics import bucket

    bucket.RETRIES = IMPATIENT
    os._exit(function(*args))
  except BaseException:
    traceback.print_exc()
    os._exit(1)


def _run_command(flags) -> int:
  from dmtl_jax import cli

  faults.use_toy_model()
  sys.argv = ['main.py', *flags]
  return cli.main(sys.argv)


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


def _passing(statuses) -> Callable:
  """Every 40th request fails, in turn in these ways."""
  return lambda number, *_: statuses[number // 40 % len(statuses)] if number % 40 == 0 else None


def _lasting(status, name: str, count: int = 1) -> Callable:
  """From the time an object of this name is written for the `count`th time everything fails."""
  written = itertools.count(1)

  def fault(number: int, method: str, requested: str):
    nonlocal fails
    fails = fails or (method == 'POST' and name in requested and next(written) == count)
    return status if fails else None

  fails = False
  return fault


def signalled(tried: Trial):
  """SIGTERM when the first checkpoint begins: the step under way is saved, and the same command goes on."""
  began = itertools.count(1)

  def fault(number: int, method: str, name: str):
    return 'term' if method == 'POST' and 'log.jsonl' in name and next(began) == 1 else None

  results, printed = tried.live(fault)
  assert results == [0] and 'stopped by SIGTERM at step' in printed, printed
  check_life(*tried.live())
  different = tried.differences()
  assert not different, '\n'.join(different[:20])
  print('SIGTERM: the same bits', flush=True)


def changing():
  """A run goes from two processes to one and back to two, killed in between; scores differ by rounding only."""
  with trial() as tried:
    tried.flags = ('--config.eval.panels=0',)  # several processes draw none
    for processes, number in ((2, 3), (1, 2), (2, 0)):
      tried.processes = processes
      began = itertools.count(1)

      def fault(_, method: str, name: str):
        is_chosen = method == 'POST' and 'log.jsonl' in name and next(began) == number
        return 'kill' if is_chosen else None

      results, printed = tried.live(fault)
      check_life(results, printed)
      assert ('killed' in results) == bool(number), printed
      print([line for line in printed.splitlines() if line.startswith('resuming')])
    copy = tried.bucket.download('runs/toy', tried.folder / 'copy')
    ours = faults.in_fork(_content, copy)
    names = [{n for n in run['names'] if not n.startswith('panels/')} for run in (tried.expected, ours)]
    assert names[0] == names[1], names[0] ^ names[1]
    assert ours['entries'] == tried.expected['entries']
    for task, scores in tried.expected['metrics']['final'].items():
      for score, value in scores.items():
        assert abs(ours['metrics']['final'][task][score] - value) < 1e-3 * abs(value), (task, score)
    print('2 processes, 1, 2: the same run', flush=True)


# {outage: (fault, what the command says; '' where it goes through)}
OUTAGES = {
  'busy': (lambda: _passing((503, 429, 500)), ''),
  'cut': (lambda: _passing(('cut', 'lose')), ''),
  'gone': (lambda: _lasting(503, 'log.jsonl', 2), 'the bucket does not answer'),
  'no permission': (lambda: _lasting(403, '/optimizer/'), 'no permission'),
  'token expired': (lambda: _lasting(401, '/optimizer/', 9), 'not signed in'),
}


def outages():
  """Runs through each outage; after one that ends the command, the same command goes on once it is over."""
  with trial() as tried:
    for name, (fault, words) in OUTAGES.items():
      results, printed = tried.live(fault())
      assert 'Traceback' not in printed, f'{name}: {printed}'
      if words:
        sentences = [line for line in printed.splitlines() if line.startswith('Error: ')]
        assert results == [1] and len(sentences) == 1 and words in sentences[0], f'{name}: {results}\n{printed}'
        print(sentences[0])
        results, printed = tried.live()
      assert results == [0], f'{name}: {results}\n{printed}'
      different = tried.differences()
      assert not different, '\n'.join([f'{name}:', *different[:20]])
      print(f'{name}: the same bits', flush=True)


def others():
  """What else is done in a bucket: a signal's checkpoint, other commands on the run, data that lie there."""
  with trial() as tried:
    signalled(tried)
    data = f'gs://{gcs.BUCKET}/data'
    for path in tried.data.rglob('*'):
      if path.is_file():
        tried.bucket.put(f'data/{path.relative_to(tried.data)}', path.read_bytes())
    train = [*faults.COMMAND, f'--config.data.path={data}', f'--workdir={WORKDIR}']
    printed = tried.command(*train)
    assert f'copying {data}' in printed, printed
    different = tried.differences('config.json', keep=True)
    assert not different, '\n'.join(different[:20])
    for name, words, flags in [
      ('metrics.json', 'evaluating step 6', ['--mode=evaluate', f'--workdir={WORKDIR}', '--config.eval.batch=2']),
      (
        '../maps/semseg/val00_input.npy',
        'panels in gs://',
        [
          '--mode=predict',
          f'--workdir={WORKDIR}',
          f'--images={WORKDIR}/panels/*/input.jpg',
          f'--out=gs://{gcs.BUCKET}/runs/maps',
        ],
      ),
      (
        '../all/report.html',
        f'report: gs://{gcs.BUCKET}/runs/all',
        ['--mode=report', f'--workdirs={WORKDIR}', f'--out=gs://{gcs.BUCKET}/runs/all'],
      ),
    ]:
      before = set(tried.bucket.objects.values())
      printed = tried.command(*flags)
      assert f'copying {data}' not in printed, printed
      assert words in printed, printed
      written = {key for key, item in tried.bucket.objects.items() if item not in before}
      assert os.path.normpath(f'runs/toy/{name}') in written, written
      assert not any(b'/tmp/' in item.data for key, item in tried.bucket.objects.items() if 'report' in key)
    print('data in the bucket: the same bits', flush=True)


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
  chosen = parser.add_mutually_exclusive_group()
  for job in (outages, others, changing):
    chosen.add_argument(f'--{job.__name__}', dest='job', action='store_const', const=job)
  flags = vars(parser.parse_args())
  job = flags.pop('job')
  job() if job else kill_runs(**flags)
