"""A long run of a toy with evaluations and checkpoints: does anything grow?

  python -m tests.soak [--steps=20000] [--out=docs/soak.png]

At every log line: resident memory, open files, threads, and the size of the workdir with and without the learning
curves (log.jsonl and tensorboard). Printed: their slopes after the first fifth, by least squares; drawn: all of it.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile

import numpy as np

from tests import faults, toy

faults.imports()
from dmtl_jax.runs import log  # noqa: E402

EVERY = {'train.log_every': 100, 'train.eval_every': 500, 'train.save_every': 250}
CURVES = ('log.jsonl', 'tensorboard')
UNITS = {'resident memory': 'MB', 'open files': '', 'threads': '', 'workdir without curves': 'kB', 'curves': 'kB'}


def sample(workdir: pathlib.Path) -> tuple[float, ...]:
  """In the order and units of UNITS."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  sizes = {True: 0, False: 0}  # of curves, and of all else
  for path in workdir.rglob('*'):
    with contextlib.suppress(FileNotFoundError):  # a checkpoint is renamed by a thread of its own
      sizes[path.relative_to(workdir).parts[0] in CURVES] += path.stat().st_size * path.is_file()
  memory = pages * os.sysconf('SC_PAGESIZE') / 1e6
  files, threads = (len(os.listdir(f'/proc/self/{name}')) for name in ('fd', 'task'))
  return memory, files, threads, sizes[False] / 1e3, sizes[True] / 1e3


def run(steps: int) -> np.ndarray:
  """[log lines, 1 + UNITS]: the step and its sample."""
  rows, scalars = [], log.Log.scalars
  with tempfile.TemporaryDirectory() as folder:
    data, workdir = pathlib.Path(folder) / 'data', pathlib.Path(folder) / 'run'
    toy.write(data, size=(16, 24))

    def sampled(self, step, values):
      scalars(self, step, values)
      if 'loss/total' in values:
        rows.append((step, *sample(workdir)))

    log.Log.scalars = sampled
    flags = {'train.steps': steps} | EVERY
    assert faults.main(data, workdir, *(f'--config.{name}={value}' for name, value in flags.items())) == 0
  return np.array(rows)


def draw(rows: np.ndarray, slopes: dict[str, float], out: str):
  import matplotlib  # no dependency of the suite

  matplotlib.use('agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, len(UNITS), figsize=(13, 2.4), dpi=72, constrained_layout=True)
  for axis, values, (name, unit) in zip(axes, rows.T[1:], UNITS.items()):
    axis.plot(rows[:, 0] / 1000, values, linewidth=1)
    axis.set(title=name, ylim=(0, 1.2 * values.max()), xlabel='thousand steps', ylabel=unit)
    axis.annotate(f'{slopes[name]:+.2g} {unit} a thousand', (0.05, 0.08), xycoords='axes fraction')
  figure.savefig(out)


def main(argv: list[str]):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--steps', type=int, default=20_000)
  parser.add_argument('--out', default='docs/soak.png')
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out).resolve()
  rows = run(args.steps)
  steady = rows[rows[:, 0] > args.steps / 5]
  slopes = {name: np.polyfit(steady[:, 0] / 1000, values, 1)[0] for name, values in zip(UNITS, steady.T[1:])}
  for (name, unit), first, last in zip(UNITS.items(), steady[0, 1:], steady[-1, 1:]):
    print(f'{name}: {first:.0f} to {last:.0f} {unit}, slope {slopes[name]:+.3g} {unit} a thousand steps')
  draw(rows, slopes, out)


if __name__ == '__main__':
  main(sys.argv[1:])
