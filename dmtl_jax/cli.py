"""DiffusionMTL in JAX: dense multi-task learning from images labelled for only some tasks.

import       python main.py --mode=import --from=EXPORT --images=PHOTOS --config.data.path=mydata
             [--task=semseg] [--classes=road,car] [--background=NAME] [--annotated=all] [--colors=FILE]
             (labels from COCO, LabelMe, CVAT, Label Studio, YOLO, VOC or colour masks, Cityscapes, NYU;
             with another export: adds its labels)
check        python main.py --mode=check --config=configs/folder.py --config.data.path=PATH [--out=PAGE.png] [--time]
             (what the data holds, with a picture of its labels and, for a folder, a first run that suits it; --write:
             write the dataset.json that it proposes where there is none)
train        python main.py --config=configs/scenes.py:method=prediction,labels=one --workdir=runs/scenes
             (the same command resumes a stopped run)
evaluate     python main.py --mode=evaluate --workdir=runs/scenes [--step=latest] [--config.eval.diffusion_steps=4]
predict      python main.py --mode=predict --workdir=runs/scenes --images=PHOTOS --out=maps [--samples=8]
             --save=labels [--confidence=0.9] (as labels, for images that have none, in the folder of the training data)
suggest      python main.py --mode=suggest --workdir=runs/mine --out=next [--images=PHOTOS] [--count=50]
             (what to label next: images without a label, with the task to label them for)
summary      python main.py --mode=summary --config=configs/pascal.py:method=feature [--json] [--memory [--for=v5e-1]]
             (what it costs; --memory compiles it, --for compiles it for an accelerator that need not be here)
prepare      python main.py --mode=prepare --config=configs/nyud.py --config.data.raw=PATH
report       python main.py --mode=report --workdirs=runs/a,runs/b --out=runs/report
study        python main.py --mode=study --suite=scenes-small [--out=runs/study] [--jobs=2] [--page=STUDY.md]
             (methods on equal terms: learning rates, runs, a report; --page is about all suites that have scores)
influence    python main.py --mode=influence --workdir=runs/scenes [--limit=200] [--out=FILE.json]
             (how much each task gains from the other tasks' maps)
uncertainty  python main.py --mode=uncertainty --workdir=runs/scenes [--samples=8] [--limit=100] [--out=FILE.json]
             (the error of the most certain pixels)
boundary     python main.py --mode=boundary --pred=MAPS --gt=TRUTHS [--ignore=255] [--tolerance=0.011] [--out=FILE.json]
             (the Berkeley benchmark's scores of folders of images)
export       python main.py --mode=export --workdir=runs/scenes --out=model.onnx [--step=best]
             (a file for ONNX runtimes; model.stablehlo: one that jax alone runs)
app          python main.py --mode=app --workdir=runs/scenes [--port=7860]
             (a page in the browser to try the run on photographs and short videos)
convert      python main.py --mode=convert --checkpoint=RELEASED.pth.tar --workdir=runs/released
             (the authors' checkpoint as a run; of a run, its best weights only, small enough to give away)
publish      python main.py --mode=publish --workdir=runs/scenes --to=OWNER/RUN --license=apache-2.0 [--private]
             (on the Hugging Face Hub, with a card; modes that read a run take --workdir=hf://OWNER/RUN[@REVISION])
"""

import importlib
import os
import pathlib
import re
import sys

from absl import flags, logging
from ml_collections import config_flags

from dmtl_jax import configs
from dmtl_jax.basics import accelerators, bucket, bucket_copy, streams
from dmtl_jax.basics.errors import check_local, closest, print_error, program, sanitize, unknown_value_error, UserError
from dmtl_jax.configs import common, fields
from dmtl_jax.inference import images
from dmtl_jax.jobs.study_suites import SUITES
from dmtl_jax.runs import hub

