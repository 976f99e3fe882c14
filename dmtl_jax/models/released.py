"""The initial weights of the authors' code (docs/paper.md, Model), which `preset=released` starts from.

Of the denoiser, linear layers are Xavier uniform and those of the step embedding N(0, 0.02), both with zero bias;
convolutions are torch's default, weights and biases uniform in +-1 / sqrt(fan-in), also before a ReLU, where ours
have He's: from ours the last maps start about 15 times as large. The condition's are Kaiming normal by fan-out.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

INITS = {  # by a piece of the layer's path; others are torch's default
  'step_embed': jax.nn.initializers.normal(0.02),
  'denoiser/block': jax.nn.initializers.xavier_uniform(),
  'conditioning': jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
}


def draw(params: dict, path: str, channels: tuple[int, ...], key: jax.Array) -> dict:
  """Parameters of a part of DiffusionMTL drawn anew; norms as they are.

  Args:
    path: names of the part and of what lies in it, by which a layer's draw is its own.
  """
  if 'kernel' in params:
    return params | _layer(params['kernel'].shape, params.get('bias'), path, channels, key)
  inside = {name: draw(x, f'{path}/{name}', channels, key) for name, x in params.items() if isinstance(x, dict)}
  return params | inside


def _layer(shape: tuple[int, ...], bias, path: str, channels: tuple[int, ...], key: jax.Array) -> dict:
  """Kernel and bias of one layer."""
  keys = jax.random.split(jax.random.fold_in(key, zlib.crc32(path.encode())))
  zero = {} if bias is None else {'bias': jnp.zeros_like(bias)}
  init = next((init for name, init in INITS.items() if name in path), None)
  if init:
    return {'kernel': init(keys[0], shape)} | zero
  fan_in, bias_fan_in = _fan_in(shape, channels)
  uniform = lambda key, shape, fan_in: jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(fan_in)
  return {'kernel': uniform(keys[0], shape, fan_in), 'bias': uniform(keys[1], bias.shape, bias_fan_in)}


def _fan_in(shape: tuple[int, ...], channels: tuple[int, ...]):
  """Of a kernel's and a bias's elements, see `task_layers` for their shapes."""
  if len(shape) == 4:  # SlotEmbed: that of the task's own channels, not of all slots
    own = shape[0] * shape[1] * np.array(channels)[:, None]
    return np.repeat(own, channels, axis=0), own
  fan_in = np.prod(shape[-4:-1]) if len(shape) == 5 else shape[0]
  return fan_in, fan_in
