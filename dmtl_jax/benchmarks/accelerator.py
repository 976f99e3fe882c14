"""All that is to be known of an accelerator in one go, the most wanted first, within minutes and in one file.

  python -m dmtl_jax.benchmarks.accelerator --json=h100.json [--minutes=10] [--small]

Train step (PASCAL, 512x512, batch 6, one label) of Prediction and Feature in bfloat16 and in float32 (where GPUs
multiply in TF32), inference, where the step's time goes, and the input pipeline: time, share of the matrix peak,
compile time, memory; where PyTorch is installed, in turns with its re-statement, eager, and last of all compiled, which
takes minutes. Each measurement is a process of its own, and the file is written after each: what did not end within the
minutes is named in it. Where cores are many, our programs are compiled first, several at once, and each is measured
alone. --small tries the command, with a narrow network.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.progress import Progress

SMALL = ('data.size=(32,48)', 'model.width=8', 'model.channels=32', 'model.depth=1', 'train.batch=2', 'eval.batch=2')
CORES = 2  # that compiling one program keeps busy
WANTED = (
  ('train_step', 'prediction', 'bfloat16'),
  ('train_step', 'feature', 'bfloat16'),
  ('profile', 'prediction', 'bfloat16'),
  ('inference', 'prediction', 'bfloat16'),
  ('train_step', 'prediction', 'float32'),
  ('input', 'prediction', 'bfloat16'),
  ('inference', 'feature', 'bfloat16'),
  ('train_step', 'feature', 'float32'),
)
COMPILED = 'against torch.compile'
COMPILING = 0.5  # share of the minutes that compiling ahead may take
RUNNING: set[subprocess.Popen] = set()


def jobs(small: bool, torch: bool) -> dict[str, list[str]]:
  """{name: command}; with `torch` in turns with eager PyTorch, last of all with torch.compile, which takes minutes."""

  def command(benchmark: str, method: str, dtype: str) -> list[str]:
    fields = SMALL if small else ('train.batch=6', 'eval.batch=8')
    return [
      *(sys.executable, '-m', f'dmtl_jax.benchmarks.{benchmark}'),
      *(f'--config=configs/pascal.py:method={method}', f'--config.dtype={dtype}'),
      *(f'--config.{field}' for field in fields),
    ]

  found, compiled = {}, {}
  for what, method, dtype in WANTED:
    name, job = f'{what}, {method}, {dtype}', command(what, method, dtype)
    if what in ('train_step', 'inference'):
      job.append('--nocold')
      if torch:
        compiled[f'{name}, {COMPILED}'] = [*job, '--against=torch']
        job += ['--against=torch', '--nocompiled']
    found[name] = job
  return found | compiled


def measure(commands: dict[str, list[str]], path: pathlib.Path, minutes: float, at_once: int = 1) -> dict:
  """Runs the commands, which take --repeats=N and --json=FILE, one after the other.

  Args:
    at_once: if more than one, so many at a time run before, with one repeat, so that caches hold what they compile:
      new ones, unless the environment names them. Without those against torch.compile.

  Returns:
    {name: what the command wrote, or {'failed': why not}}; `path` holds it after each. What ran before adds its
    'compile' as 'first'.
  """
  began, end = time.monotonic(), time.monotonic() + 60 * minutes
  first, result = {}, {}
  with tempfile.TemporaryDirectory() as folder, Progress('measuring', len(commands), 'measurement') as progress:
    caches = {'JAX_COMPILATION_CACHE_DIR': f'{folder}/jax', 'TORCHINDUCTOR_CACHE_DIR': f'{folder}/torch'}

    def run(name: str, until: float, *flags: str) -> dict:
      file = pathlib.Path(folder, f'{name}.json')
      file.unlink(missing_ok=True)
      return _run([*commands[name], *flags, f'--json={file}'], file, caches, until - time.monotonic())

    if at_once > 1:
      with ThreadPoolExecutor(at_once) as pool:
        until = began + COMPILING * (end - began)
        ahead = {name: pool.submit(run, name, until, '--repeats=1') for name in commands if COMPILED not in name}
        try:
          first = {name: job.result() for name, job in ahead.items()}
        except BaseException:  # Ctrl-C: processes of their own groups do not hear of it
          pool.shutdown(wait=False, cancel_futures=True)
          for process in list(RUNNING):
            _end(process)
          raise
      progress.update(0, f'compiled {at_once} at once in {time.monotonic() - began:.0f} s')
    for name in commands:
      result[name] = run(name, end)
      if compiled := first.get(name, {}).get('compile'):
        result[name]['first'] = compiled
      write_json(path, result)
      progress.update(1, f'{name}: {result[name].get("failed", "done")}')
  return result


def _run(command: list[str], file: pathlib.Path, variables: dict[str, str], seconds: float) -> dict:
  """What a command writes to a file, or {'failed': why not}; after `seconds` it is ended with all that it started."""
  if seconds <= 0:
    return {'failed': 'no time was left'}
  pipe = subprocess.PIPE
  process = subprocess.Popen(
    command, stdout=pipe, stderr=pipe, encoding='utf-8', env=variables | os.environ, process_group=0
  )
  RUNNING.add(process)
  try:
    _, told = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    return {'failed': f'not within its {seconds:.0f} s'}
  finally:
    RUNNING.discard(process)
    _end(process)
  if file.exists():
    return json.loads(file.read_text(encoding='utf-8'))
  return {'failed': (told.strip().splitlines() or [f'status {process.returncode}'])[-1]}


def _end(process: subprocess.Popen):
  """Ends a process and all that it started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--json', required=True, type=pathlib.Path, help='file to write')
  parser.add_argument('--minutes', type=float, default=10, help='for all of them')
  parser.add_argument('--small', action='store_true', help='a narrow network on small images')
  options = parser.parse_args()
  torch = importlib.util.find_spec('torch') is not None
  at_once = (os.cpu_count() or 1) // CORES
  result = measure(jobs(options.small, torch), options.json, options.minutes, at_once)
  print(f'{options.json}: {sum("failed" not in one for one in result.values())} of {len(result)} measurements')


if __name__ == '__main__':
  main()
