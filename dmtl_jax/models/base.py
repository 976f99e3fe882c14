"""Methods: networks with their losses, under the names that config.method selects.

A method is one file beside this one: a subclass of `Network`, its own loss if it has one, and a call of `register`.
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

METHODS: dict[str, 'Method'] = {}  # by name; importing a method's file adds it


@struct.dataclass
class Output:
  """Result of every network: raw maps at stride 8, before `Task.activate`, in float32 whatever the network's dtype.

  Attributes:
    final: {task: [B, h, w, C_t]}; 0 for pairs that were not denoised.
    initial: {task: [B, h, w, C_t]} before the diffusion; empty for methods without initial maps.
    trajectory: {task: [S + 1, B, h, w, C_t]} for figures: the decayed map X_S, then the map after
      each step (features after the head); empty for methods without diffusion.
    extra: inputs of the method's own loss (see its module).
  """

  final: dict[str, jax.Array]
  initial: dict[str, jax.Array] = struct.field(default_factory=dict)
  trajectory: dict[str, jax.Array] = struct.field(default_factory=dict)
  extra: dict[str, Any] = struct.field(default_factory=dict)


class Network(nn.Module):
  """The network of a method, called as (images [B, H, W, 3] normalised, *, train=False, **inputs) -> `Output`.

  Attributes:
    tasks: the T tasks of the data set.
    backbone: 'resnet18' or 'resnet50'.
    width: channels of the encoder's stem; 64 is the published ResNet.
    channels: C.
    dtype: of activations; parameters and the maps of the last layers (`layers.Head`) are float32.
    remat: whether the gradient recomputes the activations of blocks instead of keeping them.
    diffuses: whether it denoises (image, task) pairs and takes the inputs `pairs`, `noise` and `diffusion_steps`.
    clips_parts: whether the gradient of each part (`part`) is clipped separately, as those of separate networks.
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
    """Shape [K, N, h, w, C_x] of the noise for N pairs of images of `size` (H, W), if the network `diffuses`.

    K is 0 where no noise is added.
    """
    raise NotImplementedError(f'{type(self).__name__}.noise_shape')

  def check(self):
    """Raises UserError if the fields do not fit together."""

  def init_params(self, params: dict, key: jax.Array) -> dict:
    """Initial parameters, given the layers' own random initialisation."""
    return params

  def part(self, path: tuple[str, ...]) -> str:
    """Name of the part a parameter belongs to, for config.optim.part_lr and `clips_parts`; '' for the rest."""
    return ''

  def train_inputs(self, images: jax.Array, key: jax.Array) -> dict:
    """Keyword inputs of a training step besides `model_inputs`, such as augmented views of the images.

    Args:
      images: [B, H, W, 3].
      key: the step's random key, which the method's own loss gets too.
    """
    return {}

  def _encoder(self) -> Backbone:
    return Backbone(depth=self.backbone, width=self.width, **self._layer_fields(), name='backbone')

  def _decoders(self, blocks: int) -> Decoders:
    return Decoders(tasks=self.tasks, blocks=blocks, **self._layer_fields(), name='decoders')

  def _layer_fields(self) -> dict:
    return dict(channels=self.channels, dtype=self.dtype, remat=self.remat)

  def _shared(self) -> dict:
    """Values of the fields that every network has, to build an inner network with."""
    return {name: getattr(self, name) for name in _fields(Network)}


def _fields(network: type[Network]) -> list[str]:
  """Names of a network's fields, except those that flax adds."""
  return [field.name for field in dataclasses.fields(network) if field.init and field.name not in ('parent', 'name')]


@dataclasses.dataclass(frozen=True)
class Forward:
  """A forward pass in training, the argument of a method's own loss.

  Values of hidden labels, NaN included, must have no influence. An image without a label must contribute 0, except in
  methods that learn from such images.

  Attributes:
    apply: (images or other inputs, **kwargs) -> (result, updated variables); `model.apply` with
      this step's variables, train=True and mutable batch statistics, whose update is not kept.
    batch: image [B, H, W, 3], labels {task: [B, H, W, K]}, label_mask [B, T] bool; with predicted labels also
      label_weights [B, T], see `losses.combine`.
    output: of the network for batch['image'].
    weights: [T] task weights.
    key: the step's random key.
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
    name: value of config.method.
    network: class of the network; it takes its fields from config.model, by name.
    title: for people, as in the paper's tables.
    row: place in the tables.
    color: of its curves and dots (#rrggbb), distinct on white and on black; '': any unused one.
    cost: the paper's parameters and multiply-adds, completes *the paper says*.
    note: remark on its pictures.
    loss: its own loss (a scalar float32), added to the tasks' losses.
    initial_loss: default of config.initial_loss, the weight of the tasks' losses on initial maps.
    balances_images: whether an image's losses are weighted by T / its labelled tasks, see `losses.combine`.
    defaults: values of config.model that differ from other methods'.
    fixed: fields of the network that define the method, whatever config.model says.
    uses_unlabelled: whether it learns from images without a visible label; others never see them.
    reference: whether Delta_m compares with its scores.
    baseline: whether reports compare other methods with it seed by seed.
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
  uses_unlabelled: bool = False
  reference: bool = False
  baseline: bool = False

  def total_loss(self, run: Forward, initial_loss: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss to minimise, and the tasks' losses by part, see `losses.total_loss`."""
    labels, mask = run.batch['labels'], run.batch['label_mask']
    loss, parts = losses.total_loss(
      run.tasks,
      run.output,
      labels,
      mask,
      run.weights,
      initial_loss,
      self.balances_images,
      run.batch.get('label_weights'),
    )
    return loss + self.loss(run) if self.loss else loss, parts


def register(name: str, network: type[Network], title: str, **more) -> Method:
  """Adds a method under its name; `more` are further fields of `Method`."""
  METHODS[name] = Method(name, network, title, **more)
  return METHODS[name]


def find(name: str) -> Method:
  """The method of a name; raises UserError, naming the closest method, if there is none."""
  if name not in METHODS:
    raise unknown_value_error('config.method', name, METHODS)
  return METHODS[name]


def build_model(config, tasks: tuple[Task, ...]) -> Network:
  """The network of config.method for these tasks; raises UserError if it is unknown or its fields do not fit."""
  method = find(config.method)
  values = dict(config.model) | dict(tasks=tuple(tasks), dtype=jnp.dtype(config.dtype), remat=config.train.remat)
  values |= method.fixed
  model = method.network(**{name: values[name] for name in _fields(method.network) if name in values})
  model.check()
  return model
