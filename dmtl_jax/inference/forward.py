"""The functions of inference to compile: images to raw maps, to predictions, or to the mean of several noise draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts.layers import resize

STAGES = ('final', 'initial')  # that are scored and predicted by
DRAWS = 4  # noise draws denoised together: enough to gain from sharing the encoder's pass, and little memory


def denoising_steps(model, diffusion_steps: int) -> int:
  """Number of denoising steps S at inference, for config.eval.diffusion_steps; 0 for methods that do not denoise."""
  return (diffusion_steps or model.diffusion_steps) if model.diffuses else 0


def make_forward_fn(model, seed: int, diffusion_steps: int = 0):
  """Returns the function (variables, images, index) -> {stage: {task: raw maps [B, h, w, C_t]}} at stride 8.

  Stages: 'final', and where the method has them 'initial', 'step0' (the decayed map), 'step1',
  ... (after each denoising step). An image's noise depends only on `seed` (config.seed) and its index.

  Args:
    diffusion_steps: S; 0: as in training.
  """
  key = jax.random.key(seed)

  def forward(variables, images, index):
    inputs = model_inputs(model, images, key, len(model.tasks), None, index, diffusion_steps or None)
    output = model.apply(variables, images, **inputs)
    stages = {'final': output.final} | ({'initial': output.initial} if output.initial else {})
    if output.trajectory:
      count = next(iter(output.trajectory.values())).shape[0]
      stages |= {f'step{i}': {name: maps[i] for name, maps in output.trajectory.items()} for i in range(count)}
    return stages

  return forward


def make_predict_fn(
  model,
  seed: int,
  diffusion_steps: int = 0,
  all_stages: bool = False,
  with_raw: bool = False,
  calibration: Calibration = UNCALIBRATED,
):
  """As `make_forward_fn`, but to predictions (`Task.activate`) [B, H, W, ...] at the images' size.

  Args:
    all_stages: also the maps after each denoising step; otherwise only 'initial' and 'final'.
    with_raw: also 'raw', {stage: raw maps [B, h, w, C_t] float32 at stride 8} of 'initial' and 'final'.
    calibration: also chooses what tasks are predicted by, which becomes their final maps.
  """
  forward = make_forward_fn(model, seed, diffusion_steps)

  def predict(variables, images, index):
    size = images.shape[1:3]

    stages = forward(variables, images, index)
    stages['final'] = calibration.choose(stages['final'], stages.get('initial', {}))
    predictions = {
      stage: {task.name: predict_map(task, maps[task.name], size, calibration) for task in model.tasks}
      for stage, maps in stages.items()
      if all_stages or stage in STAGES
    }
    if with_raw:
      predictions['raw'] = {s: jax.tree.map(lambda x: x.astype(jnp.float32), stages[s]) for s in STAGES if s in stages}
    return predictions

  return predict


def predict_map(task, logits, size: tuple[int, int], calibration: Calibration = UNCALIBRATED) -> jax.Array:
  """The prediction (`Task.activate`) [B, H, W, ...] at a size (H, W), of raw maps [B, h, w, C_t]."""
  return task.activate(calibration.decide(task, resize(logits.astype(jnp.float32), size)))


@functools.lru_cache(maxsize=1)  # a run's last evaluation takes what its periodic ones compiled
def jit_predict_fn(model, mesh, seed: int, diffusion_steps: int = 0):
  """`make_predict_fn` with the stage 'raw', jitted for batches split by image over a mesh."""
  split = sharding.by_image(mesh)
  predict = make_predict_fn(model, seed, diffusion_steps, with_raw=True)
  return jax.jit(predict, in_shardings=(sharding.replicated(mesh), split, split), out_shardings=split)


@functools.lru_cache(maxsize=1)
def jit_stages_fn(model, seed: int, diffusion_steps: int = 0):
  """`make_predict_fn` with all stages, jitted for one device."""
  return jax.jit(make_predict_fn(model, seed, diffusion_steps, all_stages=True))


def make_sample_fn(model, samples: int, seed: int, diffusion_steps: int = 0, calibration: Calibration = UNCALIBRATED):
  """Returns the function (variables, images [1, H, W, 3]) -> {stage: {task: [h, w, C_t]}} at stride 8.

  Stages: 'final', raw maps whose activation is the mean prediction of the draws (`Task.mean`);
  'uncertainty', [h, w, 1] (`Task.sample_spread` of the calibrated draws); and 'initial' where the method has it.
  Draw k has the noise of the image with index k in evaluation; draw 0 is the prediction without sampling.

  Raises:
    UserError: the method draws no noise.
  """
  if not model.draws_noise:
    raise UserError(f'--samples={samples}: this method adds no noise, so all draws are the same; leave it out')
  forward = make_forward_fn(model, seed, diffusion_steps)
  rounds = math.ceil(samples / DRAWS)
  indices = np.arange(rounds * math.ceil(samples / rounds)).reshape(rounds, -1)  # a few too many, so shapes are equal

  def sample(variables, images):
    def draw(index):
      stages = forward(variables, images, index[None])
      stages['final'] = calibration.choose(stages['final'], stages.get('initial', {}))
      return {stage: stages[stage] for stage in STAGES if stage in stages}

    # vmap computes what does not depend on the index (encoder and decoders) once for all its draws.
    draws = jax.lax.map(jax.vmap(draw), indices)
    draws = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:])[:samples], draws)  # [K, h, w, C]
    finals = draws.pop('final')
    stages = jax.tree.map(lambda x: x[0], draws)
    stages['final'] = {task.name: task.mean(finals[task.name]) for task in model.tasks}
    stages['uncertainty'] = {
      task.name: task.sample_spread(calibration.apply(task, finals[task.name].astype(jnp.float32)))
      for task in model.tasks
    }
    return stages

  return sample
