"""What `--mode=check` ends with for a folder of photographs: a first run that suits them, as a command to paste."""

import dataclasses
import math
import pathlib
import shlex
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import accelerators
from dmtl_jax.basics.errors import program
from dmtl_jax.basics.progress import say
from dmtl_jax.configs import folder
from dmtl_jax.configs.fields import flat
from dmtl_jax.models import build_model, counting, find
from dmtl_jax.models.parts import identity
from dmtl_jax.training import cost, setup

SAMPLED = 100  # photographs whose size is looked at
PLANNED = {'a T4': 't4', 'an A100': 'a100'}
# Share of the maker's FLOP/s that the training step of a full network reaches on a GPU. An H200 (989 TFLOP/s) reached
# 33% and 31% on PASCAL at 512x512 and 22% on scenes at 256x256 (37.8, 37.2 and 31.9 ms, docs/performance.md); a T4 and
# an A100 have as many FLOP/s per byte of bandwidth.
GPU_SHARE = 0.25
LEAST_SECONDS = 0.05  # a step on a GPU, however small: loading photographs, and hundreds of small operations; assumed
PER_PAIR = ('denoiser', 'head')  # parts of a network that see labelled pairs instead of images


@dataclasses.dataclass(frozen=True)
class Choice:
  """A network to train.

  Attributes:
    title: for people.
    name: for the workdir.
    fields: {field: value} that it sets.
    cpu_share: its training step's FLOP/s on a CPU, by the network's definition, over those of a large product: measured
      on two busy cores (0.37, 0.53 and 1.6; 1.0 to 1.2 for the full network on quiet ones, docs/performance.md).
      Above 1 because Winograd's convolutions take half of the products.
    is_pretrained: whether its encoder, then of the published width, starts from ImageNet weights.
  """

  title: str
  name: str
  fields: dict
  cpu_share: float
  is_pretrained: bool = True


CHOICES = (
  Choice('small', 'small', {}, 0.4, is_pretrained=False),
  Choice('small with an ImageNet encoder', 'encoder', {}, 0.5),
  Choice('full', 'full', {'model.channels': 512, 'optim.lr': 2e-4}, 1.2),  # the rate of the suite scenes-full
)


class Timing(NamedTuple):
  """Measured seconds of one training step, and of compiling it."""

  step: float
  compiling: float


def lines(config, source, measure: bool = False) -> list[str]:
  """The recipe as lines of text; [] for data that are no folder, whose configs are recipes already.

  Args:
    source: the training images with the labels that a run learns from.
    measure: whether to compile and time a few training steps of each network, which takes minutes.
  """
  if config.data.name != 'folder' or not source.label_mask.any():
    return []
  labelled = int(source.label_mask.any(1).sum())
  shapes = photograph_shapes(source)
  unit = 8 * config.model.token_stride
  before = tuple(config.data.size)
  size = choose_size(shapes, before, unit, config.eval.geometry)
  steps = choose_steps(labelled)
  batch = config.train.batch
  text = [
    '',
    'a first run that suits these photographs:',
    f'  size {size[0]}x{size[1]} (height x width): {_padded(shapes, size, config)} of the input is padding'
    f'{_compare(shapes, before, size, config)}',
    f'  {steps} steps of {batch} images: {steps * batch / labelled:.3g} passes over the {labelled} labelled images '
    f'(150 times the square root of their number, a rule of thumb)',
  ]
  speed = 0.0 if measure else product_speed()
  for choice in CHOICES:
    own = configure(config, choice, size, steps, source.tasks)
    counted = counting.summarize(build_model(own, source.tasks), size)
    flops = step_flops(counted, batch, source)
    timing = time_steps(own, source, choice.title) if measure else None
    guess = 0.0 if measure else guess_seconds(flops, choice, speed)
    text += ['', f'  {choice.title}: {describe(counted["gmac"], flops, steps, timing, guess)}']
    text.append(f'    {command(own, choice)}')
  how = (
    'measured over 3 steps, compiling not counted'
    if measure
    else 'a rough estimate from the speed of a matrix product; --time measures a few steps, in minutes'
  )
  text += [
    '',
    f'  Times are those of training steps, without evaluations. Here: {how}.',
    f"  On a T4 and an A100: planned, not measured, at {GPU_SHARE:.0%} of the maker's figure and at least "
    f'{1000 * LEAST_SECONDS:.0f} ms a step; add --config.dtype=float16 on a T4, bfloat16 on an A100.',
  ]
  return text


