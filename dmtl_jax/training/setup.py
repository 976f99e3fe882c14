"""What a run consists of, built from its config: data, model, optimiser, step, first weights."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.configs import check as check_config
from dmtl_jax.data import label_settings, pipeline
from dmtl_jax.data import source as source_lib
from dmtl_jax.inference import evaluation
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.models import build_model, find, Network
from dmtl_jax.models.inputs import init_variables, normalize_batch
from dmtl_jax.runs import pretrained
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.state import initial_loss_scale, TrainState
from dmtl_jax.tasks import check_keys, KINDS, Task, values_by_task
from dmtl_jax.training import class_weights as class_weights_lib
from dmtl_jax.training import optimizer as optimizer_lib
from dmtl_jax.training import periodic
from dmtl_jax.training.step import task_weights, TrainStep


def create(model, tx: optax.GradientTransformation, key: jax.Array, size: tuple[int, int]) -> TrainState:
  """A fresh state; weights depend on `key`, not on the image size (H, W). Call it jitted, or by `eval_shape`."""
  variables = init_variables(model, key, size)
  params = variables['params']
  scale = initial_loss_scale() if model.dtype == jnp.float16 else None
  return TrainState(jnp.int32(0), params, variables['batch_stats'], tx.init(params), scale)


class DataFacts(NamedTuple):
  """All that the training step takes from the data: runs of one config with equal facts have the same step.

  Attributes:
    tasks: in the order of the run, with their class weights.
    most_labels: most labels that training may see of one image.
    images_per_epoch: see `pipeline.images_per_epoch`.
    are_weighted: whether labels have weights, see `label_weights`.
  """

  tasks: tuple[Task, ...]
  most_labels: int
  images_per_epoch: int
  are_weighted: bool = False


@dataclasses.dataclass
class Training:
  """What a run consists of besides its state and its folder; built from the config alone.

  Attributes:
    facts: by which the step was built.
    shardings: of the state, see `sharding.split`.
    update: the step, jitted, see `step.TrainStep`; the state is donated.
    init: jitted, key -> fresh TrainState.
    batches: the iterator over this host's batches.
    label_weights: weights [N, T] of the labels' losses; None: 1, and the step takes none.
  """

  mesh: Any
  facts: DataFacts
  source: source_lib.Source
  val: source_lib.Source
  model: Any
  steps: int
  schedule: Callable
  shardings: Any
  update: jax.stages.Wrapped
  init: jax.stages.Wrapped
  batches: Any
  label_weights: np.ndarray | None = None

  def on_devices(self, batch: dict) -> dict:
    """What the step takes of this host's batch, split by image over the devices of all hosts; images normalised."""
    inputs = {name: batch[name] for name in ('image', 'region', 'labels', 'label_mask')}
    if self.label_weights is not None:
      inputs['label_weights'] = self.label_weights[batch['index']]
    return normalize_batch(sharding.put_batch(inputs, self.mesh))


class MeshAndModel(NamedTuple):
  """Devices and network of a config."""

  mesh: jax.sharding.Mesh
  model: Network


def make_mesh_and_model(config, tasks: tuple[Task, ...]) -> MeshAndModel:
  """See `MeshAndModel`; raises UserError where the batch cannot be shared or the network's fields do not fit."""
  model = build_model(config, tasks)
  mesh = sharding.make_mesh(config.train.fsdp)
  sharding.check_batch('config.train.batch', config.train.batch, mesh, config.train.accumulate)
  return MeshAndModel(mesh, model)


def check(config, fresh: bool = True) -> MeshAndModel:
  """Checks that a config can be trained, before any data is opened or anything compiled.

  Args:
    fresh: whether the run starts from config.init_from, if that is set, and not from a checkpoint of its own.

  Raises:
    UserError: names the field.
  """
  check_config.check(config.to_dict())
  tasks = source_lib.data_tasks(config.data)
  mesh, model = make_mesh_and_model(config, tasks)
  if config.optim.part_lr:  # an update refuses parts that the network does not have
    shapes = jax.eval_shape(functools.partial(init_variables, model, size=tuple(config.data.size)), jax.random.key(0))
    jax.eval_shape(optimizer_lib.rates(config.optim, model)[0].update, shapes['params'], (), shapes['params'])
  label_settings.check(config.data.labels)
  class_weights_lib.check(config.class_weights, tasks)
  periodic.check(config.train.best_by, tasks)
  evaluation.check(config.eval)
  if fresh and config.init_from:
    pretrained.check(config.init_from)
  if not (config.train.steps or config.train.epochs):
    raise UserError('config.train: steps and epochs are both 0, so nothing would be trained; set one of them')
  weights, scores = config.loss_weights, config.eval.single_task
  # A config file weighs kinds that its data set may not have; what flags set is checked as they are read (cli.py).
  check_keys('config.loss_weights', set(weights) - set(KINDS), weights, tasks)
  check_keys('config.eval.single_task', scores, scores, tasks)
  if scores:
    delta_m({task.name: 1.0 for task in tasks}, values_by_task(scores, tasks), tasks)
  if not any(values_by_task(weights, tasks).get(task.name, 1) for task in tasks):
    raise UserError('config.loss_weights: every task has weight 0, so nothing would be learned; raise one')
  return MeshAndModel(mesh, model)