# Modes, and the flags that each needs.
MODES = {
  'check': ('config',),
  'train': ('config', 'workdir'),
  'evaluate': ('workdir',),
  'predict': ('workdir', 'images', 'out'),
  'suggest': ('workdir', 'out'),
  'summary': ('config',),
  'prepare': ('config',),
  'report': ('workdirs', 'out'),
  'study': (),
  'influence': ('workdir',),
  'uncertainty': ('workdir',),
  'boundary': ('pred', 'gt'),
  'export': ('workdir', 'out'),
  'app': ('workdir',),
  'convert': ('checkpoint', 'workdir'),
  'publish': ('workdir', 'to'),
  'import': ('from',),
}
# Modes that take the config of a trained run.
TRAINED = ('predict', 'suggest', 'report', 'influence', 'uncertainty', 'export', 'app', 'publish')
# Flags that only some modes take; others take them all, or ignore them as --workdir.
ONLY = {
    'replay': 'train', 'predictions': 'evaluate', 'step': 'evaluate predict export publish',
    'images': 'predict suggest import',
    'save': 'predict', 'confidence': 'predict', 'zoom': 'predict', 'samples': 'predict uncertainty', 'count': 'suggest',
    'limit': 'influence uncertainty', 'write': 'check', 'time': 'check', 'memory': 'summary', 'for': 'summary',
    'json': 'summary', 'workdirs': 'report', 'suite': 'study', 'jobs': 'study', 'page': 'study',
    'from': 'import', 'task': 'import', 'kind': 'import', 'classes': 'import', 'background': 'import',
    'annotated': 'import', 'colors': 'import', 'checkpoint': 'convert',
    'to': 'publish', 'license': 'publish', 'private': 'publish',
    'port': 'app', 'pred': 'boundary', 'gt': 'boundary', 'ignore': 'boundary',
    'tolerance': 'boundary', 'thresholds': 'boundary', 'thin': 'boundary', 'workers': 'boundary',
}  # fmt: skip
PATHS = ('workdir', 'images', 'out', 'workdirs', 'checkpoint', 'replay', 'pred', 'gt', 'page', 'from', 'colors')
IN_BUCKET = (
  'workdir',
  'workdirs',
  'images',
  'out',
  'checkpoint',
)  # those that may be gs:// addresses; of a study, none

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, configs/NAME.py[:key=value,...].', lock_config=False, accept_new_attributes=True
)  # new: config.eval.single_task.TASK; check.check_flags refuses others
_MODE = flags.DEFINE_string('mode', 'train', f'What to do: {", ".join(MODES)}.')
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: config, checkpoints, logs, scores, pictures; may be gs://BUCKET/FOLDER, as --images and --out; '
  "of predict, suggest, export, app, influence and uncertainty also 'scenes', the network that comes with the package; "
  'of modes that read a run also hf://OWNER/RUN[@REVISION] on the Hugging Face Hub.',
)
_FORCE = flags.DEFINE_bool(
  'force',
  False,
  'train: resume although the config or the labels changed. With any run and its data: accept renamed classes. '
  'import: replace labels that are there.',
)
_REPLAY = flags.DEFINE_string('replay', None, 'train: only runs the step of a W/nan_STEP.json again, for its losses.')
_STEP = flags.DEFINE_string(
  'step',
  '',
  'evaluate, predict, export, publish: checkpoint: best, latest or a number; default config.eval.weights, or best.',
)
_PREDICTIONS = flags.DEFINE_bool('predictions', False, 'evaluate: also write the maps of every image.')
_IMAGES = flags.DEFINE_string(
  'images',
  None,
  'predict: file, folder, glob or video; several separated by commas. suggest: photographs to choose from instead of '
  "the run's training images. import: the photographs that were labelled.",
)
_FROM = flags.DEFINE_string('from', None, "import: the labelling tool's export: file, folder or zip.")
_TASK = flags.DEFINE_string('task', 'semseg', 'import: name of the task that the labels are for.')
_KIND = flags.DEFINE_string(
  'kind', '', 'import: kind of the task: semseg, parsing, saliency, boundary; default the name of the task, or semseg. '
  'Of saliency and boundary what is drawn is 1 and the rest 0.',
)  # fmt: skip
_CLASSES = flags.DEFINE_list('classes', None, 'import: take only these classes of the export.')
_BACKGROUND = flags.DEFINE_string(
  'background', '', 'import: class of the pixels where nothing is drawn; without it they are unlabelled.'
)
_ANNOTATED = flags.DEFINE_list(
  'annotated',
  [],
  "import: classes of which every object in these images was drawn, or 'all': all other pixels are then none of these "
  'classes, but may be a class of another export.',
)
_COLORS = flags.DEFINE_string(
  'colors',
  None,
  'import: file with the colours or ids of masks: labelmap.txt, or JSON {"road": [128, 64, 128], "car": 13}.',
)
_SAVE = flags.DEFINE_enum(
  'save',
  'maps',
  ['maps', 'labels'],
  'predict: maps with pictures; or labels that training can read, by default for the images of the folder that the run '
  'was trained on.',
)
_CONFIDENCE = flags.DEFINE_float(
  'confidence',
  0.9,
  'predict --save=labels: probability of its class below which a pixel is left unlabelled.',
  lower_bound=0,
  upper_bound=1,
)
_COUNT = flags.DEFINE_integer('count', 50, 'suggest: how many (image, task) pairs.', lower_bound=1)
_SAMPLES = flags.DEFINE_integer(
  'samples', None, 'predict: noise draws to average (1), with a map of their uncertainty; uncertainty: draws (8).'
)
_LIMIT = flags.DEFINE_integer(
  'limit', None, 'influence (200), uncertainty (100): how many validation images, the first ones.', lower_bound=1
)
_ZOOM = flags.DEFINE_float('zoom', None, 'predict: how much larger than whole an image is seen, in tiles; 1: whole.')
_OUT = flags.DEFINE_string(
  'out',
  None,
  'predict, suggest, report: folder to write to; study: folder of all suites (runs/study); check: the picture; export: '
  'the file, *.onnx or *.stablehlo; influence, uncertainty, boundary: JSON file; evaluate of a run on the Hub: folder '
  'of the scores (runs/OWNER--RUN).',
)
_WRITE = flags.DEFINE_bool('write', False, 'check: write the dataset.json that it proposes where there is none.')
_DISTRIBUTED = flags.DEFINE_string(
  'distributed',
  None,
  "train, evaluate: one of several processes: 'auto' under srun, mpirun, on a TPU pod or GKE; "
  'elsewhere ADDRESS:PORT,PROCESSES,NUMBER of the first process, of all and of this one.',
)
_MEMORY = flags.DEFINE_bool('memory', False, 'summary: also the memory of a training step; compiles it.')
_FOR = flags.DEFINE_string(
  'for', None, f'summary --memory: compile for one of {", ".join(accelerators.ACCELERATORS)}, without having it.'
)
_TIME = flags.DEFINE_bool('time', False, 'check: times training steps of the networks of its recipe; takes minutes.')
_JSON = flags.DEFINE_bool('json', False, 'summary: print JSON.')
_WORKDIRS = flags.DEFINE_string('workdirs', None, 'report: workdirs to compare, separated by commas.')
_SUITE = flags.DEFINE_string('suite', None, f'study: what to run: {", ".join(SUITES)}.')
_JOBS = flags.DEFINE_integer('jobs', None, 'study: runs at a time; default one per GPU or CPU core.', lower_bound=1)
_PAGE = flags.DEFINE_string('page', None, 'study: Markdown file to write about all suites in --out that have scores.')
_PORT = flags.DEFINE_integer(
  'port', None, 'app: port of the page; default the first free one from 7860.', lower_bound=1, upper_bound=65535
)
_PRED = flags.DEFINE_string('pred', None, 'boundary: folder of grey PNGs (8 or 16 bits), white = boundary.')
_GT = flags.DEFINE_string(
  'gt',
  None,
  'boundary: folder of truths by the same names: PNG, 0 = no boundary, or BSDS .mat with several annotators.',
)
_IGNORE = flags.DEFINE_integer('ignore', None, 'boundary: value of truth PNGs that marks unlabelled pixels.')
_TOLERANCE = flags.DEFINE_float(
  'tolerance',
  0.0075,
  'boundary: largest distance of a match, as a share of the diagonal; NYUD-v2: 0.011.',
  lower_bound=0,
)
_THRESHOLDS = flags.DEFINE_integer('thresholds', 99, 'boundary: how many thresholds.', lower_bound=1)
_THIN = flags.DEFINE_bool('thin', True, 'boundary: thin the predictions; --nothin: they are one pixel wide already.')
_WORKERS = flags.DEFINE_integer('workers', None, 'boundary: processes; default one per core.', lower_bound=1)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, "convert: the authors' checkpoint (.pth.tar, .pth, .safetensors), or the workdir of a run."
)
_TO = flags.DEFINE_string('to', None, 'publish: OWNER/RUN on the Hugging Face Hub.')
_LICENSE = flags.DEFINE_string('license', None, 'publish: what others may do with the weights, as apache-2.0.')
_PRIVATE = flags.DEFINE_bool('private', False, 'publish: only for the owner to read.')
# What absl, ml_collections and Python's parser (of tuples, and of the config file) raise for what they cannot read.
_UNREADABLE = (
    flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, ImportError, SyntaxError, RecursionError,
)  # fmt: skip


