"""The job `--mode=report`: several runs side by side, as Markdown, CSV and one HTML page.

Reads of each workdir: config.json, tasks.json and what there is of metrics.json, log.jsonl, cost.json and
panels/. Runs of the same data and labels share a `Section` of the report; in it, runs that differ in
nothing but their seeds share an `Entry`, a row of its table.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import METHODS, Network
from dmtl_jax.models.base import Method
from dmtl_jax.report import shapes
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

METHODS_OWN = ('method', 'model.', 'optim.part_lr')  # fields that belong to a method
LABELS = {
  'one': 'one labelled task an image',
  'random': 'random labelled tasks',
  'full': 'all tasks labelled',
}
# What may differ between two seeds of one experiment, or changes nothing that is scored.
ASIDE = (
  'seed',
  'data.label_seed',
  'data.dir',
  'data.raw',
  'train.eval_every',
  'train.save_every',
  'train.eval_images',
)
ASIDE += ('train.best_by', 'eval.batch', 'eval.panels', *workdir_lib.FREE)


@dataclasses.dataclass(frozen=True)
class Run:
  """What a report knows of one workdir.

  Attributes:
    metrics: of metrics.json; {} where the run was not evaluated.
    curves: {name: (steps, values)} of everything logged.
    images: what panels/index.json lists, see pictures.py.
    cost: of cost.json; {} where it was not measured.
  """

  path: pathlib.Path
  config: dict
  tasks: tuple[Task, ...]
  metrics: dict
  curves: dict[str, tuple[list[int], list[float]]]
  images: list[dict]
  cost: dict

  def score(self, stage: str, task: Task) -> float:
    """Headline score of a stage, 'initial' or 'final'; nan where there is none."""
    value = self.metrics.get(stage, {}).get(task.name, {}).get(task.metric)
    return math.nan if value is None else float(value)

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
  """Runs that differ in their seeds alone, with the name that tells them from the others."""

  name: str
  runs: tuple[Run, ...]

  @property
  def config(self) -> dict:
    return self.runs[0].config

  @property
  def method(self) -> Method:
    return method_of(self.config)

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


# --- Reading ---------------------------------------------------------------------------------


def read_run(path: pathlib.Path) -> Run:
  """Reads one workdir.

  Raises:
    UserError: names the file that is missing or damaged.
  """
  config = workdir_lib.to_json(workdir_lib.read_config(path))
  index = _read_json(path / 'panels' / 'index.json', shapes.is_index)
  return Run(
    path,
    config,
    workdir_lib.read_tasks(path),
    _read_json(path / 'metrics.json', shapes.is_metrics),
    read_curves(path / 'log.jsonl'),
    index.get('images', []),
    _read_json(path / 'cost.json', shapes.is_cost),
  )


def _read_json(path: pathlib.Path, fits: Callable[[Any], bool]) -> dict:
  """A file's JSON object, of the shape that `fits` tells; {} where there is no file."""
  if not path.exists():
    return {}
  fix = 'run --mode=evaluate again, or delete it'
  content = files.read_json(path, fix)
  if not isinstance(content, dict) or not fits(content):
    raise UserError(f'{path}: not what evaluation writes; {fix}')
  return content


def read_curves(path: pathlib.Path) -> dict[str, tuple[list[int], list[float]]]:
  """{scalar: (steps, values)} of a log, steps ascending, of a step its last value.

  What is not a number, and a line cut short by a crash, are left out.
  """
  curves = {}
  for line in path.read_text(errors='replace').splitlines() if path.is_file() else []:
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
  return [Section(data, labels, _all_tasks(group), tuple(_entries(group))) for (data, labels), group in groups.items()]


def _all_tasks(runs: Sequence[Run]) -> tuple[Task, ...]:
  """Tasks of all runs, in the order of the run that has most of them."""
  tasks = {}
  for run in sorted(runs, key=lambda run: -len(run.tasks)):
    for task in run.tasks:
      tasks.setdefault(task.name, task)
  return tuple(tasks.values())


def _entries(runs: Sequence[Run]) -> list[Entry]:
  """Runs with the same config but for their seeds together; differing ones get telling names."""
  groups, configs = {}, {}
  for run in runs:
    config = _fields(run)
    key = json.dumps(config, sort_keys=True)
    groups.setdefault(key, []).append(run)
    configs[key] = config
  rank = lambda key: method_of(configs[key]).row
  names = {
    key: _name(config, [c for c in configs.values() if c['method'] == config['method']])
    for key, config in configs.items()
  }
  shared = lambda key: list(names.values()).count(names[key]) > 1  # too many fields differ to name them all
  full = lambda key: f'{names[key]}, {groups[key][0].path.name}' if shared(key) else names[key]
  return [Entry(full(key), tuple(groups[key])) for key in sorted(groups, key=rank)]


def _fields(run: Run) -> dict:
  """{field: value} of a run's config, without those that are set aside."""
  return {k: v for k, v in workdir_lib.flatten(run.config).items() if k not in ASIDE and 'single_task' not in k}


def differences(section: Section) -> dict[str, dict[str, list[str]]]:
  """{field: {value: names of entries}} of what the methods of a section were not given alike.

  A fair comparison has none; the fields of the method itself do not count.
  """
  fields = {entry.name: _fields(entry.runs[0]) for entry in section.entries}
  found = {}
  for field in sorted({k for config in fields.values() for k in config if not k.startswith(METHODS_OWN)}):
    by_value = {}
    for name, config in fields.items():
      by_value.setdefault(str(config.get(field)), []).append(name)
    if len(by_value) > 1:
      found[field] = by_value
  return found


def _name(config: dict, others: Sequence[dict]) -> str:
  """Method, backbone, and what else tells this config from others of its method."""
  fields = sorted({k for other in others for k in other.keys() | config.keys() if other.get(k) != config.get(k)})
  differs = [f'{k.rpartition(".")[2]}={config.get(k)}' for k in fields if k != 'model.backbone']
  backbone = [] if config['model.backbone'] == 'resnet18' else [config['model.backbone'].replace('resnet', 'R')]
  more = differs if len(differs) <= 4 else [*differs[:3], f'{len(differs) - 3} more fields']
  return ', '.join([method_of(config).title, *backbone, *more])


# --- Writing ---------------------------------------------------------------------------------
