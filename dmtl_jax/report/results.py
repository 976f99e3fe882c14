"""What a report compares: runs, read from their folders and grouped.

Runs of the same data and labels share a `Section` of the report. In it, runs that differ only in their seeds share an
`Entry`, which is a row of its table.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import re
import statistics
from typing import Any

from flax.traverse_util import flatten_dict
import numpy as np

from dmtl_jax.basics.errors import join_names
from dmtl_jax.inference import calibration
from dmtl_jax.inference.calibration import Calibration
from dmtl_jax.models import METHODS, Network
from dmtl_jax.models.base import Method
from dmtl_jax.report import reading, scoring
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

METHOD_FIELDS = ('method', 'model.', 'optim.part_lr')  # beginnings of fields that define a method
SPARE_COLORS = ('#b5651d', '#6a5acd', '#2e8b8b', '#c71585', '#808000', '#4682b4', '#cd5c5c', '#708090')
GREY = '#777777'  # when all colours are taken
LABELS = {'one': 'one labelled task per image', 'random': 'random labelled tasks'}
# Fields that may differ between two seeds of one experiment, or that change no score.
IGNORED_FIELDS = (
  *('seed', 'data.label_seed', 'data.dir', 'data.raw', 'train.eval_every', 'train.save_every', 'train.eval_images'),
  *('train.best_by', 'eval.batch', 'eval.panels', *workdir_lib.FREE_FIELDS),
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run, as far as a report shows it.

  Attributes:
    evaluation: of metrics.json; None if the run was not evaluated.
    curves: everything that training logged.
    images: pictures of the evaluation.
    costs: of cost.json; {} if not measured.
    step_evaluations: {S: evaluation} with other numbers of denoising steps.
    label_counts: of labels.json; None if there is no such file.
    confusion: {task: pixel counts [label, prediction]} of the evaluation, for tasks with classes.
    image_rows: of per_image.csv, see `image_facts`.
    calibration: of calibration.json; None if there is none of the evaluated weights.
  """

  path: pathlib.Path
  config: dict
  tasks: tuple[Task, ...]
  evaluation: reading.Evaluation | None
  curves: reading.Curves
  images: list[reading.DrawnImage]
  costs: dict[str, float]
  step_evaluations: dict[int, reading.Evaluation]
  label_counts: reading.LabelCounts | None
  confusion: dict[str, np.ndarray]
  image_rows: list[dict[str, str]]
  calibration: Calibration | None

  def with_steps(self, steps: int) -> 'Run':
    """The run as evaluated with this number of denoising steps, and its costs with it."""
    measured = self.config['eval']['diffusion_steps'] or self.diffusion_steps
    return dataclasses.replace(
      self,
      config=self.config | {'eval': self.config['eval'] | {'diffusion_steps': steps}},
      evaluation=self.evaluation if steps == self.diffusion_steps else self.step_evaluations[steps],
      costs=self.costs if steps == measured else {},
    )

  def scores(self, stage: str, task: Task) -> dict[str, float | None]:
    """{metric: value} of the 'initial' or 'final' maps, or {class: IoU} for stage 'per_class'; {} if there are none."""
    return getattr(self.evaluation, stage).get(task.name, {}) if self.evaluation else {}

  def score(self, stage: str, task: Task) -> float:
    """Headline score of a stage; NaN if there is none."""
    value = self.scores(stage, task).get(task.metric)
    return math.nan if value is None else value

  def predicts_by_initial(self, task: Task) -> bool:
    """Whether predictions of a task are made of its initial maps (config.eval.stage), not of the final ones."""
    steps = self.config['eval']['diffusion_steps'] or self.diffusion_steps
    is_own = self.calibration is not None and self.calibration.diffusion_steps in (0, steps)
    return is_own and task.name in self.calibration.initial and not math.isnan(self.score('initial', task))

  def prediction_stage(self, task: Task) -> str:
    """'initial' or 'final', the maps that predictions of a task are made of."""
    return 'initial' if self.predicts_by_initial(task) else 'final'

  def prediction_score(self, task: Task) -> float:
    """Headline score of the maps that predictions are made of; NaN if there is none."""
    return self.score(self.prediction_stage(task), task)

  @property
  def diffusion_steps(self) -> int:
    """Number of denoising steps in training."""
    return self.config['model']['diffusion_steps']

  @property
  def size(self) -> list[int]:
    """Height and width of the network's input."""
    return self.config['data']['size']

  @property
  def data(self) -> str:
    """Name of the data; of scores on other data than the run learned from, both: 'street (trained on rooms)'."""
    own = data_name(self.config['data'])
    scored = self.evaluation.data if self.evaluation else ''
    return f'{scored} (trained on {own})' if scored not in ('', own) else own

  @property
  def labels(self) -> str:
    """Name of the label setting or of its file."""
    return pathlib.Path(str(self.config['data']['labels'])).name


