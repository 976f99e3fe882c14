"""DiffusionMTL in JAX: dense multi-task learning from images labelled for only some tasks.

import       python main.py --mode=import --from=EXPORT --images=PHOTOS --config.data.path=mydata
             [--task=semseg] [--classes=road,car] [--background=NAME] [--annotated=all] [--empty] [--colors=FILE]
             (labels from COCO, LabelMe, CVAT, Label Studio, YOLO, VOC or colour masks, Cityscapes, NYU;
             with another export: adds its labels)
check        python main.py --mode=check --config=configs/folder.py --config.data.path=PATH [--out=PAGE.png] [--time]
             (what the data holds, with a picture of its labels and, for a folder, a first run that suits it; --write:
             write what it proposes for labels that dataset.json does not describe)
train        python main.py --config=configs/scenes.py:method=prediction,labels=one --workdir=runs/scenes
             (the same command resumes a stopped run)
evaluate     python main.py --mode=evaluate --workdir=runs/scenes [--step=latest] [--config.eval.diffusion_steps=4]
             [--config.data.path=PATH --out=FOLDER] (on other data, with the scores in a folder of their own)
predict      python main.py --mode=predict --workdir=runs/scenes --images=PHOTOS --out=maps [--samples=8]
             (the same command goes on where it was stopped)
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

import os
import re

from absl import flags
from ml_collections import config_flags

from dmtl_jax.basics import accelerators, bucket, bucket_copy
from dmtl_jax.basics.errors import check_local, sanitize, unknown_value_error, UserError
from dmtl_jax.inference import images
from dmtl_jax.jobs.study_suites import SUITES
from dmtl_jax.runs import hub

FLAGS = flags.FLAGS
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
    'annotated': 'import', 'empty': 'import', 'colors': 'import', 'checkpoint': 'convert',
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

config_flags.DEFINE_config_file(
  'config', None, 'Config file, configs/NAME.py[:key=value,...].', lock_config=False, accept_new_attributes=True
)  # new: config.eval.single_task.TASK; check.check_flags refuses others
flags.DEFINE_string('mode', 'train', f'What to do: {", ".join(MODES)}.')
flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: config, checkpoints, logs, scores, pictures; may be gs://BUCKET/FOLDER, as --images and --out; '
  "of predict, suggest, export, app, influence and uncertainty also 'scenes', the network that comes with the package; "
  'of modes that read a run also hf://OWNER/RUN[@REVISION] on the Hugging Face Hub.',
)
flags.DEFINE_bool(
  'force',
  False,
  'train: resume although the config or the labels changed. With any run and its data: accept renamed classes. '
  'import: replace labels that are there, and remove those of images in which nothing is drawn any more.',
)
flags.DEFINE_string('replay', None, 'train: only runs the step of a W/nan_STEP.json again, for its losses.')
flags.DEFINE_string(
  'step',
  '',
  'evaluate, predict, export, publish: checkpoint: best, latest or a number; default config.eval.weights, or best.',
)
flags.DEFINE_bool('predictions', False, 'evaluate: also write the maps of every image.')
flags.DEFINE_string(
  'images',
  None,
  'predict: file, folder, glob or video; several separated by commas. suggest: photographs to choose from instead of '
  "the run's training images. import: the photographs that were labelled.",
)
flags.DEFINE_string('from', None, "import: the labelling tool's export: file, folder or zip.")
flags.DEFINE_string('task', 'semseg', 'import: name of the task that the labels are for.')
flags.DEFINE_string(
  'kind', '', 'import: kind of the task: semseg, parsing, saliency, boundary; default the name of the task, or semseg. '
  'Of saliency and boundary what is drawn is 1 and the rest 0.',
)  # fmt: skip
flags.DEFINE_list(
  'classes', None, 'import: take only these classes of the export; a name with a comma in quotes: \'car,"road, wet"\'.'
)
flags.DEFINE_string(
  'background', '', 'import: class of the pixels where nothing is drawn; without it they are unlabelled.'
)
flags.DEFINE_list(
  'annotated',
  [],
  "import: classes of which every object in these images was drawn, or 'all': all other pixels are then none of these "
  'classes, but may be a class of another export.',
)
flags.DEFINE_bool(
  'empty',
  False,
  'import: the images in which nothing is drawn show none of the classes; without it they are unlabelled.',
)
flags.DEFINE_string(
  'colors',
  None,
  'import: file with the colours or ids of masks: labelmap.txt, or JSON {"road": [128, 64, 128], "car": 13}.',
)
flags.DEFINE_enum(
  'save',
  'maps',
  ['maps', 'labels'],
  'predict: maps with pictures; or labels that training can read, by default for the images of the folder that the run '
  'was trained on.',
)
flags.DEFINE_float(
  'confidence',
  0.9,
  'predict --save=labels: probability of its class below which a pixel is left unlabelled.',
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_integer('count', 50, 'suggest: how many (image, task) pairs.', lower_bound=1)
flags.DEFINE_integer(
  'samples', None, 'predict: noise draws to average (1), with a map of their uncertainty; uncertainty: draws (8).'
)
flags.DEFINE_integer(
  'limit', None, 'influence (200), uncertainty (100): how many validation images, the first ones.', lower_bound=1
)
flags.DEFINE_float('zoom', None, 'predict: how much larger than whole an image is seen, in tiles; 1: whole.')
flags.DEFINE_string(
  'out',
  None,
  'predict, suggest, report: folder to write to; study: folder of all suites (runs/study); check: the picture; export: '
  'the file, *.onnx or *.stablehlo; influence, uncertainty, boundary: JSON file; evaluate of a run on the Hub: folder '
  'of the scores (runs/OWNER--RUN).',
)
flags.DEFINE_bool('write', False, 'check: write what it proposes for labels that dataset.json does not describe.')
flags.DEFINE_string(
  'distributed',
  None,
  "train, evaluate: one of several processes: 'auto' under srun, mpirun, on a TPU pod or GKE; "
  'elsewhere ADDRESS:PORT,PROCESSES,NUMBER of the first process, of all and of this one.',
)
flags.DEFINE_bool('memory', False, 'summary: also the memory of a training step; compiles it.')
flags.DEFINE_string(
  'for', None, f'summary --memory: compile for one of {", ".join(accelerators.ACCELERATORS)}, without having it.'
)
flags.DEFINE_bool('time', False, 'check: times training steps of the networks of its recipe; takes minutes.')
flags.DEFINE_bool('json', False, 'summary: print JSON.')
flags.DEFINE_string('workdirs', None, 'report: workdirs to compare, separated by commas.')
flags.DEFINE_string('suite', None, f'study: what to run: {", ".join(SUITES)}.')
flags.DEFINE_integer('jobs', None, 'study: runs at a time; default one per GPU or CPU core.', lower_bound=1)
flags.DEFINE_string('page', None, 'study: Markdown file to write about all suites in --out that have scores.')
flags.DEFINE_integer(
  'port', None, 'app: port of the page; default the first free one from 7860.', lower_bound=1, upper_bound=65535
)
flags.DEFINE_string('pred', None, 'boundary: folder of grey PNGs (8 or 16 bits), white = boundary.')
flags.DEFINE_string(
  'gt',
  None,
  'boundary: folder of truths by the same names: PNG, 0 = no boundary, or BSDS .mat with several annotators.',
)
flags.DEFINE_integer('ignore', None, 'boundary: value of truth PNGs that marks unlabelled pixels.')
flags.DEFINE_float(
  'tolerance',
  0.0075,
  'boundary: largest distance of a match, as a share of the diagonal; NYUD-v2: 0.011.',
  lower_bound=0,
)
flags.DEFINE_integer('thresholds', 99, 'boundary: how many thresholds.', lower_bound=1)
flags.DEFINE_bool('thin', True, 'boundary: thin the predictions; --nothin: they are one pixel wide already.')
flags.DEFINE_integer('workers', None, 'boundary: processes; default one per core.', lower_bound=1)
flags.DEFINE_string(
  'checkpoint', None, "convert: the authors' checkpoint (.pth.tar, .pth, .safetensors), or the workdir of a run."
)
flags.DEFINE_string('to', None, 'publish: OWNER/RUN on the Hugging Face Hub.')
flags.DEFINE_string('license', None, 'publish: what others may do with the weights, as apache-2.0.')
flags.DEFINE_bool('private', False, 'publish: only for the owner to read.')


def check_flags(config: str | bool | None, overrides: list):
  """Raises UserError for what is wrong with the flags, as far as that is known without reading the config."""
  mode = FLAGS.mode
  if mode not in MODES:
    raise unknown_value_error('--mode', mode, MODES)
  for name, modes in ONLY.items():
    if FLAGS[name].present and mode not in modes.split():
      raise UserError(f'--{name}: --mode={mode} does not take it; leave it out, or set --mode={modes.split()[0]}')
  if FLAGS['confidence'].present and FLAGS.save != 'labels':
    raise UserError('--confidence: only --save=labels takes it; leave it out')
  completes = mode == 'predict' and FLAGS.save == 'labels'  # by default the folder that the run was trained on
  for name in ('workdir',) if FLAGS.replay or completes else MODES[mode]:
    is_stored = name == 'config' and overrides and FLAGS.workdir
    if not (config or is_stored if name == 'config' else FLAGS[name].value):
      what = 'config=configs/NAME.py (configs/folder.py for photographs of your own)' if name == 'config' else name
      raise UserError(f'--mode={mode} needs --{what}; see --help')
  for name in PATHS:
    for path in (FLAGS[name].value or '').split(','):
      schemes = [bucket.SCHEME] if name in IN_BUCKET and mode != 'study' else []
      schemes += ['hf'] if name in ('workdir', 'workdirs', 'checkpoint') else []
      check_local(f'--{name}', path.strip(), schemes)
  if mode in ('train', 'convert', 'publish') and FLAGS.workdir:
    hub.check_folder('--workdir', FLAGS.workdir)
  checkpoint = FLAGS.checkpoint or ''
  is_run = hub.is_address(checkpoint) or bucket.is_address(checkpoint) or os.path.isdir(checkpoint)
  if (config or overrides) and (mode in TRAINED or (mode == 'convert' and is_run)):
    raise UserError(f'--config: --mode={mode} takes the config that a run was trained with; leave it out')
  if config and mode == 'study':
    raise UserError('--config: --mode=study takes the configs of its suite; leave it out')
  if mode == 'study' and not FLAGS.suite and not FLAGS.page:
    raise UserError('--mode=study needs --suite to run, or --page to write; see --help')
  if FLAGS.suite and FLAGS.suite not in SUITES:
    raise unknown_value_error('--suite', FLAGS.suite, SUITES)
  if not re.fullmatch(r'|best|latest|[0-9]+', FLAGS.step):
    raise UserError(f"--step: '{sanitize(FLAGS.step)}' is not best, latest or the number of a checkpoint")
  if FLAGS['for'].value is not None:
    accelerators.find(FLAGS['for'].value)
    if mode != 'summary' or not FLAGS.memory:
      raise UserError(f'--for={FLAGS["for"].value}: needs --mode=summary --memory')
    accelerators.prepare()
  _use_local_copies()
  if mode == 'predict' and FLAGS.images:
    images.find_images(FLAGS.images, FLAGS.out)


def _use_local_copies():
  """Sets flags that are addresses on the Hub or in a bucket to the local copies of what is there."""
  for name in IN_BUCKET:
    flag = FLAGS[name]
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
