"""Training, top to bottom: data, model, state, resume, steps, evaluation, checkpoints."""

import contextlib
from contextlib import closing, contextmanager, ExitStack
import importlib.util
import pathlib

import jax

from dmtl_jax.basics import bucket, files, memory, sharding
from dmtl_jax.basics.atomic import write_json
from dmtl_jax.basics.errors import join_names, program, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.basics.stopping import Stopped, StopSignal
from dmtl_jax.data import label_settings
from dmtl_jax.inference.evaluation import Evaluator, flatten_scores
from dmtl_jax.jobs import check, evaluate, report
from dmtl_jax.models import counting
from dmtl_jax.report import results
from dmtl_jax.runs import checkpoints as checkpoints_lib
from dmtl_jax.runs import pretrained, run_tasks
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.log import Log
from dmtl_jax.runs.trackers import Tracker
from dmtl_jax.training import bad_numbers, class_weights, cost, periodic, setup
from dmtl_jax.training.step_compiler import expect, StepCompiler

PREDICTED_BY = 'predicted_by.json'


def run(config, workdir: str, force: bool = False) -> dict | None:
  """The job `--mode=train`: trains in `workdir`, or resumes the run that is there.

  Args:
    force: resume even with a changed config, other labels or renamed classes.

  Returns:
    The final evaluation, as in metrics.json; None when Ctrl-C or SIGTERM stopped the run early.

  Raises:
    UserError: bad config or data, another process in the workdir, no space left, or a loss that is not finite.
  """
  mesh_and_model = setup.check(config, is_fresh(workdir))  # before the folder is made
  config = pin_weights(config, workdir)
  with workdir_lib.locked(workdir):
    fresh = is_fresh(workdir)
    if not (fresh or force):
      sharding.on_first_host(workdir_lib.check_config, workdir, config)
    if not fresh:
      config = run_tasks.match(config, workdir_lib.read_tasks(workdir), workdir, force)
    compiler = StepCompiler(config)
    if fresh:  # only the checkpoint tells whether another run has steps left
      compiler.start(expect(config))
    data = setup.open_data(config)
    weights = sharding.on_first_host(
      class_weights.of_run, config.class_weights, data.train, config.data, workdir, fresh or force
    )
    training = setup.build(config, data.train, data.val, mesh_and_model, sharding.gather(weights)[0])
    if not (fresh or force):
      sharding.on_first_host(check_labels, workdir, training.source)
    if fresh:
      compiler.start(training)
    lines = check.first_lines(config, data.train, data.val, data.left_out)
    say('\n'.join(filter(None, [*lines, class_weights.describe(training.model.tasks)])))
    with Tracker(config.train.tracker, workdir, workdir_lib.to_json(config), resumes=not fresh) as tracker:
      with StopSignal() as stop:
        if not train(training, compiler, config, workdir, stop, tracker):
          return None
        bucket.share(workdir)
        try:
          with stop.interruptible():
            result = evaluate.run(config, workdir)
        except Stopped:
          say(f'stopped by {stop.asked} in the last evaluation, all is saved; the same command evaluates again')
          return None
      if jax.process_index() == 0:
        folder = pathlib.Path(workdir)
        page = report.write([results.read_run(folder)], folder)
        say(closing_text(folder, page, config.data.name == 'folder'))
        tracker.finish(training.steps, flatten_scores(result, 'metrics'), page)
    return result


def train(
  training: setup.Training, compiler: StepCompiler, config, workdir: str, stop: StopSignal, tracker: Tracker
) -> bool:
  """Trains to the last step; returns False when Ctrl-C or SIGTERM stopped it earlier."""
  source, batches = training.source, training.batches
  with ExitStack() as stack:
    checkpoints = stack.enter_context(closing(Checkpoints(workdir, config.train.keep, config.train.keep_every)))
    state, start = setup.start_state(config, checkpoints, training)
    sharding.on_first_host(write_start, workdir, config, training)  # not earlier: a refused resume changes nothing
    steps = max(training.steps, start)
    pending = bad_numbers.PendingSteps(source.tasks, checkpoints.notes['window'])
    log = stack.enter_context(closing(Log(workdir, start, checkpoints.notes['evaluated'], tracker)))
    evaluator = Evaluator(
      training.model,
      training.val,
      training.mesh,
      config.eval,
      config.data,
      config.seed,
      quick=True,
      limit=config.train.eval_images,
    )
    evaluation = periodic.Periodic(evaluator, config.train, training.steps, log, stop, checkpoints.notes)
    if start < steps:
      counted = counting.summarize(training.model, tuple(config.data.size), config.eval.diffusion_steps)
      update = compiler.result(training)
      sharding.on_first_host(cost.write, workdir, counted, config.train.batch, update)
      memory.set_fragments_aside()
    progress = stack.enter_context(Progress('training', steps, 'step', start))

    def save(position: dict, before: int | None = None):
      """Saves the state and the iterator's position; with `before`, only the pending steps before that one."""
      notes = {'best': evaluation.best, 'evaluated': evaluation.evaluated, 'window': pending.to_json(before)}
      bucket.push(workdir)  # before the checkpoint: the log of a resumed run is cut at its step
      checkpoints.save(state, position, {'config': workdir_lib.to_json(config)} | notes)

    @contextmanager
    def saved_on_error(position: dict):
      """Keeps what was learned since the last checkpoint if data vanish or a process that reads them is killed."""
      try:
        yield
      except UserError:
        if jax.process_count() == 1 and not pending.fetch():
          save(position)
        raise

    is_first = True  # evaluation of this process, which compiles

    def evaluate_and_save(step: int):
      nonlocal is_first
      with progress.paused(), saved_on_error(batches.get_state()):
        evaluation.run(state, step)
      if is_first:
        memory.set_fragments_aside()
        is_first = False
      save(batches.get_state())

    if evaluation.due(start):  # an earlier process was stopped in it
      evaluate_and_save(start)
    step = start
    last = start if evaluation.due(start) else steps  # stopped in it again
    for step in range(start + 1, last + 1):
      position = batches.get_state()
      with saved_on_error(position):
        batch = next(batches)
      state, scalars = update(state, training.on_devices(batch), step)
      pending.add(step, scalars, batch['index'], position)
      due = evaluation.due(step)
      stops = stop.reached(step)
      logs = due or step % config.train.log_every == 0
      saves = due or stops or (config.train.save_every and step % config.train.save_every == 0)
      skipped = pending.fetch() if logs or saves else []
      if skipped and config.train.nan_policy == 'stop':
        save(skipped[0].data, before=skipped[0].number)
        raise bad_numbers.report(skipped[0], source, workdir)
      progress.update(1, log_steps(log, pending, training.schedule, config, step) if logs else '')
      if due:
        evaluate_and_save(step)
      elif saves:
        save(batches.get_state())
      if stops or evaluation.due(step):
        break
  if start < steps:
    sharding.on_first_host(cost.write_peak, workdir)
  if pending.total_skipped():
    say(f'{pending.total_skipped()} of {step} steps skipped: their loss or gradient was not finite')
  if step < steps or evaluation.due(step):
    say(f'stopped by {stop.cause()} at step {step} of {steps}, saved; the same command goes on from here')
    return False
  return True


