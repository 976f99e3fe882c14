"""Trains and compares methods on equal terms: a suite of runs, several at once, and the report of them all.

  python -m dmtl_jax.benchmarks.study --suite=scenes-small [--out=runs/study] [--jobs=2] [--page=docs/study.md]
  python -m dmtl_jax.benchmarks.study --suite=camvid --config.data.path=PATH --config.init_from=resnet18.safetensors
  python -m dmtl_jax.benchmarks.study --page=docs/study.md [--out=runs/study]    # the page alone, of what is done

Suites are in suites.py; any --config.FIELD is given to all runs. Each run trains in OUT/SUITE/NAME and tells its story
to OUT/SUITE/NAME.txt. Stopped at any moment, the same command goes on; runs that are done are not made again. Before
them, each method chooses its learning rate on training images held back from it, never on validation.
"""

import argparse
from concurrent.futures import as_completed, ThreadPoolExecutor
import glob
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import threading

from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import check_local, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.benchmarks import study_page
from dmtl_jax.benchmarks.suites import Run, Suite, SUITES
from dmtl_jax.jobs.report import write_report
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.results import read_run


class Places:
  """Where runs go: GPUs in turn, or CPU cores, one run a core (two runs of a core each are faster than one of two)."""

  def __init__(self, jobs: int):
    self.gpus = len(glob.glob('/dev/nvidia[0-9]*'))
    self.cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    self.jobs = jobs or self.gpus or len(self.cores) or os.cpu_count()
    self._next, self._own = itertools.count(), threading.local()

  def take(self):
    """Gives the calling thread, and with it the processes that it starts, a place."""
    number, self._own.variables = next(self._next), {}
    if self.gpus:
      share = 0.9 / -(-self.jobs // self.gpus)
      device = str(number % self.gpus)
      self._own.variables = {'CUDA_VISIBLE_DEVICES': device, 'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{share:.2f}'}
    elif self.cores:
      os.sched_setaffinity(0, {self.cores[number % len(self.cores)]})

  @property
  def variables(self) -> dict[str, str]:
    """Environment of the calling thread's processes."""
    return os.environ | self._own.variables


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--suite', choices=SUITES, help='what to run')
  parser.add_argument('--out', default='runs/study', help='folder of all suites')
  parser.add_argument('--jobs', type=int, default=0, help='runs at a time; default: one a GPU, or one a CPU core')
  parser.add_argument('--page', help='Markdown file to write about all suites in OUT that have scores')
  options, given = parser.parse_known_args()
  if rest := [arg for arg in given if not arg.startswith('--config.')]:
    parser.error(f"'{rest[0]}': not a flag")
  if not options.suite and not options.page:
    parser.error('give a --suite to run, or a --page to write')
  out = pathlib.Path(options.out)
  try:
    check_local('--out', options.out)
    if options.suite:
      study(SUITES[options.suite], out / options.suite, Places(options.jobs), given)
    if options.page:
      study_page.write(out, options.page)
  except KeyboardInterrupt:
    sys.exit('Error: stopped by Ctrl-C; the same command goes on, with unfinished runs from their last checkpoints')
  except UserError as error:
    sys.exit(f'Error: {error}')


def study(suite: Suite, out: pathlib.Path, places: Places, given: list[str]):
  """Runs a suite in `out`, rates first, and writes its report there.

  Args:
    given: `--config.FIELD=VALUE` for all runs.

  Raises:
    UserError: a field that the suite needs is missing, or runs that failed.
  """
  for field in suite.needs:
    if not any(arg.startswith(f'--config.{field}=') for arg in given):
      raise UserError(f'this suite needs --config.{field}=PATH')
  say(f'{places.jobs} runs at a time; this suite is planned for {suite.cost}')
  trials = list(suite.trials())
  execute([run for *_, run in trials], 'choosing rates', out, places, given)
  rates = choose(trials, out)
  runs = suite.runs(rates)
  execute(runs, 'study', out, places, given)
  write_report([str(out / run.name) for run in runs], str(out / 'report'))


def execute(runs: list[Run], what: str, out: pathlib.Path, places: Places, given: list[str]):
  """Makes those of the runs that are not done; raises UserError, after that, where some failed."""
  done = lambda run: (out / run.name / 'metrics.json').exists()
  left, failed = [run for run in runs if not done(run)], []
  with (
    ThreadPoolExecutor(places.jobs, initializer=places.take) as pool,
    Progress(what, len(runs), 'run', len(runs) - len(left)) as progress,
  ):
    jobs = {pool.submit(make, run, out, places, given): run for run in left}
    try:
      for job in as_completed(jobs):
        # A run that was told to stop ends well, but is not done.
        failed += [jobs[job].name] if job.result() or not done(jobs[job]) else []
        progress.update(1, jobs[job].name)
    except BaseException:  # Ctrl-C: those that train have been told too, and end
      pool.shutdown(wait=True, cancel_futures=True)
      raise
  if failed:
    raise UserError(f'{", ".join(failed)} failed; {out}/{failed[0]}.txt says why; the same command tries again')


def make(run: Run, out: pathlib.Path, places: Places, given: list[str]) -> int:
  """Trains and evaluates a run, or goes on with it; returns its exit status."""
  fields = [f'--config.{field}={value}' for field, value in run.flags.items()]
  command = [sys.executable, '-m', 'dmtl_jax', f'--config={run.config}', *fields, *given]
  log = out / f'{run.name}.txt'
  log.parent.mkdir(parents=True, exist_ok=True)
  with open(log, 'a', encoding='utf-8') as file:
    command.append(f'--workdir={out / run.name}')
    return subprocess.run(command, env=places.variables, stdout=file, stderr=subprocess.STDOUT).returncode


def choose(trials: list[tuple[str, float, Run]], out: pathlib.Path) -> dict[str, float]:
  """{method: rate} with the highest Delta_m against the mean of the method's candidates; written to rates.json."""
  scores, tasks = {}, ()
  for method, rate, run in trials:
    read = read_run(out / run.name)
    tasks = read.tasks
    scores.setdefault(method, {})[rate] = {task.name: read.score('final', task) for task in tasks}
  chosen, told = {}, {}
  for method, by_rate in scores.items():
    mean = {task.name: statistics.fmean(found[task.name] for found in by_rate.values()) for task in tasks}
    gains = {rate: delta_m(found, mean, tasks) for rate, found in by_rate.items()}
    chosen[method] = max(gains, key=gains.get)
    told[method] = {'rate': chosen[method], 'delta_m': gains, 'scores': by_rate}
  write_json(out / 'rates.json', told)
  return chosen


if __name__ == '__main__':
  main()
