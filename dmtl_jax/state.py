"""What training changes: parameters, batch statistics, optimiser state; and how it starts."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from dmtl_jax.errors import UserError


@struct.dataclass
class TrainState:
  """Everything a step updates.

  Attributes:
    step: scalar int32, updates done.
    params, batch_stats: the model's variables, float32.
    opt_state: optax state.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict:
    return {'params': self.params, 'batch_stats': self.batch_stats}


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


def optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adam with torch's coupled L2 (added to the clipped gradient), PAPER.md, Datasets and protocol."""
  return optax.chain(
      optax.clip_by_global_norm(config.optim.clip),
      optax.add_decayed_weights(config.optim.l2),
      optax.scale_by_adam(),
      optax.scale_by_learning_rate(schedule),
  )


def create(model, tx: optax.GradientTransformation, key: jax.Array, size: tuple[int, int]) -> TrainState:
  """A fresh state; the weights depend on `key` alone. Call under `jax.jit` or `jax.eval_shape`.

  Args:
    size: image size (H, W) to trace with; no weight depends on it.
  """
  variables = init_variables(model, key, size)
  params = variables['params']
  return TrainState(jnp.int32(0), params, variables['batch_stats'], tx.init(params))


def init_variables(model, key: jax.Array, size: tuple[int, int]) -> dict:
  """The model's variables for one image of zeros of `size`."""
  extra = {}
  if hasattr(model, 'noise_shape'):
    extra['noise'] = jnp.zeros(model.noise_shape(1, size))
  return model.init(key, jnp.zeros((1, *size, 3)), **extra)
