"""What all configs share: the config string, presets and the base config.

A config string is `configs/NAME.py:key=value,key=value`. Keys:

  method     prediction (default) | feature | no_diffusion | no_condition (ablations of Prediction
             Diffusion) | single_task | mtl_baseline | ss | xtc | jtr | mti_net | invpt | task_prototype
             | one of your own (models/base.py) that your config file imports
  labels     one (default) | random | full | PATH of a mapping (CSV, JSON or the official .pth)
  backbone   resnet18 (default) | resnet50
  diffusion_steps  S (default 2)
  condition  what Multi-Task Conditioning is made of: predictions (default; one convolution per task, then
             fused) | concat (default of feature; one convolution over all predictions: not the paper's
             text, but the released code, and the only one of the size in the paper's table) | features
             (initial features: the paper's text on Feature Diffusion)
  preset     paper (default; for method=feature the condition differs, see condition) | released (the
             authors' code, docs/paper.md)

Any other field is a flag: `--config.optim.lr=1e-4`.
"""

from ml_collections import ConfigDict

from dmtl_jax.basics.errors import sanitize, unknown_value_error
from dmtl_jax.configs.fields import defaults, Field, FIELDS

ARGUMENTS = dict(
  method='prediction', labels='one', backbone='resnet18', diffusion_steps=2, condition='', preset='paper'
)
PRESETS = ('paper', 'released')
RELEASED = dict(
  heads=4, stop_condition=True, posterior=True, step_offset=1, initial_weights='released', released_losses=True
)
DATA_DIR = Field('runs/data', 'folder of prepared and rendered data sets', is_path=True, schemes=('gs',))
# Fields of a data set that --mode=prepare makes of raw files.
PREPARED_FIELDS = dict(
  dir=DATA_DIR,
  raw=Field('', 'prepare: folder, archive or https address of raw data', is_path=True, schemes=('http', 'https')),
  raw_sha256=Field('', "prepare: checksum of a download, or 'unknown'"),
)


def parse(arg: str | None) -> dict:
  """'method=feature,diffusion_steps=3' to {'method': 'feature', 'diffusion_steps': 3, ...} with all defaults.

  Raises:
    ValueError: an unknown key, a part without '=', or a value of the wrong type.
  """
  values: dict = dict(ARGUMENTS)
  for part in filter(None, map(str.strip, (arg or '').split(','))):
    key, equals, value = part.partition('=')
    if not equals or key not in ARGUMENTS:
      raise unknown_value_error('config string', part, [f'{name}=' for name in ARGUMENTS])
    try:
      values[key] = type(ARGUMENTS[key])(value)
    except ValueError:
      raise ValueError(f"config string: {key} takes a whole number, got '{sanitize(value)}'") from None
  if values['preset'] not in PRESETS:
    raise unknown_value_error('config string: preset', values['preset'], PRESETS)
  return values


def base(arg: str | None) -> ConfigDict:
  """Defaults of every field, with the config string applied. Data sets change what differs."""
  from dmtl_jax.models import find  # with JAX, which --help does not wait for

  arguments = parse(arg)
  method = find(arguments['method'])
  config = ConfigDict(defaults(FIELDS))
  config.method = method.name
  config.initial_loss = method.initial_loss
  config.data.labels = arguments['labels']
  config.model.update(backbone=arguments['backbone'], diffusion_steps=arguments['diffusion_steps'])
  if arguments['preset'] == 'released':
    config.model.update(RELEASED)
  config.model.update(method.defaults)
  if arguments['condition']:
    config.model.condition = arguments['condition']
  config.model.update({name: value for name, value in method.fixed.items() if name in config.model})
  return config


def benchmark(arg: str | None, name: str) -> ConfigDict:
  """As `base`, for a data set that --mode=prepare makes of raw files, trained from an ImageNet encoder."""
  config = base(arg)
  config.init_from = f'timm/{config.model.backbone}.tv_in1k'
  config.data.update(defaults(PREPARED_FIELDS), name=name, workers=4)
  return config


def mtpsl(arg: str | None, name: str, cross_task_weight: float, flip_view: bool, film: float) -> ConfigDict:
  """As `benchmark`, for the data sets of MTPSL's code.

  Args:
    cross_task_weight, flip_view: of XTC, see `fields.FIELDS`.
    film: learning rate of XTC's FiLM layers.
  """
  config = benchmark(arg, name)
  config.data.augment = 'mtan'
  config.train.epochs = 200
  config.eval.protocol = 'mtpsl'
  config.eval.weights = 'best'  # MTPSL reports its best epoch by evaluation
  if config.method == 'xtc':
    config.model.update(cross_task_weight=cross_task_weight, flip_view=flip_view)
    config.optim.part_lr = dict(film=film)
  return config


def small(arg: str | None, name: str, token_stride: int) -> ConfigDict:
  """As `base`, for a network that a CPU trains, and labels of any of the six kinds.

  Args:
    token_stride: leaves about as many tokens as the paper has, 256; with preset=released it stays 4.
  """
  from dmtl_jax.models import find

  config = base(arg)
  config.data.update(name=name, augment='light')
  config.model.update(width=32, channels=64)
  if config.model.initial_weights == 'paper':
    config.model.update(initial_weights='identity', token_stride=token_stride)
    if find(config.method).network.diffuses:
      config.initial_loss = 0.1  # denoising then gains more on initial maps; final maps: docs/study.md
  config.optim.update(denoiser_fan_in=32, schedule='cosine', warmup=50)
  config.loss_weights = dict(semseg=2.0, parsing=2.0, saliency=5.0, normals=3.0, boundary=25.0, depth=1.0)
  return config
