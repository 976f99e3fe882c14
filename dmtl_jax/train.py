"""Training, top to bottom: data, model, state, resume, steps, evaluation, checkpoints."""

from collections.abc import Callable
import contextlib
import dataclasses
import math
import pathlib
from typing import Any

import jax

from dmtl_jax import bad_numbers, cost, evaluate, periodic as periodic_lib, pretrained, sharding
from dmtl_jax import state as state_lib, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import label_settings, pipeline, source as source_lib
from dmtl_jax.errors import UserError
from dmtl_jax.log import Log
from dmtl_jax.models import build_model
from dmtl_jax.progress import Progress
from dmtl_jax.steps import make_train_step
from dmtl_jax.stopping import Stopped, StopSignal
from dmtl_jax.workdir import say


@dataclasses.dataclass
class Training:
  """What a run consists of besides its state and its folder; built from the config alone.

  Attributes:
    shardings: of the state, see `sharding.split`.
    update: the compiled step, see `make_train_step`; the state is donated.
    init: compiled, key -> fresh TrainState.
    batches: the iterator over this host's batches.
  """

  mesh: Any
  source: source_lib.Source
  val: source_lib.Source
  model: Any
  steps: int
  schedule: Callable
  shardings: Any
  update: Callable
  init: Callable
  batches: Any


