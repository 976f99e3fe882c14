"""The command line: reads the flags of `cli_flags` and the config, and runs one job."""

import importlib
import os
import pathlib
import re
import sys

from absl import flags, logging

from dmtl_jax import cli_flags, configs
from dmtl_jax.basics import bucket, memory, stopping, streams
from dmtl_jax.basics.errors import closest, print_error, program, sanitize, UserError
from dmtl_jax.configs import common, fields

FLAGS = flags.FLAGS
# What absl, ml_collections and Python's parser (of tuples, and of the config file) raise for what they cannot read.
_UNREADABLE = (
    flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, ImportError, SyntaxError, RecursionError,
)  # fmt: skip


def main(argv: list[str] = sys.argv) -> int:
  """Runs one job; returns the exit status: 0, or 1 after printing an error."""
  status = 1
  try:
    status = _main(argv)
  finally:
    stopping.exit_while_compiling(status)
  return status


def _main(argv: list[str]) -> int:
  streams.secure()
  if any(arg in ('-h', '--help', '-help') for arg in argv[1:]):
    _, _, keys = common.__doc__.partition('\n\n')
    print(f'{cli_flags.__doc__}\n{keys}\n{fields.as_text()}\n\nflags:'.replace('python main.py', program()))
    print(FLAGS.module_help(cli_flags.__name__), flush=True)
    return 0
  logging.set_verbosity(logging.WARNING)
  try:
    with bucket.mirrored():
      overrides = _parse(argv)
      from dmtl_jax.basics import compilation  # with JAX: not for a mistake in the flags

      compilation.use_cache()
      if FLAGS.mode in ('train', 'evaluate', 'predict'):
        memory.keep_freed()
      return (_run_distributed(FLAGS.distributed) if FLAGS.distributed else _run(overrides)) or 0
  except UserError as error:
    print_error(error)
    return 1


def _parse(argv: list[str]) -> list[str]:
  """Reads the flags, then the config file, which needs JAX; returns the flags --config.FIELD=VALUE.

  Raises UserError with whatever is wrong with them.
  """
  file, overrides, others = _split(argv)
  try:
    rest = FLAGS(others)
    if len(rest) > 1:
      raise UserError(_misplaced(rest[1]))
    if file:
      file = configs.find(file)
    elif FLAGS.mode == 'import':
      file = configs.find('folder')
    # Overrides without a file change the config that a run was trained with.
    is_stored = bool(not file and overrides and FLAGS.workdir and FLAGS.mode != 'convert')
    cli_flags.check_flags(file or is_stored, overrides)
    if is_stored:
      file = f'{pathlib.Path(__file__).parent / "runs/stored.py"}:{FLAGS.workdir}'
    if FLAGS.mode == 'convert' and not file and not os.path.isdir(FLAGS.checkpoint):
      from dmtl_jax.runs import pretrained  # with JAX, as the config

      file = configs.find(pretrained.RELEASED_CONFIG)
    texts = [f'--config.{field}' + ('' if value is None else f'={value}') for field, value in overrides]
    if file:
      _read_config(argv[0], file, overrides, texts)
    return texts
  except _UNREADABLE as error:
    raise UserError(sanitize(_sentence(error), 400)) from error


def _split(argv: list[str]) -> tuple[str | None, list[tuple[str, str | None]], list[str]]:
  """The value of --config, (FIELD, value) of every flag --config.FIELD, and the other arguments."""
  file, overrides, others, left = None, [], [], list(argv)
  while left:
    arg = left.pop(0)
    match = re.fullmatch(r'--?(no)?config(?:\.([^=]*))?(?:=(.*))?', arg, re.DOTALL)
    if not match:
      others.append(arg)
      continue
    negated, field, value = match.groups()
    if negated:
      value = 'false'
    elif value is None and left and not left[0].startswith('-'):
      value = left.pop(0)
    if field is None:
      file = value
    else:
      overrides.append((field, value))
  return file, overrides, others


def _misplaced(word: str) -> str:
  """What to say of an argument that is no flag."""
  if word in cli_flags.MODES:
    return f"'{word}': write --mode={word}"
  if '=' in word:
    return f"'{sanitize(word)}': not a flag; a config string has no spaces, unless it is quoted"
  return f"'{sanitize(word)}': not a flag; is --mode={closest(word, cli_flags.MODES)} meant? See --help"


def _read_config(program: str, file: str, overrides: list[tuple[str, str | None]], texts: list[str]):
  """Reads the config, once the fields that flags set are known to be there and to be numbers where they must."""
  from dmtl_jax.configs import check
  from dmtl_jax.data import source
  from dmtl_jax.models import find
  from dmtl_jax.tasks import check_keys

  check.check_flags(overrides, FLAGS['config'].parser.parse(file).to_dict())
  FLAGS([program, f'--config={file}', *texts])
  check.check(FLAGS.config.to_dict(), '--config')
  find(FLAGS.config.method)
  for section, values in (
    ('loss_weights', FLAGS.config.loss_weights),
    ('eval.single_task', FLAGS.config.eval.single_task),
  ):
    keys = [path.rpartition('.')[2] for path, _ in overrides if path.rpartition('.')[0] == section]
    if keys:
      check_keys(f'--config.{section}', keys, values, source.data_tasks(FLAGS.config.data))
  FLAGS.config.lock()


