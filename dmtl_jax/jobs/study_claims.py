"""What a study is asked: which method, or which maps, score higher, and how sure its seeds are of it."""

from collections.abc import Sequence
import dataclasses
import math
import statistics

from scipy import stats

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import METHODS
from dmtl_jax.report import charts, paired
from dmtl_jax.report.render import render
from dmtl_jax.report.results import mean_and_error, Run, Section
from dmtl_jax.report.table import markdown_table
from dmtl_jax.tasks import Task

DRAWN = ('xtc', 'jtr', 'task_prototype', 'no_condition', 'no_diffusion', 'prediction', 'feature')
INITIAL = 'initial'  # instead of a method: the initial maps of the same run
BASELINE = 'mtl_baseline'
CLAIMS = (
  ('prediction', BASELINE),
  ('feature', BASELINE),
  ('prediction', INITIAL),
  ('feature', INITIAL),
  ('prediction', 'no_diffusion'),
  ('prediction', 'no_condition'),
  ('xtc', BASELINE),
  ('jtr', BASELINE),
  ('task_prototype', BASELINE),
  ('prediction', 'xtc'),
  ('prediction', 'jtr'),
  ('prediction', 'task_prototype'),
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A column of the study: runs of one data set and label setting, {method: {seed: run}}."""

  title: str
  section: Section
  runs: dict[str, dict[int, Run]]


@dataclasses.dataclass(frozen=True)
class Lead:
  """Gains over tasks, in %, of the runs of a method on those of the same seeds of another."""

  gains: tuple[float, ...]

  @property
  def mean(self) -> float:
    return statistics.fmean(self.gains)

  @property
  def error(self) -> float:
    """Standard error; NaN for one seed."""
    return mean_and_error(self.gains)[1]

  @property
  def is_sure(self) -> bool:
    """Whether the mean of three or more gains is more than two standard errors from 0.

    That of two is so in 30% of cases without any difference.
    """
    return len(self.gains) > 2 and abs(self.mean) > 2 * self.error

  @property
  def chance(self) -> float:
    """How probable `is_sure` is without any difference, by Student's distribution."""
    return 2 * float(stats.t.sf(2, len(self.gains) - 1)) if len(self.gains) > 2 else 0.0

  @property
  def text(self) -> str:
    """'+2.49 ± 0.81 (5 of 6)': mean, standard error, and the seeds that are ahead; bold where it is sure."""
    number = f'{self.mean:+.2f}' + ('' if math.isnan(self.error) else f' ± {self.error:.2f}')
    number = f'**{number}**' if self.is_sure else number
    return f'{number} ({sum(gain > 0 for gain in self.gains)} of {len(self.gains)})'


def make_setting(title: str, section: Section) -> Setting:
  """Runs of a section by method and seed; those that were not scored are left out.

  Raises:
    UserError: runs of a method differ in more than their seeds.
  """
  runs = {}
  for entry in section.entries:
    method = entry.config['method']
    if method in runs:
      raise UserError(
        f'{entry.runs[0].path}: runs of {method} differ in more than their seeds ({entry.name}); delete the folders of '
        f'one config, and run the study again'
      )
    runs[method] = {run.config['seed']: run for run in entry.runs if run.evaluation}
  return Setting(title, section, runs)


def lead(setting: Setting, method: str, other: str) -> Lead | None:
  """The gains of a method on another, or on the initial maps; None without a seed that has both."""
  runs = setting.runs.get(method, {})
  if other == INITIAL:
    return compare(runs, runs, setting.section.tasks, INITIAL)
  return compare(runs, setting.runs.get(other, {}), setting.section.tasks)


def compare(runs: dict[int, Run], others: dict[int, Run], tasks: Sequence[Task], stage: str = 'final') -> Lead | None:
  """`paired.gains` of {seed: run} on others; None without any."""
  found = paired.gains(runs, others, tasks, stage)
  return Lead(tuple(found)) if found else None


def markdown(settings: Sequence[Setting], claims: Sequence[tuple[str, str]] = CLAIMS) -> str:
  """A table with a row per claim and a column per setting, and what its numbers are; '' without any."""
  body = []
  leads = []
  for method, other in claims:
    found = [lead(setting, method, other) for setting in settings]
    if any(found):
      body.append([f'{_name(method)} on {_name(other)}', *(one.text if one else '–' for one in found)])
      leads += filter(None, found)
  if not body:
    return ''
  chance = sum(one.chance for one in leads)
  note = (
    'Mean over seeds of the mean gain over tasks (as Δm) on the run of the same seed, ± its standard error; in '
    'parentheses the seeds that are ahead. Bold: more than two standard errors from 0, of three seeds or more. '
    f'{len(leads)} comparisons were made; if nothing differed, {chance:.1f} of them would be bold by chance.'
  )
  return f'{markdown_table(["gain in % of", *(setting.title for setting in settings)], body)}\n\n{note}\n'


def draw(settings: Sequence[Setting], methods: Sequence[str]) -> str:
  """An SVG of these methods' gains on the MTL baseline, a group of bars per setting; '' without any."""
  leads = {method: [lead(setting, method, BASELINE) for setting in settings] for method in methods}
  leads = {method: row for method, row in leads.items() if any(row)}
  if not leads:
    return ''
  return render(
    'gains.svg',
    title='Gain on the MTL Baseline in %, by setting and method',
    chart=charts.bar_chart([[one and (one.mean, one.error) for one in row] for row in leads.values()]),
    names=[setting.title for setting in settings],
    entries=[{'name': METHODS[method].title, 'color': METHODS[method].color} for method in leads],
  )


def _name(method: str) -> str:
  return 'its own initial maps' if method == INITIAL else METHODS[method].title
