"""Networks: `build_model(config, tasks)` gives any method's flax module."""

import jax.numpy as jnp

from dmtl_jax.errors import UserError
from dmtl_jax.models.baselines import MTLBaseline, SingleTask
from dmtl_jax.models.diffusion_mtl import DiffusionMTL, Output, draw_noise
from dmtl_jax.tasks import Task

METHODS = ('single_task', 'mtl_baseline', 'prediction', 'feature')


def build_model(config, tasks: tuple[Task, ...]):
  """The network of config.model (a ConfigDict) for these tasks.

  Raises:
    UserError: unknown method.
  """
  c = config.model
  common = dict(
      tasks=tuple(tasks), backbone=c.backbone, width=c.width, channels=c.channels, dtype=jnp.dtype(config.dtype)
  )
  if c.method == 'single_task':
    return SingleTask(**common)
  if c.method == 'mtl_baseline':
    return MTLBaseline(**common)
  if c.method in ('prediction', 'feature'):
    return DiffusionMTL(
        **common,
        predictions=c.method == 'prediction',
        condition=c.condition,
        stop_condition=c.stop_condition,
        posterior=c.posterior,
        add_noise=c.add_noise,
        step_offset=c.step_offset,
        depth=c.depth,
        heads=c.heads,
        steps=c.steps,
        remat=config.train.remat,
    )
  raise UserError(f"config.model.method: unknown method '{c.method}'; use one of {', '.join(METHODS)}")
