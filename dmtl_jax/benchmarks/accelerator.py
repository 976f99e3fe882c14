"""All that is to be known of an accelerator in one go, the most wanted first, within minutes and in one file.

  python -m dmtl_jax.benchmarks.accelerator --json=h100.json [--minutes=10] [--small]

Train step (PASCAL, 512x512, batch 6, one label) of Prediction and Feature in bfloat16 and in float32 (where GPUs
multiply in TF32), inference, and the input pipeline: time, share of the matrix peak, compile time, memory; where
PyTorch is installed, in turns with its re-statement, eager and compiled. Each measurement is a process of its own, and
the file is written after each: what did not end within the minutes is named in it. --small tries the command, with a
narrow network.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.progress import Progress

SMALL = ('data.size=(32,48)', 'model.width=8', 'model.channels=32', 'model.depth=1', 'train.batch=2', 'eval.batch=2')


def jobs(small: bool, torch: bool) -> dict[str, list[str]]:
  """{name: command}: ours alone first, since PyTorch compiles for minutes, then in turns with it where it is there."""

  def command(benchmark: str, method: str, dtype: str, *flags: str) -> list[str]:
    fields = SMALL if small else ('train.batch=6', 'eval.batch=8')
    return [
      *(sys.executable, '-m', f'dmtl_jax.benchmarks.{benchmark}'),
      *(f'--config=configs/pascal.py:method={method}', f'--config.dtype={dtype}'),
      *(f'--config.{field}' for field in fields),
      *flags,
    ]

  kinds = [('bfloat16', 'train_step'), ('bfloat16', 'inference'), ('float32', 'train_step')]
  all_of = [(*kind, method) for kind in kinds for method in ('prediction', 'feature')]
  found = {f'{what}, {method}, {dtype}': command(what, method, dtype) for dtype, what, method in all_of}
  found['input'] = command('input', 'prediction', 'bfloat16')
  for dtype, what, method in all_of if torch else ():
    found[f'{what}, {method}, {dtype}, against torch'] = command(what, method, dtype, '--nocold', '--against=torch')
  return found


def measure(commands: dict[str, list[str]], path: pathlib.Path, minutes: float) -> dict:
  """Runs the commands, which take --json=FILE, one after the other.

  Returns:
    {name: what the command wrote, or {'failed': why not}}; `path` holds it after each.
  """
  result, end = {}, time.monotonic() + 60 * minutes
  with tempfile.TemporaryDirectory() as folder, Progress('measuring', len(commands), 'measurement') as progress:
    part = pathlib.Path(folder, 'part.json')
    for name, command in commands.items():
      part.unlink(missing_ok=True)
      try:
        left = max(end - time.monotonic(), 0)
        done = subprocess.run([*command, f'--json={part}'], timeout=left, capture_output=True, text=True)
        told = done.stderr.strip().splitlines() or [f'status {done.returncode}']
        result[name] = json.loads(part.read_text()) if part.exists() else {'failed': told[-1]}
      except subprocess.TimeoutExpired:
        result[name] = {'failed': f'not within the {minutes:g} minutes'}
      write_json(path, result)
      progress.update(1, f'{name}: {result[name].get("failed", "done")}')
  return result


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--json', required=True, type=pathlib.Path, help='file to write')
  parser.add_argument('--minutes', type=float, default=10, help='for all of them')
  parser.add_argument('--small', action='store_true', help='a narrow network on small images')
  options = parser.parse_args()
  torch = importlib.util.find_spec('torch') is not None
  result = measure(jobs(options.small, torch), options.json, options.minutes)
  print(f'{options.json}: {sum("failed" not in one for one in result.values())} of {len(result)} measurements')


if __name__ == '__main__':
  main()
