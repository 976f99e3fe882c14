"""Evaluation: every metric of every task on initial and final maps, over a whole split.

Scores come from sums of per-image states, never from averages of batches, so the number of batches, hosts and
devices does not matter; each image counts once. config.eval.resolution chooses where images are scored: at the
network's input, predicted in batches, or each at its own size, predicted as --mode=predict does it.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import operator
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.processes import mapper, one_ahead
from dmtl_jax.basics.progress import Progress
from dmtl_jax.data import pipeline, transforms
from dmtl_jax.inference import gallery, image_facts
from dmtl_jax.inference.calibration_fit import Evidence
from dmtl_jax.inference.forward import jit_predict_fn, jit_stages_fn
from dmtl_jax.inference.pieces import cut_image, cut_input, Piece, region_slices, score, Tally
from dmtl_jax.inference.prediction import Predictor
from dmtl_jax.inference.stage_choice import GROUPS, is_higher
from dmtl_jax.metrics.base import merge, State
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.models.inputs import normalize_batch, normalize_padded
from dmtl_jax.tasks import values_by_task


def check(eval_config):
  """Raises UserError if config.eval.resolution does not go with the protocol."""
  if eval_config.resolution == 'image' and eval_config.protocol == 'pascal':
    raise UserError(
      'config.eval.resolution=image: protocol pascal scores at sizes of its own; '
      'set --config.eval.resolution=input, or --config.eval.protocol=plain'
    )


def size_text(resolution: str, size: Sequence[int]) -> str:
  """Says in words at which size scores are taken; `size` is that of the network's input."""
  return 'at the size of each image' if resolution == 'image' else f'at the network input, {size[0]}x{size[1]}'


class Scores(NamedTuple):
  """The result of an evaluation.

  Attributes:
    scores: {'final': {task: {metric: value}}, 'initial': {...}} ('initial' only for methods that have it), with
      'per_class' {task: {class: IoU of the final maps}}, 'seconds_per_image' of prediction on all devices together,
      while other images are scored, and, at the size of images, 'boundary_side' and 'boundary_shrunk': how many images
      had their boundaries scored at that side instead.
    rows: the scores of each image, in the order of the source; unless quick, with `image_facts`.
    confusion: {task: pixel counts [label, prediction] of the final maps} of tasks with classes.
    better_initial: names of the tasks whose initial maps score higher than the denoised ones, see `stage_choice`.
  """

  scores: dict
  rows: list[dict]
  confusion: dict[str, np.ndarray]
  better_initial: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Pass:
  """One pass over this host's images.

  Attributes:
    progress: paused while the network compiles.
    on_image, evidence: see `Evaluator.run`.
    facts: {image: its `image_facts`}, filled as images are read.
  """

  progress: Progress
  on_image: Callable | None
  evidence: Mapping[str, Evidence]
  facts: dict = dataclasses.field(default_factory=dict)
  tally: Tally = dataclasses.field(default_factory=Tally)


class _HostResult(NamedTuple):
  """What one host contributes to an evaluation: totals of each group of images, samples of each stage."""

  groups: Sequence[dict]
  rows: dict
  tally: Tally
  samples: dict


