"""What PyTorch runs under `--torch`: train step and inference, eager or compiled."""

import dataclasses
import types

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import torch_net
from dmtl_jax.basics.errors import UserError
from dmtl_jax.models import build_model
from dmtl_jax.models.losses import INITIAL_LOSS
from dmtl_jax.tasks import IGNORE, Task, values_by_task
from dmtl_jax.tasks.boundary import POSITIVE

VERSION = torch.__version__


def use(device: str, threads: int) -> str:
  """Sets PyTorch up as JAX is: as many threads, TF32 products on GPUs; returns the device.

  Raises:
    UserError: 'cuda', and this PyTorch has none.
  """
  torch.set_num_threads(threads)
  if device == 'cuda':
    if not torch.cuda.is_available():
      raise UserError('this PyTorch has no GPU and JAX has; install one with CUDA, or set JAX_PLATFORMS=cpu')
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True
  return device


def peak(device: str) -> int | None:
  """The most bytes that tensors took of a GPU so far."""
  return torch.cuda.max_memory_allocated() if device == 'cuda' else None


def network(config, tasks: tuple[Task, ...], variables: dict, device: str) -> torch_net.DiffusionMTL:
  """The network of a config with our weights; raises UserError for one that torch_net.py does not have."""
  ours = build_model(config, tasks)
  if not ours.diffuses or config.model.backbone != 'resnet18':
    raise UserError(
      f'only prediction and feature on resnet18 are there, not {config.method} on {config.model.backbone}'
    )
  fields = {f.name: getattr(ours, f.name) for f in dataclasses.fields(ours) if f.name != 'parent'}
  net = torch_net.DiffusionMTL(types.SimpleNamespace(**fields), {task.name: task.channels for task in tasks})
  torch_net.copy_weights(net, variables, tasks)
  return net.to(device, memory_format=torch.preserve_format)


def loss_of(task: Task, logits, label):
  """Loss of one image's raw map [1, C_t, H, W] against its label [1, K, H, W] (docs/paper.md, Losses)."""
  error, valid = ERRORS[task.kind](logits, label)
  return torch.where(valid, error, 0).sum() / valid.sum().clamp(min=1)


def _classes(logits, label):
  target = label[:, 0]
  error = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction='none')
  return error, target != IGNORE


def _saliency(logits, label):
  error, valid = _classes(logits, label)
  positive = label[:, 0] == 1
  share = 1 - (positive & valid).sum() / valid.sum().clamp(min=1)
  return error * torch.where(positive, share, 1 - share), valid


def _boundary(logits, label):
  positive = label[:, 0] == 1
  error = F.binary_cross_entropy_with_logits(logits[:, 0], positive.float(), reduction='none')
  return error * torch.where(positive, POSITIVE, 1 - POSITIVE), label[:, 0] != IGNORE


def _normals(logits, label):
  return (F.normalize(logits, dim=1) - label).abs().sum(1), (label != 0).any(1)


def _depth(logits, label):
  return (logits - label).abs()[:, 0], label[:, 0] > 0


ERRORS = {
  'semseg': _classes,
  'parsing': _classes,
  'saliency': _saliency,
  'boundary': _boundary,
  'normals': _normals,
  'depth': _depth,
}
ACTIVATIONS = {
  'semseg': lambda x: x.argmax(1),
  'parsing': lambda x: x.argmax(1),
  'saliency': lambda x: x.softmax(1)[:, 1],
  'boundary': lambda x: x.sigmoid()[:, 0],
  'normals': lambda x: F.normalize(x, dim=1),
  'depth': lambda x: x[:, 0],
}


def total_loss(tasks, weights: dict[str, float], initial, final, labels, labelled):
  """The training loss of the network's output; labels {task: [B, K, H, W]}."""
  by_name = {task.name: task for task in tasks}
  total = 0.0
  for (name, b), x in final.items():
    task, label = by_name[name], labels[name][b : b + 1]
    loss = 0.0
    for maps, weight in ((x, 1.0), (initial[name][b : b + 1], INITIAL_LOSS)):
      loss = loss + weight * loss_of(task, torch_net.resize(maps.float(), label.shape[2:]), label)
    total = total + weights.get(name, 1.0) * len(tasks) / len(labelled[b]) * loss
  return total / len(labelled)


def _tensor(x: np.ndarray, device: str):
  """Maps [B, H, W, C] as [B, C, H, W] on the device."""
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(device)


class TrainStep:
  """Loss, gradient, clipping and Adam with L2 on one batch; a contestant of `timing.measure`.

  Args:
    variables, batch: numpy.
    dtype: of the forward pass: float32, or bfloat16 under autocast.
    compiled: through torch.compile.
    device: 'cpu' or 'cuda'.
  """

  def __init__(self, config, tasks, variables, batch: dict, dtype: str, compiled: bool, device: str):
    self.net, self.tasks, self.dtype = network(config, tasks, variables, device), tasks, dtype
    self.forward = torch.compile(self.net) if compiled else self.net
    self.weights = values_by_task(config.loss_weights, tasks)
    self.clip, self.device = config.optim.clip, device
    self.optimizer = torch.optim.Adam(self.net.parameters(), config.optim.lr, weight_decay=config.optim.l2)
    self.images = _tensor(batch['image'], device)
    self.labels = {name: _tensor(x, device) for name, x in batch['labels'].items()}
    self.labelled = [[task.name for t, task in enumerate(tasks) if row[t]] for row in batch['label_mask']]

  def loss(self, noise=None):
    with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == 'bfloat16'):
      initial, final = self.forward(self.images, self.labelled, noise)
    return total_loss(self.tasks, self.weights, initial, final, self.labels, self.labelled)

  def __call__(self, count: int):
    for _ in range(count):
      self.optimizer.zero_grad()
      loss = self.loss()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
      self.optimizer.step()
    loss.item()  # waits for the device


class Prediction:
  """Maps of all tasks at the images' size, activated; a contestant as `TrainStep`."""

  def __init__(self, config, tasks, variables, images: np.ndarray, dtype: str, compiled: bool, device: str):
    net = network(config, tasks, variables, device).eval()
    self.forward = torch.compile(net) if compiled else net
    self.tasks, self.dtype, self.device = tasks, dtype, device
    self.images = _tensor(images, device)

  def maps(self, noise=None) -> tuple[dict, dict]:
    """Initial and final raw maps of all tasks at stride 8."""
    with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == 'bfloat16'):
      return self.forward(self.images, None, noise)

  def predict(self) -> list[dict]:
    """[initial, final] {task: prediction at the images' size}."""
    size = self.images.shape[2:]
    return [
      {task.name: ACTIVATIONS[task.kind](torch_net.resize(maps[task.name].float(), size)) for task in self.tasks}
      for maps in self.maps()
    ]

  def __call__(self, count: int):
    for _ in range(count):
      maps = self.predict()
    sum(x.sum().item() for x in maps[1].values())  # waits for the device
