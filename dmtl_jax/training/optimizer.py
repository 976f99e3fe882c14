"""Optimisers and learning rates by name, of optax's parts."""

import functools

import optax

from dmtl_jax.training import by_part

# config.optim.name: the gradient's way to an update, and whether l2 shrinks weights after it (decoupled)
# instead of being a part of the gradient (torch's weight_decay).
OPTIMIZERS = {
  'adam': (optax.scale_by_adam, False),
  'adamw': (optax.scale_by_adam, True),
  'sgd': (functools.partial(optax.trace, decay=0.9), False),
}


def learning_rate(config, steps: int, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate of an update (counted from 0): after a linear warmup, by config.optim.schedule,

  - 'poly' (the paper): lr (1 - epoch / epochs)^0.9, a constant within each epoch;
  - 'cosine': half a cosine down to 0;
  - 'constant'.

  Args:
    steps: of the whole run.
  """
  optim = config.optim
  if optim.schedule == 'poly':
    epochs = max(-(-steps // steps_per_epoch), 1)
    base = lambda step: optim.lr * (1 - (step // steps_per_epoch) / epochs) ** 0.9
  elif optim.schedule == 'cosine':
    base = optax.cosine_decay_schedule(optim.lr, max(steps - optim.warmup, 1))
  else:
    base = optax.constant_schedule(optim.lr)
  if not optim.warmup:
    return base
  return optax.join_schedules([optax.linear_schedule(0.0, optim.lr, optim.warmup), base], [optim.warmup])


def optimizer(config, schedule: optax.Schedule, model=None) -> optax.GradientTransformation:
  """config.optim.name on clipped gradients; the paper has Adam with L2 (docs/paper.md, Datasets and protocol).

  Args:
    model: the network, for what its parts have of their own, see `by_part`.
  """
  scale, decoupled = OPTIMIZERS[config.optim.name]
  decay = optax.add_decayed_weights(config.optim.l2)
  steps = [scale(), decay] if decoupled else [decay, scale()]
  rates = [*by_part.rates(config.optim, model), optax.scale_by_learning_rate(schedule)]
  return optax.chain(by_part.clip(config.optim.clip, model), *steps, *rates)
