"""The job `--mode=boundary`: boundary scores (ODS, OIS, AP) of a folder of predictions, by the Berkeley protocol."""

import os
import pathlib

from dmtl_jax.basics import stopping
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.progress import say
from dmtl_jax.metrics.boundary import folders


def run(predictions: str, truths: str, out: str | None, ignore: int | None, workers: int | None, **options):
  """Scores a folder, prints the scores and writes them to a JSON file.

  Args:
    predictions, truths, ignore: see `folders.evaluate`.
    out: the file; default boundary.json beside the predictions.
    workers: processes; default one per core.
    **options: tolerance, count, thinning of `boundary.counts`.

  Raises:
    UserError: folders that cannot be scored.
  """
  path = pathlib.Path(out or pathlib.Path(predictions, 'boundary.json'))
  with stopping.report_interruption(lambda: f'{path}, if it was there, is as it was', path):
    result = folders.evaluate(
      pathlib.Path(predictions), pathlib.Path(truths), ignore, workers or os.cpu_count() or 1, **options
    )
    write_json(path, result)
  say(f'{as_text(result)}\nsaved to {path}')


def as_text(result: dict) -> str:
  """The scores of `folders.evaluate` as a table."""
  ods, ois = result['ods'], result['ois']
  return '\n'.join(
    [
      f'{"":<5}{"F":>8}{"recall":>10}{"precision":>11}{"threshold":>11}',
      f'{"ODS":<5}{ods["f"]:8.4f}{ods["recall"]:10.4f}{ods["precision"]:11.4f}{ods["threshold"]:11.4f}',
      f'{"OIS":<5}{ois["f"]:8.4f}{ois["recall"]:10.4f}{ois["precision"]:11.4f}{"per image":>11}',
      f'{"AP":<5}{result["ap"]:8.4f}',
    ]
  )
