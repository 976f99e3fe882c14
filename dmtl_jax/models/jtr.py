"""JTR: Joint-Task Regularization (Nishi, Kim, Li, Pfister, CVPR 2024), on the MTL baseline.

A regularising network g, for training only, is an autoencoder of all tasks' maps of an image. It embeds the stack
Yhat of all predictions and the stack Y of labels, with predictions for the tasks that have none. The embeddings
should agree, which teaches the unlabelled tasks' predictions; reconstruction keeps g from embedding all alike.

Stacks hold numbers of about 0..1. Depths become their share in a normal distribution with the mean and deviation of
NYUD's, normals (n + 1) / 2, classes one-hot vectors, sampled from a prediction by the straight-through Gumbel softmax.
Ours are those of the kinds that the paper does not have: parsing and saliency are classes too, boundaries the
probability of one.

As in the authors' code, x0 is the image of the batch, and x1 and x2 are crops of it with other colours; all three
go through the network in one pass. Ours, for equal terms with the other methods: x0 is augmented as for them (the
code: a crop, then RandAugment), and labels are cropped by nearest neighbour (the code: normals bilinearly).
Three slips of the code are in `released_losses` (preset=released) only: see `reconstruction_loss`. The supervised loss
is the sum over an image's labelled tasks, without the factor of `losses.combine`.
"""

import dataclasses
import operator
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.photographs import MEAN, STD
from dmtl_jax.models.base import Forward, Output, register
from dmtl_jax.models.losses import embedding_distance
from dmtl_jax.models.mtl_baseline import MTLBaseline
from dmtl_jax.models.parts import rand_augment, regularizer, views
from dmtl_jax.models.parts.layers import resize
from dmtl_jax.models.parts.regularizer import Autoencoded, Regularizer
from dmtl_jax.tasks import Task

VIEWS = 2  # of an image, besides itself
DISTANCE_WEIGHT, RECONSTRUCTION_WEIGHT = 4.0, 2.0
SECOND_DISTANCE_WEIGHT = 2.0  # of view 2 in L_dist; the code takes RECONSTRUCTION_WEIGHT, its L_dist has no own


@struct.dataclass
class AugmentedViews:
  """Two crops of each image of a batch: as drawn [2 B], and with other colours [B, 2, H, W, 3]."""

  crops: views.View
  images: jax.Array


class Regularized(NamedTuple):
  """What g makes of Y and Yhat: embeddings of view 1 by a copy of g without gradient, and all of view 2."""

  embedding_y1: jax.Array
  embedding_yhat1: jax.Array
  y2: Autoencoded
  yhat2: Autoencoded


class JTR(MTLBaseline):
  """MTL baseline with the regularising network; inference runs only the baseline.

  Attributes:
    released_losses: whether the reconstruction loss is the code's where it slips.
  """

  released_losses: bool = False

  def setup(self):
    self.baseline = MTLBaseline(**self._shared(), decoder_blocks=self.decoder_blocks)
    self.regularizer = Regularizer(self.channels, self.dtype, self.remat)

  def __call__(self, images: jax.Array, *, train: bool = False, augmented: AugmentedViews | None = None) -> Output:
    """Images to final maps; `extra` holds the augmented views' 'crops' and, for each of the two, final 'maps'."""
    if self.is_initializing():
      self.regularizer(jnp.zeros((1, 32, 32, sum(task.channels for task in self.tasks))))
    if augmented is None:
      return Output(self.baseline(images, train=train).final)
    # The views of an image stay beside it, and so on its device.
    stacked = jnp.concatenate([images[:, None], augmented.images], axis=1)
    final = self.baseline(stacked.reshape(-1, *images.shape[1:]), train=train).final
    final = {name: maps.reshape(*stacked.shape[:2], *maps.shape[1:]) for name, maps in final.items()}
    whole, *of_views = [{name: maps[:, i] for name, maps in final.items()} for i in range(1 + VIEWS)]
    return Output(whole, extra={'crops': augmented.crops, 'maps': of_views})

  def train_inputs(self, images, key):
    return {'augmented': draw_views(images, key)}

  def regularize(self, y1, yhat1, y2, yhat2, *, train: bool = True) -> Regularized:
    """Embeds stacks [B, H, W, sum of C_t]; those of view 2 train g, and get no gradient."""
    frozen = jax.lax.stop_gradient(self.regularizer.variables)
    first = self.regularizer.clone(parent=None).apply(frozen, jnp.concatenate([y1, yhat1]))
    second = self.regularizer(jax.lax.stop_gradient(jnp.concatenate([y2, yhat2])))
    of_y, of_yhat = slice(len(y1)), slice(len(y1), None)
    return Regularized(
      embedding_y1=first.embedding[of_y],
      embedding_yhat1=first.embedding[of_yhat],
      y2=Autoencoded(second.embedding[of_y], second.maps[of_y]),
      yhat2=Autoencoded(second.embedding[of_yhat], second.maps[of_yhat]),
    )

  def check(self):
    if len(self.tasks) < 2:
      raise UserError('config.method: jtr regularises tasks jointly and the data has one; use mtl_baseline')

  def init_params(self, params, key):
    return params | {'regularizer': regularizer.init_params(params['regularizer'], jax.random.fold_in(key, 1))}


