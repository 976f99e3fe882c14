"""The authors' PyTorch checkpoint as a run of ours; or a run of ours, small enough to give away.

python -m dmtl_jax.jobs.convert CHECKPOINT.pth.tar WORKDIR
python -m dmtl_jax.jobs.convert RUN WORKDIR                   # its best weights alone, as precise as bfloat16
python main.py --mode=evaluate --workdir=WORKDIR
"""

import argparse
import os
import pathlib
import runpy
import sys

import jax
import numpy as np

from dmtl_jax import configs
from dmtl_jax.basics import streams
from dmtl_jax.basics.errors import check_local, print_error, program, UserError
from dmtl_jax.data import source as source_lib
from dmtl_jax.models import build_model
from dmtl_jax.models.inputs import variable_shapes
from dmtl_jax.runs import checkpoints as checkpoints_lib
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.runs.pretrained import is_released, load_released, read_state, RELEASED_CONFIG, resolve
from dmtl_jax.tasks import Task


def convert(source: str, workdir: str, config, tasks: tuple[Task, ...]):
  """Makes a run at step 0 out of a released checkpoint, for `--mode=evaluate` and `--mode=predict`.

  Raises UserError where the checkpoint does not fit the config, or the workdir already holds one.
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
  """Makes a run of the best weights of another: without the optimiser's state, and rounded, which halves the file.

  Raises UserError as `convert`.
  """
  _check_new(workdir)
  config, tasks = workdir_lib.read_config(source), workdir_lib.read_tasks(source)
  variables, step = checkpoints_lib.load(source, 'best', build_model(config, tasks), tuple(config.data.size))
  rounded = jax.tree.map(lambda x: np.asarray(x).astype(jax.numpy.bfloat16).astype(np.float32), variables)
  write_run(workdir, config, tasks, rounded, step)


def _check_new(workdir: pathlib.Path):
  if (workdir / 'checkpoints').exists():
    raise UserError(f'{workdir}/checkpoints: already there; choose a new folder')


def write_run(workdir: pathlib.Path, config, tasks: tuple[Task, ...], variables: dict, step: int = 0) -> pathlib.Path:
  """Makes the folder of a run that has these variables and was not trained; returns it."""
  workdir_lib.write_config(workdir, config)
  workdir_lib.write_tasks(workdir, tasks)
  checkpoints_lib.save_variables(workdir, step, variables, workdir_lib.to_json(config))
  return workdir


def main(argv: list[str] | None = None) -> int:
  """The command above; returns the exit status."""
  streams.secure()
  parser = argparse.ArgumentParser(prog='python -m dmtl_jax.jobs.convert', description=__doc__.split('\n\n')[0])
  parser.add_argument(
    'source', metavar='SRC', help='released checkpoint (.pth.tar, .pth, .safetensors), or the folder of a run'
  )
  parser.add_argument('workdir', metavar='DST', help='folder to make, for --workdir')
  parser.add_argument('--config', default=RELEASED_CONFIG, help='config of the model (default: %(default)s)')
  args = parser.parse_args(argv)
  try:
    check_local('DST', args.workdir)
    if os.path.isdir(args.source):
      lighten(pathlib.Path(args.source), pathlib.Path(args.workdir).resolve())
    else:
      config = _read_config(args.config)
      convert(args.source, args.workdir, config, source_lib.data_tasks(config.data))
  except UserError as error:
    print_error(error)
    return 1
  print(f'{args.workdir}: ready; {program()} --mode=evaluate --workdir={args.workdir}')
  return 0


def _read_config(given: str):
  path, _, arg = configs.find(given).partition(':')
  try:
    return runpy.run_path(path)['get_config'](arg)
  except (KeyError, ValueError) as error:  # no get_config, or a config string that it refuses
    raise UserError(f'--config={given}: {error}') from error


if __name__ == '__main__':
  sys.exit(main())