def build(
  config, source, val, mesh_and_model: MeshAndModel | None = None, class_weights: Mapping[str, tuple[float, ...]] = {}
) -> Training:
  """All that training on `source` needs, opened, or compiled at its first call.

  Args:
    mesh_and_model: what `check` returned; None: made here.
    class_weights: see `class_weights.of_run`.

  Raises:
    UserError: see `make_mesh_and_model`.
  """
  mesh, model = mesh_and_model or make_mesh_and_model(config, source.tasks)
  facts = DataFacts(
    class_weights_lib.apply(source.tasks, class_weights),
    pair_count(source, 1),
    pipeline.images_per_epoch(source.label_mask),
    source.predicted is not None,
  )
  model = model.clone(tasks=facts.tasks)  # a resumed run has them in its own order
  steps_per_epoch = max(facts.images_per_epoch // config.train.batch, 1)
  steps = config.train.steps or config.train.epochs * steps_per_epoch
  schedule = optimizer_lib.learning_rate(config.optim, steps, steps_per_epoch)
  tx = optimizer_lib.optimizer(config.optim, schedule, model)
  init = functools.partial(create, model, tx, size=tuple(config.data.size))
  shardings = sharding.split(mesh, jax.eval_shape(init, jax.random.key(0)))
  images = config.train.batch // (mesh.size * config.train.accumulate)
  step = train_step(config, model, tx, images * facts.most_labels, mesh.size)
  update = jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
  init = jax.jit(init, out_shardings=shardings, compiler_options=_options_of_init())
  batches = pipeline.train_iterator(
    source, config.data, config.train.batch, config.seed, jax.process_index(), jax.process_count()
  )
  weights = label_weights(source, config.data)
  return Training(mesh, facts, source, val, model, steps, schedule, shardings, update, init, batches, weights)


def _options_of_init() -> dict[str, int] | None:
  """XLA's options for the program of the first weights, which runs once: compiled quickly, with the same bits.

  For `scenes` on a CPU it took 23.8 s of processor time to compile, 7.8 without optimisation.
  """
  return {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None


def label_weights(source, data_config) -> np.ndarray | None:
  """Weights [N, T] float32 of the labels' losses: config.data.predicted_weight for predicted ones; None: all are 1."""
  if source.predicted is None:
    return None
  return np.where(source.predicted, data_config.predicted_weight, 1).astype(np.float32)


def train_step(config, model: Network, tx, pair_count: int, groups: int) -> TrainStep:
  """The step of a config, see `TrainStep`."""
  return TrainStep(
    model=model,
    method=find(config.method),
    tx=tx,
    weights=task_weights(config.loss_weights, model.tasks),
    initial_loss=config.initial_loss,
    pair_count=pair_count,
    groups=groups,
    accumulate=config.train.accumulate,
    skips=config.train.nan_policy == 'skip',
    seed=config.seed,
  )


def build_without_data(config, tasks: tuple[Task, ...], mask: np.ndarray | None = None) -> Training:
  """`build` without a data set.

  Args:
    mask: labels [N, T] bool of the training set; default as many for each image of a batch as it can have.
  """
  if mask is None:
    mask = np.zeros((config.train.batch, len(tasks)), bool)
    mask[:, : 1 if config.data.labels == 'one' else None] = True
  return build(config, source_lib.Source(tasks, [''] * len(mask), mask, read=lambda *_: {}), None)


class Data(NamedTuple):
  """What a run learns from and is validated on.

  Attributes:
    train: images with the labels that training may see.
    left_out: number of training images that have no visible label, of which the method can learn nothing.
  """

  train: source_lib.Source
  val: source_lib.Source
  left_out: int


def open_data(config) -> Data:
  """Opens the data of a config; raises UserError where they are missing or broken."""
  splits = source_lib.open_splits(config.data)
  train = visible_part(config, splits['train'])
  return Data(train, splits['val'], len(splits['train']) - len(train))


def visible_part(config, whole: source_lib.Source) -> source_lib.Source:
  """Hides labels as config.data.labels says, and leaves out images of which the method then can learn nothing.

  Raises:
    UserError: see `label_settings.apply_labels`.
  """
  source = label_settings.apply_labels(whole, config.data.labels, config.data.label_seed)
  return source if find(config.method).uses_unlabelled else source.labelled()


def pair_count(source, images: int) -> int:
  """Static number of (image, task) pairs denoised together: some images times the most labels of any."""
  return images * max(int(source.label_mask.sum(1).max()), 1)


def start_state(config, checkpoints: Checkpoints, training: Training):
  """Where weights come from, in this order: the run's own checkpoint, config.init_from, the seed."""
  state, step = checkpoints.restore_latest(abstract_state(training), training.batches)
  if step is not None:
    say(f'resuming from step {step} of {checkpoints.path}')
    return state, step
  state = training.init(jax.random.key(config.seed))
  say(f'fresh weights from seed {config.seed}' + (f', then from {config.init_from}' if config.init_from else ''))
  if config.init_from:
    variables = jax.device_get(sharding.replicate(state.variables, training.mesh))
    variables = pretrained.load(config.init_from, variables, training.source.tasks)
    variables = jax.device_put(variables, training.shardings.variables)
    state = state.replace(params=variables['params'], batch_stats=variables['batch_stats'])
  return state, 0


def abstract_state(training: Training):
  """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
  return sharding.abstract(jax.eval_shape(training.init, jax.random.key(0)), training.shardings)
