"""Speed, work, compile time and memory of the train step of any config.

  python -m benchmarks.train_step --config=configs/pascal.py:method=prediction,labels=one \\
      [--config.train.batch=6] [--repeats=10] [--torch=eager|compiled] [--json=FILE]

Times the very step that training compiles (state donated, labelled pairs at the static count of the label setting) on
a synthetic batch of the config's shapes: no data set is needed. A repeat is as many steps as fill 0.2 s, then a
synchronisation; the median and the quartiles of the repeats are shown.
"""

from collections.abc import Callable, Iterable
import dataclasses

import jax
import numpy as np

from benchmarks import common, synthetic, work
from dmtl_jax.basics import sharding
from dmtl_jax.data.source import data_tasks
from dmtl_jax.runs.state import TrainState
from dmtl_jax.tasks import Task
from dmtl_jax.training import setup
from dmtl_jax.training.setup import Training

FIRST = np.int32(1)  # number of the first step


@dataclasses.dataclass
class Job:
  """A train step and its arguments.

  Attributes:
    state, batch: numpy.
    pairs: number of labelled pairs in the batch; None for methods without a diffusion.
  """

  tasks: tuple[Task, ...]
  training: Training
  state: TrainState
  batch: dict
  pairs: int | None

  def on_device(self) -> tuple[TrainState, dict]:
    """State and batch on the devices."""
    return jax.device_put(self.state, self.training.shardings), sharding.put_batch(self.batch, self.training.mesh)

  def flops(self) -> Iterable[tuple[str, float]]:
    """(scope, FLOPs) of the step's products, see work.py."""
    return work.by_scope(self.training.update, self.state, self.batch, FIRST)


def build(config) -> Job:
  """The step that training compiles, for labels as drawn for config.data.labels."""
  tasks = data_tasks(config.data)
  mask = synthetic.label_mask(tasks, config.data.labels)
  training = setup.build_without_data(config, tasks, mask)
  state = synthetic.train_state(jax.eval_shape(training.init, jax.random.key(0)))
  batch = synthetic.train_batch(config, tasks, mask)
  pairs = int(batch['label_mask'].sum()) if training.model.diffuses else None
  return Job(tasks, training, state, batch, pairs)


@dataclasses.dataclass
class Stepper:
  """Runs compiled steps, each on the state that the last one left (it was donated)."""

  compiled: Callable
  state: TrainState
  batch: dict
  number: np.int32 = FIRST

  def __call__(self, count: int):
    for _ in range(count):
      self.state, scalars = self.compiled(self.state, self.batch, self.number)
      self.number += FIRST
    jax.block_until_ready((self.state, scalars))


def benchmark(config, flags) -> dict:
  """Measures; see `common.as_text` for what the result holds."""
  job = build(config)
  needed = work.needed(config, job.tasks, config.train.batch, job.pairs)
  state, batch = job.on_device()
  return common.measure(
    common.describe(config, job.tasks, config.train.batch, job.pairs, 'train step'),
    job.training.update,
    (state, batch, FIRST),
    lambda compiled: Stepper(compiled, state, batch),
    ('TrainStep', (config, job.tasks, job.state.variables, job.batch)),
    {'needed': needed, 'executed': sum(flops for _, flops in job.flops())},
    flags,
  )


if __name__ == '__main__':
  common.run(benchmark, __doc__, common.as_text)
