"""Networks: `build_model(config, tasks)` gives any method's flax module."""

import jax.numpy as jnp

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models.baselines import MTLBaseline, SingleTask
from dmtl_jax.models.diffusion_mtl import DiffusionMTL
from dmtl_jax.models.invpt import InvPT
from dmtl_jax.models.mti_net import MTINet
from dmtl_jax.models.parts.diffusion import draw_noise
from dmtl_jax.models.parts.output import Output
from dmtl_jax.models.xtc import XTC
from dmtl_jax.tasks import Task

# Methods without a diffusion; 'ss' is the MTL baseline with a loss of its own (auxiliary.py).
PLAIN = {
  'single_task': SingleTask,
  'mtl_baseline': MTLBaseline,
  'ss': MTLBaseline,
  'xtc': XTC,
  'mti_net': MTINet,
  'invpt': InvPT,
}
METHODS = (*PLAIN, 'prediction', 'feature')


def build_model(config, tasks: tuple[Task, ...]):
  """The network of config.model (a ConfigDict) for these tasks.

  Raises:
    UserError: unknown method, or xtc for a single task.
  """
  c = config.model
  common = dict(
    tasks=tuple(tasks),
    backbone=c.backbone,
    width=c.width,
    channels=c.channels,
    dtype=jnp.dtype(config.dtype),
    remat=config.train.remat,
  )
  if c.method == 'xtc' and len(tasks) < 2:
    raise UserError('config.model.method: xtc compares tasks and the data has one; use mtl_baseline')
  if c.method in PLAIN:
    return PLAIN[c.method](**common)
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
    )
  raise UserError(f"config.model.method: unknown method '{c.method}'; use one of {', '.join(METHODS)}")