def _compare(shapes, before: tuple[int, int], size: tuple[int, int], config) -> str:
  """What would be lost at the size that the config has."""
  if before == size:
    return ', as the config has it'
  lost = f'; at {before[0]}x{before[1]}, as now: {_padded(shapes, before, config)}'
  zoom = statistics.median(max(a / h, b / w) / min(a / h, b / w) for h, w in shapes for a, b in [before])
  if config.data.augment == 'light' and zoom > 1.2:
    lost += f', and training would show things {zoom:.2g} times as large as prediction does'
  return lost


def _padded(shapes, size: tuple[int, int], config) -> str:
  return f'{padding(shapes, size, config.eval.geometry):.0%}'


# --- Size and steps --------------------------------------------------------------------------


def photograph_shapes(source) -> list[tuple[int, int]]:
  """Heights and widths of at most `SAMPLED` photographs, spread over the source."""
  chosen = np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).round().astype(int).tolist()
  return [source.read(i, ())['image'].shape[:2] for i in chosen]


def padding(shapes, size: tuple[int, int], geometry: str) -> float:
  """Mean share of the network's input that evaluation pads; `geometry` is config.eval.geometry."""
  shares = []
  for height, width in shapes:
    factor = min(size[0] / height, size[1] / width)
    factor = min(factor, 1) if geometry == 'pad' else factor
    shares.append(max(1 - factor**2 * height * width / (size[0] * size[1]), 0.0))  # rounding can make it -0
  return statistics.fmean(shares)


def choose_size(shapes, size: tuple[int, int], unit: int, geometry: str) -> tuple[int, int]:
  """The size with little padding, about as many pixels as `size`, but no more than the photographs have.

  Args:
    unit: height and width are multiples of it: the maps have a cell per 8 pixels, the attention a token per
      token_stride cells.
  """
  pixels = min(math.prod(size), statistics.median(height * width for height, width in shapes))
  lengths = range(unit, max(int(math.sqrt(pixels) * 4), unit) + unit, unit)
  sizes = [(h, w) for h in lengths for w in lengths if h * w <= 1.1 * max(pixels, unit * unit)]

  def loss(candidate) -> float:
    """Padding, and how far the number of pixels is from the wanted one."""
    return padding(shapes, candidate, geometry) + 0.5 * abs(math.log(math.prod(candidate) / pixels))

  best = min(sizes, key=loss)
  return size if loss(size) <= loss(best) else best


def choose_steps(labelled: int) -> int:
  """Steps for a number of labelled images: four times as many images get twice the steps."""
  return round(min(max(150 * math.sqrt(labelled), 500), 20_000) / 100) * 100


# --- Networks and their cost -----------------------------------------------------------------


def configure(config, choice: Choice, size: tuple[int, int], steps: int, tasks):
  """The config of a choice, wide enough for the classes of its tasks."""
  fields = choice.fields | {'data.size': size, 'train.steps': steps}
  if choice.is_pretrained:
    fields |= {'model.width': 64, 'init_from': f'timm/{config.model.backbone}.tv_in1k'}
    fields['initial_loss'] = find(config.method).initial_loss  # 0.9% more on CamVid than with 0.1 (docs/study.md)
  own = config.copy_and_resolve_references()
  own.unlock()
  own.update_from_flattened_dict(fields)
  method = find(own.method)
  is_identity = method.network.diffuses and own.model.initial_weights == 'identity'
  if is_identity and method.fixed.get('predictions', True):  # see `DiffusionMTL.check`
    needed = identity.min_channels(tuple(task.channels for task in tasks))
    if needed > own.model.channels:
      own.model.channels = 1 << (needed - 1).bit_length()
  return own


