"""Losses that are not finite: they never reach the state, and what led to them can be run again.

The step itself (step.py) refuses an update that is not finite; the host, which does not wait for the
device at every step, learns of it at the next log line or checkpoint.
"""

from collections.abc import Callable
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
  """A step that was made.

  Attributes:
    scalars: of the step; floats once fetched, before that arrays on the device.
    index: [B] this host's images, as in the batch; None for a step of an earlier process.
    data: where the data iterator stood before the batch; None likewise.
  """

  scalars: dict
  number: int = 0
  index: np.ndarray | None = None
  data: dict | None = None


class PendingSteps:
  """The steps since the last log line, and how many were ever skipped.

  A checkpoint holds it too (`to_json`): a resumed run then logs what one that never stopped does.
  """

  def __init__(self, tasks, saved: dict | None = None):
    self.tasks = tasks
    self.skipped = saved['skipped'] if saved else 0  # before this window
    self.steps = [StepRecord(scalars) for scalars in saved['steps']] if saved else []

  def add(self, number: int, scalars: dict, index, data: dict):
    self.steps.append(StepRecord(scalars, number, np.asarray(index), data))

  def fetch(self) -> list[StepRecord]:
    """Waits for the device; returns the steps of this process that were refused (not for an overflow), in order."""
    for made, scalars in zip(self.steps, jax.device_get([made.scalars for made in self.steps])):
      made.scalars = {name: float(value) for name, value in scalars.items()}
    refused = lambda scalars: not scalars['is_finite'] and not scalars.get('overflow')
    return [made for made in self.steps if refused(made.scalars) and made.index is not None]

  def means(self) -> dict[str, float]:
    """Means of the good steps: a task's losses over its labelled images, the rest over steps. Fetch first."""
    good = [made.scalars for made in self.steps if made.scalars['is_finite']]
    total = lambda name: math.fsum(scalars[name] for scalars in good)
    values = {name: total(name) / len(good) for name in ('loss/total', 'grad_norm') if good}
    return values | (task_means(total, good[0], self.tasks) if good else {})

  def total_skipped(self) -> int:
    return self.skipped + sum(not made.scalars['is_finite'] for made in self.steps)

  def clear(self):
    self.skipped, self.steps = self.total_skipped(), []

  def to_json(self, before: int | None = None) -> dict:
    """What `__init__` takes as `saved`: the steps, all or those with a number below `before`. Fetch first."""
    steps = [made.scalars for made in self.steps if before is None or made.number < before]
    return {'skipped': self.skipped, 'steps': [s if s['is_finite'] else {'is_finite': 0.0} for s in steps]}


def report(bad: StepRecord, source, workdir) -> UserError:
  """The error that ends a run at a bad step; writes the replay file W/nan_STEP.json.

  The file holds the step, the checkpoint it starts from, the batch's image ids, and the scalars of that
  very step (sums over the labelled images, see `step.TrainStep`).
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
  """'loss nan (semseg 1.2, initial/semseg 1.5, depth nan), gradient norm nan', of tasks that have labels."""
  means = task_means(scalars.__getitem__, scalars, tasks)
  parts = ', '.join(f'{name.removeprefix("loss/").removeprefix("final/")} {value:.4g}' for name, value in means.items())
  return f'loss {scalars["loss/total"]:.4g} ({parts}), gradient norm {scalars["grad_norm"]:.4g}'


def task_means(total: Callable[[str], float], names, tasks) -> dict[str, float]:
  """{'loss/PART/TASK': mean over the task's labelled images} of those that have any; `total` is a name's sum."""
  parts = [(f'loss/{part}/{task.name}', f'count/{task.name}') for task in tasks for part in ('final', 'initial')]
  return {name: total(name) / total(count) for name, count in parts if name in names and total(count)}
