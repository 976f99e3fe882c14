"""Speed, work, compile time and memory of inference with any config.

  python -m benchmarks.inference --config=configs/pascal.py:method=feature --config.eval.batch=1 \\
      [--repeats=10] [--torch=eager|compiled] [--json=FILE]

Times the very function that evaluation compiles, from images to every task's initial and final prediction at the size
of the images, on synthetic images and weights, as `train_step` does.
"""

import jax
import numpy as np

from benchmarks import common, synthetic, work
from dmtl_jax.basics import sharding
from dmtl_jax.data.source import data_tasks
from dmtl_jax.inference.forward import jit_predict_fn
from dmtl_jax.models import build_model
from dmtl_jax.models.inputs import variable_shapes


def benchmark(config, flags) -> dict:
  """Measures; see `common.as_text` for what the result holds."""
  tasks = data_tasks(config.data)
  size = tuple(config.data.size)
  count = config.eval.batch
  mesh = sharding.make_mesh()
  sharding.check_batch('config.eval.batch', count, mesh)
  model = build_model(config, tasks)
  variables = synthetic.variables(variable_shapes(model, size))
  images = synthetic.images(count, size, np.random.default_rng(0))
  index = np.arange(count, dtype=np.int32)
  split = sharding.by_image(mesh)
  step = jit_predict_fn(model, mesh, config.seed, config.eval.diffusion_steps)
  flops = {
    'needed': work.needed(config, tasks, count, training=False),
    'executed': work.executed(step, variables, images, index),
  }
  args = tuple(jax.device_put((variables, images, index), (sharding.replicated(mesh), split, split)))
  return common.measure(
    common.describe(config, tasks, count, None, 'inference'),
    step,
    args,
    lambda compiled: lambda n: jax.block_until_ready([compiled(*args) for _ in range(n)]),
    ('Prediction', (config, tasks, variables, images)),
    flops,
    flags,
  )


if __name__ == '__main__':
  common.run(benchmark, __doc__, common.as_text)
