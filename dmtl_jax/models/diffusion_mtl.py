"""DiffusionMTL: encoder, decoders, diffusion and denoising of every task (docs/paper.md, Model), and its ablations."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import released
from dmtl_jax.models.base import Network, Output, register
from dmtl_jax.models.parts import identity
from dmtl_jax.models.parts.denoiser import Conditioning, Denoiser
from dmtl_jax.models.parts.diffusion import Schedule, stride8
from dmtl_jax.models.parts.pairs import DensePairs, Pairs
from dmtl_jax.models.parts.task_layers import SlotHead, Slots

DENOISING = ('conditioning', 'denoiser', 'head')  # what it has besides an encoder and decoders


class DiffusionMTL(Network):
  """DiffusionMTL (Prediction) and (Feature), their ablations and the released variant.

  Attributes:
    predictions: diffuse raw predictions (Prediction Diffusion), else features.
    condition: what F_cond is made of: 'predictions' (a convolution per task, then fused),
      'features' (the same on initial features, the text of the paper on Feature Diffusion), 'concat'
      (one convolution over the concatenated predictions: the released code, and what the paper's
      table counts) or 'none'.
    stop_condition: stops the gradient through the condition (released code).
    posterior: between steps draw from the DDPM posterior (released code) instead of
      passing the denoiser's output on (paper).
    add_noise: False for the ablation without diffusion: nothing decays, and with `posterior` the
      posterior's mean is passed on.
    step_offset: the step index fed to the embedding is s - step_offset.
    initial_weights: of denoiser, condition and last heads: 'paper', 'released' (see released.py) or 'identity'
      (see parts/identity.py); weights alone, the network is the same.
    token_stride: a token of the attention stands for so many places of a map in each direction.
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
    """See `Output`.

    Args:
      images: normalised [B, H, W, 3].
      pairs: to denoise; None: all.
      noise: standard normal, `noise_shape(...)`: [K, N, h, w, C_x].
      diffusion_steps: S of this call; None: the model's.
    """
    pairs, schedule = (
      pairs or DensePairs(len(images), len(self.tasks)),
      Schedule(diffusion_steps or self.diffusion_steps),
    )
    initial_features, initial = self._decoders(self.decoder_blocks)(self._encoder()(images, train), train)
    condition = self._condition(initial_features, initial, pairs)

    slots = Slots(tuple(task.channels for task in self.tasks))
    maps = slots.place(list(initial.values())) if self.predictions else list(initial_features.values())
    x, steps_out = self._denoise(pairs.gather_tasks(maps).astype(jnp.float32), condition, pairs, noise, schedule)

    if not self.predictions:
      head = SlotHead(slots.channels, name='head')
      x = head(x, pairs.task)
      steps_out = jnp.stack([head(step, pairs.task) for step in steps_out])
    put = lambda maps: slots.split(pairs.scatter(maps))
    names = [task.name for task in self.tasks]
    every = [put(step) for step in steps_out]
    return Output(
      final=dict(zip(names, put(x))),
      initial=initial,
      trajectory={name: jnp.stack([step[t] for step in every]) for t, name in enumerate(names)},
    )

  @property
  def draws_noise(self):
    return self.add_noise

  def noise_shape(self, pairs, size, diffusion_steps=None):
    """K is 1, S for the posterior, and 0 where no noise is added."""
    channels = sum(task.channels for task in self.tasks) if self.predictions else self.channels
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
    needed = identity.width(tuple(task.channels for task in self.tasks))
    if self.initial_weights == 'identity' and self.predictions and self.channels < needed:
      raise UserError(
        f'config.model.channels: to start as the identity it must be at least {needed} for these tasks; '
        f'set --config.model.channels={1 << (needed - 1).bit_length()}, or --config.model.initial_weights=paper'
      )

  def init_params(self, params, key):
    if self.initial_weights == 'paper':
      return params
    channels = tuple(task.channels for task in self.tasks)
    if self.initial_weights == 'identity':
      decays = self.add_noise and not self.posterior
      gain = float(Schedule(self.diffusion_steps).alpha_bar[-1] ** (-0.5 / self.diffusion_steps)) if decays else 1.0
      names = tuple(task.name for task in self.tasks)
      return identity.start(params, names, channels, self.predictions, self.condition != 'none', gain)
    return params | {part: released.draw(params[part], part, channels, key) for part in DENOISING if part in params}

  def part(self, path):
    """'denoiser': all that a denoising step and its condition are made of."""
    return 'denoiser' if path[0] in DENOISING else ''

  def _condition(self, features, predictions, pairs):
    """Condition tokens of every pair [N, L, C]; None without conditioning."""
    maps = features if self.condition == 'features' else predictions
    if self.stop_condition:
      # Not on the dict as a whole: JAX would return it sorted by name, and the tasks' order matters.
      maps = {name: jax.lax.stop_gradient(x) for name, x in maps.items()}
    module = Conditioning(self.channels, self.token_stride, self.condition != 'concat', self.dtype, name='conditioning')
    if self.condition == 'none':
      # The paper counts f_cond's parameters in this ablation though nothing uses them.
      if self.is_initializing():
        module(maps)
      return None
    return pairs.gather_images(module(maps))

  def _denoise(self, x, condition, pairs: Pairs, noise, schedule: Schedule):
    """X_init [N, h, w, C_x] to X_0 and the maps X_S, ..., X_0 [S + 1, N, h, w, C_x]."""
    channels = tuple(task.channels for task in self.tasks)
    fields = (self.predictions, self.depth, self.heads, self.token_stride, self.dtype)
    denoiser = Denoiser(channels, self.channels, *fields, parent=None)
    if self.is_initializing():
      drawn = denoiser.init(self.make_rng('params'), x, jnp.float32(0), condition, pairs.task)
      self.put_variable('params', 'denoiser', drawn['params'])
    params = self.get_variable('params', 'denoiser')
    if self.add_noise:
      if self.predictions:  # all draws, the posterior's too: no noise outside a task's slot
        noise = jnp.where(Slots(channels).mask(pairs.task_index), noise, 0)
      x = schedule.decay(x, noise[0])

    s = jnp.arange(schedule.diffusion_steps, 0, -1, dtype=jnp.float32)
    coefficients = [jnp.asarray(c[::-1], jnp.float32) for c in schedule.posterior()]

    def denoise(x, condition, task, draws):
      def step(x, inputs):
        s, of_x0, of_xs, sigma, eps = inputs
        clean = denoiser.apply({'params': params}, x, s - self.step_offset, condition, task).astype(jnp.float32)
        after = of_x0 * clean + of_xs * x + sigma * eps if self.posterior else clean
        return after, after

      step = jax.checkpoint(step) if self.remat else step
      final, after = jax.lax.scan(step, x, (s, *coefficients, _swap(draws)))
      return final, _swap(after)

    # The last step adds no noise (sigma_1 = 0); its draw would only be multiplied by 0.
    draws = jnp.zeros((schedule.diffusion_steps, len(x), 1, 1, 1))
    if self.posterior and self.add_noise:
      draws = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])])
    final, after = pairs.map_chunks(denoise, x, condition, pairs.task, _swap(draws))
    return final, jnp.concatenate([x[None], _swap(after)])


def _swap(x):
  """[K, N, ...] to [N, K, ...] and back."""
  return jnp.swapaxes(x, 0, 1)


variant = functools.partial(register, network=DiffusionMTL)
variant(
  'no_diffusion', title='w/o Diffusion', row=7, color='#e0703a', cost='133 M, 628 GMAC', fixed=dict(add_noise=False)
)
variant(
  'no_condition', title='w/o Multi-Task Conditioning', row=8, color='#d04a60', fixed=dict(condition='none'),
  cost='125 M, 558 GMAC; with ResNet-50 150 M, 625 GMAC',
)  # fmt: skip
variant(
  'prediction', title='DiffusionMTL (Prediction)', row=9, color='#0b9a74',
  cost='133 M, 628 GMAC; with ResNet-50 159 M, 694 GMAC',
)  # fmt: skip
variant(
  'feature', title='DiffusionMTL (Feature)', row=10, color='#4f7df0', fixed=dict(predictions=False),
  defaults=dict(condition='concat'), cost='133 M, 676 GMAC; with ResNet-50 159 M, 742 GMAC',
  note='Feature Diffusion decays and denoises features: shown is what the prediction head makes of them.',
)  # fmt: skip
