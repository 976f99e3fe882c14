"""Training, top to bottom: data, model, state, resume, steps, evaluation, checkpoints."""

from contextlib import closing, contextmanager, ExitStack
import importlib.util
import os
import pathlib

import jax

from dmtl_jax.basics import sharding
from dmtl_jax.basics.errors import program, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.basics.stopping import Stopped, StopSignal
from dmtl_jax.data import label_settings
from dmtl_jax.inference.evaluation import Evaluator
from dmtl_jax.jobs import check, evaluate, report
from dmtl_jax.models import counting
from dmtl_jax.report import results
from dmtl_jax.runs import run_tasks
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.log import Log
from dmtl_jax.training import bad_numbers, cost, periodic, setup


def run(config, workdir: str, force: bool = False) -> dict | None:
  """The job `--mode=train`: trains in `workdir`, or goes on where an earlier run there stopped.

  Args:
    force: resume even with a changed config, other labels or renamed classes.

  Returns:
    The final evaluation, as in metrics.json; None when Ctrl-C or SIGTERM stopped the run early.

  Raises:
    UserError: bad config or data, another process in the workdir, no space left, or a loss that is not finite.
  """
  mesh_and_model = setup.check(config, is_fresh(workdir))  # before the folder is made
  with workdir_lib.locked(workdir):
    fresh = is_fresh(workdir)
    if not (fresh or force):
      sharding.on_first_host(workdir_lib.check_config, workdir, config)
    started_from = config.init_from if fresh else workdir
    if os.path.isdir(started_from):  # a run, by `setup.check`
      config = run_tasks.match(config, workdir_lib.read_tasks(started_from), started_from, force)
    training = setup.build(config, *setup.open_data(config), mesh_and_model)
    if not (fresh or force):
      sharding.on_first_host(check_labels, workdir, training.source)
    say('\n'.join(check.first_lines(config, training.source, training.val)))
    with StopSignal() as stop:
      if not train(training, config, workdir, stop):
        return None
      try:
        with stop.interruptible():
          result = evaluate.run(config, workdir)
      except Stopped:
        say(f'stopped by {stop.asked} in the last evaluation, all is saved; the same command evaluates again')
        return None
    if jax.process_index() == 0:
      folder = pathlib.Path(workdir)
      say(closing_text(folder, report.write([results.read_run(folder)], folder)))
    return result