def main(argv: list[str] = sys.argv) -> int:
  """Runs one job; returns the exit status: 0, or 1 after printing an error."""
  streams.secure()
  if any(arg in ('-h', '--help', '-help') for arg in argv[1:]):
    _, _, keys = common.__doc__.partition('\n\n')
    print(f'{__doc__}\n{keys}\n{fields.as_text()}\n\nflags:'.replace('python main.py', program()))
    print(flags.FLAGS.module_help('dmtl_jax.cli'), flush=True)
    return 0
  logging.set_verbosity(logging.WARNING)
  try:
    with bucket.mirrored():
      overrides = _parse(argv)
      from dmtl_jax.basics import compilation  # with JAX: not for a mistake in the flags

      compilation.use_cache()
      return (_run_distributed(_DISTRIBUTED.value) if _DISTRIBUTED.value else _run(overrides)) or 0
  except UserError as error:
    print_error(error)
    return 1


def _parse(argv: list[str]) -> list[str]:
  """Reads the flags, then the config file, which needs JAX; returns the flags --config.FIELD=VALUE.

  Raises UserError with whatever is wrong with them.
  """
  file, overrides, others = _split(argv)
  try:
    rest = flags.FLAGS(others)
    if len(rest) > 1:
      raise UserError(_misplaced(rest[1]))
    if file:
      file = configs.find(file)
    elif _MODE.value == 'import':
      file = configs.find('folder')
    # Overrides without a file change the config that a run was trained with.
    is_stored = bool(not file and overrides and _WORKDIR.value and _MODE.value != 'convert')
    _check_flags(file or is_stored, overrides)
    if is_stored:
      file = f'{pathlib.Path(__file__).parent / "runs/stored.py"}:{_WORKDIR.value}'
    if _MODE.value == 'convert' and not file and not os.path.isdir(_CHECKPOINT.value):
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
  if word in MODES:
    return f"'{word}': write --mode={word}"
  if '=' in word:
    return f"'{sanitize(word)}': not a flag; a config string has no spaces, unless it is quoted"
  return f"'{sanitize(word)}': not a flag; is --mode={closest(word, MODES)} meant? See --help"


