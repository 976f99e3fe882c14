"""Several noise draws of one image: the mean of their predictions, and how far they differ."""

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.inference.steps import make_maps_step
from dmtl_jax.tasks import normalize, Task

AT_ONCE = 4  # draws denoised together: enough to make use of the encoder's one pass, and little memory
# How far draws differ, by kind of task; 'depth' is in the data set's unit.
UNITS = {
  'semseg': 'entropy, 0 to 1',
  'parsing': 'entropy, 0 to 1',
  'saliency': 'std of probability',
  'boundary': 'std of probability',
  'normals': 'angle, degrees',
  'depth': 'std of depth',
}


def make_samples_step(model, config, tasks: tuple[Task, ...], samples: int):
  """The function (variables, images [1, H, W, 3]) -> {stage: {task: [h, w, C_t]}} at stride 8.

  Stages: 'final', raw maps whose activation is the mean prediction of the draws (`mean`);
  'uncertainty', [h, w, 1] (`spread`); and 'initial' where the method has it. Draw k has the noise of
  the image of index k in evaluation; draw 0 is the prediction without sampling.

  Raises:
    UserError: the method draws no noise, or `samples` is not positive.
  """
  if samples < 1:
    raise UserError(f'--samples={samples}: give a number of noise draws, 1 or more')
  if not (hasattr(model, 'noise_shape') and (model.add_noise or model.posterior)):
    raise UserError(f'--samples={samples}: {config.method} adds no noise, so all draws are the same; leave it out')
  maps_step = make_maps_step(model, config, tasks)
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
    stages['final'] = {task.name: mean(task, finals[task.name]) for task in tasks}
    stages['uncertainty'] = {task.name: spread(task, finals[task.name]) for task in tasks}
    return stages

  return samples_step


def mean(task: Task, draws: jax.Array) -> jax.Array:
  """Raw map [..., C] float32 whose activation is the mean of the activated raw maps [K, ..., C].

  That is the mean probability, the mean direction (of unit vectors), the mean depth. Being a raw map
  it is enlarged like one, with edges as smooth as without sampling.
  """
  draws = draws.astype(jnp.float32)
  log_mean = lambda log: jax.nn.logsumexp(log, axis=0) - np.log(len(draws))
  if task.classes or task.kind == 'saliency':
    return log_mean(jax.nn.log_softmax(draws))
  if task.kind == 'boundary':
    return log_mean(jax.nn.log_sigmoid(draws)) - log_mean(jax.nn.log_sigmoid(-draws))
  if task.kind == 'normals':  # as long as the draws, so that interpolation weighs neighbours alike
    length = jnp.linalg.norm(draws, axis=-1, keepdims=True).mean(0)
    return length * normalize(normalize(draws).mean(0))
  return draws.mean(0)


def spread(task: Task, draws: jax.Array) -> jax.Array:
  """How far the activated predictions of raw maps [K, ..., C] differ: [..., 1] float32 >= 0.

  Segmentation, parsing: entropy of the mean class distribution over that of a uniform one, 0 (one sure
  class) to 1; saliency, boundary: standard deviation of the probability, at most 0.5; normals: root mean
  square angle to the mean direction, degrees; depth: standard deviation, in the data set's unit.
  """
  draws = draws.astype(jnp.float32)
  if task.classes:
    log = jax.nn.log_softmax(mean(task, draws))
    return -(jnp.exp(log) * log).sum(-1, keepdims=True) / np.log(log.shape[-1])
  if task.kind == 'saliency':
    return jax.nn.softmax(draws)[..., 1:].std(0)
  if task.kind == 'boundary':
    return jax.nn.sigmoid(draws).std(0)
  if task.kind == 'normals':
    vectors, center = normalize(draws), normalize(mean(task, draws))
    # By both sine and cosine: the arc cosine alone is blind to small angles.
    sine = jnp.linalg.norm(jnp.cross(vectors, jnp.broadcast_to(center, vectors.shape)), axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (vectors * center).sum(-1, keepdims=True))
    return jnp.degrees(jnp.sqrt((angle**2).mean(0)))
  return draws.std(0)
