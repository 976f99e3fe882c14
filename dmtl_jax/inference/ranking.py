"""Chooses (image, task) pairs to label next: as many of each task as possible, spread over the data.

`measure` runs the network once per image. `rank` then picks pairs one after another. Each is of the task that has the
fewest labels, and of an image without that label, drawn at random with a probability proportional to the squared
distance of its features from the nearest image that has the label or was picked before (as k-means++ draws its first
centres: Arthur and Vassilvitskii 2007). So images of one scene, and copies, are not picked one after the other.

The network's uncertainty is reported, but does not rank: for that it would have to teach more than random labels, by
two standard errors, in benchmarks/suggest.py.
"""

from collections.abc import Callable
import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.models import inputs as inputs_lib
from dmtl_jax.models.parts.encoder import ResNet
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
  """A pair that was picked.

  Attributes:
    image, task: positions.
    labels: how many images have this label, or were picked for it before.
    distance: from the nearest image that has the label or was picked before, from 0 (looks the same) to 1.
    uncertainty: share of the candidates of this task of which the network is more certain.
  """

  image: int
  task: int
  labels: int
  distance: float
  uncertainty: float


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


def make_measure_fn(model, seed: int, diffusion_steps: int = 0, calibration: Calibration = UNCALIBRATED) -> Callable:
  """Returns the compiled function (variables, images, region) -> fields of `Measured`, as a dict.

  It takes 'image' and 'region' of a batch (see data/pipeline.py). Every image has the noise of index 0, as in
  --mode=predict.

  Raises:
    UserError: when called, for a network without the encoder of models/parts/encoder.py.
  """
  key = jax.random.key(seed)

  def measure_batch(variables, images, region):
    inside = inputs_lib.inside(region, images.shape[1:3]).astype(jnp.float32)
    images = inputs_lib.normalize_padded(images, region)
    index = jnp.zeros(len(images), jnp.int32)
    inputs = inputs_lib.model_inputs(model, images, key, len(model.tasks), None, index, diffusion_steps or None)
    output, state = model.apply(
      variables,
      images,
      capture_intermediates=lambda module, _: isinstance(module, ResNet),
      mutable=['intermediates'],
      **inputs,
    )
    encoders = jax.tree.leaves(state['intermediates'], is_leaf=lambda x: isinstance(x, list))  # single_task has several
    if not encoders:
      raise UserError(
        f'config.method: {type(model).__name__} has no ResNet, whose maps --mode=suggest compares images by'
      )
    features = jnp.concatenate([mean_inside(stages[-1].astype(jnp.float32), inside) for stages in encoders], -1)
    maps = [
      uncertainty_map(t, calibration.apply(t, output.final[t.name]), output.initial.get(t.name))[..., None]
      for t in model.tasks
    ]
    return {'features': features, 'uncertainty': mean_inside(jnp.concatenate(maps, -1), inside)}

  return jax.jit(measure_batch)


def mean_inside(maps: jax.Array, inside: jax.Array) -> jax.Array:
  """Mean [B, C] of maps [B, h, w, C] where images [B, H, W] are not padding, by masks [B, H, W, 1] float32."""
  weights = jax.image.resize(inside, (*maps.shape[:3], 1), 'linear')  # antialiased: a strip counts, however thin
  return (maps * weights).sum((1, 2)) / weights.sum((1, 2))


def measure(predictor, source, data_config) -> Measured:
  """Measures all images of a source; they are read by threads of this process, and seen whole."""
  data_config = copy.deepcopy(data_config)
  data_config.workers = 0
  function = make_measure_fn(predictor.model, predictor.seed, predictor.diffusion_steps, predictor.calibration)
  parts = []
  with Progress('looking at images', len(source), 'img') as progress:
    for batch in pipeline.eval_batches(source, data_config, BATCH, predictor.geometry):
      measured = jax.device_get(function(predictor.variables, batch['image'], batch['region']))
      parts.append(Measured(**{name: values[batch['valid']] for name, values in measured.items()}))
      progress.update(len(parts[-1].features))
  return join(parts)


def join(parts: list[Measured]) -> Measured:
  """The measurements of several sets of images, one after the other."""
  return Measured(
    np.concatenate([part.features for part in parts]), np.concatenate([part.uncertainty for part in parts])
  )


def rank(measured: Measured, labelled: np.ndarray, candidates: np.ndarray, count: int, seed: int) -> list[Pick]:
  """The pairs to label next, in the order in which they were picked; see the module.

  Args:
    labelled: [N, T] bool, the pairs that have a label.
    candidates: [N, T] bool, the pairs to choose from.
    count: how many at most. No image is picked for a second task while another is left for that task.
  """
  rng = np.random.default_rng(seed)
  features = standardize(measured.features)
  distance = distance_to_labelled(features, labelled)
  candidates = candidates & ~labelled
  uncertainty = np.zeros(labelled.shape)
  for t, rows in enumerate(map(np.flatnonzero, candidates.T)):
    uncertainty[rows, t] = share_smaller(measured.uncertainty[rows, t])
  counts = labelled.sum(0)
  is_new = np.ones(len(labelled), bool)
  picks = []
  while len(picks) < count and candidates.any():
    open_tasks = np.flatnonzero(candidates.any(0))
    t = open_tasks[np.argmin(counts[open_tasks])]
    rows = np.flatnonzero(candidates[:, t] & is_new)
    rows = rows if len(rows) else np.flatnonzero(candidates[:, t])
    weights = np.square(distance[rows, t]) + 1e-12  # where all are 0, they are equally likely
    image = rng.choice(rows, p=weights / weights.sum())
    picks.append(Pick(int(image), int(t), int(counts[t]), float(distance[image, t]), float(uncertainty[image, t])))
    candidates[image, t] = is_new[image] = False
    counts[t] += 1
    distance = np.minimum(distance, distances(features, features[image : image + 1]))
  return picks


def standardize(features: np.ndarray) -> np.ndarray:
  """Features [N, F] of equal deviation, or 0 where they never vary, at distances of at most 1."""
  deviation = features.std(0)
  varies = deviation > 1e-6 * deviation.max(initial=0)
  scaled = (features - features.mean(0)) / np.where(varies, deviation, np.inf)
  return scaled / max(2 * np.sqrt(np.square(scaled).sum(1).max(initial=0)), 1e-30)


def distance_to_labelled(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
  """Distance [N, T] of each image from the nearest one that has a label of the task, at most 1, also where none has."""
  distance = np.ones(labelled.shape)
  for start in range(0, len(features), BLOCK):
    block = slice(start, start + BLOCK)
    if labelled[block].any():
      apart = distances(features, features[block])
      for t, rows in enumerate(labelled[block].T):
        distance[:, t] = np.minimum(distance[:, t], apart[:, rows].min(1, initial=1))
  return distance


def distances(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
  """Distances [N, M] of features [N, F] and [M, F]."""
  squares = np.square(features).sum(1)[:, None] + np.square(centers).sum(1) - 2 * features @ centers.T
  return np.sqrt(np.where(squares > 1e-6, squares, 0))  # without what rounding leaves of equal features


def share_smaller(values: np.ndarray) -> np.ndarray:
  """Share of the values [N] that are smaller; equal values share the mean of their places."""
  ordered = np.sort(values)
  places = (np.searchsorted(ordered, values, 'left') + np.searchsorted(ordered, values, 'right')) / 2
  return places / max(len(values), 1)
