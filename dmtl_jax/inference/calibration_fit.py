"""Fits a `Calibration` on pixels of the validation images that the final evaluation collects as it scores them.

The temperature T and biases b of a task minimise the mean negative log-likelihood of the labels under logits / T + b,
plus a weak pull to the raw maps (`INDEPENDENT`), without which the bias of a class that no label shows would fall
without end. In 1 / T and b the problem is convex.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from dmtl_jax.inference import tiles
from dmtl_jax.inference.calibration import (
  Bin,
  BINS,
  Calibration,
  MAX_BIAS,
  MAX_TEMPERATURE,
  Reliability,
  TaskCalibration,
)
from dmtl_jax.metrics.base import OperatingPoint
from dmtl_jax.tasks import Task

PIXELS = 500  # drawn per image and task
MOST_VALUES = 2**23  # logits of a task in all; with more images, fewer pixels are drawn per image
# Neighbouring pixels are wrong together, so that an image tells as much as about so many independent pixels. Beside
# them stands a normal prior on 1 / T and b, of deviation 1 around the raw maps. On frames of CamVid's validation drive
# that the fit has not seen, 10 gives a lower negative log-likelihood of segmentation than 100, 3 or 1, and no more than
# 1% above the lowest of boundary and saliency.
INDEPENDENT = 10


class Sample(NamedTuple):
  """Pixels of one image and task: raw logits [k, C_t] float32, labels [k] uint8, and the image's labelled share."""

  logits: np.ndarray
  labels: np.ndarray
  share: float


