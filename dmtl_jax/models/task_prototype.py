"""Task Prototype (AAAI 2026, arXiv 2601.07474): our reading of a public summary, without the paper's code.

The summary says: encoder features f_e; the nearest entry f_q of a codebook; f_i = f_e + f_q, from which a decoder
reconstructs the image (TAE, smooth L1). Decoders make features f_t of f_i. Each task has a prototype; the softmax
over tasks of f_t's cosines with them is the affinity A, with the cross-entropy against t (TKE) and a triplet loss
between features of tasks (TC). Retrieval blocks attend from f_t to the mix f_ta of prototypes by A.

It says neither of the following, which are our choices: 8 C entries of C channels (4096 for the published C); no
loss of the codebook's own, since f_q gets the gradient of f_i; two residual blocks per decoder; two retrieval blocks,
pre-norm, shared by the tasks, on tokens at config.model.token_stride; no temperature; TKE at every place of every
task's map, labelled or not; TC on means over places, scaled to unit length, with the farthest feature of the same
task and the nearest of another, and a margin of 0.3; weights of 1.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from dmtl_jax.basics.errors import UserError
from dmtl_jax.models.base import Forward, Network, Output, register
from dmtl_jax.models.parts.denoiser import CrossAttention, Mlp
from dmtl_jax.models.parts.encoder import Residual
from dmtl_jax.models.parts.layers import Conv, Dtype, Head, layer_norm, remat_if, resize
from dmtl_jax.models.parts.reduction import reduce
from dmtl_jax.tasks.normals import normalize

ENTRIES_PER_CHANNEL = 8
MARGIN = 0.3
AUTOENCODER_WEIGHT, PROTOTYPE_WEIGHT = 1.0, 1.0  # of TAE, and of TKE and TC


class Codebook(nn.Module):
  """The nearest of its entries to each feature."""

  entries: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """[..., C] to [..., C], same dtype."""
    return nearest_entry(features, _vectors(self, self.entries, features.shape[-1])).astype(features.dtype)


class Retrieved(NamedTuple):
  """Affinity [..., T] float32 before the softmax, and the mix of prototypes [..., C] by it."""

  affinity: jax.Array
  mixed: jax.Array


class Prototypes(nn.Module):
  """One vector per task."""

  tasks: int

  @nn.compact
  def __call__(self, features: jax.Array) -> Retrieved:
    """Compares features [..., C] with the prototypes."""
    prototypes = _vectors(self, self.tasks, features.shape[-1])
    affinity = jnp.matmul(normalize(features.astype(jnp.float32)), normalize(prototypes).T, precision='highest')
    return Retrieved(affinity, (nn.softmax(affinity) @ prototypes).astype(features.dtype))


def _vectors(module: nn.Module, count: int, channels: int) -> jax.Array:
  """A module's vectors [count, channels] to learn, at first of about unit length."""
  return module.param('vectors', nn.initializers.normal(channels**-0.5), (count, channels))


def nearest_entry(features: jax.Array, codebook: jax.Array) -> jax.Array:
  """The entry of the codebook [K, C] that is nearest to each feature [..., C], float32."""
  products = jnp.matmul(jax.lax.stop_gradient(features.astype(jnp.float32)), codebook.T, precision='highest')
  entries = jnp.asarray(codebook)  # exported networks hold NumPy arrays, which traced indices cannot index
  return entries[jnp.argmin((codebook**2).sum(-1) - 2 * products, axis=-1)]


class RetrievalBlock(nn.Module):
  """x += Attn(LN(x)); x += Attn(LN(x), LN(retrieved)); x += MLP(LN(x))."""

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, retrieved: jax.Array) -> jax.Array:
    """Updates tokens [N, L, C] by those of the prototypes [N, L, C]."""
    query = layer_norm(self.dtype, 'norm_self')(x)
    x = x + CrossAttention(self.heads, self.dtype, name='self_attention')(query, query)
    query, keys = layer_norm(self.dtype, 'norm_query')(x), layer_norm(self.dtype, 'norm_keys')(retrieved)
    x = x + CrossAttention(self.heads, self.dtype, name='cross_attention')(query, keys)
    return x + Mlp(self.dtype, name='mlp')(layer_norm(self.dtype, 'norm_mlp')(x))


