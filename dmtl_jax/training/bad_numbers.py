"""Losses that are not finite: they never reach the state, and the steps that led to them can be run again.

The step itself (step.py) skips an update that is not finite. The host does not wait for the device at
every step and learns of it at the next log line or checkpoint.
"""

import dataclasses
import math

from etils import epath
import jax
import numpy as np

from dmtl_jax.basics import atomic, sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.runs import checkpoints


@dataclasses.dataclass
class StepRecord:
  """One training step.

  Attributes:
    scalars: of the step; arrays on the device until fetched, then floats.
    number: of the step, from 1; 0 for a step of an earlier process.
    index: [B] this host's images, as in the batch; None for a step of an earlier process.
    data: state of the data iterator before the batch; None for a step of an earlier process.
  """

  scalars: dict
  number: int = 0
  index: np.ndarray | None = None
  data: dict | None = None

  @property
  def is_finite(self) -> bool:
    return bool(self.scalars['is_finite'])


class PendingSteps:
  """The steps since the last log line, and the number of steps skipped in the whole run.

  Checkpoints hold it (`to_json`), so that a resumed run logs the same as an uninterrupted one.
  """

  def __init__(self, tasks, saved: dict | None = None):
    self.tasks = tasks
    self.skipped = saved['skipped'] if saved else 0  # before these steps
    self.steps = [StepRecord(scalars) for scalars in saved['steps']] if saved else []

  def add(self, number: int, scalars: dict, index, data: dict):
    self.steps.append(StepRecord(scalars, number, np.asarray(index), data))

  def fetch(self) -> list[StepRecord]:
    """Waits for the device; returns this process's steps that were not finite and did not just overflow, in order."""
    for step, scalars in zip(self.steps, jax.device_get([step.scalars for step in self.steps])):
      step.scalars = {name: float(value) for name, value in scalars.items()}
    bad = [step for step in self.steps if not step.is_finite and not step.scalars.get('overflow')]
    return [step for step in bad if step.index is not None]

  def means(self) -> dict[str, float]:
    """Means over the finite steps, and of tasks' losses over their labelled images. Fetch first."""
    finite = [step.scalars for step in self.steps if step.is_finite]
    if not finite:
      return {}
    # Steps before a resume in another dtype may lack 'loss_scale' and 'overflow'.
    sums = {name: math.fsum(scalars.get(name, 0.0) for scalars in finite) for name in finite[0]}
    means = {name: sums[name] / len(finite) for name in ('loss/total', 'grad_norm')}
    return means | task_means(sums, self.tasks)

  def total_skipped(self) -> int:
    return self.skipped + sum(not step.is_finite for step in self.steps)

  def clear(self):
    self.skipped = self.total_skipped()
    self.steps = []

  def to_json(self, before: int | None = None) -> dict:
    """The argument `saved` of `__init__`, optionally only with steps before number `before`. Fetch first."""
    steps = [step for step in self.steps if before is None or step.number < before]
    return {
      'skipped': self.skipped,
      'steps': [step.scalars if step.is_finite else {'is_finite': 0.0} for step in steps],
    }


def report(bad: StepRecord, source, workdir) -> UserError:
  """Writes the replay file W/nan_STEP.json of a bad step; returns the error to end the run with.

  The file holds the step, the checkpoint it starts from, the batch's image ids, and the step's scalars
  (sums over the labelled images, see `step.TrainStep`).
  """
  ids = [source.ids[i] for index in sharding.gather(bad.index) for i in index]
  path = checkpoints.replay_file(epath.Path(workdir), bad.number)
  scalars = {name: value if math.isfinite(value) else str(value) for name, value in bad.scalars.items()}
  content = {'step': bad.number, 'checkpoint': bad.number - 1, 'images': ids, 'scalars': scalars}
  sharding.on_first_host(atomic.write_json, path, content)
  return UserError(
    f'step {bad.number}: {losses_text(bad.scalars, source.tasks)} is not finite on the images {", ".join(ids)}; '
    f'the state before that step is saved: look at it with --replay={path}, and go on with '
    f'--config.train.nan_policy=skip, or a lower --config.optim.lr and --force'
  )


def losses_text(scalars: dict[str, float], tasks) -> str:
  """'loss nan (semseg 1.2, initial/semseg 1.5, depth nan), gradient norm nan', for tasks with labels."""
  means = task_means(scalars, tasks)
  parts = ', '.join(f'{name.removeprefix("loss/").removeprefix("final/")} {value:.4g}' for name, value in means.items())
  return f'loss {scalars["loss/total"]:.4g} ({parts}), gradient norm {scalars["grad_norm"]:.4g}'


def task_means(sums: dict[str, float], tasks) -> dict[str, float]:
  """{'loss/PART/TASK': mean over the task's labelled images}, for tasks with labels, from sums of `step.TrainStep`."""
  means = {}
  for task in tasks:
    count = sums.get(f'count/{task.name}')
    for name in (f'loss/final/{task.name}', f'loss/initial/{task.name}'):
      if name in sums and count:
        means[name] = sums[name] / count
  return means