class Evaluator:
  """Scores a model on one split; compiles once, and can be run with any weights.

  Args:
    source: the split, with all labels it has.
    mesh: of any number of devices.
    eval_config: config.eval; its batch is rounded up to a multiple of the devices.
    data_config: config.data, by which images are read and fitted into the network's input.
    seed: config.seed, of the noise.
    quick: for periodic evaluation: boundaries by a fixed tolerance, and all images at the network's input.
    limit: evaluate only the first `limit` images; 0: all.

  Attributes:
    batch: images per step, on all devices together.
    at_image_size: whether images are scored at their own sizes (config.eval.resolution; never if `quick`). They are
      then predicted as by --mode=predict: every image with the noise of index 0.

  Raises:
    UserError: config.eval.single_task lacks a task, or see `check`.
  """

  def __init__(self, model, source, mesh, eval_config, data_config, seed: int, quick: bool = False, limit: int = 0):
    check(eval_config)
    self.model = model
    self.tasks = source.tasks
    self.source = source
    self.mesh = mesh
    self.eval_config = eval_config
    self.data_config = data_config
    self.seed = seed
    self.at_image_size = eval_config.resolution == 'image' and not quick
    self.describes_images = not quick
    self.batch = math.ceil(eval_config.batch / mesh.size) * mesh.size
    self.count = min(limit or len(source), len(source))
    protocol, tolerance = eval_config.protocol, eval_config.boundary_tolerance
    self.metrics = {task.name: task.scorer(protocol, tolerance, quick=quick) for task in self.tasks}
    self._uses_source_truth = protocol == 'pascal' and not quick
    if eval_config.single_task:  # a missing task shows now, not after the work
      single = values_by_task(eval_config.single_task, self.tasks)
      delta_m({task.name: 1.0 for task in self.tasks}, single, self.tasks)
    self._is_compiled = False
    self._predictor: Predictor | None = None
    self._transform = transforms.eval_transform(data_config, eval_config.geometry, self.tasks)
    self._predict = jit_predict_fn(model, mesh, seed, eval_config.diffusion_steps)
    self._predict_stages = jit_stages_fn(model, seed, eval_config.diffusion_steps)

  def run(
    self, variables, on_image: Callable | None = None, evidence: Mapping[str, Evidence] = MappingProxyType({})
  ) -> Scores:
    """Evaluates; each host scores its share of the images, and all hosts get the result.

    Args:
      on_image: called as on_image(id, {task: final map}, region, size) for every image of this host, see
        `transforms.eval_transform`.
      evidence: {stage: collects what `calibration_fit.fit` needs}; all hosts get that of all.
    """
    groups: Sequence[dict] = [{} for _ in range(GROUPS)]
    rows: dict = {}
    make_pieces = self._pieces_at_image_size if self.at_image_size else self._pieces_at_input
    workers = self.eval_config.workers  # the boundary protocol is slow
    with Progress('evaluating', self.count, 'img') as progress, mapper(workers, 'config.eval.workers') as map_pieces:
      current = _Pass(progress, on_image, evidence)
      pieces = make_pieces(variables, current)
      for index, scored in itertools.groupby(map_pieces(score, pieces), operator.attrgetter('index')):
        states: dict = {}
        for piece in scored:
          _add(states, {(piece.stage, piece.task): piece.state})
        _add(groups[GROUPS * index // self.count], states)
        mistakes = image_facts.mistakes(states, self.tasks, self.metrics) if self.describes_images else {}
        row = _row(states, self.metrics) | current.facts.pop(index, {}) | mistakes
        rows[index] = {'id': self.source.ids[index]} | row
        progress.update(min(jax.process_count(), self.count - progress.done))
    samples = {stage: own.samples for stage, own in evidence.items()}
    gathered = sharding.gather(_HostResult(groups, rows, current.tally, samples))
    groups = [_sum(host.groups[i] for host in gathered) for i in range(GROUPS)]
    totals = _sum(groups)
    rows = dict(sorted(item for host in gathered for item in host.rows.items()))
    for stage, own in evidence.items():
      own.merge([host.samples[stage] for host in gathered])
      own.operating_points = {
        task.name: self.metrics[task.name].operating_point(totals[stage, task.name])
        for task in own.tasks
        if (stage, task.name) in totals
      }
    scores = self._compute(totals, [host.tally for host in gathered])
    confusion = {t.name: self.metrics[t.name].confusion(totals['final', t.name]) for t in self.tasks if t.classes}
    confusion = {name: counts for name, counts in confusion.items() if counts is not None}
    better = tuple(task.name for task in self.tasks if self._is_initial_better(task, groups))
    return Scores(scores, list(rows.values()), confusion, better)

  def _is_initial_better(self, task, groups: Sequence[dict]) -> bool:
    """Whether the task's initial maps score higher than the denoised ones, of states of groups of images."""
    metric = self.metrics[task.name]

    def score(state: State) -> float:
      value = headline({task.name: metric.compute(state)}, [task])[task.name]
      return value if task.higher_is_better else -value

    scored = [group for group in groups if ('initial', task.name) in group]
    initial, final = ([group[stage, task.name] for group in scored] for stage in ('initial', 'final'))
    return is_higher(score, initial, final)

  def _compute(self, totals: dict, tallies: Sequence[Tally]) -> dict:
    """`Scores.scores` of the whole set, from {(stage, task): state} and the tally of each host."""
    scores: dict = {}
    for (stage, name), state in totals.items():
      scores.setdefault(stage, {})[name] = self.metrics[name].compute(state)
    scores['per_class'] = {
      task.name: self.metrics[task.name].per_class(totals['final', task.name]) for task in self.tasks if task.classes
    }
    scores['seconds_per_image'] = max(tally.seconds for tally in tallies) / tallies[0].images
    if self.at_image_size:
      scores['boundary_side'] = self.eval_config.boundary_side
      scores['boundary_shrunk'] = sum(tally.shrunk for tally in tallies)
    return scores

  def _pieces_at_input(self, variables, current: _Pass) -> Iterator[Piece]:
    """The pieces of this host's images at the network's input; fills `current.facts`.

    While those of one batch are scored, a thread predicts the next. Compiling is done here, where Ctrl-C can end it.
    """
    batches = self._batches()
    if not self._is_compiled:  # so that compiling does not count in any time
      first = next(batches)
      with current.progress.paused():
        self._predict_local(variables, first)
      self._is_compiled = True
      batches = itertools.chain([first], batches)

    def predict(batch: dict) -> dict:
      with current.tally.timed():
        return self._predict_local(variables, batch)

    for batch, predictions in one_ahead(predict, batches):
      raw = predictions.pop('raw')
      grid = next(iter(raw['final'].values())).shape[1:3]
      current.tally.images += self.batch
      for i in np.flatnonzero(batch['valid'] & (batch['index'] < self.count)).tolist():
        index = int(batch['index'][i])
        truths = self.source.truth(index) if self._uses_source_truth else {}
        if self.describes_images:
          current.facts[index] = self._describe(batch, i)
        for stage in current.evidence.keys() & raw.keys():
          current.evidence[stage].add(index, _rows(raw[stage], i), _rows(batch['labels'], i), grid)
        yield from cut_input(predictions, batch, i, truths, self.tasks, self.metrics)
        if current.on_image:
          current.on_image(self.source.ids[index], _rows(predictions['final'], i), batch['region'][i], batch['size'][i])

  def _pieces_at_image_size(self, variables, current: _Pass) -> Iterator[Piece]:
    """As `_pieces_at_input`, at the images' own sizes: predicted one by one, on one of this host's devices."""
    variables = _on_one_device(variables)
    side = self.eval_config.boundary_side
    if self._predictor is None:  # kept, so that it compiles once
      self._predictor = Predictor(self.model, variables, self.data_config.size, self.eval_config, self.seed)
    predictor = self._predictor
    predictor.variables = variables
    current.tally.images = self.count
    for example in pipeline.eval_examples(self.source, self.count, jax.process_index(), jax.process_count()):
      image = example['image']
      if not self._is_compiled:  # so that compiling does not count in any time
        with current.progress.paused():
          collections.deque(cut_image(predictor.raw(image), example, self.metrics, side, Tally()), maxlen=0)
        self._is_compiled = True
      with current.tally.timed():
        raw = predictor.raw(image)
      current.facts[example['index']] = image_facts.describe(image, example['labels'], self.tasks, image.shape[:2])
      for stage in current.evidence.keys() & raw.stages:
        maps = {task.name: raw.maps[stage, task.name] for task in self.tasks}
        current.evidence[stage].add(example['index'], maps, example['labels'], raw.extent, raw.origin)
      yield from cut_image(raw, example, self.metrics, side, current.tally)
      if current.on_image:
        size = image.shape[:2]
        current.on_image(self.source.ids[example['index']], raw.predictions('final', size), (0, 0, *size), size)

  def _describe(self, batch: dict, i: int) -> dict:
    """`image_facts.describe` of one image of a batch, without its padding."""
    inside = region_slices(batch['region'][i])
    labels = {t.name: batch['labels'][t.name][i][inside] for n, t in enumerate(self.tasks) if batch['label_mask'][i, n]}
    return image_facts.describe(batch['image'][i][inside], labels, self.tasks, batch['size'][i])

  def stages(self, variables, index: int) -> gallery.Example:
    """One image with its labels and every stage of its maps, without padding; runs only on this host."""
    ready = self._transform(self.source[index])
    batch = transforms.stack([ready], tuple(self.data_config.size), self.tasks)
    noise = 0 if self.at_image_size else index  # the noise of what was scored
    images = normalize_padded(batch['image'], batch['region'])
    maps = self._predict_stages(_on_one_device(variables), images, np.array([noise], np.int32))
    inside = region_slices(ready['region'])
    return gallery.Example(
      self.source.ids[index],
      ready['image'],
      ready['labels'],
      jax.tree.map(lambda x: np.asarray(x[0])[inside], maps),
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
    return itertools.islice(batches, math.ceil(self.count / self.batch))

  def _predict_local(self, variables, batch):
    inputs = {name: batch[name] for name in ('image', 'region', 'index')}
    arrays = normalize_batch(sharding.put_batch(inputs, self.mesh))
    return jax.tree.map(sharding.local_rows, self._predict(variables, arrays['image'], arrays['index']))


def _rows(arrays: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
  """{name: array of the i-th image} of a batch."""
  return {name: x[i] for name, x in arrays.items()}


def _on_one_device(variables):
  """Variables that every device has, as arrays of one device of this host."""
  return jax.tree.map(lambda x: x.addressable_data(0), variables)


def _sum(parts: Iterable[dict]) -> dict:
  """The sum of states {(stage, task): state}."""
  totals: dict = {}
  for states in parts:
    _add(totals, states)
  return totals


def _add(totals: dict, states: dict):
  """Adds states {(stage, task): state} to totals of the same form, in place."""
  for key, state in states.items():
    totals[key] = merge(totals[key], state) if key in totals else state


def _row(states: dict, metrics) -> dict[str, float]:
  """One image's scores as {'task/metric stage': value}."""
  return {
    f'{name}/{metric} {stage}': value
    for (stage, name), state in states.items()
    for metric, value in metrics[name].compute_one(state).items()
    if not np.isnan(value)
  }


def headline(scores: dict, tasks) -> dict[str, float]:
  """{task: its headline metric} of one stage of scores, or its quick metric where only that was computed."""
  return {task.name: scores[task.name].get(task.metric, scores[task.name].get(task.quick_metric)) for task in tasks}


def delta_to_single(scores: dict, single_task: Mapping[str, float], tasks) -> float | None:
  """Delta_m in % of one stage of scores against config.eval.single_task; None if that is empty.

  Leaves out tasks whose scores hold only the quick metric, which cannot be compared with the headline metric.
  """
  single = values_by_task(single_task, tasks)
  tasks = [task for task in tasks if task.metric in scores[task.name]]
  return delta_m(headline(scores, tasks), single, tasks) if single and tasks else None


def flatten_scores(scores: dict, prefix: str = 'eval') -> dict[str, float]:
  """Scores as {'eval/final/semseg/mIoU': value} for the log."""
  stages = {stage: scores[stage] for stage in ('initial', 'final') if stage in scores}
  return {f'{prefix}/{s}/{t}/{m}': v for s, tasks in stages.items() for t, ms in tasks.items() for m, v in ms.items()}