def _check_flags(config: str | bool | None, overrides: list):
  """Raises UserError for what is wrong with the flags, as far as that is known without reading the config."""
  mode = _MODE.value
  if mode not in MODES:
    raise unknown_value_error('--mode', mode, MODES)
  for name, modes in ONLY.items():
    if flags.FLAGS[name].present and mode not in modes.split():
      raise UserError(f'--{name}: --mode={mode} does not take it; leave it out, or set --mode={modes.split()[0]}')
  if _CONFIDENCE.present and _SAVE.value != 'labels':
    raise UserError('--confidence: only --save=labels takes it; leave it out')
  completes = mode == 'predict' and _SAVE.value == 'labels'  # by default the folder that the run was trained on
  for name in ('workdir',) if _REPLAY.value or completes else MODES[mode]:
    is_stored = name == 'config' and overrides and _WORKDIR.value
    if not (config or is_stored if name == 'config' else flags.FLAGS[name].value):
      raise UserError(f'--mode={mode} needs --{name}{"=configs/NAME.py" if name == "config" else ""}; see --help')
  for name in PATHS:
    for path in (flags.FLAGS[name].value or '').split(','):
      schemes = [bucket.SCHEME] if name in IN_BUCKET and mode != 'study' else []
      schemes += ['hf'] if name in ('workdir', 'workdirs', 'checkpoint') else []
      check_local(f'--{name}', path.strip(), schemes)
  if mode in ('train', 'convert', 'publish') and _WORKDIR.value:
    hub.check_folder('--workdir', _WORKDIR.value)
  if mode == 'evaluate' and _OUT.value and not hub.is_address(_WORKDIR.value):
    raise UserError('--out: --mode=evaluate writes to --workdir, unless that is a run on the Hub; leave it out')
  checkpoint = _CHECKPOINT.value or ''
  is_run = hub.is_address(checkpoint) or bucket.is_address(checkpoint) or os.path.isdir(checkpoint)
  if (config or overrides) and (mode in TRAINED or (mode == 'convert' and is_run)):
    raise UserError(f'--config: --mode={mode} takes the config that a run was trained with; leave it out')
  if config and mode == 'study':
    raise UserError('--config: --mode=study takes the configs of its suite; leave it out')
  if mode == 'study' and not _SUITE.value and not _PAGE.value:
    raise UserError('--mode=study needs --suite to run, or --page to write; see --help')
  if _SUITE.value and _SUITE.value not in SUITES:
    raise unknown_value_error('--suite', _SUITE.value, SUITES)
  if not re.fullmatch(r'|best|latest|[0-9]+', _STEP.value):
    raise UserError(f"--step: '{sanitize(_STEP.value)}' is not best, latest or the number of a checkpoint")
  if _FOR.value is not None:
    accelerators.find(_FOR.value)
    if mode != 'summary' or not _MEMORY.value:
      raise UserError(f'--for={_FOR.value}: needs --mode=summary --memory')
    accelerators.prepare()
  _use_local_copies()
  if mode == 'predict' and _IMAGES.value:
    images.find_images(_IMAGES.value, _OUT.value)