class ImageDecoder(nn.Module):
  """Features [B, h, w, C] at stride 8 to images [B, 8h, 8w, 3] float32: a convolution before each doubling."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(3):
      x = nn.relu(Conv(max(x.shape[-1] // 2, 3), 3, dtype=self.dtype, name=f'conv{i}')(x))
      x = resize(x, (2 * x.shape[1], 2 * x.shape[2]))
    return Head(3, name='head')(x)


class TaskPrototype(Network):
  """The network, see module.

  Attributes:
    decoder_blocks: residual blocks per task.
    retrieval_blocks: see `RetrievalBlock`.
    heads: of each attention.
    token_stride: stride of the attention's tokens on the maps.
  """

  decoder_blocks: int = 2
  retrieval_blocks: int = 2
  heads: int = 1
  token_stride: int = 4

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Images to final maps.

    `extra` is for training: 'image' [B, H, W, 3], 'affinity' [B, T, h, w, T] before the softmax, and 'features', means
    of f_t [B, T, C].
    """
    features = self._encoder()(images, train)
    features = features + Codebook(ENTRIES_PER_CHANNEL * self.channels, name='codebook')(features)
    by_task = self._decode(features, train)
    affinity, mixed = Prototypes(len(self.tasks), name='prototypes')(by_task)
    retrieved = self._retrieve(by_task, mixed)
    final = {
      task.name: Head(task.channels, name=f'{task.name}_head')(retrieved[:, t]) for t, task in enumerate(self.tasks)
    }
    image = resize(ImageDecoder(self.dtype, name='image_decoder')(features), images.shape[1:3])
    means = by_task.astype(jnp.float32).mean((2, 3))
    return Output(final, extra={'image': image, 'affinity': affinity, 'features': means})

  def check(self):
    if len(self.tasks) < 2:
      raise UserError('config.method: task_prototype tells tasks apart and the data has one; use mtl_baseline')
    if self.channels % self.heads:
      raise UserError(f'config.model.heads: {self.channels} channels cannot be shared by {self.heads}; set a divisor')

  def _decode(self, features: jax.Array, train: bool) -> jax.Array:
    """f_i [B, h, w, C] to f_t of all tasks [B, T, h, w, C]."""
    block = remat_if(self.remat, Residual)
    decoded = []
    for task in self.tasks:
      x = features
      for i in range(self.decoder_blocks):
        x = block(self.channels, dtype=self.dtype, name=f'{task.name}_block{i}')(x, train)
      decoded.append(x)
    return jnp.stack(decoded, axis=1)

  def _retrieve(self, by_task: jax.Array, mixed: jax.Array) -> jax.Array:
    """f_t and f_ta to f_tr, all [B, T, h, w, C]: f_t plus what the blocks change of its tokens."""
    maps = by_task.reshape(-1, *by_task.shape[2:])
    small = reduce(maps, self.token_stride)
    start = x = small.reshape(len(small), -1, self.channels)
    keys = reduce(mixed.reshape(maps.shape), self.token_stride).reshape(x.shape)
    for i in range(self.retrieval_blocks):
      x = RetrievalBlock(self.heads, self.dtype, name=f'retrieval{i}')(x, keys)
    return by_task + resize((x - start).reshape(small.shape), maps.shape[1:3]).reshape(by_task.shape)


class PrototypeLosses(NamedTuple):
  """Scalars; see module."""

  autoencoder: jax.Array
  task_knowledge: jax.Array
  contrast: jax.Array


def prototype_losses(images: jax.Array, extra: dict, is_counted: jax.Array) -> PrototypeLosses:
  """TAE, TKE and TC, means over images of which those that are not counted [B] contribute 0.

  Args:
    images: [B, H, W, 3].
    extra: of `TaskPrototype`'s output.
  """
  autoencoder = optax.huber_loss(extra['image'], images).mean((1, 2, 3))
  target = jnp.eye(extra['affinity'].shape[1])[:, None, None]
  knowledge = optax.softmax_cross_entropy(extra['affinity'], target).mean((1, 2, 3))
  contrast = triplet_loss(extra['features'], is_counted)
  return PrototypeLosses(*(jnp.where(is_counted, x, 0).mean() for x in (autoencoder, knowledge, contrast)))


def triplet_loss(features: jax.Array, is_counted: jax.Array) -> jax.Array:
  """Triplet loss of each image's features [B, T, C], mean over tasks: [B].

  Distances are squared, of unit vectors. The positive is the farthest of the same task, the negative the nearest of
  another one, both in images of the batch that are counted [B].
  """
  batch, tasks = features.shape[:2]
  unit = normalize(features).reshape(batch * tasks, -1)
  distance = 2 - 2 * jnp.matmul(unit, unit.T, precision='highest')
  task = jnp.tile(jnp.arange(tasks), batch)
  is_same = task[:, None] == task
  is_known = jnp.repeat(is_counted, tasks)
  positive = jnp.where(is_same & is_known, distance, -jnp.inf).max(1)
  negative = jnp.where(~is_same & is_known, distance, jnp.inf).min(1)
  losses = nn.relu(jnp.where(is_known, positive - negative, 0) + MARGIN)
  return losses.reshape(batch, tasks).mean(1)


def prototype_loss(run: Forward) -> jax.Array:
  """TAE + TKE + TC, weighted; images without a label contribute 0."""
  losses = prototype_losses(run.batch['image'], run.output.extra, run.batch['label_mask'].any(1))
  return AUTOENCODER_WEIGHT * losses.autoencoder + PROTOTYPE_WEIGHT * (losses.task_knowledge + losses.contrast)


register('task_prototype', TaskPrototype, 'Task Prototype', row=6.5, color='#a0705a', loss=prototype_loss)
