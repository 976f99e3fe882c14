"""The job `--mode=study`: trains and compares methods on equal terms, a suite of runs, and reports them all.

Suites are in study_suites.py. Each run trains in OUT/SUITE/NAME and logs to OUT/SUITE/NAME.txt. Before them each method
chooses its learning rate on training images held back from it, never on validation images. A stopped study goes on with
the same command; runs that are done are not made again.
"""

from concurrent.futures import as_completed, ThreadPoolExecutor
import glob
import itertools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading

from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.jobs import report, study_page
from dmtl_jax.jobs.study_suites import Run, Suite, SUITES
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.results import read_run


class Places:
  """Where runs go: GPUs in turn, or CPU cores, one run a core (two runs of a core each are faster than one of two)."""

  def __init__(self, jobs: int | None = None):
    self.gpus = len(glob.glob('/dev/nvidia[0-9]*'))
    self.cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    self.jobs = jobs or self.gpus or len(self.cores) or os.cpu_count()
    self._next = itertools.count()
    self._own = threading.local()

  def take(self):
    """Gives the calling thread, and the processes that it starts, a place."""
    number = next(self._next)
    self._own.variables = {}
    if self.gpus:
      share = 0.9 / math.ceil(self.jobs / self.gpus)
      device = str(number % self.gpus)
      self._own.variables = {'CUDA_VISIBLE_DEVICES': device, 'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{share:.2f}'}
    elif self.cores:
      os.sched_setaffinity(0, {self.cores[number % len(self.cores)]})

  @property
  def variables(self) -> dict[str, str]:
    """Environment of the calling thread's processes."""
    return os.environ | self._own.variables


def run(suite: str | None, out: str, jobs: int | None, page: str | None, overrides: list[str]):
  """The job `--mode=study`: runs a suite, if one is named, and writes a page about all suites, if one is named.

  Args:
    out: folder of all suites.
    jobs: runs at a time; default one per GPU, or one per CPU core.
    page: Markdown file.
    overrides: `--config.FIELD=VALUE` for all runs.

  Raises:
    UserError: see `study` and `study_page.write`.
  """
  try:
    if suite:
      study(SUITES[suite], pathlib.Path(out, suite), Places(jobs), overrides)
    if page:
      study_page.write(pathlib.Path(out), page)
  except KeyboardInterrupt:
    raise UserError(
      'stopped by Ctrl-C; the same command goes on, with unfinished runs from their last checkpoints'
    ) from None


def study(suite: Suite, out: pathlib.Path, places: Places, overrides: list[str]):
  """Runs a suite in `out`, learning rates first, and writes its report there.

  Raises:
    UserError: a field that the suite needs is missing, or runs failed.
  """
  for field in suite.needs:
    if not any(override.startswith(f'--config.{field}=') for override in overrides):
      raise UserError(f'this suite needs --config.{field}=PATH')
  say(f'{places.jobs} runs at a time; this suite is planned for {suite.cost}')
  trials = list(suite.trials())
  execute([run for *_, run in trials], 'choosing rates', out, places, overrides)
  rates = choose(trials, out)
  runs = suite.runs(rates)
  execute(runs, 'study', out, places, overrides)
  report.run([str(out / run.name) for run in runs], str(out / 'report'))


def execute(runs: list[Run], what: str, out: pathlib.Path, places: Places, overrides: list[str]):
  """Makes the runs that are not done; raises UserError afterwards where some failed."""

  def is_done(run: Run) -> bool:
    return (out / run.name / 'metrics.json').exists()

  left = [run for run in runs if not is_done(run)]
  failed = []
  with (
    ThreadPoolExecutor(places.jobs, initializer=places.take) as pool,
    Progress(what, len(runs), 'run', len(runs) - len(left)) as progress,
  ):
    jobs = {pool.submit(make, run, out, places, overrides): run for run in left}
    try:
      for job in as_completed(jobs):
        if job.result() or not is_done(jobs[job]):  # a run that was asked to stop exits with 0, but is not done
          failed.append(jobs[job].name)
        progress.update(1, jobs[job].name)
    except BaseException:  # Ctrl-C: the trainings get it too, and end
      pool.shutdown(wait=True, cancel_futures=True)
      raise
  if failed:
    raise UserError(f'{", ".join(failed)} failed; {out}/{failed[0]}.txt says why; the same command tries again')


def make(run: Run, out: pathlib.Path, places: Places, overrides: list[str]) -> int:
  """Trains and evaluates a run, or goes on with it; returns its exit status."""
  fields = [f'--config.{field}={value}' for field, value in run.flags.items()]
  command = [sys.executable, '-m', 'dmtl_jax', f'--config={run.config}', *fields, *overrides]
  log = out / f'{run.name}.txt'
  log.parent.mkdir(parents=True, exist_ok=True)
  with open(log, 'a', encoding='utf-8') as file:
    command.append(f'--workdir={out / run.name}')
    return subprocess.run(command, env=places.variables, stdout=file, stderr=subprocess.STDOUT).returncode


def choose(trials: list[tuple[str, float, Run]], out: pathlib.Path) -> dict[str, float]:
  """{method: rate} with the highest Delta_m against the mean of the method's candidates; written to rates.json."""
  scores = {}
  tasks = ()
  for method, rate, run in trials:
    result = read_run(out / run.name)
    tasks = result.tasks
    scores.setdefault(method, {})[rate] = {task.name: result.score('final', task) for task in tasks}
  chosen = {}
  for method, by_rate in scores.items():
    mean = {task.name: statistics.fmean(by_task[task.name] for by_task in by_rate.values()) for task in tasks}
    gains = {rate: delta_m(by_task, mean, tasks) for rate, by_task in by_rate.items()}
    chosen[method] = {'rate': max(gains, key=gains.get), 'delta_m': gains, 'scores': by_rate}
  write_json(out / 'rates.json', chosen)
  return {method: choice['rate'] for method, choice in chosen.items()}
