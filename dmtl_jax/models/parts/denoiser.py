"""The denoiser: one network for all steps and tasks, and its condition (docs/paper.md, Model 4)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from dmtl_jax.basics import target
from dmtl_jax.models.parts.diffusion import step_embedding
from dmtl_jax.models.parts.layers import (
  add_bias,
  Conv,
  Dense,
  Dtype,
  layer_norm,
  product,
  recompute,
  resize,
  stack_trees,
)
from dmtl_jax.models.parts.reduction import composes, ConvParams, reduce, ReducedConv
from dmtl_jax.models.parts.task_layers import SlotEmbed, SlotHead, TaskConv


class Mlp(nn.Module):
  """C -> 4C -> C with exact GELU."""

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    channels = x.shape[-1]
    x = Dense(4 * channels, dtype=self.dtype, name='fc1')(x)
    return Dense(channels, dtype=self.dtype, name='fc2')(nn.gelu(x, approximate=False))


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention of queries [N, L, heads, D] over keys and values [N, M, heads, D]; softmax in float32.

  On CPUs by `product`, whose gradients are faster: forward and backward 0.6 of the time of JAX's.
  """
  if target.platform() != 'cpu' or q.dtype != jnp.float32:
    return jax.nn.dot_product_attention(q, k, v)
  batch, _, heads, channels = q.shape
  q, k, v = (jnp.swapaxes(x, 1, 2).reshape(batch * heads, -1, channels) for x in (q, k, v))
  weights = nn.softmax(product(q * channels**-0.5, jnp.swapaxes(k, 1, 2)))
  return jnp.swapaxes(product(weights, v).reshape(batch, heads, -1, channels), 1, 2)


class CrossAttention(nn.Module):
  """Multi-head attention of q tokens [N, L, C] over kv tokens [N, L, C]."""

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, q, kv):
    channels = q.shape[-1]
    q = Dense(channels, use_bias=False, dtype=self.dtype, name='q')(q)
    k, v = jnp.split(Dense(2 * channels, use_bias=False, dtype=self.dtype, name='kv')(kv), 2, axis=-1)
    out = attend(self._split_heads(q), self._split_heads(k), self._split_heads(v))
    return Dense(channels, dtype=self.dtype, name='proj')(out.reshape(*out.shape[:-2], channels))

  def _split_heads(self, x):
    """[N, L, C] to [N, L, heads, C / heads]; float32 instead of float16, in which CPUs and TPUs cannot attend."""
    dtype = jnp.float32 if self.dtype == jnp.float16 else self.dtype
    return x.reshape(*x.shape[:-1], self.heads, -1).astype(dtype)


