"""The page of all studies in a folder, from the runs' own files: claims, figures and tables."""

import dataclasses
import pathlib

from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import write_atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.jobs import study_claims
from dmtl_jax.jobs.study_claims import Setting
from dmtl_jax.jobs.study_suites import CORE, COUNT, Group, LONG, MAIN, Suite, SUITES, TIME, VARIANT
from dmtl_jax.models import METHODS
from dmtl_jax.report import gains
from dmtl_jax.report import table as tables
from dmtl_jax.report.results import read_run, Run, Section, sections
from dmtl_jax.report.table import make_table, markdown_table, Table

MARK = '<!-- Made by --mode=study from here on; what stands above is kept. -->'
HEAD = """# The study

Every method on the same images, labels, order, augmentation and steps; the learning rate of each chosen on training
images held back from it. The networks are half-trained: scores of the short trainings named below compare methods with
each other and are no measure of what a method reaches. The paper's own scores are in [paper.md](paper.md).

"""
LABELS = {'one': 'one label', 'random': 'random labels', 'full': 'full labels'}
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
  """Writes Markdown about every suite that has scored runs in OUT/SUITE, and its figures beside it.

  Claims come first, then what they were looked at with: equal time, numbers of labels, and each suite's tables. A page
  that exists keeps what a person wrote above `MARK`.

  Raises:
    UserError: there are none, or a damaged file.
  """
  path = pathlib.Path(page)
  found = [scored for name, suite in SUITES.items() if (scored := _read(out / name, suite))]
  if not found:
    raise UserError(f'{out}: no suite with scores; run one first')
  head = path.read_text(encoding='utf-8').partition(MARK)[0] if path.exists() else HEAD
  settings = [setting for scored in found for setting in scored.settings]
  parts = [f'## Claims\n\n{text}' if (text := study_claims.markdown(settings)) else '']
  parts.append(
    _figure(study_claims.draw(settings, study_claims.DRAWN), 'gain on the MTL Baseline by method', path, 'gains')
  )
  parts += [_equal_time(scored, path) for scored in found]
  parts += [_by_labels(scored, path) for scored in found]
  parts += [_variants(scored) for scored in found]
  parts += [_suite(scored, path) for scored in found]
  write_atomic(path, '\n'.join([head + MARK, '', *filter(None, parts)]))
  say(f'page: {path}')


@dataclasses.dataclass(frozen=True)
class Scored:
  """A suite with the scored runs of each of its groups."""

  name: str
  suite: Suite
  groups: list[tuple[Group, list[Run]]]
  rates: str

  def runs(self, role: str) -> list[Run]:
    """The runs of the groups with this role."""
    return [run for group, runs in self.groups if group.role == role for run in runs]

  @property
  def settings(self) -> list[Setting]:
    """The runs that the study is about, by label setting."""
    return [
      study_claims.make_setting(f'{self.suite.title}, {LABELS[section.labels]}', section)
      for section in sections(self.runs(MAIN))
    ]


def _read(folder: pathlib.Path, suite: Suite) -> Scored | None:
  """The scored runs in a suite's folder; None if there are none that the study is about."""
  groups = []
  for group in suite.groups:
    folders = [folder / run.name for run in suite.group_runs(group, {})]
    groups.append((group, [read_run(path) for path in folders if (path / 'metrics.json').exists()]))
  scored = Scored(folder.name, suite, groups, _rates(folder / 'rates.json'))
  return scored if scored.runs(MAIN) else None