def is_fresh(workdir: str) -> bool:
  """Whether there is no checkpoint yet; files that an earlier start left are then replaced."""
  return not any(checkpoints_lib.folder(workdir).glob('[0-9]*'))


def pin_weights(config, workdir: str):
  """The config with the commit of config.init_from on the Hub, if it is there; an earlier start's commit is kept."""
  before = ''
  with contextlib.suppress(UserError):
    before = workdir_lib.read_config(workdir).init_from
  source = sharding.gather(sharding.on_first_host(pretrained.pin, config.init_from, before))[0]
  if source != config.init_from:
    config = config.copy_and_resolve_references()
    config.init_from = source
  return config


def check_labels(workdir: str, source):
  """Raises UserError if the labels differ from those that an earlier start saw."""
  labels = pathlib.Path(workdir) / 'labels.json'
  if labels.exists():
    label_settings.check_same(labels, source.ids, source.tasks, source.label_mask, source.predicted)
  origin = pathlib.Path(workdir) / PREDICTED_BY
  if origin.exists() and (before := files.read_json(origin)) != source.predicted_by:
    changed = [name for name, entry in source.predicted_by.items() if before.get(name) != entry]
    raise UserError(
      f'{origin}: the labels of {join_names(changed)} were predicted anew since this run started; choose a new '
      '--workdir, or use --force'
    )


def write_start(workdir: str, config, training: setup.Training):
  """Writes the files that identify a run: config.json, labels.json, tasks.json, and class_weights.json if needed."""
  source = training.source
  workdir_lib.write_config(workdir, config)
  class_weights.write(workdir, training.model.tasks)
  labels = pathlib.Path(workdir) / 'labels.json'
  label_settings.save_mapping(labels, source.ids, source.tasks, source.label_mask, source.predicted)
  workdir_lib.write_tasks(workdir, source.tasks)
  if source.predicted_by:
    write_json(pathlib.Path(workdir) / PREDICTED_BY, source.predicted_by)


def log_steps(log: Log, pending: bad_numbers.PendingSteps, schedule, config, step: int) -> str:
  """Logs the steps since the last log line and clears them; returns a note for the progress line."""
  values = log_values(pending, schedule, config, step)
  log.scalars(step, values)
  pending.clear()
  return f'loss {values["loss/total"]:.4g}' if 'loss/total' in values else 'skipped'


def log_values(pending: bad_numbers.PendingSteps, schedule, config, step: int) -> dict[str, float]:
  """Scalars to log at a step: means since the last log line, steps skipped in all, loss scale and learning rate."""
  skipped = pending.total_skipped()
  scalars = pending.steps[-1].scalars
  counts = {'loss_scale': scalars['loss_scale']} if 'loss_scale' in scalars else {}
  if counts or config.train.nan_policy == 'skip':
    counts['skipped'] = skipped
  return pending.means() | counts | {'lr': float(schedule(step - 1 - skipped))}


def closing_text(folder: pathlib.Path, page: pathlib.Path, is_own_data: bool) -> str:
  """Tells where the results of a run are, and which commands to try next; more for a folder of the user's images."""
  command = program()
  lines = [f'\nreport: {page}', f'scores: {folder}/metrics.json    pictures: {folder}/panels', 'next:']
  if any(folder.glob('panels/*/input.jpg')):  # validation images; your own go the same way
    images = f"--images='{folder}/panels/*/input.jpg'"
    lines.append(f'  {command} --mode=predict --workdir={folder} {images} --out={folder}/maps')
  if is_own_data:
    lines.append(f'  {command} --mode=predict --workdir={folder} --save=labels   # fills in the missing labels')
    lines.append(f'  {command} --mode=suggest --workdir={folder} --out={folder}/next   # what to label next')
  if importlib.util.find_spec('tensorboard'):
    lines.append(f'  tensorboard --logdir={folder}/tensorboard')
  lines.append(f'  {command} --mode=report --workdirs={folder},ANOTHER --out=runs/report   # compares runs')
  return '\n'.join(lines)
