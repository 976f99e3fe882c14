"""The compiled functions of inference: images to raw maps, and to predictions."""

import jax
import jax.numpy as jnp

from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.tasks import Task


def make_maps_step(model, config, tasks: tuple[Task, ...]):
  """The function (variables, images, index) -> {stage: {task: raw maps [B, h, w, C_t]}} at stride 8.

  Stages: 'final', and where the method has them 'initial', 'step0' (the decayed map), 'step1',
  ... (after each denoising step). An image's noise depends on config.seed and its index alone.
  """
  key = jax.random.key(config.seed)

  def maps_step(variables, images, index):
    steps = config.eval.steps or None
    output = model.apply(variables, images, **model_inputs(model, images, key, len(tasks), None, index, steps))
    stages = {'final': output.final} | ({'initial': output.initial} if output.initial else {})
    if output.steps:
      count = next(iter(output.steps.values())).shape[0]
      stages |= {f'step{i}': {name: maps[i] for name, maps in output.steps.items()} for i in range(count)}
    return stages

  return maps_step


def make_predict_step(model, config, tasks: tuple[Task, ...], with_steps: bool = False):
  """As `make_maps_step`, but predictions (`Task.activate`) at the images' size [B, H, W, ...].

  Args:
    with_steps: also the stages of the single denoising steps.
  """
  maps_step = make_maps_step(model, config, tasks)

  def predict_step(variables, images, index):
    size = images.shape[1:3]
    return {
      stage: {task.name: task.activate(resize(maps[task.name].astype(jnp.float32), size)) for task in tasks}
      for stage, maps in maps_step(variables, images, index).items()
      if with_steps or stage in ('initial', 'final')
    }

  return predict_step