def _equal_time(scored: Scored, page: pathlib.Path) -> str:
  """What both forms gain on the baseline, trained for Prediction's seconds, by length of training; '' without runs."""
  first = [run for run in scored.runs(MAIN) if run.labels == scored.suite.groups[0].labels]
  lengths = [first, *(runs for group, runs in scored.groups if group.role == LONG)]
  baselines = [runs for group, runs in scored.groups if group.role == TIME]
  settings = []
  for ours, others in zip(lengths, baselines):
    ours = [run for run in ours if run.config['method'] in CORE[1:]]
    if ours and others:
      steps, longer = (runs[0].config['train']['steps'] for runs in (ours, others))
      settings += [
        study_claims.make_setting(f'{steps} steps, baseline {longer}', section) for section in sections(ours + others)
      ]
  if not settings:
    return ''
  drawing = study_claims.draw(settings, CORE[1:])
  text = (
    f'\n## Equal time: {scored.suite.title}\n\nThe baseline takes at least as many seconds as Prediction.\n\n'
    f'{study_claims.markdown(settings, study_claims.CLAIMS[:2])}'
  )
  return text + _figure(drawing, 'gain in as many seconds, by length', page, f'{scored.name}-time')


def _by_labels(scored: Scored, page: pathlib.Path) -> str:
  """What Prediction gains on the baseline by the number of labels a task; '' without runs for it."""
  counted = [runs for group, runs in scored.groups if group.role == COUNT and runs]
  if not counted:
    return ''
  labels = counted[0][0].labels
  counted.append([run for run in scored.runs(MAIN) if run.labels == labels])
  by_count = {max(runs[0].label_counts.tasks.values()): runs for runs in counted if runs and runs[0].label_counts}
  settings = [
    study_claims.make_setting(f'{count} labels a task', sections(by_count[count])[0]) for count in sorted(by_count)
  ]
  drawing = study_claims.draw(settings, ('prediction',))
  text = f'\n## More labels: {scored.suite.title}\n\n{study_claims.markdown(settings, study_claims.CLAIMS[:1])}'
  return text + _figure(drawing, 'gain by number of labels', page, f'{scored.name}-labels')


def _variants(scored: Scored) -> str:
  """What a method gains by another value of a field, on itself; '' without runs for it."""
  body = []
  for group, runs in scored.groups:
    for section in sections(runs) if group.role == VARIANT else ():
      changed = study_claims.make_setting('', section).runs
      usual = next((setting.runs for setting in scored.settings if setting.section.labels == section.labels), {})
      fields = ', '.join(f'`{field}={value}`' for field, value in group.flags.items())
      for method in changed:
        if found := study_claims.compare(changed[method], usual.get(method, {}), section.tasks):
          body.append([f'{METHODS[method].title}, {fields}', found.text])
  table = markdown_table(['variant', 'gain in % on the method as it is'], body)
  return f'\n## Variants: {scored.suite.title}\n\n{table}\n' if body else ''


def _figure(drawing: str, title: str, page: pathlib.Path, name: str) -> str:
  """Writes an SVG beside the page; returns its Markdown, '' for no drawing."""
  if not drawing:
    return ''
  path = page.with_suffix('') / f'{name}.svg'
  write_atomic(path, drawing)
  return f'\n![{title}]({path.relative_to(page.parent)})\n'


def _suite(scored: Scored, page: pathlib.Path) -> str:
  suite = scored.suite
  runs = scored.runs(MAIN)
  data, train = runs[0].config['data'], runs[0].config['train']
  length = f'{train["steps"]} steps' if train['steps'] else f'{train["epochs"]} epochs'
  text = (
    f'## Suite {scored.name}\n\n{sum(len(runs) for _, runs in scored.groups)} of {len(suite.runs({}))} runs, images of '
    f'{data["size"][0]}x{data["size"][1]}, {length} of {train["batch"]} images{scored.rates}.\n'
  )
  for section in sections(runs):
    table = _without_time(make_table(section))
    body = tables.markdown(table) + gains.markdown(section)
    text += '\n' + body.replace('## ', '### ') + _beside_paper(section, table)
    text += _figure(
      gains.draw(section), 'What denoising gains, by task and method', page, f'{scored.name}-{section.labels}'
    )
  return text


def _without_time(table: Table) -> Table:
  """A table without prediction times, which say nothing of runs that shared processors."""
  kept = [i for i, column in enumerate(table.columns) if column != tables.TIME]
  rows = tuple(dataclasses.replace(row, cells=tuple(row.cells[i] for i in kept)) for row in table.rows)
  return dataclasses.replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows)


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
