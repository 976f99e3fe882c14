"""Training, top to bottom: data, model, state, resume, steps, evaluation, checkpoints."""

import math
import pathlib
import signal

import jax

from dmtl_jax import evaluate, pretrained, sharding, state as state_lib, workdir as workdir_lib
from dmtl_jax.checkpoints import Checkpoints
from dmtl_jax.data import label_settings, pipeline, source as source_lib
from dmtl_jax.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.progress import Progress
from dmtl_jax.steps import make_train_step
from dmtl_jax.workdir import say


def run(config, workdir: str, force: bool = False) -> dict | None:
  """The job `--mode=train`: trains in `workdir`, or goes on where an earlier run there stopped.

  Args:
    force: resume even with a changed config.

  Returns:
    The final evaluation, as in metrics.json; None when SIGTERM stopped the run early.

  Raises:
    UserError: bad config or data, another process in the workdir, or a loss that is not finite.
  """
  held = workdir_lib.lock(workdir)
  workdir_lib.check_config(workdir, config, force)

  mesh = sharding.make_mesh()
  sharding.check_batch('config.train.batch', config.train.batch, mesh)
  sharding.check_batch('config.eval.batch', config.eval.batch, mesh)
  source, val = open_data(config, workdir)
  tasks = source.tasks
  workdir_lib.write_tasks(workdir, tasks)
  say(workdir_lib.start_text(config, tasks, source))

  everywhere = sharding.replicated(mesh)
  model = build_model(config, tasks)
  steps_per_epoch = max(len(source) // config.train.batch, 1)
  steps = config.train.steps or config.train.epochs * steps_per_epoch
  eval_every = config.train.eval_every or max(steps // 10, 1)
  save_every = config.train.save_every or eval_every
  schedule = state_lib.learning_rate(config, steps, steps_per_epoch)
  tx = state_lib.optimizer(config, schedule)
  update = jax.jit(
      make_train_step(model, tx, config, tasks, pair_count(source, config, mesh.size), groups=mesh.size),
      donate_argnums=0,
      out_shardings=everywhere,
  )
  evaluator = evaluate.Evaluator(model, config, val, mesh, fast=True, limit=config.train.eval_images)

  batches = pipeline.train_iterator(source, config, jax.process_index(), jax.process_count())
  checkpoints = Checkpoints(workdir, config.train.keep)
  init = jax.jit(lambda key: state_lib.create(model, tx, key, tuple(config.data.size)), out_shardings=everywhere)
  state, start = start_state(config, checkpoints, init, batches, everywhere, tasks)
  log = workdir_lib.Log(workdir, start)
  stop = _StopSignal()

  pending = []
  with Progress('training', steps, 'step', start) as progress:
    for step in range(start + 1, steps + 1):
      batch = next(batches)
      state, scalars = update(state, sharding.put_batch(_arrays(batch), mesh))
      pending.append(scalars)
      evaluates = step % eval_every == 0 or step == steps
      if step % config.train.log_every == 0 or evaluates or stop.asked:
        values = mean_scalars(jax.device_get(pending), tasks)
        _check_finite(step, values)
        log.scalars(step, values | {'lr': float(schedule(step - 1))})
        progress.update(len(pending), f"loss {values['loss/total']:.4g}")
        pending = []
      if evaluates:
        scores, _ = evaluator.run(state.variables)
        log.scalars(step, evaluate.flat(scores))
        for name, picture in evaluator.panels(state.variables) if jax.process_index() == 0 else ():
          log.image(step, f'panels/{name}', picture)
        checkpoints.best = choose_best(checkpoints.best, step, scores, config, tasks)
      if evaluates or stop.asked or step % save_every == 0:
        checkpoints.save(state, batches, workdir_lib.to_json(config))
      if stop.asked:
        break
  checkpoints.close()
  log.close()
  held.close()
  if stop.asked and step < steps:
    say(f'stopped by SIGTERM at step {step} of {steps}, saved; the same command goes on from here')
    return None
  result = evaluate.run(config, workdir)
  say(closing_text(workdir))
  return result


def closing_text(workdir: str) -> str:
  """Where the results of a run are, and what to try next."""
  return (
      f'\nPictures of predictions: {workdir}/panels    scores: {workdir}/metrics.json\n'
      f'Next:\n'
      f"  python main.py --mode=predict --workdir={workdir} --images='photos/*.jpg' --out=maps   # your own images\n"
      f'  tensorboard --logdir={workdir}/tensorboard                                            # learning curves'
  )


def open_data(config, workdir: str):
  """The training source with its label setting applied (and stored in the run), and the validation source."""
  whole = source_lib.open_source(config.data, 'train')
  source = label_settings.apply_labels(whole, config.data.labels, config.data.label_seed)
  if jax.process_index() == 0:
    label_settings.save_mapping(pathlib.Path(workdir) / 'labels.json', source.ids, source.tasks, source.label_mask)
  return source, source_lib.open_source(config.data, 'val')


def pair_count(source, config, groups: int) -> int:
  """Static number of (image, task) pairs a device denoises: its images times the most labels of any."""
  return config.train.batch // groups * max(int(source.label_mask.sum(1).max()), 1)


def start_state(config, checkpoints: Checkpoints, init, batches, sharding_, tasks):
  """Where weights come from, in this order: the run's own checkpoint, config.init_from, the seed."""
  key = jax.random.key(config.seed)
  steps = checkpoints.steps()
  if steps:
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_), jax.eval_shape(init, key)
    )
    say(f'resuming from step {steps[-1]} of {checkpoints.path}')
    return checkpoints.restore(steps[-1], shapes, batches), steps[-1]
  state = init(key)
  say(f'fresh weights from seed {config.seed}' + (f', then from {config.init_from}' if config.init_from else ''))
  if config.init_from:
    variables = pretrained.load(config.init_from, jax.device_get(state.variables), tasks)
    variables = jax.device_put(variables, sharding_)
    state = state.replace(params=variables['params'], batch_stats=variables['batch_stats'])
  return state, 0


