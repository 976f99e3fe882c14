"""Chooses (image, task) pairs to label next: as many of each task as possible, of images drawn at random.

`measure` runs the network once per image, `rank` picks. The network's uncertainty is reported, but does not rank:
neither labels of uncertain images nor labels spread over the images' features taught more than random ones by two
standard errors (benchmarks/suggest.py, docs/your_own_data.md).
"""

from collections.abc import Callable, Sequence
import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline
from dmtl_jax.inference.calibration import Calibration, UNCALIBRATED
from dmtl_jax.models import inputs as inputs_lib
from dmtl_jax.tasks import Task

BATCH = 8  # images measured together


class Pick(NamedTuple):
  """A pair that was picked.

  Attributes:
    image, task: positions.
    labels: how many images have this label, or were picked for it before.
    uncertainty: share of the candidates of this task of which the network is more certain.
  """

  image: int
  task: int
  labels: int
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
  """Returns the compiled function (variables, images, region) -> means of `uncertainty_map` [B, T].

  It takes 'image' and 'region' of a batch (see data/pipeline.py). Every image has the noise of index 0, as in
  --mode=predict.
  """
  key = jax.random.key(seed)

  def measure_batch(variables, images, region):
    inside = inputs_lib.inside(region, images.shape[1:3]).astype(jnp.float32)
    images = inputs_lib.normalize_padded(images, region)
    index = jnp.zeros(len(images), jnp.int32)
    inputs = inputs_lib.model_inputs(model, images, key, len(model.tasks), None, index, diffusion_steps or None)
    output = model.apply(variables, images, **inputs)
    chosen = calibration.choose(output.final, output.initial)
    maps = [
      uncertainty_map(
        t,
        calibration.apply(t, (chosen if t.has_probabilities else output.final)[t.name]),
        output.initial.get(t.name),
      )[..., None]
      for t in model.tasks
    ]
    return mean_inside(jnp.concatenate(maps, -1), inside)

  return jax.jit(measure_batch)


def mean_inside(maps: jax.Array, inside: jax.Array) -> jax.Array:
  """Mean [B, C] of maps [B, h, w, C] where images [B, H, W] are not padding, by masks [B, H, W, 1] float32."""
  weights = jax.image.resize(inside, (*maps.shape[:3], 1), 'linear')  # antialiased: a strip counts, however thin
  return (maps * weights).sum((1, 2)) / weights.sum((1, 2))


def measure(predictor, source, data_config) -> np.ndarray:
  """The uncertainty [N, T] float32 of all images of a source, comparable only within a task.

  They are read by threads of this process, and seen whole.
  """
  data_config = copy.deepcopy(data_config)
  data_config.workers = 0
  function = make_measure_fn(predictor.model, predictor.seed, predictor.diffusion_steps, predictor.calibration)
  parts = []
  with Progress('looking at images', len(source), 'img') as progress:
    for batch in pipeline.eval_batches(source, data_config, BATCH, predictor.geometry):
      measured = jax.device_get(function(predictor.variables, batch['image'], batch['region']))
      parts.append(measured[batch['valid']])
      progress.update(len(parts[-1]))
  return np.concatenate(parts)


def rank(uncertainty: np.ndarray, labels: Sequence[int], candidates: np.ndarray, count: int, seed: int) -> list[Pick]:
  """The pairs to label next, in the order in which they were picked.

  Each is of the task that has the fewest labels, and of an image drawn from its candidates, each equally likely.

  Args:
    uncertainty: [N, T], of `measure`.
    labels: [T], how many images have a label of each task.
    candidates: [N, T] bool, the pairs to choose from, which have no label.
    count: how many at most. No image is picked for a second task while another is left for that task.
  """
  rng = np.random.default_rng(seed)
  candidates = candidates.copy()
  shares = np.zeros(candidates.shape)
  for t, rows in enumerate(map(np.flatnonzero, candidates.T)):
    shares[rows, t] = share_smaller(uncertainty[rows, t])
  counts = np.array(labels)
  is_new = np.ones(len(candidates), bool)
  picks = []
  while len(picks) < count and candidates.any():
    open_tasks = np.flatnonzero(candidates.any(0))
    t = open_tasks[np.argmin(counts[open_tasks])]
    rows = np.flatnonzero(candidates[:, t] & is_new)
    image = rng.choice(rows if len(rows) else np.flatnonzero(candidates[:, t]))
    picks.append(Pick(int(image), int(t), int(counts[t]), float(shares[image, t])))
    candidates[image, t] = is_new[image] = False
    counts[t] += 1
  return picks


def share_smaller(values: np.ndarray) -> np.ndarray:
  """Share of the values [N] that are smaller; equal values share the mean of their places."""
  ordered = np.sort(values)
  places = (np.searchsorted(ordered, values, 'left') + np.searchsorted(ordered, values, 'right')) / 2
  return places / max(len(values), 1)
