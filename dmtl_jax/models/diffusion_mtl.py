"""DiffusionMTL: encoder, decoders, diffusion and denoising of every task (docs/paper.md, Model)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.models.parts import pairs as pairs_lib
from dmtl_jax.models.parts.conditioning import Conditioning
from dmtl_jax.models.parts.decoder import Decoders
from dmtl_jax.models.parts.denoiser import Denoiser
from dmtl_jax.models.parts.diffusion import Schedule, stride8
from dmtl_jax.models.parts.encoder import Backbone
from dmtl_jax.models.parts.layers import Dtype
from dmtl_jax.models.parts.output import Output
from dmtl_jax.models.parts.pairs import Pairs
from dmtl_jax.models.parts.task_layers import SlotHead, Slots
from dmtl_jax.tasks import Task


class DiffusionMTL(nn.Module):
  """DiffusionMTL (Prediction) and (Feature), their ablations and the released variant.

  Attributes:
    tasks: the data set's tasks; T of them.
    predictions: diffuse raw predictions (Prediction Diffusion), else features.
    channels: C.
    condition: what F_cond is made of: 'predictions' (a convolution a task, then fused),
      'features' (the same on initial features), 'concat' (one convolution over the
      concatenated predictions) or 'none'.
    stop_condition: stops the gradient through the condition (released code).
    posterior: between steps draw from the DDPM posterior (released code) instead of
      passing the denoiser's output on (paper).
    add_noise: False for the ablation without diffusion.
    step_offset: the step index fed to the embedding is s - step_offset.
    steps: S; `__call__` can override it for inference.
    remat: recompute the activations of blocks and denoising steps for the gradient instead of keeping them.
  """

  tasks: tuple[Task, ...]
  predictions: bool = True
  backbone: str = 'resnet18'
  width: int = 64
  channels: int = 512
  decoder_blocks: int = 2
  condition: str = 'predictions'
  stop_condition: bool = False
  posterior: bool = False
  add_noise: bool = True
  step_offset: int = 0
  depth: int = 4
  heads: int = 1
  steps: int = 2
  remat: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    pairs: Pairs | None = None,
    noise: jax.Array | None = None,
    train: bool = False,
    steps: int | None = None,
  ) -> Output:
    """See `Output`.

    Args:
      images: normalised [B, H, W, 3].
      pairs: the pairs to denoise, or None for all.
      noise: standard normal, `noise_shape(...)`: [K, N, h, w, C_x].
      train: batch statistics of this batch (and their update) instead of running ones.
      steps: S of this call, default the model's.
    """
    batch, schedule = images.shape[0], Schedule(steps or self.steps)
    backbone = Backbone(self.backbone, self.width, self.channels, self.dtype, self.remat, name='backbone')
    decoders = Decoders(self.tasks, self.channels, self.decoder_blocks, self.dtype, self.remat, name='decoders')
    initial_features, initial = decoders(backbone(images, train), train)
    condition = self._condition(initial_features, initial, pairs)

    slots = Slots(tuple(task.channels for task in self.tasks))
    maps = slots.place(list(initial.values())) if self.predictions else list(initial_features.values())
    x = pairs_lib.take_tasks(maps, pairs).astype(jnp.float32)
    x, steps_out = self._denoise(x, condition, pairs, noise, batch, schedule)

    if not self.predictions:
      head = SlotHead(slots.channels, self.dtype, name='head')
      task = None if pairs is None else pairs.flat_task
      x = head(x, task)
      steps_out = jnp.stack([head(step, task) for step in steps_out])
    put = lambda maps: slots.split(pairs_lib.put(maps, batch, len(self.tasks), pairs))
    names = [task.name for task in self.tasks]
    every = [put(step) for step in steps_out]
    return Output(
      final=dict(zip(names, put(x))),
      initial=initial,
      steps={name: jnp.stack([step[t] for step in every]) for t, name in enumerate(names)},
    )

  def noise_shape(self, batch: int, size: tuple[int, int], pairs: Pairs | None = None, steps: int | None = None):
    """Shape of `noise` for images of `size` (H, W): K draws (1, or S for the posterior) a pair."""
    count = len(self.tasks) * batch if pairs is None else pairs.image.size
    channels = sum(task.channels for task in self.tasks) if self.predictions else self.channels
    return ((steps or self.steps) if self.posterior else 1, count, *stride8(size), channels)

  def _condition(self, features, predictions, pairs):
    """Condition tokens of every pair [N, L, C]; None without conditioning."""
    maps = features if self.condition == 'features' else predictions
    if self.stop_condition:
      # Not on the dict as a whole: JAX would return it sorted by name, and the tasks' order matters.
      maps = {name: jax.lax.stop_gradient(x) for name, x in maps.items()}
    module = Conditioning(self.channels, self.condition != 'concat', self.dtype, name='conditioning')
    if self.condition == 'none':
      # The paper counts f_cond's parameters in this ablation though nothing uses them.
      if self.is_initializing():
        module(maps)
      return None
    return pairs_lib.take_images(module(maps), len(self.tasks), pairs)

  def _denoise(self, x, condition, pairs, noise, batch: int, schedule: Schedule):
    """X_init [N, h, w, C_x] to X_0 and the maps X_S, ..., X_0 [S + 1, N, h, w, C_x]."""
    denoiser = Denoiser(
      tuple(task.channels for task in self.tasks),
      self.channels,
      self.predictions,
      self.depth,
      self.heads,
      self.dtype,
      parent=None,
    )
    task = None if pairs is None else pairs.flat_task
    params = self.param('denoiser', lambda key: denoiser.init(key, x, jnp.float32(0), condition, task)['params'])
    if self.add_noise:
      if self.predictions:
        all_tasks = pairs_lib.task_index(x.shape[0] // len(self.tasks), len(self.tasks), pairs)
        noise = jnp.where(Slots(denoiser.task_channels).mask(all_tasks), noise, 0)
      x = schedule.decay(x, noise[0])

    order = slice(None, None, -1)
    s = jnp.arange(schedule.steps, 0, -1, dtype=jnp.float32)
    coefficients = [jnp.asarray(c[order], jnp.float32) for c in schedule.posterior()]

    def denoise(x, condition, task, draws):
      def step(x, inputs):
        s, of_x0, of_xs, sigma, eps = inputs
        clean = denoiser.apply({'params': params}, x, s - self.step_offset, condition, task).astype(jnp.float32)
        after = of_x0 * clean + of_xs * x + sigma * eps if self.posterior else clean
        return after, after

      if self.remat:
        step = jax.checkpoint(step)
      final, after = jax.lax.scan(step, x, (s, *coefficients, _swap(draws)))
      return final, _swap(after)

    # The last step adds no noise (sigma_1 = 0); its draw would only be multiplied by 0.
    if self.posterior:
      draws = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])])
    else:
      draws = jnp.zeros((schedule.steps, x.shape[0], 1, 1, 1))
    final, after = pairs_lib.in_chunks(denoise, batch, pairs, x, condition, task, _swap(draws))
    return final, jnp.concatenate([x[None], _swap(after)])


def _swap(x):
  """[K, N, ...] to [N, K, ...] and back."""
  return jnp.swapaxes(x, 0, 1)
