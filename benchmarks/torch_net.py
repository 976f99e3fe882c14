"""DiffusionMTL in plain PyTorch, to compare the speed of ours with.

A module per task, a loop over tasks, and in training a loop over images, each denoised for its labelled tasks, as the
authors' code does it. ResNet-18 only; maps are NCHW. Modules have the names of ours, so that `copy_weights` can fill
them; both networks then give the same maps (tests/benchmarks).
"""

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from dmtl_jax.models.parts.diffusion import Schedule
from dmtl_jax.models.parts.encoder import STAGES
from dmtl_jax.runs import pretrained


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def resize(x, size):
  return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


class Residual(nn.Module):
  """A ResNet's block: two 3x3 convolutions and a shortcut."""

  def __init__(self, inputs: int, channels: int, stride: int = 1):
    super().__init__()
    self.conv1 = conv(inputs, channels, 3, stride, bias=False)
    self.bn1 = nn.BatchNorm2d(channels)
    self.conv2 = conv(channels, channels, 3, bias=False)
    self.bn2 = nn.BatchNorm2d(channels)
    if stride != 1 or inputs != channels:
      self.downsample_conv = conv(inputs, channels, 1, stride, bias=False)
      self.downsample_bn = nn.BatchNorm2d(channels)

  def forward(self, x):
    y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
    return F.relu(y + (self.downsample_bn(self.downsample_conv(x)) if hasattr(self, 'downsample_conv') else x))