def draw_views(images: jax.Array, key: jax.Array) -> AugmentedViews:
  """Random crops of normalised images, resized back, then RandAugment of their colours."""
  key_crop, key_colors = jax.random.split(key)
  crops = views.draw_crops(key_crop, VIEWS * len(images), False)
  cropped = crops.image(jnp.repeat(images, VIEWS, axis=0))
  colors = rand_augment.augment(jnp.clip(cropped * STD + MEAN, 0, 1), key_colors)
  return AugmentedViews(crops, ((colors - MEAN) / STD).reshape(-1, VIEWS, *images.shape[1:]))


class Losses(NamedTuple):
  """L_dist and L_recon of each image, [B]."""

  distance: jax.Array
  reconstruction: jax.Array


def joint_task_regularization(run: Forward) -> jax.Array:
  """4 L_dist + 2 L_recon, mean over images; one without a pixel that is valid for all its labels contributes 0."""
  losses = regularization_losses(run)
  return (DISTANCE_WEIGHT * losses.distance + RECONSTRUCTION_WEIGHT * losses.reconstruction).mean()


def regularization_losses(run: Forward) -> Losses:
  """L_dist = d(Y1, Yhat1) + 2 d(Y2, Yhat2), and L_recon of Y2 and Yhat2, for the views 1 and 2 of each image.

  d is `embedding_distance` after g. Predictions are masked before they are encoded (`MaskedView`); classes of Yhat2
  are probabilities. Only d(Y1, Yhat1) teaches the network, and of its predictions only those of unlabelled tasks;
  all but d(Y1, Yhat1) teaches g.
  """
  mask, crops, released = run.batch['label_mask'], run.output.extra['crops'], run.model.released_losses
  by_view = [jax.tree.map(operator.itemgetter(slice(i, None, VIEWS)), crops) for i in range(VIEWS)]
  pairs = zip(run.output.extra['maps'], by_view)
  first, second = (make_view(run.tasks, maps, run.batch['labels'], mask, crop) for maps, crop in pairs)
  # Each stack and target has draws of its own, as in the code.
  y1, yhat1, y2, target_y2, target_yhat2 = jax.random.split(run.key, 5)
  stacks = [first.targets(y1), first.encoded(yhat1), second.targets(y2), second.encoded(None)]
  stacks = [jnp.concatenate(list(stack.values()), axis=-1) for stack in stacks]
  result, _ = run.apply(*stacks, method='regularize')
  distance = embedding_distance(result.embedding_y1, result.embedding_yhat1)
  distance += SECOND_DISTANCE_WEIGHT * embedding_distance(result.y2.embedding, result.yhat2.embedding)
  target = second.reconstructed_y(target_y2)
  reconstruction = reconstruction_loss(second, result.y2.maps, target, released)
  target = second.reconstructed_yhat(target_yhat2, released)
  reconstruction += reconstruction_loss(second, result.yhat2.maps, target, released)
  is_known = mask.any(1) & first.mask.any((1, 2)) & second.mask.any((1, 2))
  return Losses(jnp.where(is_known, distance, 0), jnp.where(is_known, reconstruction, 0))


