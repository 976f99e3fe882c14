"""Work of a step in FLOPs (a multiply-add is two), counted from jaxprs as `--mode=summary` counts.

Convolutions and matrix products count; norms, activations, resizing and the optimiser do not.

needed    what the network's definition asks for, done plainly: the forward count of the summary (its
          denoiser once a labelled pair, not once a task), times three for training, since each product
          has two gradients; no recomputation, no padding. Methods whose loss runs more networks (ss,
          xtc) need more than this.
executed  what the traced step does, its backward pass included, recomputation under jax.checkpoint too,
          and of labelled pairs the static count at most. Less than needed where an equal result takes less.
xla       the compiler's own count (`cost_analysis`), which knows a scan's body but once, and counts
          additions and activations; a cross-check.
"""

import jax

from dmtl_jax.models import build_model, counting
from dmtl_jax.tasks import Task

PER_PAIR = ('denoiser', 'head')  # parts that see pairs instead of images


def by_scope(function, *args):
  """Yields (scope, FLOPs) of every product in a traceable function, those only unused results need left out."""
  for scope, count in counting.multiply_adds(counting.used(jax.make_jaxpr(function)(*args).jaxpr), ''):
    yield scope, 2.0 * count


def executed(function, *args) -> float:
  """FLOPs of a traceable function."""
  return sum(flops for _, flops in by_scope(function, *args))


def needed(config, tasks: tuple[Task, ...], batch: int, pairs: int | None = None, training: bool = True) -> float:
  """FLOPs that `batch` images need.

  Args:
    pairs: labelled pairs of the batch; None: all.
  """
  share = 1.0 if pairs is None else pairs / (batch * len(tasks))
  counted = counting.summarize(build_model(config, tasks), tuple(config.data.size), config.eval.diffusion_steps)
  forward = 0
  for part, values in counted['parts'].items():
    forward += 2e9 * values['gmac'] * (share if part.split('/')[0] in PER_PAIR else 1)
  return batch * forward * (3 if training else 1)


def xla(compiled) -> float | None:
  """FLOPs as the compiler counts them; None where it does not."""
  analysis = compiled.cost_analysis()
  return analysis.get('flops') if analysis else None
