"""Evaluation: every metric of every task on initial and final maps, over a whole split.

Scores are sums of per-image states (never averages of batches), so that batches, hosts and
devices change nothing; each image counts once. By config.eval.resolution they are taken at the network's
input, in batches, or at each image's own size, as --mode=predict predicts it.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import operator

import jax
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.processes import mapper
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline, transforms
from dmtl_jax.inference import gallery
from dmtl_jax.inference.pieces import cut_image, Piece, score, Tally
from dmtl_jax.inference.prediction import Predictor
from dmtl_jax.inference.steps import compiled_predict_step, make_predict_step
from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.tasks import values_by_task


def check(eval_config):
  """Raises UserError where config.eval.resolution cannot go with the protocol."""
  if eval_config.resolution == 'image' and eval_config.protocol == 'pascal':
    raise UserError(
      'config.eval.resolution=image: protocol pascal scores at sizes of its own; '
      'set --config.eval.resolution=input, or --config.eval.protocol=plain'
    )


def size_text(resolution: str, size: Sequence[int]) -> str:
  """At which size scores are taken, in words; `size` is that of the network's input."""
  return 'at the size of each image' if resolution == 'image' else f'at the network input, {size[0]}x{size[1]}'


class Evaluator:
  """Scores a model on one split; compile once, call for any weights.

  Args:
    source: the split, with all labels it has.
    mesh: of any number of devices.
    eval_config: config.eval; its batch is rounded up to a multiple of the devices.
    data_config: config.data, by which images are read and fitted into the network's input.
    seed: config.seed, of the noise.
    fast: boundary by a fixed tolerance instead of the full protocol, all at the network's input (periodic evaluation).
    limit: evaluate the first `limit` images only; 0: all.

  Attributes:
    batch: images per step, on all devices together.
    at_image_size: whether images are scored at their own sizes (config.eval.resolution), predicted as --mode=predict
      does it, noise included: that of index 0 for every image. Never if `fast`.

  Raises:
    UserError: config.eval.single_task lacks a task, or see `check`.
  """

  def __init__(self, model, source, mesh, eval_config, data_config, seed: int, fast: bool = False, limit: int = 0):
    check(eval_config)
    self.model, self.tasks, self.source, self.mesh = model, source.tasks, source, mesh
    self.eval_config, self.data_config, self.seed = eval_config, data_config, seed
    self.at_image_size = eval_config.resolution == 'image' and not fast
    self.batch = math.ceil(eval_config.batch / mesh.size) * mesh.size
    self.count = min(limit or len(source), len(source))
    protocol, tolerance = eval_config.protocol, eval_config.boundary_tolerance
    self.metrics = {task.name: task.scorer(protocol, tolerance, fast) for task in self.tasks}
    self._by_truth = protocol == 'pascal' and not fast
    if eval_config.single_task:  # a mistake shows now, not after the work
      single = values_by_task(eval_config.single_task, self.tasks)
      delta_m({task.name: 1.0 for task in self.tasks}, single, self.tasks)
    self._warm = False
    self._predictor: Predictor | None = None
    self._transform = transforms.eval_transform(data_config, eval_config.geometry, self.tasks)
    self._predict = compiled_predict_step(model, mesh, seed, eval_config.diffusion_steps)
    self._predict_stages = jax.jit(make_predict_step(model, seed, eval_config.diffusion_steps, with_steps=True))

  def run(self, variables, each: Callable | None = None) -> tuple[dict, list[dict]]:
    """Evaluates; on several hosts, each its share of the images, and all get the result.

    Args:
      each: called as each(id, {task: final map}, region, size) for every image of this host, see
        `transforms.eval_transform`.

    Returns:
      {'final': {task: {metric: value}}, 'initial': {...}} (initial only for methods that have it)
      with 'per_class' {task: {class: IoU of the final maps}}, 'seconds_per_image' of prediction on all
      devices together and, at the size of images, 'boundary_side' and 'boundary_shrunk', how many images have had
      boundaries scored at that side instead; and a row of scores of each image, in the order of the source.
    """
    totals, rows, tally = {}, {}, Tally()
    cut = self._pieces_at_image_size if self.at_image_size else self._pieces_at_input
    workers = self.eval_config.workers  # the boundary protocol is slow
    with Progress('evaluating', self.count, 'img') as progress, mapper(workers, 'config.eval.workers') as map_pieces:
      pieces = cut(variables, tally, progress, each)
      for index, scored in itertools.groupby(map_pieces(score, pieces), operator.itemgetter(0)):
        states = {}
        for _, stage, name, state in scored:
          of_stage = states.setdefault(stage, {})
          of_stage[name] = merge(of_stage[name], state) if name in of_stage else state
        totals = _add(totals, states)
        rows[index] = {'id': self.source.ids[index]} | _row(states, self.metrics)
        progress.update(min(jax.process_count(), self.count - progress.done))
    gathered = sharding.gather((totals, rows, tally))
    totals = functools.reduce(_add, [totals for totals, _, _ in gathered])
    rows = dict(sorted(item for _, rows, _ in gathered for item in rows.items()))
    tallies = [tally for _, _, tally in gathered]
    return self._scores(totals, tallies), list(rows.values())

  def _scores(self, totals: dict, tallies: Sequence[Tally]) -> dict:
    """Scores of the whole set, see `run`, from {stage: {task: state}} and what each host's pass took."""
    scores: dict = {
      stage: {name: self.metrics[name].compute(state) for name, state in tasks.items()}
      for stage, tasks in totals.items()
    }
    scores['per_class'] = {
      task.name: self.metrics[task.name].per_class(totals['final'][task.name]) for task in self.tasks if task.classes
    }
    scores['seconds_per_image'] = max(tally.seconds for tally in tallies) / tallies[0].images
    if self.at_image_size:
      scores['boundary_side'] = self.eval_config.boundary_side
      scores['boundary_shrunk'] = sum(tally.shrunk for tally in tallies)
    return scores

  def _pieces_at_input(self, variables, tally: Tally, progress: Progress, each: Callable | None) -> Iterator[Piece]:
    """The pieces of this host's images at the network's input, predicted batch by batch."""
    for batch in self._batches():
      if not self._warm:  # compiling is no part of the time
        with progress.paused():
          self._predict_local(variables, batch)
        self._warm = True
      with tally.timed():
        predictions = self._predict_local(variables, batch)
      tally.images += self.batch
      for i in np.flatnonzero(batch['valid'] & (batch['index'] < self.count)).tolist():
        yield from self._of_batch(predictions, batch, i)
        if each:
          maps = {name: m[i] for name, m in predictions['final'].items()}
          each(self.source.ids[int(batch['index'][i])], maps, batch['region'][i], batch['size'][i])

  def _of_batch(self, predictions: dict, batch: dict, i: int) -> Iterator[Piece]:
    """The pieces of image i of a batch."""
    index = int(batch['index'][i])
    truths = self.source.truth(index) if self._by_truth else {}
    for n, task in enumerate(self.tasks):
      label, truth = batch['labels'][task.name][i], truths.get(task.name)
      scored = truth is not None or (batch['label_mask'][i, n] and task.name not in truths)
      for stage, maps in predictions.items():
        piece = Piece(index, stage, task.name, self.metrics[task.name])
        if not scored:
          yield piece
        elif truth is None:
          yield dataclasses.replace(piece, prediction=maps[task.name][i], labels=(label,))
        else:  # the benchmark's own, of the image's own size
          cut, size = _inside(batch['region'][i]), truth.shape[:2]
          labels = task.resize_label(label[cut], size), truth.astype(np.uint8)[..., None]
          yield dataclasses.replace(piece, prediction=task.resized(maps[task.name][i][cut], size), labels=labels)

  def _pieces_at_image_size(
    self, variables, tally: Tally, progress: Progress, each: Callable | None
  ) -> Iterator[Piece]:
    """The pieces of this host's images at their own sizes, predicted one by one, on one of its devices."""
    variables, side, tally.images = _local(variables), self.eval_config.boundary_side, self.count
    if self._predictor is None:  # compiled once
      self._predictor = Predictor(self.model, variables, self.data_config.size, self.eval_config, self.seed)
    predictor, self._predictor.variables = self._predictor, variables
    for example in pipeline.eval_examples(self.source, self.count, jax.process_index(), jax.process_count()):
      image = example['image']
      if not self._warm:  # compiling is no part of the time
        with progress.paused():
          collections.deque(cut_image(predictor.raw(image), example, self.metrics, side, Tally()), maxlen=0)
        self._warm = True
      with tally.timed():
        raw = predictor.raw(image)
      yield from cut_image(raw, example, self.metrics, side, tally)
      if each:
        size = image.shape[:2]
        each(self.source.ids[example['index']], raw.predictions('final', size), (0, 0, *size), size)

  def stages(self, variables, index: int) -> gallery.Example:
    """One image with its labels and every stage of its maps, without padding; runs on this host alone."""
    example = self.source[index]
    ready = self._transform(example)
    noise = 0 if self.at_image_size else index  # the noise of what was scored
    maps = self._predict_stages(_local(variables), ready['image'][None], np.array([noise], np.int32))
    inside = _inside(ready['region'])
    cut = lambda x: np.asarray(x)[inside]
    return gallery.Example(
      self.source.ids[index],
      cut(transforms.to_uint8(ready['image'])),
      {name: cut(ready['labels'][name]) for name in example['labels']},
      jax.tree.map(lambda x: cut(x[0]), maps),
    )

  def panels(self, variables):
    """Yields (id, picture) of the first config.eval.panels images: input, labels, initial to final maps."""
    for index in range(min(self.eval_config.panels, len(self.source))):
      example = self.stages(variables, index)
      yield example.id, gallery.panel(example, self.tasks)

  def _batches(self):
    """This host's batches; all hosts get the same number of them."""
    batches = pipeline.eval_batches(
      self.source, self.data_config, self.batch, self.eval_config.geometry, jax.process_index(), jax.process_count()
    )
    yield from itertools.islice(batches, math.ceil(self.count / self.batch))

  def _predict_local(self, variables, batch):
    arrays = sharding.put_batch({'image': batch['image'], 'index': batch['index']}, self.mesh)
    return jax.tree.map(sharding.local_rows, self._predict(variables, arrays['image'], arrays['index']))