class CrossAttentionBlock(nn.Module):
  """kv += MLP(LN(kv)); q += Attn(LN(q), LN(kv)); q += MLP(LN(q)).

  Without a kv stream (the ablation without conditioning) it is a self-attention block on q.
  """

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, q: jax.Array, kv: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Updates both token streams [N, L, C]."""
    if kv is not None:
      kv = kv + Mlp(self.dtype, name='mlp_kv')(layer_norm(self.dtype, 'norm_mlp_kv')(kv))
      keys = layer_norm(self.dtype, 'norm_kv')(kv)
    query = layer_norm(self.dtype, 'norm_q')(q)
    q = q + CrossAttention(self.heads, self.dtype, name='attn')(query, query if kv is None else keys)
    return q + Mlp(self.dtype, name='mlp')(layer_norm(self.dtype, 'norm_mlp')(q)), kv


class StepEmbed(nn.Module):
  """Embedding [channels] of a scalar step index: sinusoids, then an MLP with SiLU."""

  channels: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, step):
    x = Dense(self.channels, dtype=self.dtype, name='fc1')(step_embedding(step))
    return Dense(self.channels, dtype=self.dtype, name='fc2')(nn.silu(x))


class TaskHeads(nn.Module):
  """1x1 convolution, then three 3x3 convolutions with ReLU, with weights per task."""

  tasks: int
  channels: int
  is_dense: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x, task):
    shared = dict(tasks=self.tasks, features=self.channels, is_dense=self.is_dense, dtype=self.dtype)
    x = TaskConv(kernel_size=1, **shared, name='conv0')(x, task)
    for i in (1, 2, 3):
      x = TaskConv(kernel_size=3, relu=True, **shared, name=f'conv{i}')(x, task)
    return x


class Conditioning(nn.Module):
  """Multi-Task Conditioning f_cond: T initial maps [B, h, w, C_t or C] to L condition tokens F_cond [B, L, channels].

  Attributes:
    stride: of the tokens on the maps: L = h/stride * w/stride.
    per_task: True (the paper): a 3x3 convolution per task, then one over their concatenation.
      False (the released Feature Diffusion): one 3x3 convolution over the concatenated maps.
  """

  channels: int
  stride: int = 4
  per_task: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, maps: dict[str, jax.Array]) -> jax.Array:
    names, inputs = list(maps), list(maps.values())
    channels = [x.shape[-1] for x in inputs]
    before = []
    if self.per_task and composes(inputs[0].shape, self.stride, channels, self.channels):
      before = [ConvParams(self.channels, 3, name=f'{n}_embed')(c) for n, c in zip(names, channels)]
    elif self.per_task:
      inputs = [Conv(self.channels, 3, dtype=self.dtype, name=f'{n}_embed')(x) for n, x in zip(names, inputs)]
    fuse = ReducedConv(self.channels, self.stride, self.dtype, name='fuse')
    fused = fuse(jnp.concatenate(inputs, axis=-1), before)
    return fused.reshape(fused.shape[0], -1, self.channels)


class Denoiser(nn.Module):
  """One denoising step for maps of (image, task) pairs: X_s to an estimate of X_0.

  Attributes:
    task_channels: C_t of every task.
    predictions: True: X are raw predictions in slots (Prediction Diffusion); False:
      features of `channels` channels (Feature Diffusion).
    stride: of the tokens on the maps, the same as the condition's.
    is_dense: layout of the pairs, see `task_layers`.
  """

  task_channels: tuple[int, ...]
  channels: int
  predictions: bool
  depth: int = 4
  heads: int = 1
  stride: int = 4
  is_dense: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, step: jax.Array, condition: jax.Array | None, task: jax.Array) -> jax.Array:
    """Denoises once.

    Args:
      x: [N, h, w, sum of C_t] (slots) or [N, h, w, channels].
      step: scalar step index, shared by all pairs.
      condition: F_cond's tokens of each pair's image [N, L, channels], or None.
      task: [N] int32.

    Returns:
      Array of x's shape: raw predictions in float32, or features in `dtype`.
    """
    by_task = dict(is_dense=self.is_dense, dtype=self.dtype)
    tasks = len(self.task_channels)
    if self.predictions:
      embedded = SlotEmbed(self.task_channels, self.channels, **by_task, name='embed')(x, task)
    else:
      embedded = TaskConv(tasks, self.channels, kernel_size=3, **by_task, name='embed')(x, task)
    embedded = add_bias(embedded, StepEmbed(self.channels, self.dtype, name='step_embed')(step))

    small = reduce(embedded, self.stride)
    tokens = small.reshape(small.shape[0], -1, self.channels)
    q, kv = (tokens, None) if condition is None else (condition, tokens)
    q = self._attend(q, kv)
    mixed = resize(q.reshape(small.shape), x.shape[1:3]) + embedded

    out = TaskHeads(tasks, self.channels, **by_task, name='heads')(mixed, task)
    if self.predictions:
      out = SlotHead(self.task_channels, self.is_dense, name='predict')(out, task)
    return out

  def _attend(self, q, kv):
    """The query tokens after all blocks."""
    if target.platform() == 'tpu' and not self.is_initializing():
      # A loop over the blocks' stacked weights, so that one of them is compiled instead of all.
      block = CrossAttentionBlock(self.heads, self.dtype, parent=None)

      @recompute
      def attend_next(tokens, params):
        return block.apply({'params': params}, *tokens), None

      params = stack_trees([self.get_variable('params', f'block{i}') for i in range(self.depth)])
      return jax.lax.scan(attend_next, (q, kv), params)[0][0]
    for i in range(self.depth):
      q, kv = CrossAttentionBlock(self.heads, self.dtype, name=f'block{i}')(q, kv)
    return q
