"""The page of all studies in a folder, from the runs' own files: tables, initial against denoised, steps, pictures."""

import pathlib

from PIL import Image

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import replacing, write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.benchmarks.suites import Suite, SUITES
from dmtl_jax.jobs.report import to_markdown
from dmtl_jax.report.results import read_run, Run, sections
from dmtl_jax.report.table import make_table

WIDTH = 1200  # of a picture
HEAD = """# The study

Every method on the same images, labels, order, augmentation and steps; the learning rate of each chosen on training
images held back from it. Made by `python -m dmtl_jax.benchmarks.study --suite=NAME --page={page}` from the runs' files.
Scores are those of short trainings of the sizes named below, to compare methods with each other, and no measure of what
a method reaches; the paper's own are in [paper.md](paper.md).
"""


def write(out: pathlib.Path, page: str):
  """Writes Markdown about every suite that has scored runs in OUT/SUITE, and its pictures beside it.

  Raises:
    UserError: there are none, or a damaged file.
  """
  path, parts = pathlib.Path(page), []
  for name, suite in SUITES.items():
    runs = [out / name / run.name for run in suite.runs({})]
    runs = [read_run(folder) for folder in runs if (folder / 'metrics.json').exists()]
    if runs:
      parts.append(_suite(name, suite, runs, _rates(out / name / 'rates.json'), path))
  if not parts:
    raise UserError(f'{out}: no suite with scores; run one first')
  write_atomic(path, '\n'.join([HEAD.format(page=page), *parts]))
  say(f'page: {path}')


def _suite(name: str, suite: Suite, runs: list[Run], rates: str, page: pathlib.Path) -> str:
  data, train = runs[0].config['data'], runs[0].config['train']
  length = f'{train["steps"]} steps' if train['steps'] else f'{train["epochs"]} epochs'
  text = (
    f'## Suite {name}\n\n{len(runs)} of {len(suite.runs({}))} runs, images of {data["size"][0]}x{data["size"][1]}, '
    f'{length} of {train["batch"]} images{rates}.\n'
  )
  for section in sections(runs):
    text += '\n' + to_markdown(section, make_table(section)).replace('## ', '### ')
  drawn = next((run for run in runs if run.config['method'] == 'prediction' and run.images), None)
  return text + (_picture(drawn, page.with_suffix('') / f'{name}.jpg', page.parent) if drawn else '')


def _rates(path: pathlib.Path) -> str:
  """The end of a sentence on the rates chosen; '' where none were."""
  if not path.exists():
    return ''
  chosen = files.read_json(path, 'delete it, and run the study again')
  return '; learning rates ' + ', '.join(f'{found["rate"]:g} ({method})' for method, found in chosen.items())


def _picture(run: Run, path: pathlib.Path, root: pathlib.Path) -> str:
  """Keeps the first panel of a run at `path`; returns its Markdown."""
  panel = next(iter(sorted((run.path / 'panels').glob('*.png'))), None)
  if panel is None:
    return ''
  with Image.open(panel) as image, replacing(path, 'wb') as file:
    image.convert('RGB').resize((WIDTH, WIDTH * image.height // image.width)).save(file, 'JPEG', quality=85)
  return f'\n![input, initial, denoised and true maps]({path.relative_to(root)})\n'
