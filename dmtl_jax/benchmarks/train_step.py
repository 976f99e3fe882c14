"""Speed, work, compile time and memory of the train step of any config.

  python -m dmtl_jax.benchmarks.train_step --config=configs/pascal.py:method=prediction,labels=one \\
      [--config.train.batch=6] [--repeats=10] [--nocold] [--against=torch] [--json=FILE]

Times the very step that training compiles (state donated, labelled pairs at the static count of the label
setting) on a synthetic batch of the config's shapes: no data set is needed. A repeat is as many steps as
fill 0.2 s, then a synchronisation; the median and the quartiles of the repeats are shown.
"""

import jax
import numpy as np

from dmtl_jax import sharding, state as state_lib, summary
from dmtl_jax.benchmarks import common, synthetic, timing, work
from dmtl_jax.models import build_model
from dmtl_jax.steps import make_train_step


def build(config, mask: np.ndarray | None = None) -> dict:
  """What a train step needs: {'tasks', 'mesh', 'step' (jitted), 'function' (not), 'state', 'batch', 'pairs'}.

  Args:
    mask: labels [N, T] of the training set; default as drawn for config.data.labels.
  """
  tasks = summary.data_tasks(config.data)
  mesh = sharding.make_mesh()
  sharding.check_batch('config.train.batch', config.train.batch, mesh)
  model = build_model(config, tasks)
  tx = state_lib.optimizer(config, state_lib.learning_rate(config, 1000, 100))
  mask = synthetic.label_mask(tasks, config.data.labels) if mask is None else mask
  count = synthetic.pair_count(config, mask, mesh.size)
  function = make_train_step(model, tx, config, tasks, count, groups=mesh.size)
  return {
      'tasks': tasks,
      'mesh': mesh,
      'function': function,
      'step': jax.jit(function, donate_argnums=0, out_shardings=sharding.replicated(mesh)),
      'state': synthetic.train_state(model, tx, tuple(config.data.size)),
      'batch': synthetic.train_batch(config, tasks, mask),
      'pairs': count * mesh.size if hasattr(model, 'noise_shape') else None,
  }


class Stepper:
  """Runs compiled steps, each on the state that the last one left (it was donated)."""

  def __init__(self, compiled, state, batch):
    self.compiled, self.state, self.batch = compiled, state, batch

  def __call__(self, count: int):
    for _ in range(count):
      self.state, scalars = self.compiled(self.state, self.batch)
    jax.block_until_ready((self.state, scalars))


def benchmark(config, flags) -> dict:
  """Measures; see `common.table` for what the result holds."""
  job = build(config)
  tasks, count, pairs = job['tasks'], config.train.batch, job['pairs']
  flops = {
      'needed': work.needed(config, tasks, count, pairs),
      'executed': work.executed(job['function'], job['state'], job['batch']),
  }
  state = synthetic.on_device(job['state'], job['mesh'])
  batch = synthetic.on_device(job['batch'], job['mesh'], split=True)
  timing.say('compiling')
  compiled, compile_times = timing.compile_cold_and_cached(job['step'], (state, batch), flags.cold)
  flops['xla'] = work.xla(compiled)
  contestants = {'jax': Stepper(compiled, state, batch)}
  del state
  notes = {}
  if flags.against:
    from dmtl_jax.benchmarks import torch_step

    more, notes = torch_step.train_steps(config, tasks, job['state'], job['batch'], flags.compiled)
    contestants |= more
  timing.say(f"timing {', '.join(contestants)}")
  seconds = timing.measure(contestants, flags.repeats)
  memory = timing.memory(compiled)
  timing.say('matrix peak')
  peak = common.peaks()
  devices = job['mesh'].size
  return common.describe(config, tasks, count, pairs, 'train step') | {
      'speed': common.compare(seconds, count, flops, peak, config.dtype, devices),
      'flops': flops,
      'peak': peak,
      'compile': compile_times,
      'memory': memory,
      'notes': notes,
  }


if __name__ == '__main__':
  common.run(benchmark, __doc__)
