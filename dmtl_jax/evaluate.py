"""Evaluation: every metric of every task on initial and final maps, over a whole split.

Scores are sums of per-image states (never averages of batches), so that batches, hosts and
devices change nothing; each image counts once.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import multiprocessing
import pathlib
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from dmtl_jax import metrics, sharding, visualize, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import pipeline, source as source_lib, transforms
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.models import build_model
from dmtl_jax.progress import Progress
from dmtl_jax.state import init_variables
from dmtl_jax.steps import make_predict_step
from dmtl_jax.workdir import say


class Evaluator:
  """Scores a model on one split; compile once, call for any weights.

  Args:
    source: the split, with all labels it has.
    fast: boundary by a fixed tolerance instead of the full protocol (periodic evaluation).
    limit: evaluate the first `limit` images only; 0: all.
  """

  def __init__(self, model, config, source, mesh, fast: bool = False, limit: int = 0):
    self.tasks, self.source, self.mesh, self.config = source.tasks, source, mesh, config
    self.count = min(limit or len(source), len(source))
    self.metrics = {
        task.name: metrics.build(task, config.eval.protocol, config.eval.boundary_tolerance, fast) for task in self.tasks
    }
    split = sharding.by_image(mesh)
    self._predict = jax.jit(
        make_predict_step(model, config, self.tasks),
        in_shardings=(sharding.replicated(mesh), split, split),
        out_shardings=split,
    )
    self._predict_stages = jax.jit(make_predict_step(model, config, self.tasks, with_steps=True))

  def run(self, variables) -> tuple[dict, list[dict]]:
    """Evaluates.

    Returns:
      {'final': {task: {metric: value}}, 'initial': {...}} (initial only for methods that
      have it) with 'seconds_per_image' of prediction, and this host's rows of per-image scores.
    """
    states, rows, seconds, images = {}, [], 0.0, 0
    with Progress('evaluating', self.count, 'img') as progress, self._mapper() as map_images:
      for batch in self._batches():
        began = time.monotonic()
        predictions = self._predict_local(variables, batch)
        if images:  # the first batch compiles
          seconds += time.monotonic() - began
        images += len(batch['valid'])
        shown = np.flatnonzero(batch['valid'])
        work = [_Scored.of(self.tasks, self.metrics, predictions, batch, i) for i in shown]
        for i, scored in zip(shown, map_images(_Scored.states, work)):
          states = _add(states, scored)
          rows.append({'id': self.source.ids[int(batch['index'][i])]} | _row(scored, self.metrics))
        progress.update(len(shown) * jax.process_count())
    states = _merge_hosts(states)
    scores = {
        stage: {name: self.metrics[name].compute(state) for name, state in tasks.items()} for stage, tasks in states.items()
    }
    timed = images - len(batch['valid'])
    return scores | {'seconds_per_image': seconds / timed if timed else None}, rows

  @contextlib.contextmanager
  def _mapper(self):
    """`map`, over config.eval.workers processes where there are any (the boundary protocol is slow)."""
    if not self.config.eval.workers:
      yield map
      return
    context = multiprocessing.get_context('spawn')  # a fork of a process that runs jax can hang
    with concurrent.futures.ProcessPoolExecutor(self.config.eval.workers, mp_context=context) as pool:
      yield pool.map

  def panels(self, variables):
    """Yields (id, picture) of the first config.eval.panels images: input, labels, initial to final maps."""
    variables = jax.tree.map(lambda x: x.addressable_data(0), variables)  # one host draws alone
    transform = transforms.eval_transform(self.config.data, self.tasks)
    for index in range(min(self.config.eval.panels, len(self.source))):
      example = self.source[index]
      ready = transform(example)
      stages = self._predict_stages(variables, ready['image'][None], np.array([index], np.int32))
      stages = jax.tree.map(lambda maps: np.asarray(maps[0]), stages)
      rows = panel_rows(stages, example['labels'] and ready['labels'], self.tasks)
      yield self.source.ids[index], visualize.panel(transforms.to_uint8(ready['image']), self.tasks, rows)

  def _batches(self):
    left = self.count
    for batch in pipeline.eval_batches(self.source, self.config, jax.process_index(), jax.process_count()):
      if left <= 0:
        return
      yield batch
      left -= len(batch['valid']) * jax.process_count()

  def _predict_local(self, variables, batch):
    arrays = sharding.put_batch({'image': batch['image'], 'index': batch['index']}, self.mesh)
    return jax.tree.map(sharding.local_rows, self._predict(variables, arrays['image'], arrays['index']))


@dataclasses.dataclass
class _Scored:
  """One image's predictions and labels, on their way to its metric states."""

  metrics: dict  # task: metric
  predictions: dict  # stage: task: map
  labels: dict  # task: label; labelled tasks only

  @classmethod
  def of(cls, tasks, task_metrics, predictions, batch, i):
    shown = [task.name for t, task in enumerate(tasks) if batch['label_mask'][i, t]]
    maps = {stage: {name: m[name][i] for name in task_metrics} for stage, m in predictions.items()}
    return cls(task_metrics, maps, {name: batch['labels'][name][i] for name in shown})

  def states(self) -> dict:
    """{stage: {task: state}}; an unlabelled task has an empty state."""
    state = lambda name, m: (
        self.metrics[name].image(m, self.labels[name]) if name in self.labels else self.metrics[name].empty()
    )
    return {stage: {name: state(name, m) for name, m in maps.items()} for stage, maps in self.predictions.items()}


