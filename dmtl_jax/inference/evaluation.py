"""Evaluation: every metric of every task on initial and final maps, over a whole split.

Scores are sums of per-image states (never averages of batches), so that batches, hosts and
devices change nothing; each image counts once.
"""

from collections.abc import Callable
import copy
import functools
import time

import jax
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.basics.processes import mapper
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline, transforms
from dmtl_jax.inference import gallery
from dmtl_jax.inference.steps import compiled_predict_step, make_predict_step
from dmtl_jax.metrics.base import merge
from dmtl_jax.metrics.delta_m import delta_m

VERSION = 2  # of what scores mean; 1: boundaries by the Berkeley protocol everywhere, depth as it came


class Evaluator:
  """Scores a model on one split; compile once, call for any weights.

  Args:
    source: the split, with all labels it has.
    mesh: of any number of devices; config.eval.batch is rounded up to a multiple of it.
    fast: boundary by a fixed tolerance instead of the full protocol (periodic evaluation).
    limit: evaluate the first `limit` images only; 0: all.

  Raises:
    UserError: config.eval.single_task lacks a task.
  """

  def __init__(self, model, config, source, mesh, fast: bool = False, limit: int = 0):
    self.tasks, self.source, self.mesh = source.tasks, source, mesh
    self.config = copy.deepcopy(config)
    self.config.eval.batch = -(-config.eval.batch // mesh.size) * mesh.size
    self.count = min(limit or len(source), len(source))
    protocol, tolerance = config.eval.protocol, config.eval.boundary_tolerance
    self.metrics = {task.name: task.scorer(protocol, tolerance, fast) for task in self.tasks}
    self._by_truth = protocol == 'pascal' and not fast
    if config.eval.single_task:  # a mistake shows now, not after the work
      delta_m({task.name: 1.0 for task in self.tasks}, dict(config.eval.single_task), self.tasks)
    self._warm = False
    self._predict = compiled_predict_step(model, self.config, self.tasks, mesh)
    self._predict_stages = jax.jit(make_predict_step(model, self.config, self.tasks, with_steps=True))

  def run(self, variables, each: Callable | None = None) -> tuple[dict, list[dict]]:
    """Evaluates; on several hosts, each its share of the images, and all get the result.

    Args:
      each: called as each(id, {task: final map}, region, size) for every image of this host, see
        `transforms.eval_transform`.

    Returns:
      {'final': {task: {metric: value}}, 'initial': {...}} (initial only for methods that have it)
      with 'per_class' {task: {class: IoU of the final maps}} and 'seconds_per_image' of prediction on all
      devices together; and a row of scores of each image, in the order of the source.
    """
    states, rows, seconds, batches = {}, {}, 0.0, 0
    workers = self.config.eval.workers  # the boundary protocol is slow
    with Progress('evaluating', self.count, 'img') as progress, mapper(workers, 'config.eval.workers') as map_images:
      for batch in self._batches():
        if not self._warm:  # compiling is no part of the time
          with progress.paused():
            self._predict_local(variables, batch)
          self._warm = True
        began = time.monotonic()
        predictions = self._predict_local(variables, batch)
        seconds, batches = seconds + time.monotonic() - began, batches + 1
        counted = np.flatnonzero(batch['valid'] & (batch['index'] < self.count)).tolist()
        work = [self._work(predictions, batch, i) for i in counted]
        for i, scored in zip(counted, map_images(_states, work)):
          states, index = _add(states, scored), int(batch['index'][i])
          rows[index] = {'id': self.source.ids[index]} | _row(scored, self.metrics)
          if each:
            maps = {name: m[i] for name, m in predictions['final'].items()}
            each(self.source.ids[index], maps, batch['region'][i], batch['size'][i])
        progress.update(min(self.config.eval.batch, self.count - progress.done))
    gathered = sharding.gather((states, rows))
    states = functools.reduce(_add, [s for s, _ in gathered])
    rows = dict(sorted(item for _, rows in gathered for item in rows.items()))
    scores = {
      stage: {name: self.metrics[name].compute(state) for name, state in tasks.items()}
      for stage, tasks in states.items()
    }
    scores['per_class'] = {
      task.name: self.metrics[task.name].per_class(states['final'][task.name]) for task in self.tasks if task.classes
    }
    return scores | {'seconds_per_image': seconds / (batches * self.config.eval.batch)}, list(rows.values())

  def _work(self, predictions: dict, batch: dict, i: int) -> tuple[dict, dict, dict]:
    """What `_states` takes of image i of a batch."""
    maps = {stage: {name: values[i] for name, values in of.items()} for stage, of in predictions.items()}
    seen = [task.name for n, task in enumerate(self.tasks) if batch['label_mask'][i, n]]
    labels: dict[str, tuple] = {name: (batch['labels'][name][i],) for name in seen}
    truths = self.source.truth(int(batch['index'][i])) if self._by_truth else {}
    for task in self.tasks:
      truth = truths.get(task.name)
      if truth is not None:  # the benchmark's own, of the image's own size
        cut, size = _inside(batch['region'][i]), truth.shape[:2]
        for of in maps.values():
          of[task.name] = task.resized(of[task.name][cut], size)
        label = transforms.nearest(batch['labels'][task.name][i][cut], size)
        labels[task.name] = (label, truth.astype(np.uint8)[..., None])
      elif task.name in truths:  # an image that it does not score
        labels.pop(task.name, None)
    return self.metrics, maps, labels

  def stages(self, variables, index: int) -> gallery.Example:
    """One image with its labels and every stage of its maps, without padding; runs on this host alone."""
    variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
    example = self.source[index]
    ready = transforms.eval_transform(self.config, self.tasks)(example)
    maps = self._predict_stages(variables, ready['image'][None], np.array([index], np.int32))
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
    for index in range(min(self.config.eval.panels, len(self.source))):
      example = self.stages(variables, index)
      yield example.id, gallery.panel(example, self.tasks)

  def _batches(self):
    """This host's batches; all hosts get the same number of them."""
    batches = pipeline.eval_batches(self.source, self.config, jax.process_index(), jax.process_count())
    for _, batch in zip(range(-(-self.count // self.config.eval.batch)), batches):
      yield batch

  def _predict_local(self, variables, batch):
    arrays = sharding.put_batch({'image': batch['image'], 'index': batch['index']}, self.mesh)
    return jax.tree.map(sharding.local_rows, self._predict(variables, arrays['image'], arrays['index']))


def _states(work: tuple[dict, dict, dict]) -> dict:
  """{stage: {task: state}} of one image; an unlabelled task has an empty state.

  Args:
    work: {task: metric}, {stage: {task: map}}, {task: (label, maybe truth)} of labelled tasks only.
  """
  metrics, predictions, labels = work
  return {
    stage: {
      name: metrics[name].image(values, *labels[name]) if name in labels else metrics[name].empty()
      for name, values in maps.items()
    }
    for stage, maps in predictions.items()
  }


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


def delta_to_single(scores: dict, config, tasks) -> float | None:
  """Delta_m in % of one stage of scores against those of config.eval.single_task; None where not given.

  Tasks of which the scores hold but the quick metric, which is another than the headline, are left out.
  """
  single = dict(config.eval.single_task)
  tasks = [task for task in tasks if task.metric in scores[task.name]]
  return delta_m(headline(scores, tasks), single, tasks) if single and tasks else None


def flat(scores: dict) -> dict[str, float]:
  """Scores as {'eval/final/semseg/mIoU': value} for the log."""
  stages = {stage: scores[stage] for stage in ('initial', 'final') if stage in scores}
  return {f'eval/{s}/{t}/{m}': v for s, tasks in stages.items() for t, ms in tasks.items() for m, v in ms.items()}