def _local(variables):
  """Variables that every device has, as arrays of one device of this host."""
  return jax.tree.map(lambda x: x.addressable_data(0), variables)


def _inside(region) -> tuple[slice, slice]:
  """Where an image is in what it was padded to; see `transforms.eval_transform`."""
  top, left, height, width = region
  return slice(top, top + height), slice(left, left + width)


def _add(states: dict, more: dict) -> dict:
  """The sum of two {stage: {task: state}}, either of them {}."""
  if not states or not more:
    return states or more
  return {stage: {name: merge(states[stage][name], s) for name, s in tasks.items()} for stage, tasks in more.items()}


def _row(states: dict, metrics) -> dict[str, float]:
  """One image's scores as {'task/metric stage': value}."""
  return {
    f'{name}/{metric} {stage}': value
    for stage, tasks in states.items()
    for name, state in tasks.items()
    for metric, value in metrics[name].compute_one(state).items()
    if not np.isnan(value)
  }


def headline(scores: dict, tasks) -> dict[str, float]:
  """{task: its headline metric} of one stage of scores; its quick metric where that stands in."""
  return {task.name: scores[task.name].get(task.metric, scores[task.name].get(task.quick_metric)) for task in tasks}


def delta_to_single(scores: dict, single_task: Mapping[str, float], tasks) -> float | None:
  """Delta_m in % of one stage of scores against those of config.eval.single_task; None where it is empty.

  Tasks of which the scores hold but the quick metric, which is another than the headline, are left out.
  """
  single = values_by_task(single_task, tasks)
  tasks = [task for task in tasks if task.metric in scores[task.name]]
  return delta_m(headline(scores, tasks), single, tasks) if single and tasks else None


def flat(scores: dict) -> dict[str, float]:
  """Scores as {'eval/final/semseg/mIoU': value} for the log."""
  stages = {stage: scores[stage] for stage in ('initial', 'final') if stage in scores}
  return {f'eval/{s}/{t}/{m}': v for s, tasks in stages.items() for t, ms in tasks.items() for m, v in ms.items()}
