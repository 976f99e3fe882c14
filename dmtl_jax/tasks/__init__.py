"""The one table of what a task is: labels, channels, activation, headline metric.

Label encoding, the same for every data set (arrays are [..., H, W, K]):

| kind     | K | dtype   | values                               | unlabelled pixel |
|----------|---|---------|--------------------------------------|------------------|
| semseg   | 1 | uint8   | class id 0..C-1                      | 255              |
| parsing  | 1 | uint8   | part id 0..C-1, 0 is background      | 255              |
| saliency | 1 | uint8   | 0 background, 1 salient              | 255              |
| boundary | 1 | uint8   | 0 interior, 1 boundary               | 255              |
| normals  | 3 | float32 | unit vector, camera space            | 0, 0, 0          |
| depth    | 1 | float32 | depth in the data set's unit, > 0    | 0                |

A label that is hidden from the model is a map of unlabelled pixels (`Task.blank`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import shown

IGNORE = 255
LONGEST = 64  # characters of a task's name


@dataclasses.dataclass(frozen=True)
class Kind:
  """What all tasks of one kind share."""

  label_channels: int
  label_dtype: type
  unlabelled: int
  channels: int | None  # output channels; None: one a class
  metric: str  # headline metric, as named in metrics.json
  higher_is_better: bool
  title: str


KINDS = {
  'semseg': Kind(1, np.uint8, IGNORE, None, 'mIoU', True, 'Segmentation'),
  'parsing': Kind(1, np.uint8, IGNORE, None, 'mIoU', True, 'Parsing'),
  'saliency': Kind(1, np.uint8, IGNORE, 2, 'maxF', True, 'Saliency'),
  'normals': Kind(3, np.float32, 0, 3, 'mErr', False, 'Normals'),
  'boundary': Kind(1, np.uint8, IGNORE, 1, 'odsF', True, 'Boundary'),
  'depth': Kind(1, np.float32, 0, 1, 'absErr', False, 'Depth'),
}


@dataclasses.dataclass(frozen=True)
class Task:
  """One dense prediction task of a data set.

  Attributes:
    name: unique in the data set; names label folders, parameters, metrics and files, so it is a plain word.
    kind: a key of `KINDS`.
    classes: class names for semseg and parsing (at least two), else empty.

  Raises:
    ValueError: for another name, an unknown kind, or a number of classes the kind cannot have.
  """

  name: str
  kind: str
  classes: tuple[str, ...] = ()

  def __post_init__(self):
    if not self.name.isidentifier() or len(self.name) > LONGEST:
      raise ValueError(f"task '{shown(self.name, LONGEST)}': a name is letters, digits and _, at most {LONGEST}")
    if self.kind not in KINDS:
      raise ValueError(f"task '{self.name}': unknown kind '{shown(self.kind, LONGEST)}'; use one of {', '.join(KINDS)}")
    counted = KINDS[self.kind].channels is None
    if counted and not 2 <= len(self.classes) <= IGNORE:
      raise ValueError(f"task '{self.name}': {self.kind} needs 2 to {IGNORE} class names, got {len(self.classes)}")
    if not counted and self.classes:
      raise ValueError(f"task '{self.name}': {self.kind} takes no class names")

  @property
  def spec(self) -> Kind:
    return KINDS[self.kind]

  @property
  def channels(self) -> int:
    """Channels C_t of the task's raw output map."""
    return self.spec.channels or len(self.classes)

  @property
  def metric(self) -> str:
    return self.spec.metric

  @property
  def higher_is_better(self) -> bool:
    return self.spec.higher_is_better

  def blank(self, height: int, width: int) -> np.ndarray:
    """A label [height, width, K] without a single labelled pixel."""
    return np.full((height, width, self.spec.label_channels), self.spec.unlabelled, self.spec.label_dtype)

  def valid(self, label):
    """Mask [..., H, W] bool of the labelled pixels of label [..., H, W, K]; numpy or jax."""
    if self.kind == 'normals':
      return (label != 0).any(-1)
    if self.kind == 'depth':
      return label[..., 0] > 0
    return label[..., 0] != IGNORE


def activate(task: Task, logits: jax.Array) -> jax.Array:
  """Raw output [..., H, W, C_t] to the prediction that metrics and pictures use.

  Returns:
    semseg, parsing: class ids [..., H, W] uint8; saliency, boundary: probability
    [..., H, W] float32; normals: unit vectors [..., H, W, 3]; depth: [..., H, W].
  """
  logits = logits.astype(jnp.float32)
  if task.kind in ('semseg', 'parsing'):
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)
  if task.kind == 'saliency':
    return jax.nn.softmax(logits, axis=-1)[..., 1]
  if task.kind == 'boundary':
    return jax.nn.sigmoid(logits[..., 0])
  if task.kind == 'normals':
    return normalize(logits)
  return logits[..., 0]


def normalize(vectors: jax.Array) -> jax.Array:
  """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
  squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