def _sentence(error: Exception) -> str:
  """The message; of the traceback that ml_collections puts into its messages, the last line's."""
  text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  head, traceback, tail = text.partition('Traceback (most recent call last)')
  sentence = tail.strip().splitlines()[-1].partition(': ')[2] if traceback else ' '.join(head.split())
  return sentence or f'--config: cannot be read ({type(error).__name__})'


def _run(overrides: list[str] | None = None) -> int | None:
  """Runs the job of the flags."""
  with bucket.report_outages():  # here too: of several processes, each reports its own
    return _run_job(overrides)


def _run_job(overrides: list[str] | None) -> int | None:
  """Imports only what the job needs: a summary or a report starts without the data libraries."""
  from dmtl_jax.basics import compilation

  mode = 'replay' if FLAGS.replay and FLAGS.mode == 'train' else FLAGS.mode
  workdir, out, step = FLAGS.workdir, FLAGS.out, FLAGS.step
  job = importlib.import_module(f'dmtl_jax.jobs.{"import_labels" if mode == "import" else mode}')
  compilation.collect_rarely()
  match mode:
    case 'import':
      from dmtl_jax.imports.classes import Options

      classes, annotated = tuple(FLAGS.classes or ()) or None, tuple(FLAGS.annotated)
      options = Options(FLAGS.task, FLAGS.kind, classes, FLAGS.background, annotated, FLAGS.empty, FLAGS.force)
      job.run(FLAGS.config.data, FLAGS['from'].value, FLAGS.images, FLAGS.colors, options)
    case 'check':
      return job.run(FLAGS.config, out, FLAGS.write, FLAGS.time)
    case 'train':
      job.run(FLAGS.config, workdir, FLAGS.force)
    case 'replay':
      job.run(_run_config(), workdir, FLAGS.replay, FLAGS.force)
    case 'evaluate':
      job.run(_run_config(), workdir, step, FLAGS.predictions, FLAGS.force, out)
    case 'predict':
      inputs = (workdir, step or 'best', FLAGS.images, out, _value_or('samples', 1), FLAGS.zoom)
      if FLAGS.save == 'labels':
        return importlib.import_module('dmtl_jax.jobs.predict_labels').run(*inputs, FLAGS.confidence)
      return job.run(*inputs)
    case 'suggest':
      return job.run(workdir, out, FLAGS.images, FLAGS.count, FLAGS.force)
    case 'summary':
      job.run(FLAGS.config, FLAGS.json, FLAGS.memory, FLAGS['for'].value)
    case 'prepare':
      job.run(FLAGS.config)
    case 'report':
      job.run(FLAGS.workdirs.split(','), out)
    case 'study':
      job.run(FLAGS.suite, out or 'runs/study', FLAGS.jobs, FLAGS.page, overrides)
    case 'influence':
      job.run(workdir, _value_or('limit', 200), out, FLAGS.force)
    case 'uncertainty':
      job.run(workdir, _value_or('samples', 8), _value_or('limit', 100), out, FLAGS.force)
    case 'boundary':
      counting = dict(tolerance=FLAGS.tolerance, count=FLAGS.thresholds, thinning=FLAGS.thin)
      job.run(FLAGS.pred, FLAGS.gt, out, FLAGS.ignore, FLAGS.workers, **counting)
    case 'export':
      job.run(workdir, step or 'best', out)
    case 'app':
      job.run(workdir, FLAGS.port)
    case 'convert':
      job.run(FLAGS.checkpoint, workdir, FLAGS.config)
    case 'publish':
      job.run(workdir, FLAGS.to, FLAGS.license, FLAGS.private, step or 'best')


def _value_or(name: str, default: int) -> int:
  """A flag's value, or the default of the mode where it is not set."""
  return default if FLAGS[name].value is None else FLAGS[name].value


def _run_distributed(spec: str):
  """Joins the other processes, before any other use of JAX, and runs. The first speaks for all; each tells its errors.

  Raises:
    UserError: a job that one process does alone, or no cluster that JAX knows.
  """
  import jax

  from dmtl_jax.basics import peers, progress

  if FLAGS.mode not in ('train', 'evaluate') or FLAGS.replay:
    raise UserError(f'--distributed: --mode={FLAGS.mode} is the work of one process; leave it out')
  try:
    if spec == 'auto':
      jax.distributed.initialize()
    else:
      address, count, number = spec.split(',')
      jax.distributed.initialize(address, int(count), int(number), cluster_detection_method='deactivate')
  except (ValueError, RuntimeError) as error:
    reason = sanitize(str(error).rstrip('.'), 200)
    raise UserError(
      f'--distributed={sanitize(spec)}: {reason}; use auto under srun, mpirun, on a TPU pod or GKE, '
      f'and elsewhere ADDRESS:PORT,PROCESSES,NUMBER'
    ) from error
  progress.silent = jax.process_index() > 0
  return peers.run_with_peers(_run)


def _run_config():
  """The config given, or the one the run was trained with."""
  from dmtl_jax.runs import workdir

  return FLAGS.config or workdir.read_config(FLAGS.workdir)
