"""Calibrated probabilities: what a pixel's probability says, is how often it comes true.

Losses that balance rare classes, and long training, make a network too sure. So the final evaluation of a run fits a
temperature T and biases b per task on the validation labels (`calibration_fit`): logits / T + b, with a bias per class,
or one for the positive class of a binary task. They are fitted on maps of a single noise draw; for the mean of several
draws, that mean is calibrated. Where initial maps score higher than denoised ones, they are what a task is predicted by
(config.eval.stage). W/calibration.json keeps both for one checkpoint:

  {"step": 6000, "diffusion_steps": 2, "initial": [TASK, ...],
   "tasks": {TASK: {"kind", "temperature", "bias": [...],
     "threshold",             # of binary tasks: the calibrated probability at which F is best; null without positives
     "f", "f_at_half",        # F in % of the masks at that threshold, and of the raw maps at 0.5
     "pixels", "images",      # drawn for the fit
     "held_out",              # whether raw and calibrated were measured on images that the fit had not seen
     "raw", "calibrated": {"ece": in %, "nll", "bins": [[confidence, accuracy, share of the pixels], ...]}}}}

Classes are those of the highest raw logit, with or without calibration, so that biases never undo class weights of the
loss, and maps of classes are those that were scored. All scores of an evaluation are of raw maps.
"""

from collections.abc import Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dmtl_jax.basics import atomic, files, progress
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import Task

NAME = 'calibration.json'
FIX = 'run --mode=evaluate again, or delete it'
MAX_BYTES = 1 << 24
MAX_TEMPERATURE = 100.0  # and at least 1 / 100
MAX_BIAS = 100.0
BINS = 15  # of a reliability diagram, of equal width


class Bin(NamedTuple):
  """Pixels of similar confidence: their mean confidence, how often it came true, and their share of all pixels."""

  confidence: float
  accuracy: float
  share: float


class Reliability(NamedTuple):
  """How well probabilities match frequencies: expected calibration error in %, negative log-likelihood, and by bin."""

  ece: float
  nll: float
  bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class TaskCalibration:
  """The calibration of one task; see the module for the fields."""

  kind: str
  temperature: float
  bias: tuple[float, ...]
  threshold: float | None
  f: float | None
  f_at_half: float | None
  pixels: int
  images: int
  held_out: bool
  raw: Reliability
  calibrated: Reliability


@dataclasses.dataclass(frozen=True)
class Calibration:
  """The calibrations of a network's tasks; tasks that are not in `tasks` keep their raw maps.

  Attributes:
    step: of the checkpoint.
    diffusion_steps: number of denoising steps S.
    tasks: {name: calibration}.
    initial: names of the tasks that are predicted by their initial maps.
  """

  step: int = 0
  diffusion_steps: int = 0
  tasks: Mapping[str, TaskCalibration] = dataclasses.field(default_factory=dict)
  initial: tuple[str, ...] = ()

  def choose(self, final: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
    """{task: what it is predicted by}, of the denoised and the initial maps; the initial may be {}."""
    return {name: initial[name] if name in self.initial and initial else maps for name, maps in final.items()}

  def apply(self, task: Task, logits):
    """Calibrated logits of raw maps [..., C_t]; numpy or jax. It commutes with resizing, being affine."""
    fitted = self.tasks.get(task.name)
    if fitted is None:
      return logits
    bias = np.array([0.0] * (task.channels - len(fitted.bias)) + list(fitted.bias), np.float32)
    return logits / np.float32(fitted.temperature) + bias

  def decide(self, task: Task, logits):
    """The logits [..., C_t] to activate for a prediction: calibrated ones, but raw ones for a map of classes."""
    return logits if task.classes else self.apply(task, logits)

  def threshold(self, task: Task) -> float:
    """The probability from which a pixel of a binary task belongs to its mask; 0.5 if none was fitted."""
    fitted = self.tasks.get(task.name)
    return 0.5 if fitted is None or fitted.threshold is None else fitted.threshold

  def limits(self, task: Task, values: np.ndarray) -> tuple[float, float] | None:
    """As `Task.limits`; for a calibrated binary task, whose probabilities may all be low, 0 and what shows them.

    That is the 99th percentile of the map, but not less than twice the threshold.
    """
    if not (task.binary and task.name in self.tasks):
      return task.limits(values)
    high = max(2 * self.threshold(task), float(np.percentile(values, 99)), 1e-6)
    return 0.0, min(high, 1.0)

  def mask(self, task: Task, probability: np.ndarray) -> np.ndarray:
    """The mask [H, W] bool of a binary task's prediction [H, W]; lines are thinned to one pixel, as labels are."""
    mask = np.asarray(probability) >= self.threshold(task)
    return thin(mask) if task.line_like else mask


UNCALIBRATED = Calibration()


# --- The file --------------------------------------------------------------------------------


def write(workdir: str | os.PathLike, calibration: Calibration):
  """Writes W/calibration.json."""
  tasks = {name: _to_json(fitted) for name, fitted in calibration.tasks.items()}
  values = {'step': calibration.step, 'diffusion_steps': calibration.diffusion_steps}
  values |= {'initial': list(calibration.initial), 'tasks': tasks}
  atomic.write_json(pathlib.Path(workdir) / NAME, values)


def _to_json(fitted: TaskCalibration) -> dict:
  return dataclasses.asdict(fitted) | {'raw': fitted.raw._asdict(), 'calibrated': fitted.calibrated._asdict()}


def read(workdir: str | os.PathLike) -> Calibration | None:
  """Reads W/calibration.json; None if there is none.

  Raises:
    UserError: it cannot be read, or is not what `write` writes.
  """
  path = pathlib.Path(workdir) / NAME
  if not path.exists():
    return None
  content = files.read_json(path, FIX, MAX_BYTES)
  try:
    tasks = {str(name): _from_json(values) for name, values in content['tasks'].items()}
    initial = content.get('initial', [])  # files of earlier versions have none
    if not isinstance(initial, list) or not all(isinstance(name, str) for name in initial):
      raise ValueError('initial must be a list of tasks')
    return Calibration(_count(content['step']), _count(content['diffusion_steps']), tasks, tuple(initial))
  except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f'{path}: not what evaluation writes ({files.reason(error)}); {FIX}') from error


