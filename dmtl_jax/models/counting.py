"""Parameters and multiply-adds of a method by part, for `--mode=summary`, from shapes only.

Parameters come from `jax.eval_shape` of the initialiser, multiply-adds from the jaxpr of one forward
pass at inference (one image, all tasks, every denoising step). Convolutions and matrix products count,
those in a scan once per iteration; resizing, norms and activations do not.
"""

from collections.abc import Iterator
import math
import re

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters import partial_eval
import jax.numpy as jnp

from dmtl_jax.models.base import Network
from dmtl_jax.models.inputs import model_inputs, variable_shapes
from dmtl_jax.models.parts.layers import narrow_conv, resize_on_cpu, stem_conv
from dmtl_jax.models.parts.reduction import reduced_conv, reduced_convs
from dmtl_jax.models.parts.winograd import winograd_conv

# Strides of convolutions that do not take the work of their definition, by the name of the function.
ONE = (narrow_conv, reduced_conv, reduced_convs, winograd_conv)
CONVOLUTIONS = dict.fromkeys((each.__name__ for each in ONE), 1) | {stem_conv.__name__: 2}
RESIZING = ('_resize', resize_on_cpu.__name__)  # the first is jax.image.resize's; matrix products in disguise


def summarize(model: Network, size: tuple[int, int], diffusion_steps: int = 0) -> dict:
  """Counts parameters and forward multiply-adds of a network.

  Args:
    size: image size (H, W).
    diffusion_steps: S at inference; 0: as in training.

  Returns:
    {'backbone', 'diffusion_steps' (0 without diffusion), 'size', 'tasks': {task: C_t},
    'parameters': int, 'gmac': float in 1e9, 'parts': {part: {'parameters', 'gmac'}}}. A part
    is summed over tasks, layers and blocks: 'backbone/encoder', 'decoders/block', ...
  """
  tasks = model.tasks
  variables = variable_shapes(model, size)
  diffusion_steps = diffusion_steps or model.diffusion_steps if model.diffuses else 0
  names = [task.name for task in tasks]
  parts = {}

  def add(path: list[str], quantity: str, amount: int):
    part = parts.setdefault(part_name(path or ['network'], names), {'parameters': 0, 'gmac': 0})
    part[quantity] += amount

  for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']):
    add([key.key for key in path[:-1]], 'parameters', math.prod(leaf.shape))
  jaxpr = _forward_jaxpr(model, variables, tasks, size, diffusion_steps)
  for scope, macs in multiply_adds(jaxpr, '', as_defined=True):
    add(_module_path(scope, model), 'gmac', macs)
  for part in parts.values():
    part['gmac'] /= 1e9
  return {
    'backbone': model.backbone,
    'diffusion_steps': diffusion_steps,
    'size': list(size),
    'tasks': {task.name: task.channels for task in tasks},
    'parameters': sum(part['parameters'] for part in parts.values()),
    'gmac': sum(part['gmac'] for part in parts.values()),
    'parts': parts,
  }


def part_name(path: list[str], tasks: list[str]) -> str:
  """['decoders', 'semseg_block0', 'conv1'] to 'decoders/block': two levels, without tasks and numbers."""
  known = '|'.join(map(re.escape, tasks))
  names = [re.sub(rf'^({known})_|_({known})$', '', name) for name in path if name not in tasks]
  return '/'.join(re.sub(r'[\d_]+$', '', name) for name in names[:2])


def _module_path(scope: str, model) -> list[str]:
  """Path of the parameters used in a scope such as 'DiffusionMTL/DiffusionMTL._denoise/Denoiser/heads'."""
  modules = [name.split('.')[0] for name in scope.split('/') if name]  # drops the method's name
  names = [name for name, previous in zip(modules, [None, *modules]) if name != previous]
  if names[0] == type(model).__name__:
    names = names[1:]
  return [name.lower() for name in names[:1]] + names[1:]  # the scope of a module without a parent is its class


def _forward_jaxpr(model, variables, tasks, size, diffusion_steps):
  """Jaxpr of the final maps of one image."""

  def forward(variables, images):
    inputs = model_inputs(model, images, jax.random.key(0), len(tasks), diffusion_steps=diffusion_steps or None)
    return model.apply(variables, images, **inputs).final

  return used(jax.make_jaxpr(forward)(variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).jaxpr)


def used(jaxpr: Jaxpr) -> Jaxpr:
  """A jaxpr without equations whose results are unused."""
  return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def multiply_adds(jaxpr, scope: str, as_defined: bool = False):
  """Yields (scope, multiply-adds) of every convolution and matrix product.

  Args:
    as_defined: whether `CONVOLUTIONS` count by their definition, as in the paper, instead of the work they take;
      only for the forward pass.
  """
  for eqn in jaxpr.eqns:
    inner = f'{scope}/{eqn.source_info.name_stack}'
    if eqn.primitive.name == 'conv_general_dilated':
      kernel, features = eqn.invars[1].aval.shape, eqn.params['dimension_numbers'].rhs_spec[0]
      yield inner, eqn.outvars[0].aval.size * math.prod(kernel) // kernel[features]
    elif eqn.primitive.name == 'dot_general':
      contracted = eqn.params['dimension_numbers'][0][0]
      yield inner, eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    elif as_defined and eqn.params.get('name') in CONVOLUTIONS:
      x, *kernels = (var.aval for var in eqn.invars)
      stride = CONVOLUTIONS[eqn.params['name']]
      yield inner, x.shape[0] * math.prod(-(-size // stride) for size in x.shape[1:3]) * sum(k.size for k in kernels)
    elif eqn.params.get('name') not in RESIZING:
      repeats = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
      for body in _bodies(eqn.params):
        for body_scope, macs in multiply_adds(body, inner, as_defined):
          yield body_scope, macs * repeats


def _bodies(params: dict) -> Iterator[Jaxpr]:
  """The jaxprs among an equation's parameters: `jax.extend.core.jaxprs_in_params`, which jax 0.7 does not have."""
  for value in params.values():
    for body in value if isinstance(value, tuple) else (value,):
      if isinstance(body, (Jaxpr, ClosedJaxpr)):
        yield getattr(body, 'jaxpr', body)