def _use_local_copies():
  """Sets flags that are addresses on the Hub or in a bucket to the local copies of what is there."""
  for name in IN_BUCKET:
    flag = flags.FLAGS[name]
    parts = [part.strip() for part in (flag.value or '').split(',')]
    if any(hub.is_address(part) or bucket.is_address(part) for part in parts):
      flag.value = ','.join(_local_copy(name, part) for part in parts)


def _local_copy(flag: str, path: str) -> str:
  """The local copy of a run, a folder or images; for --out in a bucket, a folder that is copied there at the end."""
  if hub.is_address(path) or not bucket.is_address(path):
    return hub.local(path)
  if flag == 'images':
    return bucket_copy.local_images(path, '--images')
  if flag == 'out':
    bucket.check_address('--out', path, depth=1)
    folder, _, name = path.rstrip('/').rpartition('/')
    return os.path.join(bucket.mirror(folder, '--out', fetch=False), name)
  return bucket.mirror(path, f'--{flag}')


def _read_config(program: str, file: str, overrides: list[tuple[str, str | None]], texts: list[str]):
  """Reads the config, once the fields that flags set are known to be there and to be numbers where they must."""
  from dmtl_jax.configs import check
  from dmtl_jax.data import source
  from dmtl_jax.models import find
  from dmtl_jax.tasks import check_keys

  check.check_flags(overrides, flags.FLAGS['config'].parser.parse(file).to_dict())
  flags.FLAGS([program, f'--config={file}', *texts])
  check.check(_CONFIG.value.to_dict(), '--config')
  find(_CONFIG.value.method)
  for section, values in (
    ('loss_weights', _CONFIG.value.loss_weights),
    ('eval.single_task', _CONFIG.value.eval.single_task),
  ):
    keys = [path.rpartition('.')[2] for path, _ in overrides if path.rpartition('.')[0] == section]
    if keys:
      check_keys(f'--config.{section}', keys, values, source.data_tasks(_CONFIG.value.data))
  _CONFIG.value.lock()


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

  mode = 'replay' if _REPLAY.value and _MODE.value == 'train' else _MODE.value
  workdir, out, step = _WORKDIR.value, _OUT.value, _STEP.value
  job = importlib.import_module(f'dmtl_jax.jobs.{"import_labels" if mode == "import" else mode}')
  compilation.collect_rarely()
  match mode:
    case 'import':
      from dmtl_jax.imports.classes import Options

      classes, annotated = tuple(_CLASSES.value or ()) or None, tuple(_ANNOTATED.value)
      options = Options(_TASK.value, _KIND.value, classes, _BACKGROUND.value, annotated, _FORCE.value)
      job.run(_CONFIG.value.data, _FROM.value, _IMAGES.value, _COLORS.value, options)
    case 'check':
      return job.run(_CONFIG.value, out, _WRITE.value, _TIME.value)
    case 'train':
      job.run(_CONFIG.value, workdir, _FORCE.value)
    case 'replay':
      job.run(_run_config(), workdir, _REPLAY.value, _FORCE.value)
    case 'evaluate':
      job.run(_run_config(), workdir, step, _PREDICTIONS.value, _FORCE.value, out)
    case 'predict':
      inputs = (workdir, step or 'best', _IMAGES.value, out, _value_or(_SAMPLES, 1), _ZOOM.value)
      if _SAVE.value == 'labels':
        return importlib.import_module('dmtl_jax.jobs.predict_labels').run(*inputs, _CONFIDENCE.value)
      return job.run(*inputs)
    case 'suggest':
      return job.run(workdir, out, _IMAGES.value, _COUNT.value, _FORCE.value)
    case 'summary':
      job.run(_CONFIG.value, _JSON.value, _MEMORY.value, _FOR.value)
    case 'prepare':
      job.run(_CONFIG.value)
    case 'report':
      job.run(_WORKDIRS.value.split(','), out)
    case 'study':
      job.run(_SUITE.value, out or 'runs/study', _JOBS.value, _PAGE.value, overrides)
    case 'influence':
      job.run(workdir, _value_or(_LIMIT, 200), out, _FORCE.value)
    case 'uncertainty':
      job.run(workdir, _value_or(_SAMPLES, 8), _value_or(_LIMIT, 100), out, _FORCE.value)
    case 'boundary':
      counting = dict(tolerance=_TOLERANCE.value, count=_THRESHOLDS.value, thinning=_THIN.value)
      job.run(_PRED.value, _GT.value, out, _IGNORE.value, _WORKERS.value, **counting)
    case 'export':
      job.run(workdir, step or 'best', out)
    case 'app':
      job.run(workdir, _PORT.value)
    case 'convert':
      job.run(_CHECKPOINT.value, workdir, _CONFIG.value)
    case 'publish':
      job.run(workdir, _TO.value, _LICENSE.value, _PRIVATE.value, step or 'best')


def _value_or(flag, default: int) -> int:
  """A flag's value, or the default of the mode where it is not set."""
  return default if flag.value is None else flag.value


def _run_distributed(spec: str):
  """Joins the other processes, before any other use of JAX, and runs. The first speaks for all; each tells its errors.

  Raises:
    UserError: a job that one process does alone, or no cluster that JAX knows.
  """
  import jax

  from dmtl_jax.basics import peers, progress

  if _MODE.value not in ('train', 'evaluate') or _REPLAY.value:
    raise UserError(f'--distributed: --mode={_MODE.value} is the work of one process; leave it out')
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

  return _CONFIG.value or workdir.read_config(_WORKDIR.value)