def step_flops(counted: dict, batch: int, source) -> float:
  """FLOPs of a training step: forward, and twice that for the gradient; the denoiser only for labelled pairs.

  Args:
    counted: `counting.summarize` of the network.
  """
  share = float(source.label_mask.mean())
  parts = counted['parts'].items()
  macs = sum(1e9 * part['gmac'] * (share if name.split('/')[0] in PER_PAIR else 1) for name, part in parts)
  return 2 * 3 * batch * macs


def describe(gmac: float, flops: float, steps: int, timing: Timing | None, guess: float) -> str:
  """'3.7 GMAC per image; 1.2 h here (0.9 s a step, compiled in 30 s), 8 min on a T4, 2 min on an A100'.

  Args:
    guess: seconds of a step here, if none was timed.
  """
  if timing:
    here = f'{_hours(timing.step * steps)} here ({timing.step:.3g} s a step, compiled in {timing.compiling:.0f} s)'
  else:
    here = f'about {_hours(guess * steps)} here'
  planned = [f'{_hours(planned_seconds(flops, name) * steps)} on {title}' for title, name in PLANNED.items()]
  return f'{gmac:.3g} GMAC per image; {here}, {", ".join(planned)}'


def _hours(seconds: float) -> str:
  return f'{seconds / 3600:.2g} h' if seconds > 3600 else f'{max(seconds / 60, 1):.0f} min'


def guess_seconds(flops: float, choice: Choice, speed: float) -> float:
  """Seconds of a step here, where a large product reaches `speed` FLOP/s."""
  if jax.default_backend() == 'cpu':
    return flops / (choice.cpu_share * speed)
  return max(flops / (GPU_SHARE * speed), LEAST_SECONDS)


def planned_seconds(flops: float, name: str) -> float:
  """Seconds of a step in 16 bits on an accelerator of `accelerators.ACCELERATORS`."""
  return max(flops / (GPU_SHARE * accelerators.find(name).half), LEAST_SECONDS)


def product_speed() -> float:
  """FLOP/s of a large float32 matrix product on a device here."""
  side = 2048
  product = jax.jit(lambda x: x @ x)
  x = jnp.ones((side, side))
  product(x).block_until_ready()
  seconds = []
  for _ in range(3):
    began = time.perf_counter()
    product(x).block_until_ready()
    seconds.append(time.perf_counter() - began)
  return 2 * side**3 / min(seconds)


def time_steps(config, source, title: str) -> Timing:
  """Compiles the training step of a config and times three steps on a batch without labelled pixels."""
  say(f'timing a few training steps: {title}')
  began = time.perf_counter()
  training = setup.build_without_data(config, source.tasks, source.label_mask)
  state = setup.abstract_state(training)
  batch = cost.abstract_batch(config.train.batch, tuple(config.data.size), source.tasks, training.mesh)
  step = training.update.lower(state, batch, np.int32(1)).compile()
  compiling = time.perf_counter() - began
  # Small constants instead of the initialiser, which takes as long to compile as the step.
  state = jax.tree.map(lambda x: jax.device_put(np.full(x.shape, 0.01, x.dtype), x.sharding), state)
  values = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), batch)
  seconds = []
  for number in range(4):
    began = time.perf_counter()
    state, scalars = step(state, values, np.int32(number + 1))
    jax.block_until_ready((state, scalars))
    seconds.append(time.perf_counter() - began)
  return Timing(statistics.median(seconds[1:]), compiling)


def command(config, choice: Choice) -> str:
  """The command line that trains a config of folder.py: every field that differs from that file's own."""
  arguments = f'method={config.method}'
  own = dict(flat(folder.get_config(arguments).to_dict()))
  changed = {path: value for path, value in flat(config.to_dict()) if own.get(path) != value}
  name = pathlib.PurePath(config.data.path).name or 'mine'
  flags = [f'--config.{path}={_flag_value(value)}' for path, value in changed.items()]
  parts = [f'--config=configs/folder.py:{arguments}', *flags, f'--workdir=runs/{name}_{choice.name}']
  return ' '.join([program(), *map(shlex.quote, parts)])


def _flag_value(value) -> str:
  if isinstance(value, (tuple, list)):
    return '(' + ''.join(f'{x!r},' for x in value).rstrip(',' if len(value) > 1 else '') + ')'
  return str(value)
