"""DiffusionMTL in JAX: dense multi-task learning from images labelled for only some tasks.

  train      python main.py --config=configs/scenes.py:method=prediction,labels=one --workdir=runs/scenes
             (run it again on the same workdir and it goes on where it stopped)
  evaluate   python main.py --mode=evaluate --workdir=runs/scenes [--step=best|latest|N] [--config.eval.steps=4]
  predict    python main.py --mode=predict --workdir=runs/scenes --images=photos --out=maps [--samples=8]
  summary    python main.py --mode=summary --config=configs/pascal.py:method=feature [--json] [--memory]
  prepare    python main.py --mode=prepare --config=configs/nyud.py --config.data.raw=PATH
  report     python main.py --mode=report --workdirs=runs/a,runs/b --out=runs/report

Config strings: configs/NAME.py:method=...,labels=...,backbone=...,steps=...,preset=...; of ours NAME is enough
(configs/common.py lists the values). Any other field is a flag: --config.optim.lr=1e-4.
"""

import pathlib
import re
import sys

from absl import flags, logging
from ml_collections import config_flags

from dmtl_jax import configs
from dmtl_jax.basics.errors import printable, tell, UserError
from dmtl_jax.configs import check

MODES = ('train', 'evaluate', 'predict', 'summary', 'prepare', 'report')

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, configs/NAME.py[:key=value,...].', lock_config=False, accept_new_attributes=True
)  # new: config.eval.single_task.TASK; check.check_fields refuses others
_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: config, checkpoints, logs, scores, pictures.')
_FORCE = flags.DEFINE_bool('force', False, 'train: resume although the config changed.')
_REPLAY = flags.DEFINE_string(
  'replay', None, 'train: only runs the step of a W/nan_STEP.json again, and prints its losses.'
)
_STEP = flags.DEFINE_string(
  'step',
  '',
  'evaluate, predict: checkpoint to restore: best, latest or a number; default config.eval.weights and best.',
)
_PREDICTIONS = flags.DEFINE_bool('predictions', False, 'evaluate: also write the maps of every image.')
_IMAGES = flags.DEFINE_string('images', None, 'predict: file, folder, glob or video; several separated by commas.')
_SAMPLES = flags.DEFINE_integer('samples', 1, 'predict: noise draws to average, with a map of their uncertainty.')
_ZOOM = flags.DEFINE_float('zoom', None, 'predict: how much larger than whole an image is seen, in tiles; 1: whole.')
_OUT = flags.DEFINE_string('out', None, 'predict, report: folder to write to.')
_DISTRIBUTED = flags.DEFINE_string(
  'distributed',
  None,
  "train, evaluate: one of several processes: 'auto' under srun, mpirun, on a TPU pod or GKE; "
  'elsewhere ADDRESS:PORT,PROCESSES,NUMBER of the first process, of all and of this one.',
)
_MEMORY = flags.DEFINE_bool('memory', False, 'summary: also the memory of a training step; compiles it.')
_JSON = flags.DEFINE_bool('json', False, 'summary: print JSON.')
_WORKDIRS = flags.DEFINE_string('workdirs', None, 'report: workdirs to compare, separated by commas.')
# What absl, ml_collections and Python's parser (of tuples, and of the config file) raise for what they cannot read.
_UNREADABLE = (
    flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, ImportError, SyntaxError, RecursionError,
)  # fmt: skip


def main(argv: list[str] = sys.argv) -> int:
  """Runs one job; returns the exit status: 0, or 1 after an error told in one sentence."""
  if any(arg in ('-h', '--help', '-help') for arg in argv[1:]):
    print(__doc__.strip(), '\n\nflags:')
    print(flags.FLAGS.module_help('dmtl_jax.cli'))
    return 0
  logging.set_verbosity(logging.WARNING)
  try:
    _parse(argv)
    from dmtl_jax.basics import compilation  # with JAX: not for a mistake in the flags

    compilation.use_cache()
    return (_together(_DISTRIBUTED.value) if _DISTRIBUTED.value else _run()) or 0
  except UserError as error:
    tell(error)
    return 1


def _parse(argv: list[str]):
  """Reads the flags, and with them the config file.

  Raises:
    UserError: whatever is wrong with them.
  """
  try:
    argv = _with_stored_config(_with_found_config(argv))
    _check_fields(argv)
    rest = flags.FLAGS(argv)
    getattr(_CONFIG.value, 'seed', None)  # a file that cannot be read only fails when a field is asked for
  except _UNREADABLE as error:
    raise UserError(printable(_sentence(error), 400)) from error
  if _CONFIG.value is not None:
    check.check(_CONFIG.value.to_dict(), '--config')
    _CONFIG.value.lock()
  if len(rest) > 1:
    raise UserError(f"'{printable(rest[1])}': not a flag; see --help")