class Evidence:
  """What an evaluation collects for the fit: `samples` {task: {image: Sample}}, and operating points of binary tasks.

  Args:
    tasks: those without probabilities are left out.
    images: number of images in the evaluation, on all hosts together.
    seed: which pixels are drawn from an image depends only on this and the image's index.
  """

  def __init__(self, tasks: Sequence[Task], images: int, seed: int):
    self.tasks = [task for task in tasks if task.has_probabilities]
    self.seed = seed
    self.samples: dict[str, dict[int, Sample]] = {task.name: {} for task in self.tasks}
    self.operating_points: dict[str, OperatingPoint | None] = {}
    self._count = {task.name: int(np.clip(MOST_VALUES // (images * task.channels), 1, PIXELS)) for task in self.tasks}

  def add(
    self,
    index: int,
    maps: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    extent: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
  ):
    """Draws pixels, with replacement, from the labelled ones of an image.

    Args:
      index: of the image.
      maps: {task: raw map [h, w, C_t]}.
      labels: {task: [H, W, 1]}.
      extent, origin: which cells of the maps the labels cover, see `tiles.enlarge`.
    """
    for task in self.tasks:
      label = labels.get(task.name)
      if label is None:
        continue
      valid = np.flatnonzero(task.valid(label))
      if len(valid):
        rng = np.random.default_rng((self.seed, index))
        pixels = valid[rng.integers(len(valid), size=self._count[task.name])]
        size = label.shape[:2]
        rows, columns = np.divmod(pixels, size[1])
        logits = tiles.values_at(maps[task.name], extent, size, rows, columns, origin)
        share = len(valid) / (size[0] * size[1])
        self.samples[task.name][index] = Sample(logits, label.reshape(-1)[pixels], share)

  def merge(self, hosts: Sequence[dict[str, dict[int, Sample]]]):
    """Takes the samples of all hosts, in the order of the images."""
    for name in self.samples:
      self.samples[name] = dict(sorted(item for samples in hosts for item in samples[name].items()))


class Pixels(NamedTuple):
  """Pixels to fit on.

  Attributes:
    logits: [N, K] float64, with K = 2 for a binary task.
    possible: [N, K] bool, which classes the label leaves possible: one for most labels.
    weights: [N], of sum 1.
    images: how many they were drawn from.
  """

  logits: np.ndarray
  possible: np.ndarray
  weights: np.ndarray
  images: int


class Parameters(NamedTuple):
  """1 / T and the biases [K]."""

  scale: float
  bias: np.ndarray


IDENTITY = Parameters(1.0, np.zeros(1))


def fit(evidence: Mapping[str, Evidence], step: int, diffusion_steps: int, initial: Sequence[str] = ()) -> Calibration:
  """Fits every task that has labelled pixels, for a checkpoint evaluated with `diffusion_steps` denoising steps.

  A task keeps its raw probabilities if a fit on half of the images makes those of the other half less likely, or if it
  has only one image.

  Args:
    evidence: of the 'final' and the 'initial' maps.
    initial: names of the tasks that are to be predicted by their initial maps.
  """
  tasks = {}
  for task in evidence['final'].tasks:
    own = evidence['initial' if task.name in initial else 'final']
    if samples := list(own.samples[task.name].values()):
      tasks[task.name] = _fit_task(task, samples, own.operating_points.get(task.name))
  return Calibration(step, diffusion_steps, tasks, tuple(initial))


def _fit_task(task: Task, samples: Sequence[Sample], point: OperatingPoint | None) -> TaskCalibration:
  pixels = join(task, samples)
  parameters = minimize(pixels)
  halves = [samples[: len(samples) // 2], samples[len(samples) // 2 :]]  # as neighbouring frames are alike
  held_out = all(halves)
  if held_out:
    first, second = (join(task, half) for half in halves)
    parts = [(first, minimize(second)), (second, minimize(first))]
  else:
    parts = [(pixels, parameters)]
  raw = reliability(task, [(part, IDENTITY) for part, _ in parts])
  calibrated = reliability(task, parts)
  if not held_out or calibrated.nll >= raw.nll:  # what one half teaches does not hold for the other
    parameters = Parameters(1.0, np.zeros(pixels.logits.shape[1]))
    calibrated = raw
  bias = parameters.bias if task.classes else parameters.bias[1:] - parameters.bias[:1]
  threshold = None if point is None else special.expit(parameters.scale * _logit(point.threshold) + bias[0])
  return TaskCalibration(
    kind=task.kind,
    temperature=float(1 / parameters.scale),
    bias=tuple(map(float, bias)),
    threshold=None if threshold is None else float(threshold),
    f=None if point is None else point.f,
    f_at_half=None if point is None else point.f_at_half,
    pixels=len(pixels.weights),
    images=len(samples),
    held_out=held_out,
    raw=raw,
    calibrated=calibrated,
  )


def join(task: Task, samples: Sequence[Sample]) -> Pixels:
  """The pixels of several images, each of which weighs as much as the share of it that is labelled."""
  logits = np.concatenate([sample.logits for sample in samples]).astype(np.float64)
  if logits.shape[1] == 1:  # one logit is that of class 1 against a logit of 0
    logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
  labels = np.concatenate([sample.labels for sample in samples])
  possible = task.possible_classes if task.classes else np.eye(2, dtype=bool)
  weights = np.concatenate([np.full(len(sample.labels), sample.share / len(sample.labels)) for sample in samples])
  return Pixels(logits, possible[labels], weights / weights.sum(), len(samples))


def minimize(pixels: Pixels) -> Parameters:
  """The parameters of the least regularised negative log-likelihood, by L-BFGS-B in float64."""
  classes = pixels.logits.shape[1]
  start = np.concatenate([[1.0], np.zeros(classes)])
  prior = 1 / (INDEPENDENT * pixels.images)

  def objective(values):
    probabilities, nll, target = _likelihood(pixels, Parameters(values[0], values[1:]))
    residual = pixels.weights[:, None] * (probabilities - target)
    gradient = np.concatenate([[(residual * pixels.logits).sum()], residual.sum(0)])
    away = values - start
    return nll + prior * (away @ away) / 2, gradient + prior * away

  bounds = [(1 / MAX_TEMPERATURE, MAX_TEMPERATURE)] + [(-MAX_BIAS / 2, MAX_BIAS / 2)] * classes
  options = {'maxiter': 500, 'ftol': 1e-12, 'gtol': 1e-8}
  found = optimize.minimize(objective, start, jac=True, method='L-BFGS-B', bounds=bounds, options=options).x
  return Parameters(float(found[0]), found[1:])


def _likelihood(pixels: Pixels, parameters: Parameters) -> tuple[np.ndarray, float, np.ndarray]:
  """Probabilities [N, K], the mean negative log-likelihood, and the probabilities given the possible classes [N, K]."""
  logits = parameters.scale * pixels.logits + parameters.bias
  exponentials = np.exp(logits - logits.max(1, keepdims=True))
  probabilities = exponentials / exponentials.sum(1, keepdims=True)
  log_all = special.logsumexp(logits, axis=1)
  log_possible = special.logsumexp(np.where(pixels.possible, logits, -np.inf), axis=1)
  target = np.where(pixels.possible, np.exp(logits - log_possible[:, None]), 0)
  return probabilities, float(pixels.weights @ (log_all - log_possible)), target


def reliability(task: Task, parts: Sequence[tuple[Pixels, Parameters]]) -> Reliability:
  """Measures probabilities on pixels, each part under its own parameters; parts weigh as their numbers of images.

  Confidence is the probability of the predicted class, that of the highest raw logit; of a binary task, the probability
  of the positive class. Pixels with several possible classes do not count, except in the likelihood.
  """
  confidences, hits, weights, nll = [], [], [], 0.0
  total = sum(part.images for part, _ in parts)
  for pixels, parameters in parts:
    probabilities, part_nll, _ = _likelihood(pixels, parameters)
    share = pixels.images / total
    nll += share * part_nll
    chosen = pixels.logits.argmax(1) if task.classes else np.ones(len(pixels.logits), int)
    known = pixels.possible.sum(1) == 1
    confidences.append(np.take_along_axis(probabilities, chosen[:, None], 1)[known, 0])
    hits.append(np.take_along_axis(pixels.possible, chosen[:, None], 1)[known, 0])
    weights.append(share * pixels.weights[known])
  bins = bin_by_confidence(np.concatenate(confidences), np.concatenate(hits), np.concatenate(weights))
  return Reliability(100 * sum(b.share * abs(b.confidence - b.accuracy) for b in bins), max(nll, 0.0), tuple(bins))


def bin_by_confidence(confidence: np.ndarray, hit: np.ndarray, weight: np.ndarray) -> list[Bin]:
  """The bins of a reliability diagram that hold pixels; arrays are [N], `weight` need not sum to 1."""
  places = np.minimum((confidence * BINS).astype(int), BINS - 1)
  total, confidences, hits = (
    np.bincount(places, values, BINS) for values in (weight, weight * confidence, weight * hit)
  )
  return [
    Bin(float(confidences[k] / total[k]), float(hits[k] / total[k]), float(total[k] / total.sum()))
    for k in np.flatnonzero(total)
  ]


def _logit(probability: float) -> float:
  """The logit, of 1 as of the largest float32 below it."""
  return float(special.logit(min(probability, 1 - 2.0**-24)))


def as_text(calibration: Calibration, tasks: Sequence[Task]) -> str:
  """A line per task with probabilities: what was fitted, and what it changed."""
  lines = []
  for task in [task for task in tasks if task.has_probabilities]:
    fitted = calibration.tasks.get(task.name)
    if fitted is None:
      lines.append(f'{task.name:<12}not calibrated: no validation image is labelled for it')
      continue
    if fitted.calibrated == fitted.raw:
      why = 'no fit on half of the images helps the other half' if fitted.held_out else 'one image is too few for a fit'
      text = f'calibration error {fitted.raw.ece:.1f}%, kept: {why}'
    else:
      text = (
        f'temperature {fitted.temperature:.3g}, calibration error {fitted.raw.ece:.1f}% -> {fitted.calibrated.ece:.1f}%'
      )
    lines.append(f'{task.name:<12}{text}')
    if fitted.threshold is not None:
      lines[-1] += (
        f', masks from {fitted.threshold:.3g} on: F {fitted.f:.1f} ({fitted.f_at_half:.1f} uncalibrated at 0.5)'
      )
  return '\n'.join(lines)
