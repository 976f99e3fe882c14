"""The PyTorch contestants of `--against=torch`: train step and inference, eager and compiled."""

from collections.abc import Callable
import dataclasses
import time
import types

import jax
import numpy as np

from dmtl_jax.basics.errors import UserError

try:
  import torch
  import torch.nn.functional as F
except ImportError as error:
  raise UserError('--against=torch: PyTorch is not installed; pip install torch') from error

from dmtl_jax.benchmarks import torch_net
from dmtl_jax.benchmarks.timing import device, say
from dmtl_jax.models import build_model
from dmtl_jax.models.losses import INITIAL_LOSS
from dmtl_jax.tasks import IGNORE, Task
from dmtl_jax.tasks.boundary import POSITIVE


def network(config, tasks: tuple[Task, ...], variables: dict) -> torch_net.DiffusionMTL:
  """The network of a config with our weights, on jax's device; raises UserError for a method not re-stated."""
  ours = build_model(config, tasks)
  if not ours.diffuses:
    raise UserError(f'--against=torch: only prediction and feature are re-stated, not {config.method}')
  fields = {f.name: getattr(ours, f.name) for f in dataclasses.fields(ours) if f.name != 'parent'}
  net = torch_net.DiffusionMTL(types.SimpleNamespace(**fields), {task.name: task.channels for task in tasks})
  torch_net.copy_weights(net, jax.device_get(variables), tasks)
  return net.to(where(), memory_format=torch.preserve_format)


def where() -> str:
  """'cuda' or 'cpu', as jax; raises UserError where jax has a GPU and torch has none."""
  if jax.default_backend() == 'cpu':
    torch.set_num_threads(device()['threads'])
    return 'cpu'
  if not torch.cuda.is_available():
    raise UserError('--against=torch: this PyTorch has no GPU and JAX has; install one with CUDA, or JAX_PLATFORMS=cpu')
  torch.set_float32_matmul_precision('high')  # TF32, as JAX's default precision
  torch.backends.cudnn.allow_tf32 = True
  return 'cuda'


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


def _tensor(x: np.ndarray):
  """Maps [B, H, W, C] as [B, C, H, W] on the device."""
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(where())


class TrainStep:
  """Loss, gradient, clipping and Adam with L2 on one batch; counts as a contestant of `timing.measure`.

  Args:
    dtype: of the forward pass: float32, or bfloat16 under autocast.
    compiled: through torch.compile.
  """

  def __init__(self, config, tasks, state, batch: dict, dtype: str, compiled: bool):
    self.net, self.tasks, self.dtype = network(config, tasks, state.variables), tasks, dtype
    self.forward = torch.compile(self.net) if compiled else self.net
    self.weights, self.clip = dict(config.loss_weights), config.optim.clip
    self.optimizer = torch.optim.Adam(self.net.parameters(), config.optim.lr, weight_decay=config.optim.l2)
    self.images, self.labels = _tensor(batch['image']), {name: _tensor(x) for name, x in batch['labels'].items()}
    self.labelled = [[task.name for t, task in enumerate(tasks) if row[t]] for row in batch['label_mask']]

  def loss(self, noise=None):
    with torch.autocast(where(), torch.bfloat16, enabled=self.dtype == 'bfloat16'):
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

  def __init__(self, config, tasks, variables, images: np.ndarray, dtype: str, compiled: bool):
    net = network(config, tasks, variables).eval()
    self.forward = torch.compile(net) if compiled else net
    self.tasks, self.dtype = tasks, dtype
    self.images = _tensor(images)

  def maps(self, noise=None) -> tuple[dict, dict]:
    """Initial and final raw maps of all tasks at stride 8."""
    with torch.inference_mode(), torch.autocast(where(), torch.bfloat16, enabled=self.dtype == 'bfloat16'):
      return self.forward(self.images, None, noise)

  def predict(self) -> list[dict]:
    """[initial, final] {task: prediction at the images' size}."""
    return [{task.name: self._activate(task, maps[task.name]) for task in self.tasks} for maps in self.maps()]

  def _activate(self, task: Task, x):
    return ACTIVATIONS[task.kind](torch_net.resize(x.float(), self.images.shape[2:]))

  def __call__(self, count: int):
    for _ in range(count):
      maps = self.predict()
    sum(x.sum().item() for x in maps[1].values())  # waits for the device


def contestants(native: str, with_compiled: bool, make: Callable) -> tuple[dict, dict]:
  """Contestants {name: call}: eager in float32 and in `native`, compiled in `native`; and notes on what came of it.

  Args:
    native: config.dtype.
    make: `TrainStep` or `Prediction`, but for its dtype and compiled.
  """
  wanted = dict.fromkeys([('float32', False), (native, False), *[(native, True)] * with_compiled])
  found, notes = {}, {'torch': f'{torch.__version__}, {torch.get_num_threads()} threads'}
  for dtype, compiled in wanted:
    name = f'torch {"compiled" if compiled else "eager"} {dtype}'
    say(name)
    contestant, began = make(dtype, compiled), time.perf_counter()
    try:
      contestant(1)
    except Exception as error:  # torch.compile fails in many ways: said, and the others are still timed
      if not compiled:
        raise
      notes[name] = f'failed: {str(error).strip().splitlines()[0]}'
      continue
    found[name] = contestant
    notes[name] = f'first call {time.perf_counter() - began:.1f} s'
  return found, notes
