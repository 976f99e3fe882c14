"""What a report compares: runs, read from their workdirs.

Reads of each workdir: config.json, tasks.json and what there is of metrics.json, log.jsonl, cost.json and
panels/. Runs of the same data and labels share a `Section` of the report; in it, runs that differ in
nothing but their seeds share an `Entry`, a row of its table.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
import re
import statistics

from flax.traverse_util import flatten_dict

from dmtl_jax.basics import files, progress
from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import METHODS, Network
from dmtl_jax.models.base import Method
from dmtl_jax.report import scoring, shapes
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

METHODS_OWN = ('method', 'model.', 'optim.part_lr')  # fields that belong to a method
MORE_COLORS = ('#b5651d', '#6a5acd', '#2e8b8b', '#c71585', '#808000', '#4682b4', '#cd5c5c', '#708090')
LABELS = {'one': 'one labelled task per image', 'random': 'random labelled tasks', 'full': 'all tasks labelled'}
# What may differ between two seeds of one experiment, or changes nothing that is scored.
ASIDE = (
  *('seed', 'data.label_seed', 'data.dir', 'data.raw', 'train.eval_every', 'train.save_every', 'train.eval_images'),
  *('train.best_by', 'eval.batch', 'eval.panels', *workdir_lib.FREE_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class Run:
  """What a report knows of one workdir.

  Attributes:
    metrics: of metrics.json; {} where the run was not evaluated.
    others: {S: of metrics_S.json}, evaluations with other numbers of denoising steps.
    curves: {name: (steps, values)} of everything logged.
    images: what panels/index.json lists, see gallery.py.
    cost: of cost.json; {} where it was not measured.
  """

  path: pathlib.Path
  config: dict
  tasks: tuple[Task, ...]
  metrics: dict
  curves: dict[str, tuple[list[int], list[float]]]
  images: list[dict]
  cost: dict
  others: dict[int, dict] = dataclasses.field(default_factory=dict)

  def at(self, steps: int) -> 'Run':
    """The run as scored, and with what it costs, with this number of denoising steps."""
    measured = self.config['eval']['diffusion_steps'] or self.diffusion_steps
    config = self.config | {'eval': self.config['eval'] | {'diffusion_steps': steps}}
    metrics = self.metrics if steps == self.diffusion_steps else self.others[steps]
    return dataclasses.replace(self, config=config, metrics=metrics, cost=self.cost if steps == measured else {})

  def stored(self, stage: str, task: Task) -> dict[str, float | None]:
    """{metric: value} of a stage, 'initial' or 'final', or {class: IoU} 'per_class'; {} where there is nothing."""
    return (self.metrics.get(stage) or {}).get(task.name, {})

  def score(self, stage: str, task: Task) -> float:
    """Headline score of a stage; nan where there is none."""
    value = self.stored(stage, task).get(task.metric)
    return math.nan if value is None else float(value)

  @property
  def diffusion_steps(self) -> int:
    """Number of denoising steps that it was trained with."""
    return self.config['model']['diffusion_steps']

  @property
  def size(self) -> list[int]:
    """Height and width of the network's input."""
    return self.config['data']['size']

  @property
  def data(self) -> str:
    """Name of the data set; of a folder, the folder's."""
    data = self.config['data']
    return pathlib.Path(data['path']).name if data.get('path') else data['name']

  @property
  def labels(self) -> str:
    return pathlib.Path(str(self.config['data']['labels'])).name


@dataclasses.dataclass(frozen=True)
class Entry:
  """Runs that differ in their seeds alone, with the name and the colour that tell them from the others."""

  name: str
  color: str
  runs: tuple[Run, ...]

  @property
  def config(self) -> dict:
    return self.runs[0].config

  @property
  def method(self) -> Method:
    return method_of(self.config)

  @property
  def scored(self) -> bool:
    """Whether some run was evaluated."""
    return any(run.metrics.get('final') for run in self.runs)

  def scores(self, stage: str, task: Task) -> list[float]:
    """Headline score of every run that has one."""
    return [value for run in self.runs if not math.isnan(value := run.score(stage, task))]


@dataclasses.dataclass(frozen=True)
class Section:
  """Runs of one data set and label setting; `tasks` are all that some run learned."""

  data: str
  labels: str
  tasks: tuple[Task, ...]
  entries: tuple[Entry, ...]

  @property
  def title(self) -> str:
    return f'{self.data}, {LABELS.get(self.labels, f"labels of {self.labels}")}'

  @property
  def seeds(self) -> bool:
    """Whether some method was trained with several seeds."""
    return any(len(entry.runs) > 1 for entry in self.entries)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
  """Mean over runs that differ in their seeds, and its standard error (nan of one)."""
  error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
  return statistics.fmean(values), error


# --- Reading ---------------------------------------------------------------------------------


def read_run(path: pathlib.Path) -> Run:
  """Reads one workdir; raises UserError with the file that is missing or damaged."""
  return Run(
    path,
    config=workdir_lib.to_json(workdir_lib.read_config(path)),
    tasks=workdir_lib.read_tasks(path),
    metrics=_read_json(path / 'metrics.json', shapes.METRICS),
    curves=read_curves(path / 'log.jsonl'),
    images=_read_json(path / 'panels' / 'index.json', shapes.INDEX).get('images') or [],
    cost=_read_json(path / 'cost.json', shapes.COST),
    others=_read_others(path),
  )


