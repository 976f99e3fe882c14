"""The compiled functions of inference: images to raw maps, to predictions, and to the mean of several noise draws."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts.layers import resize

AT_ONCE = 4  # draws denoised together: enough to make use of the encoder's one pass, and little memory


def make_maps_step(model, seed: int, diffusion_steps: int = 0):
  """The function (variables, images, index) -> {stage: {task: raw maps [B, h, w, C_t]}} at stride 8.

  Stages: 'final', and where the method has them 'initial', 'step0' (the decayed map), 'step1',
  ... (after each denoising step). An image's noise depends only on `seed` (config.seed) and its index.

  Args:
    diffusion_steps: S; 0: as in training.
  """
  key = jax.random.key(seed)

  def maps_step(variables, images, index):
    inputs = model_inputs(model, images, key, len(model.tasks), None, index, diffusion_steps or None)
    output = model.apply(variables, images, **inputs)
    stages = {'final': output.final} | ({'initial': output.initial} if output.initial else {})
    if output.trajectory:
      count = next(iter(output.trajectory.values())).shape[0]
      stages |= {f'step{i}': {name: maps[i] for name, maps in output.trajectory.items()} for i in range(count)}
    return stages

  return maps_step


def make_predict_step(model, seed: int, diffusion_steps: int = 0, with_steps: bool = False):
  """As `make_maps_step`, without single steps unless `with_steps`: predictions (`Task.activate`) [B, H, W, ...]."""
  maps_step = make_maps_step(model, seed, diffusion_steps)

  def predict_step(variables, images, index):
    size = images.shape[1:3]
    return {
      stage: {task.name: task.activate(resize(maps[task.name].astype(jnp.float32), size)) for task in model.tasks}
      for stage, maps in maps_step(variables, images, index).items()
      if with_steps or stage in ('initial', 'final')
    }

  return predict_step


def compiled_predict_step(model, mesh, seed: int, diffusion_steps: int = 0):
  """`make_predict_step` compiled for batches that are split by image over a mesh."""
  split = sharding.by_image(mesh)
  step = make_predict_step(model, seed, diffusion_steps)
  return jax.jit(step, in_shardings=(sharding.replicated(mesh), split, split), out_shardings=split)


def make_samples_step(model, samples: int, seed: int, diffusion_steps: int = 0):
  """The function (variables, images [1, H, W, 3]) -> {stage: {task: [h, w, C_t]}} at stride 8.

  Stages: 'final', raw maps whose activation is the mean prediction of the draws (`Task.mean`);
  'uncertainty', [h, w, 1] (`Task.sample_spread`); and 'initial' where the method has it. Draw k has the noise of
  the image of index k in evaluation; draw 0 is the prediction without sampling.

  Raises:
    UserError: the method draws no noise, or `samples` is not positive.
  """
  if samples < 1:
    raise UserError(f'--samples={samples}: give a number of noise draws, 1 or more')
  if not model.draws_noise:
    raise UserError(f'--samples={samples}: this method adds no noise, so all draws are the same; leave it out')
  maps_step = make_maps_step(model, seed, diffusion_steps)
  rounds = -(-samples // AT_ONCE)
  indices = np.arange(rounds * -(-samples // rounds)).reshape(rounds, -1)  # a few draws too many keep one shape

  def samples_step(variables, images):
    def draw(index):
      stages = maps_step(variables, images, index[None])
      return {stage: stages[stage] for stage in ('initial', 'final') if stage in stages}

    # What does not depend on the index, encoder and decoders, vmap computes once for all its draws.
    drawn = jax.lax.map(jax.vmap(draw), indices)
    drawn = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:])[:samples], drawn)  # [K, h, w, C]
    finals = drawn.pop('final')
    stages = jax.tree.map(lambda x: x[0], drawn)
    stages['final'] = {task.name: task.mean(finals[task.name]) for task in model.tasks}
    stages['uncertainty'] = {task.name: task.sample_spread(finals[task.name]) for task in model.tasks}
    return stages

  return samples_step
