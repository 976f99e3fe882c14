"""Optimisers and learning rates of optax's parts, and what parts of a network (`Network.part`) have of their own."""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from dmtl_jax.basics.errors import UserError

# config.optim.name: the gradient's way to an update, and whether l2 shrinks weights after it (decoupled)
# instead of being a part of the gradient (torch's weight_decay).
OPTIMIZERS = {
  'adam': (optax.scale_by_adam, False),
  'adamw': (optax.scale_by_adam, True),
  'sgd': (functools.partial(optax.trace, decay=0.9), False),
}


def learning_rate(optim, steps: int, steps_per_epoch: int) -> optax.Schedule:
  """Learning rate of an update (counted from 0): after a linear warmup, by config.optim.schedule,

  - 'poly' (the paper): lr (1 - epoch / epochs)^0.9, a constant within each epoch;
  - 'cosine': half a cosine down to 0;
  - 'constant'.

  Args:
    optim: config.optim.
    steps: of the whole run.
  """
  if optim.schedule == 'poly':
    epochs = max(math.ceil(steps / steps_per_epoch), 1)
    base = lambda step: optim.lr * (1 - (step // steps_per_epoch) / epochs) ** 0.9
  elif optim.schedule == 'cosine':
    base = optax.cosine_decay_schedule(optim.lr, max(steps - optim.warmup, 1))
  else:
    base = optax.constant_schedule(optim.lr)
  if not optim.warmup:
    return base
  return optax.join_schedules([optax.linear_schedule(0.0, optim.lr, optim.warmup), base], [optim.warmup])


def optimizer(optim, schedule: optax.Schedule, model=None) -> optax.GradientTransformationExtraArgs:
  """config.optim.name on clipped gradients (docs/paper.md, Datasets and protocol).

  The paper has Adam; L2 and clipping are known from the released PASCAL config only.

  Args:
    optim: config.optim.
    model: the network, for what its parts have of their own, see `clip` and `rates`.
  """
  scale, decoupled = OPTIMIZERS[optim.name]
  decay = optax.add_decayed_weights(optim.l2)
  steps = [scale(), decay] if decoupled else [decay, scale()]
  own_rates = rates(optim, model)
  return optax.chain(clip(optim.clip, model), *steps, *own_rates, optax.scale_by_learning_rate(schedule))


def norms(grads, model=None) -> dict[str, jax.Array]:
  """Norms of a gradient as it is clipped: {'': of all}, or of each part where the network `clips_parts`."""
  by_part = {}
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    by_part.setdefault(_clipped_with(model, path), []).append(grad)
  return {name: optax.tree.norm(own) for name, own in by_part.items()}


def clip(max_norm: float, model=None) -> optax.GradientTransformationExtraArgs:
  """Clipping by the global norm, as torch does it: one factor for all gradients, or one for each part.

  Each part by itself where the network says that its parts are networks by themselves (`clips_parts`). The update takes
  the gradient's `norms` as `grad_norms`, where they are given.
  optax.clip_by_global_norm divides every element, which XLA on CPU does in a pass of its own: for 133 M parameters
  the whole update then takes 1.1 s instead of 0.4, and 0.5 GB of temporaries instead of none.
  """

  def update(updates, state, params=None, *, grad_norms=None, **more):
    del params, more
    grad_norms = grad_norms or norms(updates, model)
    factor = {name: jnp.minimum(1.0, max_norm / (norm + 1e-6)) for name, norm in grad_norms.items()}
    return jax.tree_util.tree_map_with_path(lambda path, g: factor[_clipped_with(model, path)] * g, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _clipped_with(model, path) -> str:
  return model.part(_names(path)) if model is not None and model.clips_parts else ''


def rates(optim, model=None) -> list[optax.GradientTransformation]:
  """What brings updates to rates of their own, before they meet the schedule: of config.optim.part_lr, and by fan-in.

  Returns:
    Pieces of a chain; none where the config asks for none: a state from before then fits as it is.
  """
  pieces = []
  if optim.part_lr:
    pieces.append(optax.stateless(functools.partial(_own_rates, optim, model)))
  if optim.denoiser_fan_in:
    pieces.append(optax.stateless(functools.partial(_by_fan_in, optim.denoiser_fan_in, model)))
  return pieces


def _own_rates(optim, model, updates, params):
  del params
  labels = jax.tree_util.tree_map_with_path(lambda path, _: model.part(_names(path)), updates)
  unknown, known = set(optim.part_lr) - set(jax.tree.leaves(labels)), set(jax.tree.leaves(labels)) - {''}
  if unknown:
    has = f'has the parts {", ".join(sorted(known))}' if known else 'has no parts with names'
    raise UserError(f"config.optim.part_lr: no part '{min(unknown)}'; this network {has}")
  return jax.tree.map(lambda u, part: u * (optim.part_lr.get(part, optim.lr) / (optim.lr or 1)), updates, labels)


def _by_fan_in(fan_in: int, model, updates, params):
  """Scales the updates of the kernels of the part 'denoiser' by min(1, fan_in / their own).

  Adam moves every weight by about the learning rate, so a layer's output by fan-in x rate x inputs. Norms take the
  encoder's and the decoders' back; the denoiser has none. In the paper a 3x3 convolution of 512 channels moves by
  4608 x 2e-5 = 0.09 a step; at a rate for small networks, 2e-3 and 64 channels, it would by 1.2. (Rates by fan-in are
  those of muP, Yang et al. 2022, table 3.)
  """
  del params

  def scaled(path, update):
    names = _names(path)
    if model.part(names) != 'denoiser' or names[-1] != 'kernel':
      return update
    return min(1.0, fan_in / math.prod(update.shape[-4:-1])) * update  # the weights of tasks are stacked before

  return jax.tree_util.tree_map_with_path(scaled, updates)


def _names(path) -> tuple[str, ...]:
  return tuple(key.key for key in path)
