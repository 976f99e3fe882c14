"""What training changes: parameters, batch statistics, optimiser state; and how it starts."""

import jax
import jax.numpy as jnp
import optax

from dmtl_jax.basics.errors import UserError
from dmtl_jax.training import by_part


def learning_rate(config, steps: int, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate of a step: after a linear warmup, one of

  - 'poly' (the paper): lr (1 - epoch / epochs)^0.9, a constant within each epoch;
  - 'cosine': half a cosine down to 0;
  - 'constant'.

  Raises:
    UserError: for another name.
  """
  optim = config.optim
  if optim.schedule == 'poly':
    epochs = max(-(-steps // steps_per_epoch), 1)
    base = lambda step: optim.lr * (1 - (step // steps_per_epoch) / epochs) ** 0.9
  elif optim.schedule == 'cosine':
    base = optax.cosine_decay_schedule(optim.lr, max(steps - optim.warmup, 1))
  elif optim.schedule == 'constant':
    base = optax.constant_schedule(optim.lr)
  else:
    raise UserError(f"config.optim.schedule: '{optim.schedule}' is not poly, cosine or constant")
  if not optim.warmup:
    return base
  return optax.join_schedules([optax.linear_schedule(0.0, optim.lr, optim.warmup), base], [optim.warmup])


def optimizer(config, schedule: optax.Schedule, model=None) -> optax.GradientTransformationExtraArgs:
  """Adam with torch's coupled L2 (added to the clipped gradient), docs/paper.md, Datasets and protocol.

  Its update takes `good`, a scalar bool: where False, the state stays as it was, and the updates mean nothing.
  """
  return optax.chain(
    by_part.clip(config.optim.clip, model),
    optax.add_decayed_weights(config.optim.l2),
    adam(),
    *by_part.rates(config.optim, model),
    kept(optax.scale_by_learning_rate(schedule)),
  )


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformationExtraArgs:
  """`optax.scale_by_adam`, but for steps that may be refused (`good`, see `optimizer`).

  Moments are chosen before the update is made of them: to choose afterwards, XLA keeps a copy of both.
  """

  def update(grads, state, params=None, *, good, **unused):
    del params, unused
    keep = lambda new, old: jnp.where(good, new, old)
    count = keep(state.count + 1, state.count)
    mu = jax.tree.map(lambda m, g: keep(b1 * m + (1 - b1) * g, m), state.mu, grads)
    nu = jax.tree.map(lambda v, g: keep(b2 * v + (1 - b2) * g * g, v), state.nu, grads)
    mean, square = 1 / (1 - b1**count), 1 / (1 - b2**count)  # of the moments, whose start is 0
    direction = lambda m, v: mean * m / (jnp.sqrt(square * v) + eps)
    return jax.tree.map(direction, mu, nu), optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(optax.scale_by_adam().init, update)


def kept(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """tx, whose state stays as it was unless the step is `good`; for states that its updates are not made of."""

  def update(updates, state, params=None, *, good, **unused):
    del unused
    updates, new = tx.update(updates, state, params)
    return updates, jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)

  return optax.GradientTransformationExtraArgs(tx.init, update)
