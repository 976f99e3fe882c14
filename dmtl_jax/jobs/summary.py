"""The job `--mode=summary`: what a config costs, before anything is trained."""

import json
import math

import jax

from dmtl_jax.data.source import data_tasks
from dmtl_jax.jobs import compile_for
from dmtl_jax.models import build_model, find
from dmtl_jax.models.counting import summarize
from dmtl_jax.tasks import Task
from dmtl_jax.training import cost, setup


def run(config, as_json: bool = False, memory: bool = False, accelerator: str | None = None):
  """Prints the summary of a config as a table, or as one JSON object (the dict of `summarize`).

  Args:
    memory: adds `step_memory`, which compiles the training step: minutes at full size.
    accelerator: a name of `accelerators.ACCELERATORS`; adds `compile_for.plan` instead.

  Raises:
    UserError: unknown method or data set, a wrong data folder, or no compiler for the accelerator.
  """
  tasks = data_tasks(config.data)
  model = build_model(config, tasks)
  counted = summarize(model, tuple(config.data.size), config.eval.diffusion_steps)
  result = {'method': config.method} | counted
  if not as_json:
    cost = find(config.method).cost
    print(as_text(result) + (f'\nthe paper says {cost}' if cost else ''))
  if memory:
    if not as_json:
      print('\ncompiling a training step for its memory; at full size that takes minutes', flush=True)
    if accelerator:
      result['accelerator'] = compile_for.plan(config, tasks, accelerator)
      text = compile_for.as_text(result['accelerator'], config)
    else:
      result['training'] = step_memory(config, tasks)
      text = memory_text(result['training'], config)
    if not as_json:
      print(text)
  if as_json:
    print(json.dumps(result, indent=2))


def step_memory(config, tasks: tuple[Task, ...]) -> dict:
  """The memory of a config's training step, as the compiler plans it for the devices here.

  Returns:
    {'bytes': per device, or None, 'state_bytes': the part of it for parameters, statistics and optimiser state,
    'devices': their number and kind}.

  Raises:
    UserError: the batch cannot be split over these devices.
  """
  training = setup.build_without_data(config, tasks)
  state = setup.abstract_state(training)
  batch = cost.abstract_batch(config.train.batch, tuple(config.data.size), tasks, training.mesh)
  compiled = training.update.lower(state, batch, 1).compile()
  shares = jax.tree.map(lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize, state)
  devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  return {'bytes': cost.planned_bytes(compiled), 'state_bytes': sum(jax.tree.leaves(shares)), 'devices': devices}


def memory_text(memory: dict, config) -> str:
  """The result of `step_memory` in a line."""
  if memory['bytes'] is None:
    return 'memory of a training step: the compiler for these devices does not tell'
  whole, state = (f'{memory[name] / 2**30:.2f} GiB' for name in ('bytes', 'state_bytes'))
  return (
    f'memory of a training step of {config.train.batch} images (estimate for {memory["devices"]}): '
    f'{whole} a device, of it {state} parameters and optimiser state'
  )


def as_text(result: dict) -> str:
  """The summary as aligned text, in millions of parameters and GMAC."""
  steps = f', {result["diffusion_steps"]} denoising steps' if result['diffusion_steps'] else ''
  title = f'{result["method"]}, {result["backbone"]}, {result["size"][0]}x{result["size"][1]}{steps}'
  tasks = ', '.join(f'{name} {channels}' for name, channels in result['tasks'].items())
  rows = [(name, part['parameters'], part['gmac']) for name, part in result['parts'].items()]
  rows.append(('total', result['parameters'], result['gmac']))
  width = max(len(name) for name, _, _ in rows)
  lines = [f'{name:<{width}}  {count / 1e6:10.3f}  {gmac:10.2f}' for name, count, gmac in rows]
  header = f'{"part":<{width}}  {"params (M)":>10}  {"GMAC":>10}'
  rule = '-' * len(header)
  return '\n'.join([title, f'tasks (channels): {tasks}', rule, header, rule, *lines[:-1], rule, lines[-1]])