@dataclasses.dataclass(frozen=True)
class Entry:
  """Runs that differ only in their seeds, with a name and a colour of their own."""

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
  def diffuses(self) -> bool:
    """Whether its final maps are denoised ones."""
    return self.method.network.diffuses

  @property
  def is_evaluated(self) -> bool:
    """Whether at least one run was evaluated."""
    return any(run.evaluation for run in self.runs)

  def scores(self, stage: str, task: Task) -> list[float]:
    """Headline scores of the runs that have one."""
    return [value for run in self.runs if not math.isnan(value := run.score(stage, task))]


@dataclasses.dataclass(frozen=True)
class Section:
  """Runs of one data set and label setting; `tasks` are all that at least one run learned."""

  data: str
  labels: str
  tasks: tuple[Task, ...]
  entries: tuple[Entry, ...]

  @property
  def title(self) -> str:
    named = LABELS.get(self.labels, f'labels of {self.labels}')
    own = self._existing_labels() if self.labels == 'full' else named
    predicted = self._counts('predicted')
    return f'{self.data}, {own}' + (f'; labels that a model predicted: {predicted}' if predicted else '')

  def _existing_labels(self) -> str:
    """'all tasks labelled' where every image is, else 'as labelled: semseg 268, depth 270 of 804 images'."""
    counts = self._label_counts
    if not counts:
      return 'every label that exists'
    images = {count.images for count in counts}
    if len(images) == 1 and all(count.tasks.get(t.name) == count.images for count in counts for t in self.tasks):
      return 'all tasks labelled'
    return f'as labelled: {self._counts("tasks")} of {_range(images)} images'

  def _counts(self, kind: str) -> str:
    """'semseg 268, depth 134 to 270' for a field of `reading.LabelCounts`, over the runs that have such labels."""
    numbers = {t.name: {n for c in self._label_counts if (n := getattr(c, kind).get(t.name))} for t in self.tasks}
    return ', '.join(f'{name} {_range(found)}' for name, found in numbers.items() if found or kind == 'tasks')

  @property
  def _label_counts(self) -> list[reading.LabelCounts]:
    return [run.label_counts for entry in self.entries for run in entry.runs if run.label_counts]

  @property
  def has_seeds(self) -> bool:
    """Whether some method was trained with several seeds."""
    return any(len(entry.runs) > 1 for entry in self.entries)

  @property
  def evaluated(self) -> list[Entry]:
    return [entry for entry in self.entries if entry.is_evaluated]


def _range(numbers: set[int]) -> str:
  """'268', or '134 to 268' where runs differ."""
  low, high = min(numbers, default=0), max(numbers, default=0)
  return f'{low:,}' if low == high else f'{low:,} to {high:,}'


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
  """Mean over seeds and its standard error, which is NaN for one seed."""
  error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
  return statistics.fmean(values), error


def read_run(path: pathlib.Path) -> Run:
  """Reads the folder of one run; raises UserError with the file that is missing or damaged."""
  config = workdir_lib.to_json(workdir_lib.read_config(path))
  tasks = workdir_lib.read_tasks(path)
  evaluation = reading.read_evaluation(path / 'metrics.json')
  fitted = calibration.read(path)
  return Run(
    path,
    config=config,
    tasks=tasks,
    evaluation=evaluation,
    curves=reading.read_curves(path / 'log.jsonl'),
    images=reading.read_images(path / 'panels' / 'index.json'),
    costs=reading.read_costs(path / 'cost.json'),
    step_evaluations=reading.read_step_evaluations(path),
    label_counts=reading.read_label_counts(path / 'labels.json'),
    confusion=reading.read_confusion(path / 'confusion.json', tasks),
    image_rows=reading.read_image_rows(path / 'per_image.csv'),
    calibration=fitted if fitted and evaluation and fitted.step == evaluation.step else None,
  )


def data_name(data: Mapping[str, Any]) -> str:
  """Name of the data set or of its folder, of config.data; not that of a home, which would publish a user's name."""
  folder = pathlib.Path(data.get('path') or '').name
  return data['name'] if folder in ('', os.path.basename(os.path.expanduser('~'))) else folder


def method_of(config: dict) -> Method:
  """The method of a run; one that is not registered here has only its name."""
  name = str(config['method'])
  return METHODS.get(name) or Method(name, Network, title=name)


# --- Grouping --------------------------------------------------------------------------------


