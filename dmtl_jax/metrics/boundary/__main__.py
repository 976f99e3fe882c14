"""Boundary scores (ODS, OIS, AP) of a folder of predictions, by the Berkeley protocol.

examples:
  python -m dmtl_jax.metrics.boundary --pred maps/boundary --gt data/val/labels/boundary --ignore 255
  python -m dmtl_jax.metrics.boundary --pred maps --gt BSDS500/groundTruth/test --workers 8
  python -m dmtl_jax.metrics.boundary --pred maps --gt nyud/edges --max-dist 0.011 --out nyud.json
"""

import argparse
import os
import pathlib
import sys

from dmtl_jax.basics import streams
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import UserError
from dmtl_jax.metrics import boundary
from dmtl_jax.metrics.boundary import folders


def main(arguments=None) -> int:
  """Runs the command; returns the exit status."""
  streams.secure()
  parser = _parser()
  options = parser.parse_args(arguments)
  if min(options.thresholds, options.workers) < 1 or options.max_dist < 0:
    parser.error('--thresholds and --workers start at 1, --max-dist at 0')
  out = options.out or options.pred / 'boundary.json'
  try:
    result = folders.evaluate(
      options.pred,
      options.gt,
      options.ignore,
      options.workers,
      tolerance=options.max_dist,
      count=options.thresholds,
      thinning=not options.no_thin,
    )
    write_json(out, result)
  except (UserError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print(as_text(result))
  print(f'saved to {out}')
  return 0


def as_text(result: dict) -> str:
  """The scores of `folders.evaluate` for reading."""
  ods, ois = result['ods'], result['ois']
  return '\n'.join(
    [
      f'{"":<5}{"F":>8}{"recall":>10}{"precision":>11}{"threshold":>11}',
      f'{"ODS":<5}{ods["f"]:8.4f}{ods["recall"]:10.4f}{ods["precision"]:11.4f}{ods["threshold"]:11.4f}',
      f'{"OIS":<5}{ois["f"]:8.4f}{ois["recall"]:10.4f}{ois["precision"]:11.4f}{"per image":>11}',
      f'{"AP":<5}{result["ap"]:8.4f}',
    ]
  )


def _parser():
  parser = argparse.ArgumentParser(
    'python -m dmtl_jax.metrics.boundary', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add, path = parser.add_argument, pathlib.Path
  add('--pred', type=path, required=True, help='folder of grey PNGs (8 or 16 bits), white = boundary')
  add(
    '--gt',
    type=path,
    required=True,
    help='folder of truths by the same names: PNG, 0 = no boundary; or BSDS .mat with several annotators',
  )
  add(
    '--max-dist',
    type=float,
    default=boundary.TOLERANCE,
    metavar='SHARE',
    help='tolerance as a share of the diagonal (default %(default)s; NYUD-v2: 0.011)',
  )
  add('--thresholds', type=int, default=boundary.THRESHOLDS, help='how many (default %(default)s)')
  add('--ignore', type=int, help='value of truth PNGs that marks unlabelled pixels')
  add('--no-thin', action='store_true', help='predictions are one pixel wide already')
  add('--workers', type=int, default=os.cpu_count(), help='processes (default: %(default)s, all cores)')
  add('--out', type=path, help='JSON file to write (default: PRED/boundary.json)')
  return parser


if __name__ == '__main__':
  sys.exit(main())
