"""What labels bought by rankings teach, against labels bought at random as by --mode=suggest, on equal terms.

  python -m benchmarks.suggest --out=FOLDER --data=scenes [--seeds=0,1,2] [--rankings=random,spread,uncertain]
  python -m benchmarks.suggest --out=FOLDER --data=camvid --path=CAMVID --weights=resnet18.safetensors
  python -m benchmarks.suggest --out=FOLDER --table

A seed starts with the labels of 30% of the one-label set, the same share of every task. At each stage a network is
trained from scratch on the images labelled so far, and scored on validation images with all their labels. Then each
ranking buys a label for another 10% of the images: images without a label, one label each, as many of each task as
possible. FOLDER/DATA-SEED-RANKING-STAGE.json holds the scores of a training, .labels.json the labels that it saw, .npz
what was measured. The same command goes on with what is missing.

  random     images drawn at random
  spread     the less an image's features look like those of images with the label, the likelier it is drawn
  uncertain  images that are near many uncertain ones

Features are the means of the encoder's last maps.
"""

import dataclasses
import math
import pathlib
import statistics
import time
from typing import NamedTuple

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from dmtl_jax.api import get_config
from dmtl_jax.basics import compilation, files
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.progress import say
from dmtl_jax.data import label_settings, pipeline
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference import ranking
from dmtl_jax.inference.evaluation import Evaluator, headline
from dmtl_jax.inference.prediction import Predictor
from dmtl_jax.models import inputs
from dmtl_jax.models.parts.encoder import ResNet
from dmtl_jax.report.table import markdown_table
from dmtl_jax.runs import pretrained
from dmtl_jax.tasks import KINDS
from dmtl_jax.training import setup

START, STEP, STAGES = 0.3, 0.1, 3
CONFIGS = {
  'scenes': (
    'scenes:method=prediction',
    {'data.size': (64, 96), 'data.train_count': 300, 'data.val_count': 100, 'train.steps': 300},
  ),
  'camvid': (
    'folder:method=prediction',
    {'data.size': (96, 128), 'model.token_stride': 1, 'model.width': 64, 'train.steps': 150},
  ),
}
_OUT = flags.DEFINE_string('out', None, 'Folder of the results.', required=True)
_DATA = flags.DEFINE_enum('data', 'scenes', list(CONFIGS), 'What to train on.')
_PATH = flags.DEFINE_string('path', '', 'camvid: folder of the photographs, laid out for configs/folder.py.')
_WEIGHTS = flags.DEFINE_string('weights', '', 'camvid: ImageNet weights of the encoder.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of weights, order and labels.')
_STAGES = flags.DEFINE_integer('stages', STAGES, 'How often labels are bought.')
_RANKINGS = flags.DEFINE_list('rankings', ['random', 'spread', 'uncertain'], 'Which rankings buy them.')
_TABLE = flags.DEFINE_bool('table', False, 'Only print the tables of what is there.')


def main(_):
  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()
  compilation.collect_rarely()
  out = pathlib.Path(_OUT.value)
  if _TABLE.value:
    say(tables(out))
    return
  for seed in map(int, _SEEDS.value):
    study = Study(out, _DATA.value, seed)
    study.make('start', 0)
    for stage in range(1, _STAGES.value + 1):
      for name in _RANKINGS.value:
        study.make(name, stage)