def sections(runs: Sequence[Run]) -> list[Section]:
  """Groups runs by data set and labels, with the methods in the order of the paper's tables."""
  groups = {}
  for run in runs:
    groups.setdefault((run.data, run.labels), []).append(run)
  grouped = []
  for (data, labels), group in groups.items():
    tasks = {}  # in the order of the run with most tasks
    for run in sorted(group, key=lambda run: -len(run.tasks)):
      for task in run.tasks:
        tasks.setdefault(task.name, task)
    grouped.append(Section(data, labels, tuple(tasks.values()), tuple(_entries(group))))
  return grouped


def _entries(runs: Sequence[Run]) -> list[Entry]:
  """Groups runs whose configs differ only in their seeds, and names the groups by what differs between them."""
  by_fields = {}
  for run in runs:
    by_fields.setdefault(json.dumps(compared_fields(run), sort_keys=True), []).append(run)
  groups = sorted(by_fields.values(), key=lambda group: method_of(group[0].config).row)
  configs = [compared_fields(group[0]) for group in groups]
  names = [_name(config, [c for c in configs if c['method'] == config['method']]) for config in configs]
  entries = []
  for name, group in zip(names, groups):
    if names.count(name) > 1:  # too many fields differ to name them all
      name = f'{name}, {group[0].path.name}'
    color = free_color(method_of(group[0].config).color, [entry.color for entry in entries])
    entries.append(Entry(name, color, tuple(group)))
  return entries


def free_color(wanted: str, taken: Sequence[str]) -> str:
  """The wanted colour, or a spare one where it is '' or taken."""
  return next((color for color in (wanted, *SPARE_COLORS) if color and color not in taken), GREY)


def compared_fields(run: Run) -> dict:
  """{field: value} of a run's config and of how it was scored, without the ignored fields."""
  fields = flatten_dict(run.config, sep='.').items()
  compared = {k: v for k, v in fields if k not in IGNORED_FIELDS and 'single_task' not in k}
  return compared | scoring.settings(run)


def _name(config: dict, others: Sequence[dict]) -> str:
  """Method, backbone, and the fields in which this config differs from others of its method."""
  fields = sorted({k for other in others for k in other.keys() | config.keys() if other.get(k) != config.get(k)})
  differs = [f'{k.rpartition(".")[2]}={config.get(k)}' for k in fields if k != 'model.backbone']
  backbone = [] if config['model.backbone'] == 'resnet18' else [config['model.backbone'].replace('resnet', 'R')]
  more = differs if len(differs) <= 4 else [*differs[:3], f'{len(differs) - 3} more fields']
  return ', '.join([method_of(config).title, *backbone, *more])


def group_by_steps(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
  """Groups entries that differ only in their number of denoising steps: (name without it, entries)."""
  groups = {}
  for entry in entries:
    fields = compared_fields(entry.runs[0])
    steps = fields.pop('model.diffusion_steps')
    name = re.sub(rf', diffusion_steps={steps}(?=,|$)', '', entry.name, count=1)
    groups.setdefault((name, json.dumps(fields, sort_keys=True)), []).append(entry)
  return [(name, group) for (name, _), group in groups.items()]


def describe_differences(section: Section) -> str:
  """A sentence on config fields that differ between methods without being their own; '' if there are none.

  For how they were scored see `scoring.describe`.
  """
  configs = [compared_fields(entry.runs[0]) for entry in section.entries]
  parts = []
  for field in sorted({k for config in configs for k in config}):
    by_value = {}
    for entry, config in zip(section.entries, configs):
      if _uses(entry, field):
        by_value.setdefault(str(config.get(field)), []).append(entry.name)
    if len(by_value) > 1 and not field.startswith((*METHOD_FIELDS, *scoring.FIELDS)):
      values = '; '.join(f'{value}: {", ".join(names)}' for value, names in by_value.items())
      parts.append(f'{field} ({values})')
  return f'These runs also differ in {", ".join(parts)}.' if parts else ''


def _uses(entry: Entry, field: str) -> bool:
  """Whether a field changes anything: the weight of losses on initial maps does not where none were scored."""
  initial = [run.evaluation.initial for run in entry.runs if run.evaluation]
  return field != 'initial_loss' or not initial or any(initial)


def describe_predictions(section: Section) -> str:
  """A sentence on tasks whose predictions are made of initial maps, with the scores of these; '' if there are none."""
  parts = []
  for task in section.tasks:
    for entry in section.entries:
      runs = [run for run in entry.runs if run.predicts_by_initial(task)]
      if runs:
        score = f'{statistics.fmean(run.score("initial", task) for run in runs):.{task.digits}f} {task.metric}'
        some = f', {len(runs)} of {len(entry.runs)} runs' if len(runs) < len(entry.runs) else ''
        parts.append(f'{task.name} by {entry.name} ({score}{some})')
  if not parts:
    return ''
  return (
    'Predictions are made of the initial maps, not of the final maps in the table, for '
    f'{join_names(parts, len(parts))}.'
  )
