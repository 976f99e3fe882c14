"""`--replay=W/nan_STEP.json`: repeats the step at which a run stopped, and prints its losses."""

import math

import jax

from dmtl_jax.basics import files, sharding
from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.runs import run_tasks
from dmtl_jax.runs.checkpoints import Checkpoints
from dmtl_jax.runs.workdir import read_tasks
from dmtl_jax.training import bad_numbers, class_weights, setup


def run(config, workdir: str, path: str, force: bool = False) -> dict[str, float]:
  """Repeats one step from its checkpoint on its batch; writes nothing.

  Args:
    config: the run's, or one to compare with (another dtype, loss weights, ...) on the same images.
    path: replay file, see `bad_numbers.report`.

  Returns:
    The scalars of the step, see `step.TrainStep`.

  Raises:
    UserError: no such file or checkpoint, or the tasks or the batch differ from the run's.
  """
  record = _read(path)
  config = run_tasks.match(config, read_tasks(workdir), workdir, force)
  data = setup.open_data(config)
  weights = class_weights.of_run(config.class_weights, data.train, config.data, workdir, restart=force)
  training = setup.build(config, data.train, data.val, class_weights=weights)
  checkpoints = Checkpoints(workdir, read_only=True)
  if record['checkpoint'] not in checkpoints.steps():
    raise UserError(f'{path}: {checkpoints.path}/{record["checkpoint"]}, which it starts from, is not there any more')
  state = checkpoints.restore(record['checkpoint'], setup.abstract_state(training), training.batches)
  batch = next(training.batches)
  ids = [training.source.ids[i] for index in sharding.gather(batch['index']) for i in index]
  if ids != record['images']:
    raise UserError(
      f"{path}: the batch was {', '.join(record['images'])}, here it is {', '.join(ids)}; use the run's config and data"
    )
  _, scalars = training.update(state, training.on_devices(batch), record['step'])
  scalars = {name: float(value) for name, value in jax.device_get(scalars).items()}
  say(f'step {record["step"]} on {", ".join(ids)}: {bad_numbers.losses_text(scalars, training.source.tasks)}')
  before = {name: float(value) for name, value in record['scalars'].items()}
  same = all(before.get(n) == v or (math.isnan(v) and math.isnan(before.get(n, 0))) for n, v in scalars.items())
  say('the same numbers as in the run' if same else 'not the same numbers as in the run')
  return scalars


def _read(path: str) -> dict:
  record = files.read_json(path, '--replay takes W/nan_STEP.json of a run')
  if not isinstance(record, dict) or not record.keys() >= {'step', 'checkpoint', 'images', 'scalars'}:
    raise UserError(f'--replay={path}: not a replay file of a run, W/nan_STEP.json')
  return record