def _with_found_config(argv: list[str]) -> list[str]:
  """`--config NAME` as `--config=FILE`; see `configs.find`."""
  found, rest = argv[:1], iter(argv[1:])
  for arg in rest:
    arg += f'={next(rest, "")}' if arg in ('-config', '--config') else ''
    flag, _, value = arg.partition('=')
    found.append(f'{flag}={configs.find(value)}' if flag in ('-config', '--config') else arg)
  return found


def _with_stored_config(argv: list[str]) -> list[str]:
  """Flags `--config.FIELD` without a `--config` change the config that the workdir's run was trained with."""
  names = [arg.partition('=')[0].lstrip('-') for arg in argv]
  workdir = next((arg.partition('=')[2] for arg, name in zip(argv, names) if name == 'workdir'), '')
  if 'config' in names or not workdir or not any(name.startswith('config.') for name in names):
    return argv
  return [argv[0], f'--config={pathlib.Path(__file__).parent / "runs/stored.py"}:{workdir}', *argv[1:]]


def _check_fields(argv: list[str]):
  """Names a field that the config file has not, before ml_collections makes it or speaks of its section."""
  paths, file = [], ''
  for arg in argv:
    match = re.match(r'--?(?:no)?config(?:\.([^=]*))?(?:=(.*)|$)', arg, re.DOTALL)
    if match and match[1] is not None:
      paths.append(match[1])
    elif match:
      file = match[2]
  if paths and file:
    check.check_fields(paths, flags.FLAGS['config'].parser.parse(file).to_dict())


def _sentence(error: Exception) -> str:
  """The message; of the traceback that ml_collections puts into its messages, the last line's."""
  text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  head, traceback, tail = text.partition('Traceback (most recent call last)')
  sentence = tail.strip().splitlines()[-1].partition(': ')[2] if traceback else ' '.join(head.split())
  return sentence or f'--config: cannot be read ({type(error).__name__})'


def _run():
  """Imports only what the job needs: a summary or a report starts without the data libraries."""
  mode = _MODE.value
  if mode == 'train' and _REPLAY.value:
    from dmtl_jax.jobs import replay

    replay.run(_run_config(), _needed(_WORKDIR), _REPLAY.value)
  elif mode == 'train':
    from dmtl_jax.jobs import train

    train.run(_config(), _needed(_WORKDIR), _FORCE.value)
  elif mode == 'evaluate':
    from dmtl_jax.jobs import evaluate

    evaluate.run(_run_config(), _needed(_WORKDIR), _STEP.value, _PREDICTIONS.value)
  elif mode == 'predict':
    from dmtl_jax.jobs import predict

    return predict.run(
      _needed(_WORKDIR), _STEP.value or 'best', _needed(_IMAGES), _needed(_OUT), _SAMPLES.value, _ZOOM.value
    )
  elif mode == 'summary':
    from dmtl_jax.jobs import summary

    summary.run(_config(), _JSON.value, _MEMORY.value)
  elif mode == 'prepare':
    from dmtl_jax.jobs import prepare

    prepare.prepare(_config())
  else:
    from dmtl_jax.jobs import report

    report.write_report(_needed(_WORKDIRS).split(','), _needed(_OUT))


def _together(spec: str):
  """Joins the other processes, before any other use of JAX, and runs. The first speaks for all; each tells its errors.

  Raises:
    UserError: a job that one process does alone, or no cluster that JAX knows.
  """
  import jax

  from dmtl_jax.basics import partners, progress

  if _MODE.value not in ('train', 'evaluate') or _REPLAY.value:
    raise UserError(f'--distributed: --mode={_MODE.value} is the work of one process; leave it out')
  try:
    if spec == 'auto':
      jax.distributed.initialize()
    else:
      address, count, number = spec.split(',')
      jax.distributed.initialize(address, int(count), int(number), cluster_detection_method='deactivate')
  except (ValueError, RuntimeError) as error:
    reason = printable(str(error).rstrip('.'), 200)
    raise UserError(
      f'--distributed={printable(spec)}: {reason}; use auto under srun, mpirun, on a TPU pod or GKE, '
      f'and elsewhere ADDRESS:PORT,PROCESSES,NUMBER'
    ) from error
  progress.silent = jax.process_index() > 0
  return partners.together(_run)


def _needed(flag) -> str:
  if not flag.value:
    raise UserError(f'--mode={_MODE.value} needs --{flag.name}; see --help')
  return flag.value


def _config():
  if _CONFIG.value is None:
    raise UserError(f'--mode={_MODE.value} needs --config=configs/NAME.py; see --help')
  return _CONFIG.value


def _run_config():
  """The config given, or the one the run was trained with."""
  from dmtl_jax.runs import workdir

  return _CONFIG.value or workdir.read_config(_needed(_WORKDIR))