def build(config, source, val) -> Training:
  """Everything compiled or opened for training on `source`; compiles at the first call.

  Raises:
    UserError: a config field that does not fit.
  """
  mesh, micro = sharding.make_mesh(config.train.fsdp), config.train.accumulate
  sharding.check_batch('config.train.batch', config.train.batch, mesh, micro)
  model = build_model(config, source.tasks)
  steps_per_epoch = max(len(source) // config.train.batch, 1)
  steps = config.train.steps or config.train.epochs * steps_per_epoch
  schedule = state_lib.learning_rate(config, steps, steps_per_epoch)
  tx = state_lib.optimizer(config, schedule)
  init = lambda key: state_lib.create(model, tx, key, tuple(config.data.size))
  shardings = sharding.split(mesh, jax.eval_shape(init, jax.random.key(0)))
  pairs = pair_count(source, config, mesh.size * micro)
  step = make_train_step(model, tx, config, source.tasks, pairs, mesh.size)
  update = jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
  init = jax.jit(init, out_shardings=shardings)
  batches = pipeline.train_iterator(source, config, jax.process_index(), jax.process_count())
  return Training(mesh, source, val, model, steps, schedule, shardings, update, init, batches)


def run(config, workdir: str, force: bool = False) -> dict | None:
  """The job `--mode=train`: trains in `workdir`, or goes on where an earlier run there stopped.

  Args:
    force: resume even with a changed config.

  Returns:
    The final evaluation, as in metrics.json; None when SIGTERM stopped the run early.

  Raises:
    UserError: bad config or data, another process in the workdir, no space left, or a loss that is not finite.
  """
  first = sharding.on_first_host
  with contextlib.ExitStack() as held:
    first(lambda: held.enter_context(workdir_lib.lock(workdir)))
    held.enter_context(workdir_lib.sentences(workdir))
    first(workdir_lib.check_config, workdir, config, force)
    source, val = open_data(config)
    labels = pathlib.Path(workdir) / 'labels.json'
    first(label_settings.save_mapping, labels, source.ids, source.tasks, source.label_mask)
    first(workdir_lib.write_tasks, workdir, source.tasks)
    say(workdir_lib.start_text(config, source.tasks, source))
    stop = held.enter_context(StopSignal())
    if not train(build(config, source, val), config, workdir, stop):
      return None
    try:
      with stop.at_once():
        result = evaluate.run(config, workdir)
    except Stopped:
      say('stopped by SIGTERM in the last evaluation, all is saved; the same command evaluates again')
      return None
    say(closing_text(workdir))
    return result


def train(training: Training, config, workdir: str, stop: StopSignal) -> bool:
  """The loop; returns False when SIGTERM stopped it before the last step."""
  tasks, steps = training.source.tasks, training.steps
  eval_every = config.train.eval_every or max(steps // 10, 1)
  save_every = config.train.save_every or eval_every
  checkpoints = Checkpoints(workdir, config.train.keep, config.train.keep_every)
  state, start = start_state(config, checkpoints, training)
  window = bad_numbers.Window(tasks, checkpoints.window)
  batches, as_json = training.batches, workdir_lib.to_json(config)
  step, due, first = start, False, jax.process_index() == 0
  with (
      contextlib.closing(checkpoints),
      contextlib.closing(Log(workdir, start, checkpoints.due)) if first else contextlib.nullcontext() as log,
      Progress('training', steps, 'step', start) as progress,
  ):
    save = lambda **more: checkpoints.save(state, batches, as_json, window.to_json(**more), due)
    periodic = periodic_lib.Periodic(training, config, log, stop)
    if checkpoints.due:
      checkpoints.best, due = periodic.run(state, start, checkpoints.best)
      save()
    if start < steps and not due:
      say('compiling the training step')
      update = cost.compile_step(training.update, state, config, tasks, training.mesh)
      if first:
        cost.write(workdir, config, tasks, update)
    for step in () if due else range(start + 1, steps + 1):
      position = batches.get_state()
      try:
        batch = next(batches)
      except UserError:  # the data vanished: what was learned since the last checkpoint is kept
        batches.set_state(position)
        if jax.process_count() == 1 and not window.fetch():
          save()
        raise
      state, scalars = update(state, sharding.put_batch(arrays(batch), training.mesh), step)
      window.add(step, scalars, batch['index'], position)
      stops = stop.reached(step)
      evaluates = step % eval_every == 0 or step == steps
      logs = step % config.train.log_every == 0 or evaluates
      saves = step % save_every == 0 or evaluates or stops
      if logs or saves:
        refused = window.fetch()
        if refused and config.train.nan_policy == 'stop':
          bad = refused[0]
          batches.set_state(bad.data)
          save(before=bad.number)
          raise bad_numbers.report(bad, training.source, workdir)
      if logs:
        values = window.means()
        lr = float(training.schedule(step - 1 - window.total_skipped()))
        skipped = {'skipped': window.total_skipped()} if config.train.nan_policy == 'skip' else {}
        if log:
          log.scalars(step, values | skipped | {'lr': lr})
        progress.update(step - progress.done, f"loss {values.get('loss/total', math.nan):.4g}")
        window.clear()
      if evaluates:
        checkpoints.best, due = periodic.run(state, step, checkpoints.best)
      if saves:
        save()
      if stops or due:
        break
  if first and step > start:
    cost.write_peak(workdir)
  if window.total_skipped():
    say(f'{window.total_skipped()} of {step} steps skipped: their loss or gradient was not finite')
  if step < steps or due:
    say(f'stopped by SIGTERM at step {step} of {steps}, saved; the same command goes on from here')
    return False
  return True


def closing_text(workdir: str) -> str:
  """Where the results of a run are, and what to try next."""
  return (
      f'\nPictures of predictions: {workdir}/panels    scores: {workdir}/metrics.json\n'
      f'Next:\n'
      f"  python main.py --mode=predict --workdir={workdir} --images='photos/*.jpg' --out=maps   # your own images\n"
      f'  tensorboard --logdir={workdir}/tensorboard                                            # learning curves'
  )


def open_data(config):
  """The training source with its label setting applied, and the validation source."""
  whole = source_lib.open_source(config.data, 'train')
  source = label_settings.apply_labels(whole, config.data.labels, config.data.label_seed)
  return source, source_lib.open_source(config.data, 'val')


def pair_count(source, config, groups: int) -> int:
  """Static number of (image, task) pairs a device denoises: its images times the most labels of any."""
  return config.train.batch // groups * max(int(source.label_mask.sum(1).max()), 1)


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


def arrays(batch: dict) -> dict:
  """What of a batch goes to the devices."""
  return {name: batch[name] for name in ('image', 'labels', 'label_mask')}
