"""Speed, work, compile time and memory of the train step of any config.

  python -m dmtl_jax.benchmarks.train_step --config=configs/pascal.py:method=prediction,labels=one \\
      [--config.train.batch=6] [--repeats=10] [--nocold] [--against=torch] [--json=FILE]

Times the very step that training compiles (state donated, labelled pairs at the static count of the label
setting) on a synthetic batch of the config's shapes: no data set is needed. A repeat is as many steps as
fill 0.2 s, then a synchronisation; the median and the quartiles of the repeats are shown.
"""

from collections.abc import Callable, Iterable
import dataclasses

import jax
from jax.sharding import Mesh
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.benchmarks import common, synthetic, timing, work
from dmtl_jax.jobs import summary
from dmtl_jax.models import build_model
from dmtl_jax.runs.state import TrainState
from dmtl_jax.tasks import Task
from dmtl_jax.training import optimizer as state_lib
from dmtl_jax.training.step import TrainStep

FIRST = np.int32(1)  # number of the first step


@dataclasses.dataclass
class Job:
  """A train step and what it takes.

  Attributes:
    function: (state, batch, number) -> (state, scalars), as `step`, which is jitted.
    state, batch: numpy.
    pairs: labelled ones of the batch; None for methods without a diffusion.
  """

  tasks: tuple[Task, ...]
  mesh: Mesh
  function: Callable
  step: Callable
  shardings: TrainState
  state: TrainState
  batch: dict
  pairs: int | None

  def on_device(self) -> tuple[TrainState, dict]:
    """State and batch on the devices."""
    return jax.device_put(self.state, self.shardings), sharding.put_batch(self.batch, self.mesh)

  def flops(self) -> Iterable[tuple[str, float]]:
    """(scope, FLOPs) of the step's products, see work.py."""
    return work.by_scope(self.function, self.state, self.batch, FIRST)


def build(config, mask: np.ndarray | None = None) -> Job:
  """The step that `train.build` compiles.

  Args:
    mask: labels [N, T] of the training set; default as drawn for config.data.labels.
  """
  tasks = summary.data_tasks(config.data)
  mesh, micro = sharding.make_mesh(config.train.fsdp), config.train.accumulate
  sharding.check_batch('config.train.batch', config.train.batch, mesh, micro)
  model = build_model(config, tasks)
  tx = state_lib.optimizer(config, state_lib.learning_rate(config, 1000, 100))
  mask = synthetic.label_mask(tasks, config.data.labels) if mask is None else mask
  count = synthetic.pair_count(config, mask, mesh.size * micro)
  function = TrainStep(model, tx, config, tasks, count, mesh.size)
  state = synthetic.train_state(model, tx, tuple(config.data.size))
  batch = synthetic.train_batch(config, tasks, mask)
  shardings = sharding.split(mesh, state)
  return Job(
    tasks,
    mesh,
    function,
    jax.jit(function, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))),
    shardings,
    state,
    batch,
    int(batch['label_mask'].sum()) if model.diffuses else None,
  )


class Stepper:
  """Runs compiled steps, each on the state that the last one left (it was donated)."""

  def __init__(self, compiled, state, batch):
    self.compiled, self.state, self.batch, self.number = compiled, state, batch, FIRST

  def __call__(self, count: int):
    for _ in range(count):
      self.state, scalars = self.compiled(self.state, self.batch, self.number)
      self.number += FIRST
    jax.block_until_ready((self.state, scalars))


def benchmark(config, flags) -> dict:
  """Measures; see `common.table` for what the result holds."""
  job = build(config)
  tasks, count, pairs = job.tasks, config.train.batch, job.pairs
  flops = {'needed': work.needed(config, tasks, count, pairs), 'executed': sum(n for _, n in job.flops())}
  state, batch = job.on_device()
  timing.say('compiling')
  compiled, compile_times = timing.compile_cold_and_cached(job.step, (state, batch, FIRST), flags.cold)
  contestants = {'jax': Stepper(compiled, state, batch)}
  del state
  notes = {}
  if flags.against:
    from dmtl_jax.benchmarks import torch_step

    more, notes = torch_step.train_steps(config, tasks, job.state, job.batch, flags.compiled)
    contestants |= more
  head = common.describe(config, tasks, count, pairs, 'train step')
  measured = common.measure(head, contestants, compiled, flops, flags.repeats, job.mesh.size)
  return measured | {'compile': compile_times, 'notes': notes}


if __name__ == '__main__':
  common.run(benchmark, __doc__)
