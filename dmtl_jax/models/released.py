"""Initial weights of the authors' code (docs/paper.md, Model), used by `preset=released`.

In the denoiser, linear layers are Xavier uniform and those of the step embedding N(0, 0.02), both with zero bias.
Convolutions have torch's default: weights and biases uniform in +-1 / sqrt(fan-in), also before a ReLU, where ours are
He's and make the last maps start about 15 times as large. The condition's are Kaiming normal by fan-out.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

INITS = {  # by part of the layer's path; other layers have torch's default
  'step_embed': jax.nn.initializers.normal(0.02),
  'denoiser/block': jax.nn.initializers.xavier_uniform(),
  'conditioning': jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
}


def draw(params: dict, path: str, channels: tuple[int, ...], key: jax.Array) -> dict:
  """Draws the weights of a part of DiffusionMTL anew; norms stay as they are.

  Args:
    path: of the part, and in the recursion of a layer: with `key` it determines the layer's draw.
    channels: C_t of the tasks.
  """
  if 'kernel' in params:
    return params | _layer(params['kernel'].shape, params.get('bias'), path, channels, key)
  inner = {name: draw(x, f'{path}/{name}', channels, key) for name, x in params.items() if isinstance(x, dict)}
  return params | inner


def _layer(shape: tuple[int, ...], bias, path: str, channels: tuple[int, ...], key: jax.Array) -> dict:
  """Draws kernel and bias of one layer."""
  kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, zlib.crc32(path.encode())))
  for name, init in INITS.items():
    if name in path:
      zeros = {} if bias is None else {'bias': jnp.zeros_like(bias)}
      return {'kernel': init(kernel_key, shape)} | zeros
  if len(shape) == 4:  # SlotEmbed: the fan-in counts the task's own channels, not all slots
    bias_fan_in = shape[0] * shape[1] * np.array(channels)[:, None]
    fan_in = np.repeat(bias_fan_in, channels, axis=0)
  else:  # TaskConv has five axes, SlotHead two
    fan_in = bias_fan_in = np.prod(shape[-4:-1]) if len(shape) == 5 else shape[0]
  return {'kernel': _uniform(kernel_key, shape, fan_in), 'bias': _uniform(bias_key, bias.shape, bias_fan_in)}


def _uniform(key, shape, fan_in):
  return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(fan_in)
