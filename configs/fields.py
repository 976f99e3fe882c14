"""Every field of a config, declared once: default, meaning, range or choices.

The ConfigDict of `common.base`, the checks of check.py, `--help` and docs/configuration.md all come from `FIELDS`.
Fields that only one data set has are in its config, as `DATA_FIELDS` of configs/NAME.py.
"""

from collections.abc import Iterator
import copy
import dataclasses
import importlib
from typing import Any

from dmtl_jax import configs
from dmtl_jax.basics.errors import check_local, sanitize, unknown_value_error, UserError


@dataclasses.dataclass(frozen=True)
class Field:
  """One field.

  Attributes:
    default: gives the type too. A tuple holds names or, where there is a range, two whole numbers; a dict maps names
      to numbers.
    doc: what it means.
    low, high: least and greatest number.
    choices: what a text can be; (): anything.
    is_path: whether a text is a path on this machine, or an address of one of `schemes`.
  """

  default: Any
  doc: str
  low: float = float('-inf')
  high: float = float('inf')
  choices: tuple[str, ...] = ()
  is_path: bool = False
  schemes: tuple[str, ...] = ()

  @property
  def values(self) -> str:
    """What the field must be, e.g. 'a whole number from 1 to 64'."""
    limits = f'from {self.low:g} to {self.high:g}'
    match self.default:
      case bool():
        return 'true or false'
      case int():
        return f'a whole number {limits}'
      case float():
        return f'a number {limits}'
      case dict():
        return f'a number {limits} for each name'
      case tuple() if self.low > 0:
        return f'height and width, {self.low} to {self.high} pixels, as (96,128)'
      case tuple():
        return "a list of names, as ('depth',)"
    return ', '.join(self.choices) or 'a text'

  def check(self, value, where: str):
    """Raises UserError, with what the field must be, where a value is of another type or out of range."""
    if self.choices and value not in self.choices:
      raise unknown_value_error(where, str(value), self.choices)
    if not self._fits(value):
      raise self.error(value, where)
    if isinstance(value, dict):
      for name, number in value.items():
        self.of_name().check(number, f'{where}.{sanitize(str(name), 64)}')
    if self.is_path:
      check_local(where, value, self.schemes)

  def of_name(self) -> 'Field':
    """The field of one name, where the default is a dict."""
    return Field(0.0, self.doc, self.low, self.high)

  def error(self, value, where: str) -> UserError:
    """That a value is not what the field must be."""
    return UserError(f"{where} must be {self.values}, not '{sanitize(str(value), 80)}'")

  def reads(self, text: str) -> bool:
    """Whether the text of a flag is a number or a truth value, where the field is one."""
    kind = type(self.default)
    if kind is bool:
      return text.lower() in ('true', 'false', 't', 'f', '1', '0')
    try:
      return kind not in (int, float) or kind(text) is not None
    except ValueError:
      return False

  def _fits(self, value) -> bool:
    match self.default:
      case bool():
        return isinstance(value, bool)
      case int():
        return self._is_number(value, int)
      case float():
        return self._is_number(value, (int, float))
      case str():
        return isinstance(value, str) and len(value) < 4096
      case dict():
        return isinstance(value, dict)
    if not isinstance(value, (list, tuple)):
      return False
    if self.low > 0:
      return len(value) == 2 and all(self._is_number(n, int) for n in value)
    return all(isinstance(name, str) for name in value)

  def _is_number(self, value, kinds) -> bool:
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < float('inf')
    return is_number and self.low <= value <= self.high


_MANY = 10**9
_WEIGHTS = ('paper', 'released', 'identity')
_CONDITIONS = ('predictions', 'features', 'concat', 'none')

