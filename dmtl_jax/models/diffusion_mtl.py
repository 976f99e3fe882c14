"""DiffusionMTL and its ablations: encoder, decoders, diffusion and denoising of every task (docs/paper.md, Model)."""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target
from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import released
from dmtl_jax.models.base import Network, Output, register
from dmtl_jax.models.parts import identity
from dmtl_jax.models.parts.denoiser import Conditioning, Denoiser
from dmtl_jax.models.parts.diffusion import Schedule, stride8
from dmtl_jax.models.parts.pairs import DensePairs, Pairs
from dmtl_jax.models.parts.task_layers import SlotHead, Slots

DENOISING = ('conditioning', 'denoiser', 'head')  # its parameters besides an encoder's and decoders'


class Denoised(NamedTuple):
  """X_0 [N, h, w, C_x], and the maps after each step, along an axis of their own."""

  final: jax.Array
  trajectory: jax.Array


class DiffusionMTL(Network):
  """DiffusionMTL (Prediction) and (Feature), their ablations and the released variant.

  Attributes:
    predictions: whether raw predictions are diffused (Prediction Diffusion) or features.
    decoder_blocks: residual blocks per task before the diffusion.
    condition: source of F_cond: 'predictions' (a convolution per task, then fused), 'features'
      (the same on initial features, as the paper's text says of Feature Diffusion), 'concat'
      (one convolution over the concatenated predictions, as in the released code and the count
      of the paper's table) or 'none'.
    stop_condition: whether the gradient stops at the condition (released code).
    posterior: whether steps draw from the DDPM posterior (released code) or pass the denoiser's
      output on (paper).
    add_noise: False for the ablation without diffusion: nothing decays, and with `posterior` the
      posterior's mean is passed on.
    step_offset: the step index fed to the embedding is s - step_offset.
    initial_weights: of denoiser, condition and last heads: 'paper', 'released' (see released.py) or
      'identity' (see parts/identity.py).
    depth: attention blocks of the denoiser.
    heads: of each attention.
    token_stride: stride of the attention's tokens on the maps.
    diffusion_steps: S; `__call__` can override it for inference.
  """

  predictions: bool = True
  decoder_blocks: int = 2
  condition: str = 'predictions'
  stop_condition: bool = False
  posterior: bool = False
  add_noise: bool = True
  step_offset: int = 0
  initial_weights: str = 'paper'
  depth: int = 4
  heads: int = 1
  token_stride: int = 4
  diffusion_steps: int = 2

  diffuses = True

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    pairs: Pairs | None = None,
    noise: jax.Array | None = None,
    train: bool = False,
    diffusion_steps: int | None = None,
  ) -> Output:
    """Images to `Output`.

    Args:
      images: normalised [B, H, W, 3].
      pairs: to denoise; default all.
      noise: standard normal, of shape `noise_shape(...)`: [K, N, h, w, C_x].
      diffusion_steps: S of this call; default the model's.
    """
    pairs = pairs or DensePairs(len(images), len(self.tasks))
    schedule = Schedule(diffusion_steps or self.diffusion_steps)
    features, predictions = self._decoders(self.decoder_blocks)(self._encoder()(images, train), train)
    condition = self._condition(features, predictions, pairs)

    maps = self._slots.place(list(predictions.values())) if self.predictions else list(features.values())
    x, trajectory = self._denoise(pairs.gather_tasks(maps).astype(jnp.float32), condition, pairs, noise, schedule)

    if not self.predictions:
      head = SlotHead(self._slots.channels, is_dense=pairs.is_dense, name='head')
      x = head(x, pairs.task_index)
      trajectory = jnp.stack([head(step, pairs.task_index) for step in trajectory])
    steps = [self._maps_by_task(step, pairs) for step in trajectory]
    return Output(
      final=self._maps_by_task(x, pairs),
      initial=predictions,
      trajectory={task.name: jnp.stack([step[task.name] for step in steps]) for task in self.tasks},
    )

  @property
  def draws_noise(self):
    return self.add_noise

  def noise_shape(self, pairs, size, diffusion_steps=None):
    """K is 1, S for the posterior, and 0 where no noise is added."""
    channels = self._slots.total if self.predictions else self.channels
    draws = (diffusion_steps or self.diffusion_steps) if self.posterior else 1
    return (draws if self.add_noise else 0, pairs.count, *stride8(size), channels)

  def check(self):
    if self.channels % self.heads:
      raise UserError(f'config.model.heads: {self.channels} channels cannot be shared by {self.heads}; set a divisor')
    if self.step_offset > self.diffusion_steps:
      raise UserError(
        f'config.model.step_offset: {self.step_offset} is beyond the {self.diffusion_steps} steps that it is '
        f'subtracted from; set 0 (paper) or 1 (released)'
      )
    needed = identity.min_channels(self._slots.channels)
    if self.initial_weights == 'identity' and self.predictions and self.channels < needed:
      raise UserError(
        f'config.model.channels: to start as the identity it must be at least {needed} for these tasks; '
        f'set --config.model.channels={1 << (needed - 1).bit_length()}, or --config.model.initial_weights=paper'
      )

  def init_params(self, params, key):
    if self.initial_weights == 'paper':
      return params
    channels = self._slots.channels
    if self.initial_weights == 'released':
      return params | {name: released.draw(params[name], name, channels, key) for name in DENOISING if name in params}
    decays = self.add_noise and not self.posterior
    return identity.init_params(
      params,
      names=tuple(task.name for task in self.tasks),
      task_channels=channels,
      predictions=self.predictions,
      conditioned=self.condition != 'none',
      gain=float(Schedule(self.diffusion_steps).alpha_bar[-1] ** (-0.5 / self.diffusion_steps)) if decays else 1.0,
    )

  def part(self, path):
    """'denoiser' for the parameters of a denoising step and its condition."""
    return 'denoiser' if path[0] in DENOISING else ''

  @property
  def _slots(self) -> Slots:
    return Slots(tuple(task.channels for task in self.tasks))

  def _maps_by_task(self, x: jax.Array, pairs: Pairs) -> dict[str, jax.Array]:
    """Predictions of pairs in slots [N, h, w, total] to {task: [B, h, w, C_t]}."""
    maps = self._slots.split(pairs.scatter(x))
    return {task.name: x for task, x in zip(self.tasks, maps)}

  def _condition(self, features: dict, predictions: dict, pairs: Pairs) -> jax.Array | None:
    """Condition tokens of every pair [N, L, C]; None without conditioning."""
    maps = features if self.condition == 'features' else predictions
    if self.stop_condition:
      # Not on the dict as a whole: JAX would return it sorted by name, and the tasks' order matters.
      maps = {name: jax.lax.stop_gradient(x) for name, x in maps.items()}
    per_task = self.condition != 'concat'
    module = Conditioning(self.channels, self.token_stride, per_task, dtype=self.dtype, name='conditioning')
    if self.condition == 'none':
      # The paper counts f_cond's parameters in this ablation though nothing uses them.
      if self.is_initializing():
        module(maps)
      return None
    return pairs.gather_images(module(maps))

  def _denoise(self, x, condition, pairs: Pairs, noise, schedule: Schedule) -> Denoised:
    """Diffuses X_init [N, h, w, C_x] and denoises it; the trajectory [S + 1, N, h, w, C_x] begins with X_S."""
    denoiser = Denoiser(
      task_channels=self._slots.channels,
      channels=self.channels,
      predictions=self.predictions,
      depth=self.depth,
      heads=self.heads,
      stride=self.token_stride,
      is_dense=pairs.is_dense,
      dtype=self.dtype,
      parent=None,
    )

    def init_denoiser():
      return denoiser.init(self.make_rng('params'), x, jnp.float32(0), condition, pairs.task_index)['params']

    # One variable for the denoiser's tree, so that JAX's own scan, checkpoint and cond apply to a pure function. As a
    # submodule its random keys, and with them the initial weights of every seed, would be others. `self.param` would
    # trace the initialiser in every call, to check shapes.
    params = self.variable('params', 'denoiser', init_denoiser).value
    if self.add_noise:
      if self.predictions:  # all draws, the posterior's too: no noise outside a task's slot
        noise = jnp.where(self._slots.mask(pairs.task_index), noise, 0)
      x = schedule.decay(x, noise[0])

    steps = jnp.arange(schedule.diffusion_steps, 0, -1, dtype=jnp.float32)
    posteriors = jax.tree.map(lambda values: jnp.asarray(values[::-1], jnp.float32), schedule.posterior())

    # On CPUs two steps are no loop: the gradient need not stack what it keeps of each, a twentieth of a training step.
    unroll = target.platform() == 'cpu' and schedule.diffusion_steps <= 2

    def denoise(x, condition, task, noise) -> Denoised:
      def step(x, inputs):
        s, posterior, eps = inputs
        x0 = denoiser.apply({'params': params}, x, s - self.step_offset, condition, task).astype(jnp.float32)
        x = posterior.sample(x0, x, eps) if self.posterior else x0
        return x, x

      step = jax.checkpoint(step) if self.remat else step
      final, after = jax.lax.scan(step, x, (steps, posteriors, _swap(noise)), unroll=unroll)
      return Denoised(final, _swap(after))

    # The last step adds no noise (sigma_1 = 0); its draw would only be multiplied by 0.
    step_noise = jnp.zeros((schedule.diffusion_steps, len(x), 1, 1, 1))
    if self.posterior and self.add_noise:
      step_noise = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])])
    task = pairs.task_index
    denoised = pairs.map_chunks(denoise, x=x, condition=condition, task=task, noise=_swap(step_noise))
    return Denoised(denoised.final, jnp.concatenate([x[None], _swap(denoised.trajectory)]))


def _swap(x):
  """[K, N, ...] to [N, K, ...] and back."""
  return jnp.swapaxes(x, 0, 1)


_register = functools.partial(register, network=DiffusionMTL)
_register(
  'no_diffusion', title='w/o Diffusion', row=7, color='#e0703a', cost='133 M, 628 GMAC', fixed=dict(add_noise=False)
)
_register(
  'no_condition', title='w/o Multi-Task Conditioning', row=8, color='#d04a60', fixed=dict(condition='none'),
  cost='125 M, 558 GMAC; with ResNet-50 150 M, 625 GMAC',
)  # fmt: skip
_register(
  'prediction', title='DiffusionMTL (Prediction)', row=9, color='#0b9a74',
  cost='133 M, 628 GMAC; with ResNet-50 159 M, 694 GMAC',
)  # fmt: skip
_register(
  'feature', title='DiffusionMTL (Feature)', row=10, color='#4f7df0', fixed=dict(predictions=False),
  defaults=dict(condition='concat'), cost='133 M, 676 GMAC; with ResNet-50 159 M, 742 GMAC',
  note='Feature Diffusion decays and denoises features; the maps shown are those features after the prediction head.',
)  # fmt: skip