class Study:
  """The trainings of one data set and seed."""

  def __init__(self, out: pathlib.Path, data: str, seed: int):
    string, fields = CONFIGS[data]
    fields = fields | {'seed': seed, 'data.threads': 1}
    fields |= {'data.path': _PATH.value, 'init_from': _WEIGHTS.value} if data == 'camvid' else {}
    fields |= {'data.dir': str(out / 'data')} if data == 'scenes' else {}
    self.config = get_config(string, **fields)
    self.whole = source_lib.open_source(self.config.data, 'train')
    self.val = source_lib.open_source(self.config.data, 'val')
    self.seed = seed
    self.prefix = str(out / f'{data}-{seed}')

  def path(self, name: str, stage: int, suffix: str) -> pathlib.Path:
    return pathlib.Path(f'{self.prefix}-{name if stage else "start"}-{stage}{suffix}')

  def make(self, name: str, stage: int):
    """Trains, scores and measures unless that was done."""
    path = self.path(name, stage, '.json')
    if path.exists():
      return
    begin = time.monotonic()
    labelled = self.labels(name, stage)
    source = dataclasses.replace(self.whole, label_mask=labelled)
    training, variables = train(self.config, source.subset(np.flatnonzero(labelled.any(1)).tolist()), self.val)
    config = self.config
    evaluator = Evaluator(training.model, self.val, training.mesh, config.eval, config.data, self.seed, quick=True)
    scores = evaluator.run(variables).scores
    result = {
      'labels': int(labelled.sum()),
      'scores': headline(scores['final'], self.whole.tasks),
      'initial': headline(scores['initial'], self.whole.tasks),
      'seconds': time.monotonic() - begin,
    }
    if stage < STAGES:
      predictor = Predictor(training.model, variables, config.data.size, config.eval, self.seed)
      unlabelled = dataclasses.replace(self.whole, label_mask=np.zeros_like(labelled))
      uncertainty = ranking.measure(predictor, unlabelled, config.data)
      features = measure_features(predictor, unlabelled, config.data)
      np.savez(self.path(name, stage, '.npz'), features=features, uncertainty=uncertainty)
    write_json(path, result)
    say(f'{path.stem}: {result}')

  def labels(self, name: str, stage: int) -> np.ndarray:
    """The labels [N, T] that a stage sees: those of the stage before, and those bought after it."""
    path = self.path(name, stage, '.labels.json')
    if path.exists():
      return label_settings.load_mapping(path, self.whole.ids, self.whole.tasks)
    if stage:
      mask = self.labels(name, stage - 1)
      measured = Measured(**np.load(self.path(name, stage - 1, '.npz')))
      for image, task in buy(name, measured, mask, round(STEP * len(mask)), (self.seed, stage)):
        mask[image, task] = True
    else:
      mask = start_mask(self.whole, self.seed)
    label_settings.save_mapping(path, self.whole.ids, self.whole.tasks, mask)
    return mask


def start_mask(whole, seed: int) -> np.ndarray:
  """`START` of the one-label set, the same share of every task."""
  one = label_settings.draw_one(whole.ids, whole.label_mask, seed)
  mask = np.zeros_like(one)
  rng = np.random.default_rng(seed)
  for t in range(one.shape[1]):
    images = rng.permutation(np.flatnonzero(one[:, t]))
    mask[images[: round(START * len(images))], t] = True
  return mask


class Measured(NamedTuple):
  """Features [N, F] and uncertainty [N, T] of N images."""

  features: np.ndarray
  uncertainty: np.ndarray


def measure_features(predictor, source, data_config) -> np.ndarray:
  """Means [N, F] of the encoder's last maps of all images of a source, without padding."""
  features = []

  @jax.jit
  def encode(variables, images, region):
    inside = inputs.inside(region, images.shape[1:3]).astype(jnp.float32)
    images = inputs.normalize_padded(images, region)
    index = jnp.zeros(len(images), jnp.int32)
    _, state = predictor.model.apply(
      variables,
      images,
      capture_intermediates=lambda module, _: isinstance(module, ResNet),
      mutable=['intermediates'],
      **inputs.model_inputs(predictor.model, images, jax.random.key(0), len(predictor.tasks), None, index),
    )
    (stages,) = jax.tree.leaves(state['intermediates'], is_leaf=lambda x: isinstance(x, list))
    return ranking.mean_inside(stages[-1].astype(jnp.float32), inside)

  for batch in pipeline.eval_batches(source, data_config, ranking.BATCH, predictor.geometry):
    means = encode(predictor.variables, batch['image'], batch['region'])
    features.append(jax.device_get(means)[batch['valid']])
  return np.concatenate(features)


def buy(name: str, measured: Measured, labelled, count: int, seed) -> list[tuple[int, int]]:
  """(image, task) of the labels that a ranking buys, of images without any label."""
  candidates = np.repeat(~labelled.any(1, keepdims=True), labelled.shape[1], axis=1)
  rankings = {'random': buy_at_random, 'spread': spread, 'uncertain': cover_uncertain}
  return rankings[name](measured, labelled, candidates, count, seed)


def spread(measured, labelled, candidates, count: int, seed) -> list[tuple[int, int]]:
  """Images drawn with a probability proportional to the squared distance from the nearest one with the label or bought.

  As k-means++ draws its first centres (Arthur and Vassilvitskii 2007), for the task with the fewest labels.
  """
  rng = np.random.default_rng(seed)
  features = standardize(measured.features)
  distance = distance_to_labelled(features, labelled)
  candidates = candidates.copy()
  counts = labelled.sum(0)
  pairs = []
  for _ in range(count):
    task = int(np.argmin(counts))
    rows = np.flatnonzero(candidates[:, task])
    weights = np.square(distance[rows, task]) + 1e-12  # where all are 0, they are equally likely
    image = int(rng.choice(rows, p=weights / weights.sum()))
    pairs.append((image, task))
    candidates[image] = False
    counts[task] += 1
    distance = np.minimum(distance, cdist(features, features[image : image + 1]))
  return pairs