class ResNet(nn.Module):
  """The four stage maps of an image."""

  def __init__(self, depth: str, width: int):
    super().__init__()
    self.conv1 = conv(3, width, 7, 2, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.stages = []
    self.outputs = [width * 2**i for i in range(len(STAGES[depth]))]
    inputs = width
    for i, count in enumerate(STAGES[depth]):
      self.stages.append([f'layer{i + 1}_{j}' for j in range(count)])
      for j, name in enumerate(self.stages[-1]):
        self.add_module(name, Residual(inputs, self.outputs[i], 2 if i and j == 0 else 1))
        inputs = self.outputs[i]

  def forward(self, x):
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    maps = []
    for names in self.stages:
      for name in names:
        x = getattr(self, name)(x)
      maps.append(x)
    return maps


class Backbone(nn.Module):
  """F_backbone [B, C, H/8, W/8] of an image."""

  def __init__(self, depth: str, width: int, channels: int):
    super().__init__()
    self.encoder = ResNet(depth, width)
    self.reduce = conv(sum(self.encoder.outputs), channels, 3)

  def forward(self, images):
    maps = self.encoder(images)
    size = (maps[0].shape[2] // 2, maps[0].shape[3] // 2)
    return self.reduce(torch.cat([resize(m, size) for m in maps], dim=1))


class Mlp(nn.Module):
  def __init__(self, channels: int):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

  def forward(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
  def __init__(self, channels: int, heads: int):
    super().__init__()
    self.heads = heads
    self.q, self.kv = nn.Linear(channels, channels, bias=False), nn.Linear(channels, 2 * channels, bias=False)
    self.proj = nn.Linear(channels, channels)

  def forward(self, q, kv):
    query, key, value = (
      x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.q(q), *self.kv(kv).chunk(2, dim=-1))
    )
    out = F.scaled_dot_product_attention(query, key, value)
    return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
  """Cross-attention block; self-attention without a kv stream."""

  def __init__(self, channels: int, heads: int, cross: bool):
    super().__init__()
    if cross:
      self.norm_mlp_kv, self.mlp_kv, self.norm_kv = nn.LayerNorm(channels), Mlp(channels), nn.LayerNorm(channels)
    self.norm_q, self.attn = nn.LayerNorm(channels), Attention(channels, heads)
    self.norm_mlp, self.mlp = nn.LayerNorm(channels), Mlp(channels)

  def forward(self, q, kv):
    if kv is not None:
      kv = kv + self.mlp_kv(self.norm_mlp_kv(kv))
    query = self.norm_q(q)
    q = q + self.attn(query, query if kv is None else self.norm_kv(kv))
    return q + self.mlp(self.norm_mlp(q)), kv


class StepEmbed(nn.Module):
  def __init__(self, channels: int, size: int = 256):
    super().__init__()
    self.size = size
    self.fc1, self.fc2 = nn.Linear(size, channels), nn.Linear(channels, channels)

  def forward(self, step: float, like):
    half = self.size // 2
    frequencies = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(half) / half).to(like.device)
    angles = step * frequencies
    return self.fc2(F.silu(self.fc1(torch.cat([angles.cos(), angles.sin()]))))


def denoiser_head(width: int) -> nn.Sequential:
  return nn.Sequential(conv(width, width, 1), *(m for _ in range(3) for m in (conv(width, width, 3), nn.ReLU())))


class Denoiser(nn.Module):
  """One step: X_s of one task and the condition's tokens to the estimate of X_0."""

  def __init__(self, c, channels: dict[str, int]):
    super().__init__()
    width = c.channels
    self.embed = nn.ModuleDict({t: conv(n if c.predictions else width, width, 3) for t, n in channels.items()})
    self.step_embed = StepEmbed(width)
    self.blocks = [f'block{i}' for i in range(c.depth)]
    self.stride = c.token_stride
    for name in self.blocks:
      self.add_module(name, Block(width, c.heads, c.condition != 'none'))
    self.heads = nn.ModuleDict({t: denoiser_head(width) for t in channels})
    if c.predictions:
      self.predict = nn.ModuleDict({t: conv(width, n, 1) for t, n in channels.items()})

  def forward(self, x, step: float, condition, task: str):
    x = self.embed[task](x)
    x = x + self.step_embed(step, x)[:, None, None]
    tokens, size = to_tokens(x, self.stride)
    q, kv = (tokens, None) if condition is None else (condition, tokens)
    for name in self.blocks:
      q, kv = getattr(self, name)(q, kv)
    q = q.transpose(1, 2).unflatten(2, size)
    x = self.heads[task](resize(q, x.shape[2:]) + x)
    return self.predict[task](x) if hasattr(self, 'predict') else x


def to_tokens(x, stride: int):
  size = (max(x.shape[2] // stride, 1), max(x.shape[3] // stride, 1))
  return resize(x, size).flatten(2).transpose(1, 2), size


class Conditioning(nn.Module):
  def __init__(self, kind: str, channels: dict[str, int], width: int):
    super().__init__()
    inputs = [width if kind == 'features' else n for n in channels.values()]
    if kind != 'concat':
      self.embed = nn.ModuleDict({t: conv(n, width, 3) for t, n in zip(channels, inputs)})
      inputs = [width] * len(channels)
    self.fuse = conv(sum(inputs), width, 3)

  def forward(self, maps):
    if hasattr(self, 'embed'):
      maps = {t: self.embed[t](x) for t, x in maps.items()}
    return self.fuse(torch.cat(list(maps.values()), dim=1))


class DiffusionMTL(nn.Module):
  """Prediction and Feature Diffusion with the fields of `models.diffusion_mtl.DiffusionMTL`; tasks: {name: C_t}."""

  def __init__(self, config, channels: dict[str, int]):
    super().__init__()
    self.config = c = config
    self.channels = channels
    schedule = Schedule(c.diffusion_steps)
    # Plain numbers, made here: torch.compile fails on numpy in what it traces.
    self.decay = [float(x) ** 0.5 for x in (schedule.alpha_bar[-1], 1 - schedule.alpha_bar[-1])]
    self.posterior = [[float(x) for x in row] for row in zip(*schedule.posterior())]
    self.backbone = Backbone(c.backbone, c.width, c.channels)
    self.decoders = nn.ModuleDict(
      {t: nn.Sequential(*(Residual(c.channels, c.channels) for _ in range(c.decoder_blocks))) for t in channels}
    )
    self.decoder_heads = nn.ModuleDict({t: conv(c.channels, n, 1) for t, n in channels.items()})
    kind = 'predictions' if c.condition == 'none' else c.condition
    self.conditioning = Conditioning(kind, channels, c.channels)
    self.denoiser = Denoiser(c, channels)
    if not c.predictions:
      self.head = nn.ModuleDict({t: conv(c.channels, n, 1) for t, n in channels.items()})

  def forward(self, images, labelled=None, noise=None):
    """Maps at stride 8.

    Args:
      images: [B, 3, H, W].
      labelled: of each image its labelled tasks' names; None: all of all.
      noise: {(task, image or None): [K, b, C_x, h, w]} to use; else drawn.

    Returns:
      ({task: initial [B, C_t, h, w]}, final {task: [B, C_t, h, w]}), or with `labelled`
      final as {(task, image): [1, C_t, h, w]}.
    """
    features = self.backbone(images)
    initial_features = {t: decoder(features) for t, decoder in self.decoders.items()}
    initial = {t: self.decoder_heads[t](x) for t, x in initial_features.items()}
    condition = self._condition(initial_features if self.config.condition == 'features' else initial)
    start = initial if self.config.predictions else initial_features
    noise = noise or {}
    if labelled is None:
      return initial, {t: self._denoise(start[t], condition, t, noise.get((t, None))) for t in self.channels}
    final = {}
    for b, names in enumerate(labelled):
      own = None if condition is None else condition[b : b + 1]
      for t in names:
        final[t, b] = self._denoise(start[t][b : b + 1], own, t, noise.get((t, b)))
    return initial, final

  def _condition(self, maps):
    if self.config.condition == 'none':
      return None
    if self.config.stop_condition:
      maps = {t: x.detach() for t, x in maps.items()}
    return to_tokens(self.conditioning(maps), self.config.token_stride)[0]

  def _denoise(self, x, condition, task: str, noise):
    c = self.config

    def draw(k: int):
      return torch.randn_like(x) if noise is None else noise[k]

    if c.add_noise:
      x = self.decay[0] * x + self.decay[1] * draw(0)
    for s in range(c.diffusion_steps, 0, -1):
      clean = self.denoiser(x, float(s - c.step_offset), condition, task)
      if c.posterior and s > 1:
        x0_weight, xs_weight, sigma = self.posterior[s - 1]
        x = x0_weight * clean + xs_weight * x + (sigma * draw(c.diffusion_steps - s + 1) if c.add_noise else 0)
      else:
        x = clean
    return self.head[task](x) if not c.predictions else x


# Our module -> the one here, see `pretrained.views_by_task`.
MODULES = (
  (r'^decoders/(.+)_block(\d)', r'decoders.<\1>.\2'),
  (r'^decoders/(.+)_head', r'decoder_heads.<\1>'),
  (r'^conditioning/(.+)_embed', r'conditioning.embed.<\1>'),
  (r'^(denoiser/embed|denoiser/predict|head)$', r'\1.*'),
  (r'^denoiser/heads/conv0', 'denoiser.heads.*.0'),
  (r'^denoiser/heads/conv1', 'denoiser.heads.*.1'),
  (r'^denoiser/heads/conv2', 'denoiser.heads.*.3'),
  (r'^denoiser/heads/conv3', 'denoiser.heads.*.5'),
)


def copy_weights(net: DiffusionMTL, variables: dict, tasks):
  """Fills the network with our variables (numpy); raises RuntimeError where names or shapes differ."""
  views = pretrained.views_by_task(variables, tasks, MODULES, {task.name: task.name for task in tasks})
  net.load_state_dict({name: torch.tensor(np.array(view)) for name, (view,) in views.items()})
