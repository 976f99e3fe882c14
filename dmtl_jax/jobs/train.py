"""Training, top to bottom: data, model, state, resume, steps, evaluation, checkpoints."""

import contextlib
import math
import pathlib

import jax

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.basics.stopping import Stopped, StopSignal
from dmtl_jax.data import label_settings
from dmtl_jax.jobs import evaluate
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.log import Log
from dmtl_jax.training import bad_numbers, cost
from dmtl_jax.training import periodic as periodic_lib
from dmtl_jax.training.setup import arrays, build, open_data, start_state, Training


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
        progress.update(step - progress.done, f'loss {values.get("loss/total", math.nan):.4g}')
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