def cover_uncertain(measured, labelled, candidates, count: int, seed) -> list[tuple[int, int]]:
  """For the task with the fewest labels, the image that brings images closest to a labelled one (facility location).

  Images weigh by the rank of their uncertainty; an image bought for any task counts as labelled.
  """
  features = standardize(measured.features)
  apart = cdist(features, features)
  nearest = distance_to_labelled(features, labelled)
  weights = np.stack([ranking.share_smaller(values) for values in measured.uncertainty.T])
  candidates = candidates.copy()
  counts = labelled.sum(0)
  pairs = []
  for _ in range(count):
    task = int(np.argmin(counts))
    gains = weights[task] @ np.maximum(nearest[:, task, None] - apart, 0)
    image = int(np.argmax(np.where(candidates[:, task], gains, -1)))
    pairs.append((image, task))
    candidates[image] = False
    counts[task] += 1
    nearest = np.minimum(nearest, apart[:, image, None])
  return pairs


def buy_at_random(measured, labelled, candidates, count: int, seed) -> list[tuple[int, int]]:
  """Random images without a label, one label of each, for the task that has the fewest."""
  rng = np.random.default_rng(seed)
  images = rng.permutation(np.flatnonzero(candidates.any(1)))[:count]
  counts = labelled.sum(0)
  pairs = []
  for image in images.tolist():
    task = int(np.argmin(counts))
    pairs.append((image, task))
    counts[task] += 1
  return pairs


def standardize(features: np.ndarray) -> np.ndarray:
  """Features [N, F] of equal deviation, or 0 where they never vary, at distances of at most 1."""
  deviation = features.std(0)
  varies = deviation > 1e-6 * deviation.max(initial=0)
  scaled = (features - features.mean(0)) / np.where(varies, deviation, np.inf)
  return scaled / max(2 * np.sqrt(np.square(scaled).sum(1).max(initial=0)), 1e-30)


def distance_to_labelled(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
  """Distance [N, T] of each image from the nearest one that has a label of the task, at most 1, also where none has."""
  apart = cdist(features, features)
  return np.stack([apart[:, rows].min(1, initial=1) for rows in labelled.T], axis=1)


def train(config, source, val):
  """Trains from the seed's weights, or config.init_from's; returns the training and its variables."""
  training = setup.build(config, source, val)
  state = training.init(jax.random.key(config.seed))
  if config.init_from:
    variables = pretrained.load(config.init_from, jax.device_get(state.variables), source.tasks)
    variables = jax.device_put(variables, training.shardings.variables)
    state = state.replace(params=variables['params'], batch_stats=variables['batch_stats'])
  for step in range(1, training.steps + 1):
    state, _ = training.update(state, training.on_devices(next(training.batches)), step)
  training.batches.close()
  return training, jax.block_until_ready(state.variables)


def tables(out: pathlib.Path) -> str:
  """A Markdown table per data set: Delta_m against the seed's start by labels bought, mean and standard error."""
  return '\n\n'.join(f'{data}\n\n{table(out, data)}' for data in CONFIGS if any(out.glob(f'{data}-*-start-0.json')))


def table(out: pathlib.Path, data: str) -> str:
  """Delta_m of each ranking by stage; last, how much more than at random, by seed the mean over its stages."""
  gains: dict = {}
  for path in sorted(out.glob(f'{data}-*-[1-9].json')):
    _, seed, name, stage = path.stem.split('-')
    start = files.read_json(out / f'{data}-{seed}-start-0.json')['scores']
    gains.setdefault(name, {})[int(seed), int(stage)] = gain(files.read_json(path)['scores'], start)
  stages = sorted({stage for by_run in gains.values() for _, stage in by_run})
  rows = []
  for name, by_run in gains.items():
    cells = [mean_and_error([value for (_, s), value in by_run.items() if s == stage]) for stage in stages]
    more: dict = {}
    for (seed, stage), value in by_run.items():
      if (seed, stage) in gains.get('random', {}):
        more.setdefault(seed, []).append(value - gains['random'][seed, stage])
    rows.append(
      [name, *cells, '' if name == 'random' else mean_and_error([statistics.fmean(v) for v in more.values()])]
    )
  return markdown_table(['labels', *(f'{START + STEP * stage:.0%}' for stage in stages), 'more than random'], rows)


def gain(scores: dict[str, float], start: dict[str, float]) -> float:
  """Delta_m in % against the scores of the start."""
  signs = {name: -1 if KINDS[name].metric in KINDS[name].lower_metrics else 1 for name in start}
  return 100 * statistics.fmean(signs[name] * (scores[name] / start[name] - 1) for name in start)


def mean_and_error(values: list[float]) -> str:
  """'1.23 ± 0.45 (3)': the mean, its standard error and the number of values."""
  error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
  return f'{statistics.fmean(values):+.2f} ± {error:.2f} ({len(values)})' if values else '-'


if __name__ == '__main__':
  app.run(main)