def load(workdir: str | os.PathLike, step: int, diffusion_steps: int, tasks: tuple[Task, ...]) -> Calibration:
  """The calibration of a run's checkpoint; tasks without one are named in a line, with the reason.

  Raises:
    UserError: W/calibration.json is damaged, or of other tasks.
  """
  path = pathlib.Path(workdir) / NAME
  names = [task.name for task in tasks if task.has_probabilities]
  calibration = read(workdir)
  uncalibrated = Calibration(step, diffusion_steps)
  fix = f'--mode=evaluate --workdir={workdir} --step={step} fits them'
  if calibration is None:
    if names:
      progress.say(f'probabilities are not calibrated: there is no {path}; {fix}')
    return uncalibrated
  if (calibration.step, calibration.diffusion_steps) != (step, diffusion_steps):
    if names:
      progress.say(
        f'probabilities are not calibrated: {path} is for step {calibration.step} with {calibration.diffusion_steps} '
        f'denoising steps, not for step {step} with {diffusion_steps}; {fix}'
      )
    return uncalibrated
  if unknown := sorted(calibration.tasks.keys() - set(names)):
    raise UserError(f'{path}: {sanitize(join_names(unknown))} has no probabilities in this run; {FIX}')
  if unknown := sorted(set(calibration.initial) - {task.name for task in tasks}):
    raise UserError(f'{path}: {sanitize(join_names(unknown))} is no task of this run; {FIX}')
  for task in tasks:
    if task.name in calibration.tasks:
      _check_fits(path, task, calibration.tasks[task.name])
  if missing := [name for name in names if name not in calibration.tasks]:
    progress.say(f'probabilities of {join_names(missing)} are not calibrated: no validation image was labelled for it')
  return calibration


def _check_fits(path: pathlib.Path, task: Task, fitted: TaskCalibration):
  count = len(task.classes) or 1
  if fitted.kind != task.kind or len(fitted.bias) != count:
    raise UserError(
      f'{path}: {task.name} is {sanitize(fitted.kind, 64)} with {len(fitted.bias)} biases there, {task.kind} with '
      f'{count} in this run; {FIX}'
    )


def _from_json(values: dict[str, Any]) -> TaskCalibration:
  names = {field.name for field in dataclasses.fields(TaskCalibration)}
  if values.keys() != names:
    raise ValueError(f'a task needs {", ".join(sorted(names))}')
  if not isinstance(values['held_out'], bool) or not isinstance(values['kind'], str):
    raise ValueError('kind must be a text, held_out true or false')
  biases = values['bias']
  if not isinstance(biases, list) or not biases:
    raise ValueError('bias must be a list of numbers')
  return TaskCalibration(
    kind=values['kind'],
    temperature=_number(values['temperature'], 1 / MAX_TEMPERATURE, MAX_TEMPERATURE),
    bias=tuple(_number(bias, -MAX_BIAS, MAX_BIAS) for bias in biases),
    threshold=_optional(values['threshold'], 1),
    f=_optional(values['f'], 100),
    f_at_half=_optional(values['f_at_half'], 100),
    pixels=_count(values['pixels']),
    images=_count(values['images']),
    held_out=values['held_out'],
    raw=_reliability(values['raw']),
    calibrated=_reliability(values['calibrated']),
  )


def _reliability(values: dict[str, Any]) -> Reliability:
  bins = tuple(Bin(*(_number(number, 0, 1) for number in row)) for row in values['bins'])
  if len(bins) > BINS:
    raise ValueError(f'more than {BINS} bins')
  return Reliability(_number(values['ece'], 0, 100), _number(values['nll'], 0, 1e9), bins)


def _optional(value, high: float) -> float | None:
  return None if value is None else _number(value, 0, high)


def _count(value) -> int:
  if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
    raise ValueError(f'{sanitize(str(value), 20)} is no count')
  return value


def _number(value, low: float, high: float) -> float:
  slack = 1e-9 * max(abs(low), abs(high))  # of rounding in sums
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
  if not is_number or not low - slack <= value <= high + slack:
    raise ValueError(f'{sanitize(str(value), 20)} is not a number from {low:g} to {high:g}')
  return float(value)