@dataclasses.dataclass(frozen=True)
class MaskedView:
  """Predictions and labels of one view of each image, {task: [B, H, W, .]}.

  Attributes:
    maps: raw predictions, without gradient where the task is labelled.
    labels: unlabelled where hidden.
    is_labelled: {task: [B, 1, 1, 1] bool}.
    mask: [B, H, W] bool, pixels that are valid for every labelled task of the image.
  """

  tasks: tuple[Task, ...]
  maps: dict[str, jax.Array]
  labels: dict[str, jax.Array]
  is_labelled: dict[str, jax.Array]
  mask: jax.Array

  def encoded(self, key: jax.Array | None) -> dict[str, jax.Array]:
    """Yhat: masked predictions, encoded; classes sampled by `key`, or their probabilities if it is None."""
    encoded = {}
    for t, task in enumerate(self.tasks):
      mask, maps = self.mask[..., None], self.maps[task.name]
      if has_values(task):
        encoded[task.name] = task.to_unit(task.soft_prediction(maps) * mask)
      elif key is None:
        encoded[task.name] = task.soft_prediction(maps) * mask
      else:
        encoded[task.name] = task.encode_prediction(maps, jax.random.fold_in(key, t)) * mask
    return encoded

  def targets(self, key: jax.Array) -> dict[str, jax.Array]:
    """Y: encoded labels, or predictions as in Yhat where a task has no label."""
    predictions = self.encoded(key)
    labels = {task.name: encode_label(task, self.labels[task.name]) for task in self.tasks}
    return {name: jnp.where(shown, labels[name], predictions[name]) for name, shown in self.is_labelled.items()}

  def reconstructed_y(self, key: jax.Array) -> dict[str, jax.Array]:
    """What g reconstructs of Y: as `targets`, but values not encoded, and predictions of values not masked."""
    targets = self.targets(key)
    for task in filter(has_values, self.tasks):
      value = task.soft_prediction(self.maps[task.name])
      targets[task.name] = jnp.where(self.is_labelled[task.name], self.labels[task.name], value)
    return targets

  def reconstructed_yhat(self, key: jax.Array, released: bool) -> dict[str, jax.Array]:
    """What g reconstructs of Yhat: sampled classes, and predicted values."""
    encoded = self.encoded(key)
    if released:
      return encoded
    values = {task.name: task.soft_prediction(self.maps[task.name]) for task in self.tasks if has_values(task)}
    return encoded | values


def make_view(tasks, maps: dict, labels: dict, label_mask: jax.Array, crop: views.View) -> MaskedView:
  """The view of raw maps [B, h, w, C_t] that the network predicted for it, and of labels [B, H, W, K] of the images."""
  at_size, cropped, is_labelled = {}, {}, {}
  mask = True
  for t, task in enumerate(tasks):
    shown = label_mask[:, t, None, None, None]
    label = jnp.where(shown, labels[task.name], jnp.asarray(task.unlabelled, task.label_dtype))
    cropped[task.name] = crop.label(task, label)
    raw = resize(maps[task.name].astype(jnp.float32), label.shape[1:3])
    at_size[task.name] = jnp.where(shown, jax.lax.stop_gradient(raw), raw)
    is_labelled[task.name] = shown
    mask &= task.valid(cropped[task.name]) | ~shown[..., 0]
  return MaskedView(tasks, at_size, cropped, is_labelled, mask)


def has_values(task: Task) -> bool:
  """Whether a task's labels are values, such as depths, and not classes."""
  return np.issubdtype(task.label_dtype, np.floating)


def encode_label(task: Task, label: jax.Array) -> jax.Array:
  """A label [B, H, W, K] in a stack [B, H, W, C_t]; where unlabelled, classes are 0 and values those of 0."""
  if has_values(task):
    return task.to_unit(label)
  return jnp.where(task.valid(label)[..., None], task.encode_label(label), 0).astype(jnp.float32)


def reconstruction_loss(view: MaskedView, maps: jax.Array, targets: dict, released: bool) -> jax.Array:
  """Sum over tasks of `Task.reconstruction_error` of raw maps [B, H, W, sum of C_t], mean over the mask: [B].

  The code (`released`) divides by the number of non-zero entries of the target instead, so that normals weigh a third.
  And what it reconstructs of Yhat2 is encoded twice: a depth's share in the distribution counts as depth, (n + 1) / 2
  as normal. (From the code's loss of normals ours differs by a constant.)
  """
  total = 0.0
  channels = np.cumsum([task.channels for task in view.tasks])[:-1]
  for task, own in zip(view.tasks, jnp.split(maps, channels, axis=-1)):
    target = jax.lax.stop_gradient(targets[task.name])
    error = jnp.where(view.mask, task.reconstruction_error(own, target), 0).sum((1, 2))
    count = (target != 0).sum((1, 2, 3)) if released else view.mask.sum((1, 2))
    total += error / jnp.maximum(count, 1)
  return total


register('jtr', JTR, 'JTR', row=4.5, color='#b04bd0', loss=joint_task_regularization, balances_images=False)
