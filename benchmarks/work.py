"""Work of a step in FLOPs (a multiply-add is two), counted from jaxprs as `--mode=summary` counts.

Convolutions and matrix products count; norms, activations, resizing and the optimiser do not.

needed    what the network's definition asks for: the forward count of the summary (its denoiser once per
          labelled pair, not once per task), times three for training, since each product has two gradients;
          no recomputation, no padding. Methods whose loss runs more networks (ss, xtc) need more than this.
executed  what the traced step does, with its backward pass, recomputation under jax.checkpoint and padded
          pairs. Less than needed where an equal result takes less.
"""

import jax

from dmtl_jax.models import build_model, counting
from dmtl_jax.tasks import Task

PER_PAIR = ('denoiser', 'head')  # parts that see pairs instead of images


def by_scope(function, *args):
  """Yields (scope, FLOPs) of every product in a traceable function that its results need."""
  for scope, count in counting.multiply_adds(counting.used(jax.make_jaxpr(function)(*args).jaxpr), ''):
    yield scope, 2.0 * count


def executed(function, *args) -> float:
  """FLOPs of a traceable function."""
  return sum(flops for _, flops in by_scope(function, *args))


def needed(config, tasks: tuple[Task, ...], batch: int, pairs: int | None = None, training: bool = True) -> float:
  """FLOPs that `batch` images need, of which so many pairs are labelled (None: all)."""
  share = 1.0 if pairs is None else pairs / (batch * len(tasks))
  counted = counting.summarize(build_model(config, tasks), tuple(config.data.size), config.eval.diffusion_steps)
  forward = 0
  for part, values in counted['parts'].items():
    forward += 2e9 * values['gmac'] * (share if part.split('/')[0] in PER_PAIR else 1)
  return batch * forward * (3 if training else 1)
