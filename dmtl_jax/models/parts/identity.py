"""The denoiser's other start: as the identity, by initial weights alone (ours, not the paper's).

From random weights the denoiser first has to learn to say what it was given. Here it says so from the start, with the
network and the parameter count of the paper, and learns what to change. Each step multiplies by alpha_bar_S^(-1 / 2S),
so that S of them take back the decay: X_0 = X_init + noise. (Depths in metres feel it: 0.5% of 4 m are 2 cm.)

Prediction Diffusion: E_s has X_s in its first channels, each task in channels of its own (its slot), so that what
attention learns to write there for one task does not disturb the others; at first it writes nothing. The heads' 1x1
convolution makes (x, -x) of it, the ReLUs pass both on (relu(x) - relu(-x) = x), the last 1x1 takes their
difference and starts at 0 elsewhere. All other weights stay random, and what they compute is heard as soon as the
last 1x1 has learned to listen.

Feature Diffusion: features come out of a ReLU, so every layer is one Dirac kernel, of all channels; f_head^t is a
copy of the initial head. F_cond starts as a constant, which the step embedding takes away again.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.models.parts.task_layers import Slots


def width(task_channels: tuple[int, ...]) -> int:
  """Channels that Prediction Diffusion needs to start so."""
  return max(sum(task_channels), 2 * max(task_channels))


def start(
  params: dict,
  names: tuple[str, ...],
  task_channels: tuple[int, ...],
  predictions: bool,
  conditioned: bool,
  gain: float = 1.0,
) -> dict:
  """The parameters of a freshly initialised DiffusionMTL, changed to begin as the identity.

  Args:
    names, task_channels: of the tasks, in their order.
    predictions: True for Prediction Diffusion.
    conditioned: False for the ablation without conditioning, whose attention adds a blurred copy of E_s to it: the
      denoiser starts as the mean of both.
    gain: what a step multiplies by.
  """
  slots = Slots(task_channels)
  params = jax.tree.map(lambda x: x, params)  # new dicts, same arrays
  denoiser, condition, heads = params['denoiser'], params.get('conditioning'), params['denoiser']['heads']
  carried = slots.total if predictions else heads['conv0']['bias'].shape[-1]
  silent = [denoiser['step_embed']['fc2']]
  silent += [part for name, block in denoiser.items() if name.startswith('block')
             for part in (block['attn']['proj'], block['mlp']['fc2'])]  # fmt: skip
  if conditioned:
    silent.append(condition['fuse'])
  for layer in silent:
    layer['kernel'] = layer['kernel'].at[..., :carried].set(0)
    layer['bias'] = layer['bias'].at[..., :carried].set(0)
  gain = gain if conditioned else gain / 2
  if predictions:
    _carry_predictions(denoiser, slots, gain)
  else:
    _carry_features(params, slots, names, gain)
  return params


def _carry_predictions(denoiser, slots, gain):
  """Task t's slot goes through the same channels of E_s, then 2 C_t channels of the task's head."""
  heads, embed, last = denoiser['heads'], denoiser['embed'], denoiser['predict']
  for t, count in enumerate(slots.channels):
    one, own = np.eye(count), slots.of(t)
    both = np.concatenate([one, -one], axis=1)
    embed['kernel'] = embed['kernel'].at[:, :, own, : slots.total].set(0).at[1, 1, own, own].set(one)
    embed['bias'] = embed['bias'].at[t, : slots.total].set(0)
    both_in = jnp.zeros((1, 1, heads['conv0']['kernel'].shape[-2], 2 * count)).at[0, 0, own].set(gain * both)
    _write(heads['conv0'], t, both_in)
    for name in ('conv1', 'conv2', 'conv3'):
      _write(heads[name], t, _dirac(3, np.eye(heads[name]['kernel'].shape[-2], 2 * count)))
    last['kernel'] = last['kernel'].at[:, own].set(0).at[: 2 * count, own].set(both.T)


def _carry_features(params, slots, names, gain):
  denoiser, one = params['denoiser'], np.eye(params['denoiser']['heads']['conv0']['bias'].shape[-1])
  layers = [(denoiser['embed'], 3, 1.0), (denoiser['heads']['conv0'], 1, gain)]
  layers += [(denoiser['heads'][name], 3, 1.0) for name in ('conv1', 'conv2', 'conv3')]
  for layer, size, factor in layers:
    layer['kernel'] = jnp.broadcast_to(factor * _dirac(size, one), layer['kernel'].shape)
    layer['bias'] = jnp.zeros_like(layer['bias'])
  if 'conditioning' in params:
    # Not 0, where layer norms of the tokens would have no direction and gradients 300 times too large.
    constant = jnp.cos(jnp.arange(1, len(one) + 1))
    params['conditioning']['fuse']['bias'] = constant
    denoiser['step_embed']['fc2']['bias'] = -constant
  kernels = [params['decoders'][f'{name}_head']['kernel'][0, 0] for name in names]
  biases = [params['decoders'][f'{name}_head']['bias'] for name in names]
  params['head'] = dict(kernel=jnp.concatenate(kernels, axis=-1), bias=jnp.concatenate(biases))


def _dirac(size: int, matrix: np.ndarray) -> np.ndarray:
  """The convolution kernel [size, size, *matrix.shape] that is `matrix` at its middle and 0 around."""
  kernel = np.zeros((size, size, *matrix.shape), np.float32)
  kernel[size // 2, size // 2] = matrix
  return kernel


def _write(layer, t: int, kernel):
  """Task t's kernel of the first output channels; no bias there."""
  count = kernel.shape[-1]
  layer['kernel'] = layer['kernel'].at[t, ..., :count].set(kernel)
  layer['bias'] = layer['bias'].at[t, :count].set(0)
