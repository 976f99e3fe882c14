"""The job `--mode=summary`: parameters and multiply-adds of a method, part by part, without weights.

Both are read off shapes: parameters from `jax.eval_shape` of the initialiser, multiply-adds from the
jaxpr of one forward pass in inference (one image, all tasks, every denoising step). Convolutions and
matrix products count, a scan's body as often as it runs; resizing, norms and activations do not.
"""

import dataclasses
import json
import math
import re

import jax
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np

from dmtl_jax.data import source
from dmtl_jax.models import build_model
from dmtl_jax.models.layers import reduced_conv
from dmtl_jax.models.winograd import winograd_conv
from dmtl_jax.state import init_variables
from dmtl_jax.steps import model_inputs
from dmtl_jax.tasks import Task

CONVOLUTIONS = (reduced_conv.__name__, winograd_conv.__name__)  # done by less work than they are defined by


def run(config, as_json: bool = False, memory: bool = False):
  """Prints the summary of a config: a table, or one JSON object (`summarize`'s dict).

  Args:
    memory: with `step_memory`, which compiles the training step: minutes at full size.

  Raises:
    UserError: unknown method or data set; for `folder`, what is wrong with the folder.
  """
  tasks = data_tasks(config.data)
  result = summarize(config, tasks, tuple(config.data.size))
  if not as_json:
    print(table(result))
  if memory:
    if not as_json:
      print('\ncompiling a training step for its memory; at full size that takes minutes', flush=True)
    result['training'] = step_memory(config, tasks)
    if not as_json:
      print(memory_text(result['training'], config))
  if as_json:
    print(json.dumps(result, indent=2))


@dataclasses.dataclass(frozen=True)
class _Shapes:
  """Stands in for a training set, which a summary does not need; with the most labels an image can have."""

  tasks: tuple[Task, ...]
  label_mask: np.ndarray

  def __len__(self):
    return len(self.label_mask)


def step_memory(config, tasks: tuple[Task, ...]) -> dict:
  """Estimated memory of the training step of a config, as the compiler plans it for the devices here.

  Returns:
    {'bytes': of each device or None, 'state_bytes': of it parameters, statistics and optimiser state,
    'devices': their number and kind}.

  Raises:
    UserError: a batch that these devices cannot share.
  """
  from dmtl_jax import cost, train  # with the data libraries, without which a plain summary starts

  mask = np.zeros((config.train.batch, len(tasks)), bool)
  mask[:, : 1 if config.data.labels == 'one' else None] = True
  training = train.build(config, _Shapes(tasks, mask), None)
  state = train.abstract_state(training)
  compiled = cost.compile_step(training.update, state, config, tasks, training.mesh)
  shares = jax.tree.map(lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize, state)
  return {
      'bytes': cost.planned_bytes(compiled),
      'state_bytes': sum(jax.tree.leaves(shares)),
      'devices': f'{training.mesh.size} x {jax.devices()[0].device_kind}',
  }


def memory_text(memory: dict, config) -> str:
  """`step_memory` in a line."""
  if memory['bytes'] is None:
    return 'memory of a training step: the compiler for these devices does not tell'
  gib = lambda count: f'{count / 2**30:.2f} GiB'
  return (
      f"memory of a training step of {config.train.batch} images (estimate for {memory['devices']}): "
      f"{gib(memory['bytes'])} a device, of it {gib(memory['state_bytes'])} parameters and optimiser state"
  )


def data_tasks(data_config) -> tuple[Task, ...]:
  """Tasks of config.data; only a folder data set needs to exist for it."""
  if data_config.name == 'folder':
    return source.open_source(data_config, 'train').tasks
  tasks = {task.name: task for task in source.package(data_config.name).TASKS}
  return tuple(tasks[name] for name in data_config.get('tasks', ()) or tasks)


