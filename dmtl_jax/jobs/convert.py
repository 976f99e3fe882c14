"""The job `--mode=convert`: the authors' PyTorch checkpoint as a run of ours, or a run of ours made small."""

import os
import pathlib

import jax
import numpy as np

from dmtl_jax.basics.errors import program, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.data import source as source_lib
from dmtl_jax.models import build_model
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.runs import checkpoints as checkpoints_lib
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.pretrained import is_released, load_released, read_state, resolve
from dmtl_jax.tasks import Task


def run(source: str, workdir: str, config):
  """The job `--mode=convert`: makes the folder of a run out of a checkpoint.

  Args:
    source: a released checkpoint (.pth.tar, .pth, .safetensors), or the folder of a run.
    config: of the model; not used for the folder of a run.

  Raises:
    UserError: see `convert` and `lighten`.
  """
  if os.path.isdir(source):
    lighten(pathlib.Path(source), pathlib.Path(workdir).resolve())
  else:
    convert(source, workdir, config, source_lib.data_tasks(config.data))
  say(f'{workdir}: ready; {program()} --mode=evaluate --workdir={workdir}')


def convert(source: str, workdir: str, config, tasks: tuple[Task, ...]):
  """Makes a run at step 0 out of a released checkpoint, for `--mode=evaluate` and `--mode=predict`.

  Raises UserError where the checkpoint does not fit the config, or the workdir already holds a run.
  """
  folder = pathlib.Path(workdir).resolve()
  _check_new(folder)
  state = read_state(resolve(source))
  if not is_released(state):
    raise UserError(f'{source}: an encoder alone, no whole model; train with --config.init_from={source}')
  model = build_model(config, tasks)
  empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variable_shapes(model, tuple(config.data.size)))
  variables = load_released(state, empty, tasks, source)

  config.init_from = source
  write_run(folder, config, tasks, variables)


def lighten(source: pathlib.Path, workdir: pathlib.Path):
  """Makes a run of the best weights of another, without optimiser state, rounded to bfloat16: half the file.

  Raises UserError as `convert`.
  """
  _check_new(workdir)
  config, tasks = workdir_lib.read_config(source), workdir_lib.read_tasks(source)
  variables, step = light_variables(source, config, tasks, 'best')
  write_run(workdir, config, tasks, variables, step)


def light_variables(source: pathlib.Path, config, tasks: tuple[Task, ...], step: str) -> tuple[dict, int]:
  """The variables of a run's checkpoint rounded to bfloat16, as float32, and the checkpoint's step."""
  variables, number = checkpoints_lib.load(source, step, build_model(config, tasks), tuple(config.data.size))
  return jax.tree.map(lambda x: np.asarray(x).astype(jax.numpy.bfloat16).astype(np.float32), variables), number


def _check_new(workdir: pathlib.Path):
  if checkpoints_lib.folder(workdir).exists():
    raise UserError(f'{workdir}/checkpoints: already there; choose a new folder')


def write_run(workdir: pathlib.Path, config, tasks: tuple[Task, ...], variables: dict, step: int = 0) -> pathlib.Path:
  """Makes the folder of a run that has these variables and was not trained; returns it."""
  workdir_lib.write_config(workdir, config)
  workdir_lib.write_tasks(workdir, tasks)
  checkpoints_lib.save_variables(workdir, step, variables, workdir_lib.to_json(config))
  return workdir
