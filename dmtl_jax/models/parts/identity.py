"""Initial weights with which the denoiser is the identity (ours, not the paper's).

With random weights the denoiser first has to learn to reproduce its input. Here it reproduces it from the start, with
the network and the parameter count of the paper, and learns what to change. Each step multiplies by
alpha_bar_S^(-1 / 2S), so that S of them undo the decay: X_0 = X_init + noise. (It matters for depths in metres: 0.5%
of 4 m are 2 cm.)

Prediction Diffusion: the first channels of E_s hold X_s, each task in channels of its own (its slot), so that what
attention learns to write there for one task does not disturb the others; at first it writes nothing. The heads' 1x1
convolution turns them into (x, -x), which survive the ReLUs because relu(x) - relu(-x) = x, and the last 1x1 takes the
difference and is 0 elsewhere. All other weights stay random; their outputs count as soon as the last 1x1 uses them.

Feature Diffusion: features come out of a ReLU, so every layer is one Dirac kernel over all channels; f_head^t is a
copy of the initial head. F_cond starts as a constant, which the step embedding subtracts again.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.models.parts.task_layers import Slots


def min_channels(task_channels: tuple[int, ...]) -> int:
  """Channels that Prediction Diffusion needs to start as the identity."""
  return max(sum(task_channels), 2 * max(task_channels))


def init_params(
  params: dict,
  names: tuple[str, ...],
  task_channels: tuple[int, ...],
  predictions: bool,
  conditioned: bool,
  gain: float = 1.0,
) -> dict:
  """Changes freshly initialised parameters of DiffusionMTL so that its denoiser is the identity.

  Args:
    names: of the tasks, in order.
    task_channels: C_t of the tasks.
    predictions: True for Prediction Diffusion.
    conditioned: False for the ablation without conditioning. Its attention adds a blurred copy of E_s to E_s, so
      the denoiser starts as the mean of both.
    gain: factor of a step.
  """
  slots = Slots(task_channels)
  params = jax.tree.map(lambda x: x, params)  # new dicts, same arrays
  denoiser = params['denoiser']
  carried = slots.total if predictions else denoiser['heads']['conv0']['bias'].shape[-1]
  silent = [denoiser['step_embed']['fc2']]
  for name, block in denoiser.items():
    if name.startswith('block'):
      silent += [block['attn']['proj'], block['mlp']['fc2']]
  if conditioned:
    silent.append(params['conditioning']['fuse'])
  for layer in silent:
    layer['kernel'] = layer['kernel'].at[..., :carried].set(0)
    layer['bias'] = layer['bias'].at[..., :carried].set(0)
  gain = gain if conditioned else gain / 2
  if predictions:
    _carry_predictions(denoiser, slots, gain)
  else:
    _carry_features(params, names, gain)
  return params


def _carry_predictions(denoiser, slots, gain):
  """Passes task t's slot through the same channels of E_s, then through 2 C_t channels of the task's head."""
  heads = denoiser['heads']
  embed = denoiser['embed']
  last = denoiser['predict']
  for t, count in enumerate(slots.channels):
    one = np.eye(count)
    own = slots.channel_slice(t)
    both = np.concatenate([one, -one], axis=1)
    embed['kernel'] = embed['kernel'].at[:, :, own, : slots.total].set(0).at[1, 1, own, own].set(one)
    embed['bias'] = embed['bias'].at[t, : slots.total].set(0)
    both_in = jnp.zeros((1, 1, heads['conv0']['kernel'].shape[-2], 2 * count)).at[0, 0, own].set(gain * both)
    _write(heads['conv0'], t, both_in)
    for name in ('conv1', 'conv2', 'conv3'):
      _write(heads[name], t, _dirac(3, np.eye(heads[name]['kernel'].shape[-2], 2 * count)))
    last['kernel'] = last['kernel'].at[:, own].set(0).at[: 2 * count, own].set(both.T)


def _carry_features(params, names, gain):
  denoiser = params['denoiser']
  one = np.eye(denoiser['heads']['conv0']['bias'].shape[-1])
  layers = [(denoiser['embed'], 3, 1.0), (denoiser['heads']['conv0'], 1, gain)]
  layers += [(denoiser['heads'][name], 3, 1.0) for name in ('conv1', 'conv2', 'conv3')]
  for layer, size, factor in layers:
    layer['kernel'] = jnp.broadcast_to(factor * _dirac(size, one), layer['kernel'].shape)
    layer['bias'] = jnp.zeros_like(layer['bias'])
  if 'conditioning' in params:
    # With 0, the layer norms of the tokens would have no direction and gradients 300 times too large.
    constant = jnp.cos(jnp.arange(1, len(one) + 1))
    params['conditioning']['fuse']['bias'] = constant
    denoiser['step_embed']['fc2']['bias'] = -constant
  heads = [params['decoders'][f'{name}_head'] for name in names]
  params['head'] = {
    'kernel': jnp.concatenate([head['kernel'][0, 0] for head in heads], axis=-1),
    'bias': jnp.concatenate([head['bias'] for head in heads]),
  }


def _dirac(size: int, matrix: np.ndarray) -> np.ndarray:
  """The convolution kernel [size, size, *matrix.shape] with `matrix` at its centre and 0 around it."""
  kernel = np.zeros((size, size, *matrix.shape), np.float32)
  kernel[size // 2, size // 2] = matrix
  return kernel


def _write(layer, t: int, kernel):
  """Sets the kernel of task t's first output channels, and their bias to 0."""
  count = kernel.shape[-1]
  layer['kernel'] = layer['kernel'].at[t, ..., :count].set(kernel)
  layer['bias'] = layer['bias'].at[t, :count].set(0)