def _arrays(batch: dict) -> dict:
  return {name: batch[name] for name in ('image', 'labels', 'label_mask')}


def mean_scalars(pending: list[dict], tasks) -> dict[str, float]:
  """Scalars of several steps to means: a task's losses over its labelled images, the rest over steps."""
  total = lambda name: float(sum(scalars[name] for scalars in pending))
  values = {name: total(name) / len(pending) for name in ('loss/total', 'grad_norm')}
  for task in tasks:
    count = total(f'count/{task.name}')
    for part in ('final', 'initial'):
      name = f'loss/{part}/{task.name}'
      if count and name in pending[0]:
        values[name] = total(name) / count
  return values


def _check_finite(step: int, values: dict[str, float]):
  bad = [name for name, value in values.items() if not math.isfinite(value)]
  if bad:
    raise UserError(
        f"step {step}: {', '.join(bad)} not finite; the last checkpoint is kept; lower --config.optim.lr or check the labels"
    )


def choose_best(best: dict, step: int, scores: dict, config, tasks) -> dict:
  """The better of the best evaluation so far and this one: {'step', 'scores', 'delta_m'}.

  By Delta_m where config.eval.single_task gives the single-task scores; else by mean rank of
  the two (the one better at more tasks; the later one on a tie).
  """
  headline = evaluate.headline(scores['final'], tasks)
  candidate = {'step': step, 'scores': headline, 'delta_m': evaluate.delta_to_single(headline, config, tasks)}
  if not best:
    return candidate
  if candidate['delta_m'] is not None:
    return candidate if candidate['delta_m'] >= best['delta_m'] else best
  gains = [(headline[t.name] - best['scores'][t.name]) * (1 if t.higher_is_better else -1) for t in tasks]
  won, lost = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
  return candidate if won >= lost else best


class _StopSignal:
  """Remembers SIGTERM, so that the loop can save and leave between two steps."""

  def __init__(self):
    self.asked = False
    signal.signal(signal.SIGTERM, self._ask)

  def _ask(self, *_):
    self.asked = True