def train(training: setup.Training, config, workdir: str, stop: StopSignal) -> bool:
  """The loop; returns False when Ctrl-C or SIGTERM stopped it before its end."""
  source, batches = training.source, training.batches
  with ExitStack() as opened:
    checkpoints = opened.enter_context(closing(Checkpoints(workdir, config.train.keep, config.train.keep_every)))
    state, start = setup.start_state(config, checkpoints, training)
    sharding.on_first_host(write_start, workdir, config, source)  # not before: what is refused changes nothing
    steps = max(training.steps, start)
    window = bad_numbers.PendingSteps(source.tasks, checkpoints.notes['window'])
    log = opened.enter_context(closing(Log(workdir, start, checkpoints.notes['evaluated'])))
    evaluator = Evaluator(
      training.model,
      training.val,
      training.mesh,
      config.eval,
      config.data,
      config.seed,
      fast=True,
      limit=config.train.eval_images,
    )
    evaluation = periodic.Periodic(evaluator, config.train, training.steps, log, stop, checkpoints.notes)
    if start < steps:
      say('compiling the training step')
      size = tuple(config.data.size)
      batch = cost.abstract_batch(config.train.batch, size, source.tasks, training.mesh)
      update = training.update.lower(state, batch, 1).compile()
      counted = counting.summarize(training.model, size, config.eval.diffusion_steps)
      sharding.on_first_host(cost.write, workdir, counted, config.train.batch, update)
    progress = opened.enter_context(Progress('training', steps, 'step', start))

    def save(state, data: dict, before: int | None = None):
      told = {'best': evaluation.best, 'evaluated': evaluation.evaluated, 'window': window.to_json(before)}
      checkpoints.save(state, data, {'config': workdir_lib.to_json(config)} | told)

    @contextmanager
    def saved_on_error(data: dict):
      """Keeps what was learned since the last checkpoint where data vanish, or a process that reads them is killed."""
      try:
        yield
      except UserError:
        if jax.process_count() == 1 and not window.fetch():
          save(state, data)
        raise

    for step in range(start, steps + 1):
      due = evaluation.due(step)
      if step > start:
        position = batches.get_state()
        with saved_on_error(position):
          batch = next(batches)
        state, scalars = update(state, training.on_devices(batch), step)
        window.add(step, scalars, batch['index'], position)
      elif not due:  # where a run goes on, an evaluation that was cut short may be left to do
        continue
      stops = stop.reached(step)
      saves = due or stops or (config.train.save_every and step % config.train.save_every == 0)
      logs = step > start and (due or step % config.train.log_every == 0)
      refused = window.fetch() if logs or saves else []
      if refused and config.train.nan_policy == 'stop':
        bad = refused[0]
        save(state, bad.data, before=bad.number)
        raise bad_numbers.report(bad, source, workdir)
      note = ''
      if logs:
        values = log_values(window, training.schedule, config, step)
        log.scalars(step, values)
        note = f'loss {values["loss/total"]:.4g}' if 'loss/total' in values else 'skipped'
        window.clear()
      progress.update(step - progress.done, note)
      if due:
        with progress.paused(), saved_on_error(batches.get_state()):
          evaluation.run(state, step)
      if saves:
        save(state, batches.get_state())
      if stops or evaluation.due(step):
        break
  if start < steps:
    sharding.on_first_host(cost.write_peak, workdir)
  if window.total_skipped():
    say(f'{window.total_skipped()} of {step} steps skipped: their loss or gradient was not finite')
  if step < steps or evaluation.due(step):
    say(f'stopped by {stop.cause()} at step {step} of {steps}, saved; the same command goes on from here')
    return False
  return True


def is_fresh(workdir: str) -> bool:
  """Whether no checkpoint is there: what an earlier start left is replaced then."""
  return not any(pathlib.Path(workdir).glob('checkpoints/[0-9]*'))


def check_labels(workdir: str, source):
  """Raises UserError where the labels are others than those that an earlier start saw."""
  labels = pathlib.Path(workdir) / 'labels.json'
  if labels.exists():
    label_settings.check_same(labels, source.ids, source.tasks, source.label_mask)


def write_start(workdir: str, config, source):
  """Writes the files that identify a run: config.json, labels.json, tasks.json."""
  workdir_lib.write_config(workdir, config)
  label_settings.save_mapping(pathlib.Path(workdir) / 'labels.json', source.ids, source.tasks, source.label_mask)
  workdir_lib.write_tasks(workdir, source.tasks)


def log_values(window: bad_numbers.PendingSteps, schedule, config, step: int) -> dict[str, float]:
  """What is logged at a step: means since the last log line, steps skipped since the first, rate and scale at it."""
  skipped, last = window.total_skipped(), window.steps[-1].scalars
  told = {'loss_scale': last['loss_scale']} if 'loss_scale' in last else {}
  told |= {'skipped': skipped} if told or config.train.nan_policy == 'skip' else {}
  return window.means() | told | {'lr': float(schedule(step - 1 - skipped))}


def closing_text(folder: pathlib.Path, page: pathlib.Path) -> str:
  """Where the results of a run are, and what can be tried next here."""
  command = program()
  lines = [f'\nreport: {page}', f'scores: {folder}/metrics.json    pictures: {folder}/panels', 'next:']
  if any(folder.glob('panels/*/input.jpg')):  # validation images; your own go the same way
    images = f"--images='{folder}/panels/*/input.jpg'"
    lines.append(f'  {command} --mode=predict --workdir={folder} {images} --out={folder}/maps')
  if importlib.util.find_spec('tensorboard'):
    lines.append(f'  tensorboard --logdir={folder}/tensorboard')
  lines.append(f'  {command} --mode=report --workdirs={folder},ANOTHER --out=runs/report   # compares runs')
  return '\n'.join(lines)
