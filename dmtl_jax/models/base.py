"""What a method is: a network and what it is trained with, under the name that config.method gives it.

A method is one file beside this one: a subclass of `Network`, a loss where it has one of its own, and `register`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import unknown_value_error
from dmtl_jax.models import losses
from dmtl_jax.models.parts.decoder import Decoders
from dmtl_jax.models.parts.encoder import Backbone
from dmtl_jax.models.parts.layers import Dtype
from dmtl_jax.models.parts.pairs import Pairs
from dmtl_jax.tasks import Task

METHODS: dict[str, 'Method'] = {}  # by name; filled as the methods' files are imported


@struct.dataclass
class Output:
  """What every model returns: raw maps at stride 8, before `Task.activate`, in float32 whatever its dtype.

  Attributes:
    final: {task: [B, h, w, C_t]}; 0 for a pair that was not denoised.
    initial: {task: [B, h, w, C_t]} before the diffusion; empty for methods without.
    trajectory: {task: [S + 1, B, h, w, C_t]} for figures: the decayed map X_S, then the map after
      each step (features are passed through the head); empty for methods without.
    extra: what a method's own loss needs (see its module).
  """

  final: dict[str, jax.Array]
  initial: dict[str, jax.Array] = struct.field(default_factory=dict)
  trajectory: dict[str, jax.Array] = struct.field(default_factory=dict)
  extra: dict[str, Any] = struct.field(default_factory=dict)


class Network(nn.Module):
  """The network of a method, called as (images [B, H, W, 3] normalised, *, train=False, **inputs) -> `Output`.

  Attributes:
    tasks: the data set's tasks; T of them.
    backbone: 'resnet18' or 'resnet50'.
    width: channels of the encoder's stem; 64 is the published ResNet.
    channels: C.
    dtype: of activations; parameters and the maps of the last layers (`layers.Head`) are float32.
    remat: recompute the activations of blocks for the gradient instead of keeping them.
    diffuses: whether it denoises pairs of image and task, and takes `pairs`, `noise` and `diffusion_steps` as inputs.
    clips_parts: whether each part (`part`) is a network by itself, whose gradient is clipped by itself.
  """

  tasks: tuple[Task, ...]
  backbone: str = 'resnet18'
  width: int = 64
  channels: int = 512
  dtype: Dtype = jnp.float32
  remat: bool = False

  diffuses: ClassVar[bool] = False
  clips_parts: ClassVar[bool] = False

  @property
  def draws_noise(self) -> bool:
    """Whether its predictions depend on noise."""
    return False

  def noise_shape(self, pairs: Pairs, size: tuple[int, int], diffusion_steps: int | None = None) -> tuple[int, ...]:
    """Of a network that diffuses: shape [K, N, h, w, C_x] of the noise for N pairs of images of `size` (H, W).

    K may be 0: no noise.
    """
    raise NotImplementedError(f'{type(self).__name__}.noise_shape')

  def check(self):
    """Raises UserError where its fields do not fit together."""

  def init_params(self, params: dict, key: jax.Array) -> dict:
    """The first parameters, of those that the layers drew by themselves."""
    del key
    return params

  def part(self, path: tuple[str, ...]) -> str:
    """The part that a parameter belongs to, for config.optim.part_lr and `clips_parts`; '' is the rest."""
    del path
    return ''

  def _encoder(self) -> Backbone:
    return Backbone(self.backbone, self.width, self.channels, self.dtype, self.remat, name='backbone')

  def _decoders(self, blocks: int) -> Decoders:
    return Decoders(self.tasks, self.channels, blocks, self.dtype, self.remat, name='decoders')

  def _shared(self) -> dict:
    """The fields that every network has, to build another with."""
    return {name: getattr(self, name) for name in _fields(Network)}


def _fields(network: type[Network]) -> list[str]:
  """Names of a network's fields, without those that flax adds."""
  return [field.name for field in dataclasses.fields(network) if field.init and field.name not in ('parent', 'name')]


@dataclasses.dataclass(frozen=True)
class Forward:
  """A pass of the network in training, as a method's own loss gets it.

  What a hidden label holds must never matter, NaN included, and an image without a label must contribute 0.

  Attributes:
    apply: (images or other inputs, **kwargs) -> (result, updated variables); `model.apply` with
      this step's variables, train=True and mutable batch statistics, whose update is not kept.
    batch: image [B, H, W, 3], labels {task: [B, H, W, K]}, label_mask [B, T] bool.
    output: the network's for batch['image'].
    weights: [T] task weights.
    key: the step's key.
    model: the network.
  """

  apply: Callable
  batch: dict
  output: Output
  tasks: tuple[Task, ...]
  weights: np.ndarray
  key: jax.Array
  model: Network


@dataclasses.dataclass(frozen=True)
class Method:
  """A network with its loss and its name.

  Attributes:
    name: config.method.
    network: class of the network; its fields are those of config.model that go by the same names.
    title: for people, as in the paper's tables.
    row: place in the tables.
    color: of its curves and dots (#rrggbb), told apart on white and on black; '': any that is left.
    cost: what the paper says of its parameters and multiply-adds, after *the paper says*.
    note: what to know of its pictures.
    loss: its own loss (a scalar float32), added to the tasks'.
    initial_loss: weight of the tasks' losses on its initial maps, the default of config.initial_loss.
    balances_images: whether an image's losses are weighed by T / its labelled tasks, see `losses.combine`.
    defaults: of config.model, where they differ from others'.
    fixed: fields of the network that make the method, whatever config.model says.
    reference: whether Delta_m compares with its scores.
    baseline: whether reports hold other methods against it seed by seed.
  """

  name: str
  network: type[Network]
  title: str
  row: float = 100
  color: str = ''
  cost: str = ''
  note: str = ''
  loss: Callable[[Forward], jax.Array] | None = None
  initial_loss: float = losses.INITIAL_LOSS
  balances_images: bool = True
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  reference: bool = False
  baseline: bool = False

  def total_loss(self, run: Forward, initial_loss: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    """All that is minimised, and the tasks' losses in parts, see `losses.total_loss`."""
    labels, mask = run.batch['labels'], run.batch['label_mask']
    loss, parts = losses.total_loss(
      run.tasks, run.output, labels, mask, run.weights, initial_loss, self.balances_images
    )
    return loss + self.loss(run) if self.loss else loss, parts


def register(name: str, network: type[Network], title: str, **more) -> Method:
  """Makes a method known under its name; for the rest see `Method`."""
  METHODS[name] = Method(name, network, title, **more)
  return METHODS[name]


def find(name: str) -> Method:
  """The method of a name; raises UserError where there is none, with the closest."""
  if name not in METHODS:
    raise unknown_value_error('config.method', name, METHODS)
  return METHODS[name]


def build_model(config, tasks: tuple[Task, ...]) -> Network:
  """The network of config.method for these tasks; raises UserError where it is unknown or its fields do not fit."""
  method = find(config.method)
  given = dict(config.model) | dict(tasks=tuple(tasks), dtype=jnp.dtype(config.dtype), remat=config.train.remat)
  given |= method.fixed
  model = method.network(**{name: given[name] for name in _fields(method.network) if name in given})
  model.check()
  return model
