"""Optimisers and learning rates, built of optax's parts, and rates and clipping per part of a network."""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from dmtl_jax.basics.errors import UserError

# By config.optim.name: the transformation from gradient to update, and whether l2 is decoupled: it shrinks the
# weights themselves instead of being a part of the gradient (torch's weight_decay).
OPTIMIZERS = {
  'adam': (optax.scale_by_adam, False),
  'adamw': (optax.scale_by_adam, True),
  'sgd': (functools.partial(optax.trace, decay=0.9), False),
}


def learning_rate(optim, steps: int, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate by number of previous updates: a linear warmup, then config.optim.schedule.

  - 'poly' (the paper): lr (1 - epoch / epochs)^0.9, constant within each epoch;
  - 'cosine': half a cosine down to 0;
  - 'constant'.

  Args:
    optim: config.optim.
    steps: of the whole run.
  """
  if optim.schedule == 'poly':
    schedule = _poly(optim.lr, steps, steps_per_epoch)
  elif optim.schedule == 'cosine':
    schedule = optax.cosine_decay_schedule(optim.lr, max(steps - optim.warmup, 1))
  else:
    schedule = optax.constant_schedule(optim.lr)
  if not optim.warmup:
    return schedule
  return optax.join_schedules([optax.linear_schedule(0.0, optim.lr, optim.warmup), schedule], [optim.warmup])


def _poly(lr: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
  epochs = max(math.ceil(steps / steps_per_epoch), 1)

  def schedule(step):
    return lr * (1 - (step // steps_per_epoch) / epochs) ** 0.9

  return schedule


def optimizer(optim, schedule: optax.Schedule, model=None) -> optax.GradientTransformationExtraArgs:
  """config.optim.name on clipped gradients (docs/paper.md, Datasets and protocol).

  The paper has Adam; L2 and clipping are known from the released PASCAL config only.

  Args:
    optim: config.optim.
    model: the network, for clipping and rates per part, see `clip` and `rates`.
  """
  scale, decoupled = OPTIMIZERS[optim.name]
  decay = optax.add_decayed_weights(optim.l2)
  steps = [scale(), decay] if decoupled else [decay, scale()]
  own_rates = rates(optim, model)
  return optax.chain(clip(optim.clip, model), *steps, *own_rates, optax.scale_by_learning_rate(schedule))


def norms(grads, model=None) -> dict[str, jax.Array]:
  """Gradient norms for clipping: {part: norm} if the network `clips_parts`, else {'': norm}."""
  by_part = {}
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    by_part.setdefault(_clipped_part(model, path), []).append(grad)
  return {part: optax.tree.norm(own) for part, own in by_part.items()}


def clip(max_norm: float, model=None) -> optax.GradientTransformationExtraArgs:
  """Clips by the global norm, as torch does: one factor for all gradients, or per part if the network `clips_parts`.

  The update takes the gradient's `norms` as `grad_norms`, or else computes them.
  optax.clip_by_global_norm divides every element, which XLA on CPU does in a separate pass: for 133 M parameters
  the whole update then takes 1.1 s instead of 0.4, and 0.5 GB of temporaries instead of none.
  """

  def init(params):
    return optax.EmptyState()

  def update(updates, state, params=None, *, grad_norms=None, **_):
    grad_norms = grad_norms or norms(updates, model)
    factors = {part: jnp.minimum(1.0, max_norm / (norm + 1e-6)) for part, norm in grad_norms.items()}
    clipped = jax.tree_util.tree_map_with_path(lambda path, g: factors[_clipped_part(model, path)] * g, updates)
    return clipped, state

  return optax.GradientTransformationExtraArgs(init, update)


def _clipped_part(model, path) -> str:
  return model.part(_names(path)) if model is not None and model.clips_parts else ''


def rates(optim, model=None) -> list[optax.GradientTransformation]:
  """Scales updates relative to the schedule: by config.optim.part_lr, and by fan-in.

  Returns:
    Pieces of a chain, only those that the config asks for.
  """
  pieces = []
  if optim.part_lr:
    pieces.append(optax.stateless(functools.partial(_scale_by_part, optim, model)))
  if optim.denoiser_fan_in:
    pieces.append(optax.stateless(functools.partial(_scale_by_fan_in, optim.denoiser_fan_in, model)))
  return pieces


def _scale_by_part(optim, model, updates, _):
  parts = jax.tree_util.tree_map_with_path(lambda path, _: model.part(_names(path)), updates)
  known = set(jax.tree.leaves(parts)) - {''}
  unknown = set(optim.part_lr) - known
  if unknown:
    has = f'has the parts {", ".join(sorted(known))}' if known else 'has no parts with names'
    raise UserError(f"config.optim.part_lr: no part '{min(unknown)}'; this network {has}")
  return jax.tree.map(lambda u, part: u * (optim.part_lr.get(part, optim.lr) / (optim.lr or 1)), updates, parts)


def _scale_by_fan_in(fan_in: int, model, updates, _):
  """Scales the updates of kernels in the part 'denoiser' by min(1, fan_in / their own fan-in).

  Adam moves every weight by about the learning rate, and so a layer's output by fan-in x rate x inputs. In the encoder
  and the decoders norms undo this; the denoiser has none. In the paper a 3x3 convolution of 512 channels moves by
  4608 x 2e-5 = 0.09 per step; with a rate for small networks, 2e-3 and 64 channels, it would move by 1.2. (Rates by
  fan-in are those of muP, Yang et al. 2022, table 3.)
  """

  def scale(path, update):
    names = _names(path)
    if model.part(names) != 'denoiser' or names[-1] != 'kernel':
      return update
    return min(1.0, fan_in / math.prod(update.shape[-4:-1])) * update  # leading axes are tasks

  return jax.tree_util.tree_map_with_path(scale, updates)


def _names(path) -> tuple[str, ...]:
  return tuple(key.key for key in path)
