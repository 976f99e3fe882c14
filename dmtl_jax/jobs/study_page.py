"""The page of all studies in a folder, from the runs' own files: tables, initial against denoised, steps, pictures."""

import pathlib

from PIL import Image

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import atomic_open, write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.jobs.report import to_markdown
from dmtl_jax.jobs.study_suites import Suite, SUITES
from dmtl_jax.report import gains
from dmtl_jax.report.results import read_run, Run, Section, sections
from dmtl_jax.report.table import make_table, markdown_table, Table

WIDTH = 1200  # of a picture
MARK = '<!-- Made by --mode=study from here on; what stands above is kept. -->'
HEAD = """# The study

Every method on the same images, labels, order, augmentation and steps; the learning rate of each chosen on training
images held back from it. The networks are half-trained: scores of the short trainings named below compare methods with
each other and are no measure of what a method reaches. The paper's own scores are in [paper.md](paper.md).

"""
# Delta_m in % of the paper's tables, one label or random labels: PASCAL-Context, NYUD-v2, Cityscapes. XTC's is that of
# the paper's XTC*, its own re-implementation.
PAPER = {
  'one': {
    'mtl_baseline': (-2.85, -3.99, -18.81),
    'xtc': (0.37, -3.79, -14.74),
    'prediction': (3.23, -2.86, -2.79),
    'feature': (3.65, -2.27, -2.13),
    'no_diffusion': (0.11,),
    'no_condition': (-1.33,),
    'mti_net': (1.21,),
    'invpt': (1.27,),
  },
  'random': {
    'mtl_baseline': (2.44, -3.12),
    'xtc': (2.52, -3.44),
    'prediction': (3.44, -1.45),
    'feature': (4.27, -0.77),
  },
}


def write(out: pathlib.Path, page: str):
  """Writes Markdown about every suite that has scored runs in OUT/SUITE, and its pictures beside it.

  A page that exists keeps what a person wrote above `MARK`.

  Raises:
    UserError: there are none, or a damaged file.
  """
  path = pathlib.Path(page)
  parts = []
  for name, suite in SUITES.items():
    runs = [out / name / run.name for run in suite.runs({})]
    runs = [read_run(folder) for folder in runs if (folder / 'metrics.json').exists()]
    if runs:
      parts.append(_suite(name, suite, runs, _rates(out / name / 'rates.json'), path))
  if not parts:
    raise UserError(f'{out}: no suite with scores; run one first')
  head = path.read_text(encoding='utf-8').partition(MARK)[0] if path.exists() else HEAD
  write_atomic(path, '\n'.join([head + MARK, '', *parts]))
  say(f'page: {path}')


def _suite(name: str, suite: Suite, runs: list[Run], rates: str, page: pathlib.Path) -> str:
  data, train = runs[0].config['data'], runs[0].config['train']
  length = f'{train["steps"]} steps' if train['steps'] else f'{train["epochs"]} epochs'
  text = (
    f'## Suite {name}\n\n{len(runs)} of {len(suite.runs({}))} runs, images of {data["size"][0]}x{data["size"][1]}, '
    f'{length} of {train["batch"]} images{rates}.\n'
  )
  for section in sections(runs):
    table = make_table(section)
    text += '\n' + to_markdown(table).replace('## ', '### ') + _beside_paper(section, table)
    if drawing := gains.draw(section):
      path = page.with_suffix('') / f'{name}-{section.labels}.svg'
      write_atomic(path, drawing)
      text += f'\n![What denoising gains, by task and method]({path.relative_to(page.parent)})\n'
  ours = [run for run in runs if suite.data == 'scenes']  # the photographs of other data are not ours to show
  drawn = next((run for run in ours if run.config['method'] == 'prediction' and run.images), None)
  return text + (_picture(drawn, page.with_suffix('') / f'{name}.jpg', page.parent) if drawn else '')


def _beside_paper(section: Section, table: Table) -> str:
  """A table of Delta_m here and in the paper; '' where there are none of both."""
  paper, body = PAPER.get(section.labels, {}), []
  for entry, cell in zip(section.entries, table.delta):
    if cell.values and entry.method.name in paper and entry.runs[0].diffusion_steps == 2:
      numbers = [f'{value:+.2f}' for value in paper[entry.method.name]]
      body.append([entry.name, cell.text, *numbers, *['–'] * (3 - len(numbers))])
  heads = ['Δm %', 'here', 'PASCAL-Context', 'NYUD-v2', 'Cityscapes']
  note = "\nThe paper's XTC is XTC*, its own re-implementation.\n" if any('XTC' in row[0] for row in body) else ''
  return f'\n#### Beside the paper\n\n{markdown_table(heads, body)}\n{note}' if body else ''


def _rates(path: pathlib.Path) -> str:
  """The end of a sentence on the rates chosen; '' where none were."""
  if not path.exists():
    return ''
  chosen = files.read_json(path, 'delete it, and run the study again')
  return '; learning rates ' + ', '.join(f'{choice["rate"]:g} ({method})' for method, choice in chosen.items())


def _picture(run: Run, path: pathlib.Path, root: pathlib.Path) -> str:
  """Keeps the first panel of a run at `path`; returns its Markdown."""
  panel = next(iter(sorted((run.path / 'panels').glob('*.png'))), None)
  if panel is None:
    return ''
  with Image.open(panel) as image, atomic_open(path, 'wb') as file:
    image.convert('RGB').resize((WIDTH, WIDTH * image.height // image.width)).save(file, 'JPEG', quality=85)
  return f'\n![input, initial, denoised and true maps]({path.relative_to(root)})\n'