def summarize(config, tasks: tuple[Task, ...], size: tuple[int, int]) -> dict:
  """Parameters and forward multiply-adds of config's method.

  Args:
    size: image size (H, W).

  Returns:
    {'method', 'backbone', 'steps' (0: not a diffusion), 'size', 'tasks': {task: C_t},
    'parameters': int, 'gmac': float in 1e9, 'parts': {part: {'parameters', 'gmac'}}}. A part
    sums what tasks, layers and blocks have of it: 'backbone/encoder', 'decoders/block', ...
  """
  model = build_model(config, tasks)
  variables = jax.eval_shape(lambda key: init_variables(model, key, size), jax.random.key(0))
  steps = config.eval.steps or config.model.steps if hasattr(model, 'noise_shape') else 0
  names = [task.name for task in tasks]
  parts = {}

  def add(path: list[str], quantity: str, amount: int):
    part = parts.setdefault(part_name(path, names), {'parameters': 0, 'gmac': 0})
    part[quantity] += amount

  for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']):
    add([key.key for key in path[:-1]], 'parameters', math.prod(leaf.shape))
  for scope, macs in multiply_adds(_forward_jaxpr(model, variables, tasks, size, steps), '', as_defined=True):
    add(_module_path(scope, model), 'gmac', macs)
  for part in parts.values():
    part['gmac'] /= 1e9
  return {
      'method': config.get('method', config.model.method),
      'backbone': config.model.backbone,
      'steps': steps,
      'size': list(size),
      'tasks': {task.name: task.channels for task in tasks},
      'parameters': sum(part['parameters'] for part in parts.values()),
      'gmac': sum(part['gmac'] for part in parts.values()),
      'parts': parts,
  }


def table(result: dict) -> str:
  """The summary as aligned text, in millions of parameters and GMAC."""
  steps = f", {result['steps']} steps" if result['steps'] else ''
  title = f"{result['method']}, {result['backbone']}, {result['size'][0]}x{result['size'][1]}{steps}"
  tasks = ', '.join(f'{name} {channels}' for name, channels in result['tasks'].items())
  rows = [(name, part['parameters'], part['gmac']) for name, part in result['parts'].items()]
  rows.append(('total', result['parameters'], result['gmac']))
  width = max(len(name) for name, _, _ in rows)
  lines = [f'{name:<{width}}  {count / 1e6:10.3f}  {gmac:10.2f}' for name, count, gmac in rows]
  header = f"{'part':<{width}}  {'params (M)':>10}  {'GMAC':>10}"
  rule = '-' * len(header)
  return '\n'.join([title, f'tasks (channels): {tasks}', rule, header, rule, *lines[:-1], rule, lines[-1]])


def part_name(path: list[str], tasks: list[str]) -> str:
  """['decoders', 'semseg_block0', 'conv1'] to 'decoders/block': two levels, tasks and numbers left out."""
  known = '|'.join(map(re.escape, tasks))
  names = [re.sub(rf'^({known})_|_({known})$', '', name) for name in path if name not in tasks]
  return '/'.join(re.sub(r'[\d_]+$', '', name) for name in names[:2])


def _module_path(scope: str, model) -> list[str]:
  """Scope of an equation, 'DiffusionMTL/DiffusionMTL._denoise/Denoiser/heads', to its parameters' path."""
  modules = [name.split('.')[0] for name in scope.split('/') if name]  # without the method
  names = [name for name, previous in zip(modules, [None, *modules]) if name != previous]
  if names[0] == type(model).__name__:
    names = names[1:]
  return [names[0].lower(), *names[1:]]  # a module applied without a parent is in the scope of its class


def _forward_jaxpr(model, variables, tasks, size, steps):
  """Jaxpr of the final maps of one image, without equations that only other outputs need."""

  def forward(variables, images):
    inputs = model_inputs(model, images, jax.random.key(0), len(tasks), steps=steps or None)
    return model.apply(variables, images, **inputs).final

  jaxpr = jax.make_jaxpr(forward)(variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).jaxpr
  return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def multiply_adds(jaxpr, scope: str, as_defined: bool = False):
  """Yields (scope, multiply-adds) of every convolution and matrix product.

  Args:
    as_defined: of the forward pass: `CONVOLUTIONS` count as what they stand for, so that the count is
      the network's (and the paper's), not of how we compute it.
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
      x, kernel = (var.aval for var in eqn.invars)
      yield inner, math.prod(x.shape[:3]) * kernel.size
    elif eqn.params.get('name') != '_resize':  # jax.image.resize, a matrix product in disguise
      times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
      for body in jaxprs_in_params(eqn.params):
        for where, macs in multiply_adds(body, inner, as_defined):
          yield where, macs * times