FIELDS = dict(
  method=Field('prediction', 'network and loss, as in the config string'),
  seed=Field(0, 'seed of weights, noise and the order of images', 0, 2**32 - 1),
  dtype=Field('float32', 'type of activations; parameters are float32', choices=('float32', 'bfloat16', 'float16')),
  init_from=Field(
    '', 'weights to start from: an encoder, a whole network or a run', is_path=True, schemes=('hf', 'gs')
  ),
  model=dict(
    backbone=Field('resnet18', 'the encoder', choices=('resnet18', 'resnet50')),
    width=Field(64, "channels of the encoder's stem; 64 is the published ResNet", 1, 1024),
    channels=Field(512, 'C, channels of the maps inside the network', 1, 8192),
    diffusion_steps=Field(2, 'S, denoising steps', 1, 1000),
    depth=Field(4, 'attention blocks of the denoiser', 1, 64),
    heads=Field(1, 'heads of the attention', 1, 64),
    token_stride=Field(4, 'cells of a map, in each direction, per token of the attention', 1, 64),
    condition=Field('predictions', 'maps that the condition is made of', choices=_CONDITIONS),
    stop_condition=Field(False, 'stop the gradient through the condition'),
    posterior=Field(False, 'draw from the DDPM posterior between steps, instead of passing the map on'),
    add_noise=Field(True, 'False is the ablation without diffusion'),
    step_offset=Field(0, 'the step that is embedded is s - step_offset', 0, 1000),
    initial_weights=Field('paper', 'initialisation of the denoiser (identity: it returns its input)', choices=_WEIGHTS),
    cross_task_weight=Field(2.0, 'weight of the consistency loss of xtc', 0, 1e6),
    flip_view=Field(False, 'flip the second view of xtc with probability 0.5'),
    released_losses=Field(False, "use the losses of the authors' code for jtr (models/jtr.py)"),
  ),
  data=dict(
    name=Field('', 'folder in datasets/'),
    tasks=Field((), 'names of the tasks to learn, in this order (a run keeps its own); (): all'),
    labels=Field('one', 'labels to learn from: one, random, full, or a file that maps images to tasks', is_path=True),
    label_seed=Field(0, 'seed of drawn labels, where the benchmark has no mapping', 0, 2**63),
    holdout_fraction=Field(
      0.0,
      'share of the labelled training images to validate on, not to learn; 0: a fifth in a folder without val',
      0,
      0.9,
    ),
    size=Field((512, 512), 'height and width of the network input', 5, 2**14),  # at 4, networks have empty maps
    augment=Field('none', 'augmentation (docs/paper.md)', choices=('pascal', 'mtan', 'light', 'none')),
    workers=Field(0, 'processes that load images; 0: threads of this process', 0, 1024),
    threads=Field(2, 'threads that load images, in each worker', 0, 1024),
    prefetch=Field(4, 'batches to read ahead', 0, 1024),
  ),
  train=dict(
    batch=Field(8, 'images per step, on all devices together', 1, 2**16),
    accumulate=Field(1, 'micro-batches that a batch is cut into, one after the other', 1, 2**16),
    fsdp=Field(1, 'devices that share one copy of parameters and optimiser state', 1, 2**16),
    steps=Field(0, 'training steps; 0: from epochs', 0, _MANY),
    epochs=Field(100, 'passes over the training images', 0, _MANY),
    remat=Field(False, 'recompute activations for the gradient instead of keeping them'),
    log_every=Field(20, 'steps between log lines', 1, _MANY),
    eval_every=Field(0, 'steps between evaluations; 0: ten evaluations per run', 0, _MANY),
    save_every=Field(0, 'steps between checkpoints; 0: at evaluations', 0, _MANY),
    eval_images=Field(0, 'images of a periodic evaluation; 0: all', 0, _MANY),
    keep=Field(2, 'latest checkpoints to keep besides the best', 1, _MANY),
    keep_every=Field(0, 'steps between checkpoints that are kept as well; 0: none', 0, _MANY),
    best_by=Field('delta_m', 'delta_m (against eval.single_task; without, better at more tasks) or TASK/METRIC'),
    nan_policy=Field('stop', 'what to do if a loss or gradient is not finite', choices=('stop', 'skip')),
    tracker=Field(
      'none', 'service that gets the curves, pictures and scores too', choices=('none', 'wandb', 'trackio', 'mlflow')
    ),
  ),
  eval=dict(
    batch=Field(8, 'images per step, on all devices together', 1, 2**16),
    diffusion_steps=Field(0, 'S at inference; 0: as in training', 0, 1000),
    panels=Field(6, 'pictures to write', 0, _MANY),
    protocol=Field('plain', 'definitions of scores: usual or of a benchmark', choices=('plain', 'pascal', 'mtpsl')),
    resolution=Field('input', 'size of the final scores: data.size, or that of each image', choices=('input', 'image')),
    boundary_side=Field(640, 'longest side to score boundaries at, with resolution=image; 0: any', 0, _MANY),
    weights=Field('best', 'checkpoint to score', choices=('best', 'latest')),
    stage=Field(
      'best',
      'what predictions are made of: denoised maps (final), initial ones, or per task those that score higher (best)',
      choices=('best', 'final', 'initial'),
    ),
    geometry=Field('fit', 'fit: scale images to fit data.size; pad: only pad, never enlarge', choices=('fit', 'pad')),
    workers=Field(0, 'processes that score images; 0: this one', 0, 1024),
    boundary_tolerance=Field(0.0075, 'tolerance of boundaries, as a share of the diagonal', 0, 1),
    single_task=Field({}, '{task or kind: score of a single-task run}, for Delta_m', -1e9, 1e9),
  ),
  optim=dict(
    name=Field('adam', 'optimiser (sgd has momentum 0.9)', choices=('adam', 'adamw', 'sgd')),
    lr=Field(2e-5, 'highest learning rate', 1e-12, 1e6),
    part_lr=Field({}, '{part of the network (`Network.part`): its own rate}', 0, 1e6),
    denoiser_fan_in=Field(0, 'scale rates of denoiser kernels by min(1, this / fan-in); 0: no scaling', 0, _MANY),
    schedule=Field('poly', 'schedule of the learning rate', choices=('poly', 'cosine', 'constant')),
    l2=Field(1e-6, "weight decay, in the gradient (torch's); for adamw in the update", 0, 1e6),
    clip=Field(10.0, 'largest norm of the gradient; 1e12: any', 1e-9, 1e12),
    warmup=Field(0, 'steps of linear warmup', 0, _MANY),
  ),
  loss_weights=Field({}, "{task or kind: weight of its loss}; a task's name goes first; default 1", 0, 1e6),
  class_weights=Field(
    'none', 'factors of the loss by class: none, balanced (rare ones weigh more), or a file', is_path=True
  ),
  initial_loss=Field(0.5, 'weight of the losses on initial maps; on denoised maps it is 1', 0, 1e6),
)


def data_fields() -> dict[str, dict[str, Field]]:
  """{NAME: the fields of config.data that only the data set of configs/NAME.py has}."""
  modules = {name: importlib.import_module(f'{configs.__name__}.{name}') for name in configs.OURS}
  return {name: getattr(module, 'DATA_FIELDS', {}) for name, module in modules.items()}


def all_fields() -> dict:
  """`FIELDS`, with those of every data set in the section data."""
  own = {name: field for fields in data_fields().values() for name, field in fields.items()}
  return FIELDS | {'data': FIELDS['data'] | own}


def defaults(fields: dict) -> dict:
  """The default of each field, in the same sections."""
  return {name: defaults(x) if isinstance(x, dict) else copy.copy(x.default) for name, x in fields.items()}


def flat(values: dict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """('train.batch', value), ... of nested sections, of fields or their values."""
  for name, value in values.items():
    if isinstance(value, dict) and value:
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def as_text() -> str:
  """Every field with its meaning, a line each, for --help."""
  lines = [f'  {path:<24} {field.doc} [{field.default}]' for path, field in flat(all_fields())]
  return '\n'.join(['fields [default]:', *lines])
