"""Ranks (image, task) pairs without a label by what labelling them is expected to teach.

`measure` runs the network once per image. `rank` then picks pairs one after another: the task that has the fewest
labels, and of the images without that label the one with the highest product of two numbers between 0 and 1: the rank
of its uncertainty, and its distance from the images that have the label or were picked before. The rank makes
uncertainties of all tasks comparable; the distance spreads the picks over the data, so that the second of two equal
photographs comes last.
"""

from collections.abc import Callable
import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline
from dmtl_jax.models.inputs import model_inputs
from dmtl_jax.models.parts.encoder import ResNet
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.tasks import Task

BATCH = 8  # images measured together
BLOCK = 1024  # images whose distances from all others are in memory together


class Measured(NamedTuple):
  """What the ranking knows of N images.

  Attributes:
    features: [N, F] float32, the means of the encoder's last maps.
    uncertainty: [N, T] float32, the means of `uncertainty_map`; comparable only within a task.
  """

  features: np.ndarray
  uncertainty: np.ndarray


class Pick(NamedTuple):
  """A pair that was picked, with the reasons.

  Attributes:
    image, task: positions.
    score: from 0 to 1; falls as picks get closer to what is labelled or was picked before.
    labels: how many images had this label or were picked for it before.
    uncertainty: share of the candidates of this task that are more certain.
    distance: share of the candidates of this task that are closer to the labelled and picked images.
  """

  image: int
  task: int
  score: float
  labels: int
  uncertainty: float
  distance: float


def uncertainty_map(task: Task, final: jax.Array, initial: jax.Array | None) -> jax.Array:
  """Uncertainty [...] of raw maps [..., C_t].

  That of the probabilities (`Task.self_uncertainty`); of kinds without probabilities, how far denoising moved the
  prediction; 0 for methods that do not denoise.
  """
  own = task.self_uncertainty(final)
  if own is not None:
    return own
  if initial is None:
    return jnp.zeros(final.shape[:-1])
  return jnp.abs(task.soft_prediction(final) - task.soft_prediction(initial)).mean(-1)


def make_measure_fn(model, seed: int, diffusion_steps: int = 0) -> Callable:
  """Returns the compiled function (variables, images [B, H, W, 3], region [B, 4]) -> `Measured` of these images.

  Every image has the noise of index 0, as in --mode=predict; `region` is that of `transforms.eval_transform`.
  """
  key = jax.random.key(seed)

  def measure_batch(variables, images, region):
    inside = _inside(region, images.shape[1:3])

    def mean(maps):
      """Mean [B, C] over the image, without its padding, of maps [B, h, w, C]."""
      weights = resize(inside, maps.shape[1:3])
      return (maps * weights).sum((1, 2)) / weights.sum((1, 2))

    index = jnp.zeros(len(images), jnp.int32)
    inputs = model_inputs(model, images, key, len(model.tasks), None, index, diffusion_steps or None)
    output, state = model.apply(
      variables,
      images,
      capture_intermediates=lambda module, _: isinstance(module, ResNet),
      mutable=['intermediates'],
      **inputs,
    )
    encoders = jax.tree.leaves(state['intermediates'], is_leaf=lambda x: isinstance(x, list))  # single_task has several
    features = jnp.concatenate([mean(stages[-1].astype(jnp.float32)) for stages in encoders], -1)
    maps = [uncertainty_map(t, output.final[t.name], output.initial.get(t.name))[..., None] for t in model.tasks]
    return Measured(features, mean(jnp.concatenate(maps, -1)))

  return jax.jit(measure_batch)