def _read_others(path: pathlib.Path) -> dict[int, dict]:
  """{S: content} of a workdir's metrics_S.json; damaged ones are told, and left out."""
  found = {}
  for file in sorted(path.glob('metrics_*.json')):
    if name := re.fullmatch(r'metrics_([1-9]\d{0,3})\.json', file.name):
      try:
        found[int(name[1])] = _read_json(file, shapes.METRICS)
      except UserError as error:
        progress.say(f'left out: {error}')
  return found


def _read_json(path: pathlib.Path, shape: dict) -> dict:
  """A file's JSON object of a shape; {} where there is no file."""
  if not path.exists():
    return {}
  fix = 'run --mode=evaluate again, or delete it'
  content = files.read_json(path, fix)
  if not shapes.fits(content, shape):
    raise UserError(f'{path}: not what evaluation writes; {fix}')
  return content


def read_curves(path: pathlib.Path) -> dict[str, tuple[list[int], list[float]]]:
  """{scalar: (steps, values)} of a log, steps ascending, of a step its last value.

  What is not a number, and a line cut short by a crash, are left out.
  """
  curves = {}
  try:
    text = files.read_text(path, files.LOG_BYTES, 'replace') if path.exists() else ''
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({files.reason(error)}); move it away') from error
  for line in text.splitlines():
    try:
      row = json.loads(line)
      step = row.pop('step')
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
      continue
    for name, value in row.items() if shapes.is_number(step) else []:
      if shapes.is_number(value):
        curves.setdefault(name, {})[step] = value
  return {name: tuple(map(list, zip(*sorted(points.items())))) for name, points in curves.items()}


def method_of(config: dict) -> Method:
  """The method of a run; of one that is not known here, its name alone."""
  name = str(config['method'])
  return METHODS.get(name) or Method(name, Network, title=name)


# --- Joining ---------------------------------------------------------------------------------


def sections(runs: Sequence[Run]) -> list[Section]:
  """Runs by data set and labels, methods in the order of the paper's tables."""
  groups = {}
  for run in runs:
    groups.setdefault((run.data, run.labels), []).append(run)
  found = []
  for (data, labels), group in groups.items():
    tasks = {}  # in the order of the run that has most of them
    for task in [task for run in sorted(group, key=lambda run: -len(run.tasks)) for task in run.tasks]:
      tasks.setdefault(task.name, task)
    found.append(Section(data, labels, tuple(tasks.values()), tuple(_entries(group))))
  return found


def _entries(runs: Sequence[Run]) -> list[Entry]:
  """Runs with the same config but for their seeds together; differing ones get telling names."""
  groups = {}
  for run in runs:
    groups.setdefault(json.dumps(_fields(run), sort_keys=True), []).append(run)
  groups = sorted(groups.values(), key=lambda group: method_of(group[0].config).row)
  configs = [_fields(group[0]) for group in groups]
  names = [_name(config, [c for c in configs if c['method'] == config['method']]) for config in configs]
  entries, spare = [], list(MORE_COLORS)
  for name, group in zip(names, groups):
    if names.count(name) > 1:  # too many fields differ to name them all
      name = f'{name}, {group[0].path.name}'
    color = method_of(group[0].config).color
    if not color or color in [entry.color for entry in entries]:  # several share a method
      color = spare.pop(0) if spare else '#777777'
    entries.append(Entry(name, color, tuple(group)))
  return entries


def _fields(run: Run) -> dict:
  """{field: value} of a run's config, without those that are set aside, and of how it was scored."""
  fields = flatten_dict(run.config, sep='.').items()
  return {k: v for k, v in fields if k not in ASIDE and 'single_task' not in k} | scoring.scoring(run)


def family(entry: Entry) -> tuple[str, str]:
  """What entries share that differ in their number of denoising steps alone: a name, and all other fields."""
  fields = {k: v for k, v in _fields(entry.runs[0]).items() if k != 'model.diffusion_steps'}
  return re.sub(rf', diffusion_steps={entry.runs[0].diffusion_steps}(?=,|$)', '', entry.name, count=1), json.dumps(
    fields, sort_keys=True
  )


def unequal(section: Section) -> str:
  """A sentence on what the methods of a section were not given alike, their own fields apart; '' if nothing.

  How they were scored is told by `scoring.told`.
  """
  fields = {entry.name: _fields(entry.runs[0]) for entry in section.entries}
  apart = (*METHODS_OWN, *scoring.FIELDS)
  parts = []
  for field in sorted({k for config in fields.values() for k in config if not k.startswith(apart)}):
    by_value = {}
    for name, config in fields.items():
      by_value.setdefault(str(config.get(field)), []).append(name)
    if len(by_value) > 1:
      values = '; '.join(f'{value}: {", ".join(names)}' for value, names in by_value.items())
      parts.append(f'{field} ({values})')
  return f'Mind that these runs also differ in {", ".join(parts)}.' if parts else ''


def _name(config: dict, others: Sequence[dict]) -> str:
  """Method, backbone, and what else tells this config from others of its method."""
  fields = sorted({k for other in others for k in other.keys() | config.keys() if other.get(k) != config.get(k)})
  differs = [f'{k.rpartition(".")[2]}={config.get(k)}' for k in fields if k != 'model.backbone']
  backbone = [] if config['model.backbone'] == 'resnet18' else [config['model.backbone'].replace('resnet', 'R')]
  more = differs if len(differs) <= 4 else [*differs[:3], f'{len(differs) - 3} more fields']
  return ', '.join([method_of(config).title, *backbone, *more])