def _add(states: dict, more: dict) -> dict:
  """The sum of two {stage: {task: state}}, either of them {}."""
  if not states:
    return more
  return {stage: {name: metrics.merge(states[stage][name], s) for name, s in tasks.items()} for stage, tasks in more.items()}


def _row(states: dict, task_metrics) -> dict[str, float]:
  """One image's scores as {'task/metric stage': value}."""
  return {
      f'{name}/{metric} {stage}': value
      for stage, tasks in states.items()
      for name, state in tasks.items()
      for metric, value in task_metrics[name].compute(state).items()
      if not np.isnan(value)
  }


def _merge_hosts(states: dict) -> dict:
  """Sums the states of all hosts."""
  if jax.process_count() == 1:
    return states
  gathered = multihost_utils.process_allgather(states)
  return jax.tree.map(lambda x: x.sum(0), gathered)


def headline(scores: dict, tasks) -> dict[str, float]:
  """{task: its headline metric} of one stage of scores; tolF stands in for odsF where fast."""
  return {task.name: scores[task.name].get(task.metric, scores[task.name].get('tolF')) for task in tasks}


def delta_to_single(scores: dict[str, float], config, tasks) -> float | None:
  """Delta_m in % against the single-task scores of config.eval.single_task; None where not given."""
  single = dict(config.eval.single_task)
  return delta_m(scores, single, tasks) if single else None


def flat(scores: dict) -> dict[str, float]:
  """Scores as {'eval/final/semseg/mIoU': value} for the log."""
  stages = {stage: tasks for stage, tasks in scores.items() if isinstance(tasks, dict)}
  return {f'eval/{s}/{t}/{m}': v for s, tasks in stages.items() for t, ms in tasks.items() for m, v in ms.items()}


def table(scores: dict, tasks) -> str:
  """Initial and final scores side by side, a line a task (the paper's Figure 8)."""
  lines = [f"{'task':<12}{'metric':<10}{'initial':>10}{'final':>10}{'change':>10}"]
  final = headline(scores['final'], tasks)
  initial = headline(scores['initial'], tasks) if 'initial' in scores else {}
  for task in tasks:
    metric = task.metric if task.metric in scores['final'][task.name] else 'tolF'
    arrow = 'higher' if task.higher_is_better else 'lower'
    before = initial.get(task.name)
    left = f'{before:>10.4g}{final[task.name]:>10.4g}{final[task.name] - before:>+10.3g}' if initial else (
        f"{'-':>10}{final[task.name]:>10.4g}{'':>10}")
    lines.append(f'{task.name:<12}{metric:<10}{left}   ({arrow} is better)')
  return '\n'.join(lines)


def run(config, workdir: str, which: str = 'best'):
  """The job `--mode=evaluate`: restores a checkpoint, writes W/metrics.json, per_image.csv and panels."""
  source = source_lib.open_source(config.data, 'val')
  mesh = sharding.make_mesh()
  sharding.check_batch('config.eval.batch', config.eval.batch, mesh)
  model = build_model(config, source.tasks)
  checkpoints = Checkpoints(workdir, read_only=True)
  step = checkpoints.choose(which)
  variables = restore(checkpoints, step, model, config, mesh)
  say(f'evaluating step {step} of {workdir} on {len(source)} images')
  evaluator = Evaluator(model, config, source, mesh)
  scores, rows = evaluator.run(variables)
  result = {'step': step, **scores, 'delta_m': delta_to_single(headline(scores['final'], source.tasks), config, source.tasks)}
  if jax.process_index() == 0:
    path = pathlib.Path(workdir)
    workdir_lib.write_json(path / 'metrics.json', result)
    workdir_lib.write_atomic(path / 'per_image.csv', _csv(rows))
    for name, picture in evaluator.panels(variables):
      visualize.save_png(path / 'panels' / f'{name}.png', picture)
    say(table(scores, source.tasks))
  return result


def restore(checkpoints: Checkpoints, step: int, model, config, mesh) -> dict:
  """The variables of a checkpoint, on every device."""
  shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), tuple(config.data.size)))
  everywhere = sharding.replicated(mesh)
  wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes)
  return checkpoints.restore_variables(step, wanted)


def panel_rows(stages: dict, labels: dict, tasks) -> list[tuple[str, dict]]:
  """Rows of one image's panel: (title, {task: map}), from the labels to the last denoising step."""
  rows = [('Ground truth', {t.name: labels.get(t.name) for t in tasks})] if labels else []
  if 'initial' in stages:
    rows.append(('Initial', stages['initial']))
  steps = sorted(stage for stage in stages if stage.startswith('step'))
  rows += [('Decayed' if i == 0 else f'Denoised {i}/{len(steps) - 1}', stages[s]) for i, s in enumerate(steps)]
  if not steps:
    rows.append(('Prediction', stages['final']))
  return rows


def _csv(rows: list[dict]) -> str:
  fields = list(dict.fromkeys(key for row in rows for key in row))
  text = io.StringIO()
  writer = csv.DictWriter(text, fields)
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()