def _inside(region: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Masks [B, H, W, 1] float32 of the regions [B, 4] (top, left, height, width)."""
  top, left, height, width = region.T[:, :, None]
  rows, columns = (jnp.arange(n) for n in size)
  rows = (rows >= top) & (rows < top + height)
  columns = (columns >= left) & (columns < left + width)
  return (rows[:, :, None] & columns[:, None, :])[..., None].astype(jnp.float32)


def measure(predictor, source, data_config) -> Measured:
  """Measures all images of a source; they are read by threads of this process, and seen whole."""
  data_config = copy.deepcopy(data_config)
  data_config.workers = 0
  function = make_measure_fn(predictor.model, predictor.seed, predictor.diffusion_steps)
  parts = []
  with Progress('looking at images', len(source), 'img') as progress:
    for batch in pipeline.eval_batches(source, data_config, BATCH, predictor.geometry):
      measured = jax.device_get(function(predictor.variables, batch['image'], batch['region']))
      parts.append(Measured(*(values[batch['valid']] for values in measured)))
      progress.update(len(parts[-1].features))
  return join(parts)


def join(parts: list[Measured]) -> Measured:
  """The measurements of several sets of images, one after the other."""
  return Measured(*map(np.concatenate, zip(*parts)))


def rank(measured: Measured, labelled: np.ndarray, candidates: np.ndarray, count: int) -> list[Pick]:
  """The best pairs, best first; see the module.

  Args:
    labelled: [N, T] bool, the pairs that have a label.
    candidates: [N, T] bool, the pairs to choose from.
    count: how many at most. No image is picked for a second task while another is left for that task.
  """
  features = _standardize(measured.features)
  candidates = candidates & ~labelled
  distance = _distance_to_labelled(features, labelled)
  shares = np.zeros(labelled.shape)
  for t, rows in enumerate(map(np.flatnonzero, candidates.T)):
    shares[rows, t] = _ranks(measured.uncertainty[rows, t])
  counts = labelled.sum(0)
  is_new = np.ones(len(labelled), bool)
  picks = []
  while len(picks) < count and candidates.any():
    open_tasks = np.flatnonzero(candidates.any(0))
    t = open_tasks[np.argmin(counts[open_tasks])]
    rows = np.flatnonzero(candidates[:, t] & is_new)
    rows = rows if len(rows) else np.flatnonzero(candidates[:, t])
    scores = shares[rows, t] * distance[rows, t]
    best = np.argmax(scores)
    image = rows[best]
    closer = (distance[rows, t] < distance[image, t]).mean()
    picks.append(Pick(int(image), int(t), float(scores[best]), int(counts[t]), float(shares[image, t]), float(closer)))
    candidates[image, t] = is_new[image] = False
    counts[t] += 1
    distance = np.minimum(distance, _distances(features, features[image : image + 1]))
  return picks


def _standardize(features: np.ndarray) -> np.ndarray:
  """Features of mean 0 and deviation 1, scaled so that most distances are below 1; those that never vary become 0."""
  deviation = features.std(0)
  varies = deviation > 1e-6 * max(deviation.max(initial=0), 1e-30)
  scaled = (features - features.mean(0)) / np.where(varies, deviation, np.inf)
  return scaled / max(2 * np.sqrt(np.square(scaled).sum(1)).max(initial=0), 1e-30)


def _distance_to_labelled(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
  """Distance [N, T] of each image from the nearest one that has a label of the task, at most 1, also where none has."""
  distance = np.ones(labelled.shape)
  for start in range(0, len(features), BLOCK):
    block = slice(start, start + BLOCK)
    if labelled[block].any():
      apart = _distances(features, features[block])
      for t, rows in enumerate(labelled[block].T):
        distance[:, t] = np.minimum(distance[:, t], apart[:, rows].min(1, initial=1))
  return distance


def _distances(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
  """Distances [N, M] of features [N, F] and [M, F]."""
  squares = np.square(features).sum(1)[:, None] + np.square(centers).sum(1) - 2 * features @ centers.T
  return np.sqrt(np.maximum(squares, 0))


def _ranks(values: np.ndarray) -> np.ndarray:
  """Share of the values [N] that are smaller; equal values share the mean of their places."""
  ordered = np.sort(values)
  places = (np.searchsorted(ordered, values, 'left') + np.searchsorted(ordered, values, 'right')) / 2
  return places / max(len(values), 1)
