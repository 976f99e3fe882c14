"""What a task is. A kind of task is one subclass in a file of its own, which everything else asks.

Label encoding, the same for every data set (arrays are [..., H, W, K]):

| kind     | K | dtype   | values                               | unlabelled pixel |
|----------|---|---------|--------------------------------------|------------------|
| semseg   | 1 | uint8   | class id 0..C-1                      | 255              |
| parsing  | 1 | uint8   | part id 0..C-1, 0 is background      | 255              |
| saliency | 1 | uint8   | 0 background, 1 salient              | 255              |
| boundary | 1 | uint8   | 0 interior, 1 boundary               | 255              |
| normals  | 3 | float32 | unit vector, camera space            | 0, 0, 0          |
| depth    | 1 | float32 | depth in the data set's unit, > 0    | 0                |

A label that is hidden from the model is a map of unlabelled pixels (`Task.blank`). Functions marked
*numpy or jax* take arrays of either; the data pipeline's workers call them with numpy.
"""

import dataclasses
from typing import ClassVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics.errors import sanitize
from dmtl_jax.draw import colors, legends
from dmtl_jax.metrics.base import Metric
from dmtl_jax.metrics.depth import AbsoluteError
from dmtl_jax.metrics.thinning import resize_lines

IGNORE = 255
FAR = 0.1  # see `Task.consistency`
SURE = 0.95  # of classes, how probable one must be there
LONGEST = 64  # characters of a task's name
KINDS: dict[str, type['Task']] = {}  # by name; filled as the kinds' files are imported


@dataclasses.dataclass(frozen=True)
class Task:
  """One dense prediction task of a data set; the methods here are those of a plain regression by L1.

  Attributes:
    name: unique in the data set; names label folders, parameters, metrics and files, so it is a plain word.
    classes: class names of kinds that are counted (at least two), else empty.

  What a kind says of itself:
    kind, title: its name in files and configs, and for people.
    metric: headline metric, as named in metrics.json.
    scored_by: what computes it, (task, protocol) -> `Metric`.
    quick_metric: what stands in for it in the periodic evaluation of a run; '' where nothing has to.
    lower: names of those of its metrics of which lower is better.
    digits: decimals of its scores in tables.
    label_channels, label_dtype, unlabelled: K, dtype and value of an unlabelled pixel of a label.
    raw_channels: C_t of the raw output map; None: one per class.
    guides_crops: whether one of its classes may not fill a random crop (the PASCAL recipe).
    relative_to_view: whether a value depends on how large the scene is seen, so that tiles do not agree on it.
    binary: whether its labels are 0 and 1, no and yes, without names of classes.
    line_like: whether its labels are lines (1) on a ground (0), which `resize_label` keeps whole and thin.
    framed: whether its pictures are white like a page, and need a frame there.
    spread_unit: of `sample_spread`, as it stands behind a number.
    spread_most: where the colours of `sample_spread` end; of every image the same, so that they compare.

  Raises:
    ValueError: for another name, or a number of classes the kind cannot have.
  """

  name: str
  classes: tuple[str, ...] = ()

  kind: ClassVar[str]
  title: ClassVar[str]
  metric: ClassVar[str] = 'MAE'
  scored_by: ClassVar[type[Metric]] = AbsoluteError
  quick_metric: ClassVar[str] = ''
  lower: ClassVar[frozenset[str]] = frozenset({'MAE'})
  digits: ClassVar[int] = 2
  label_channels: ClassVar[int] = 1
  label_dtype: ClassVar[type] = np.float32
  unlabelled: ClassVar[int] = 0
  raw_channels: ClassVar[int | None] = 1
  guides_crops: ClassVar[bool] = False
  relative_to_view: ClassVar[bool] = False
  binary: ClassVar[bool] = False
  line_like: ClassVar[bool] = False
  framed: ClassVar[bool] = False
  spread_unit: ClassVar[str] = ' std'
  spread_most: ClassVar[float] = 0.5

  def __init_subclass__(cls):
    KINDS[cls.kind] = cls

  def __post_init__(self):
    if not self.name.isidentifier() or len(self.name) > LONGEST:
      raise ValueError(f"task '{sanitize(self.name, LONGEST)}': a name is letters, digits and _, at most {LONGEST}")
    if self.raw_channels is None and not 2 <= len(self.classes) <= IGNORE:
      raise ValueError(f"task '{self.name}': {self.kind} needs 2 to {IGNORE} class names, got {len(self.classes)}")
    if self.raw_channels is not None and self.classes:
      raise ValueError(f"task '{self.name}': {self.kind} takes no class names")

  @property
  def channels(self) -> int:
    """Channels C_t of the task's raw output map."""
    return self.raw_channels or len(self.classes)

  @property
  def higher_is_better(self) -> bool:
    """Of the headline metric."""
    return not self.lower_is_better(self.metric)

  def lower_is_better(self, metric: str) -> bool:
    """Of any metric of the task."""
    return metric in self.lower

  @property
  def heading(self) -> str:
    """The task for people: its kind's title, after its own name where that is another."""
    return self.title if self.name == self.kind else f'{self.name} ({self.title.lower()})'

  # --- Labels --------------------------------------------------------------------------------

  def blank(self, height: int, width: int) -> np.ndarray:
    """A label [height, width, K] without a single labelled pixel."""
    return np.full((height, width, self.label_channels), self.unlabelled, self.label_dtype)

  def valid(self, label):
    """Mask [..., H, W] bool of the labelled pixels of label [..., H, W, K]; numpy or jax."""
    return (label != self.unlabelled).any(-1)

  def flip_values(self, values):
    """The values of a map [..., K] whose pixels have been mirrored left and right; numpy or jax."""
    return values

  def rescale_for_zoom(self, values, zoom):
    """The values of a map [..., K] of a scene that is seen `zoom` times as large; numpy or jax."""
    del zoom
    return values

  def cropped(self, label: np.ndarray) -> np.ndarray:
    """What a label [H, W, K] is worth after a crop: itself, or nothing (`blank`)."""
    return label

  def resize_label(self, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label [h, w, K] at another size (H, W): [H, W, K] of the same dtype; at its own size it is returned as it is.

    By nearest neighbour, so that values never blend; of line-like kinds by `metrics.thinning.resize_lines`.
    """
    if label.shape[:2] == tuple(size):
      return label
    if self.line_like:
      return resize_lines(label[..., 0], size, self.unlabelled)[..., None]
    return nearest(label, size)

  @property
  def file_fields(self) -> tuple[str, ...]:
    """Which of "ignore", "positive" and "scale" in dataset.json this task takes: keyword arguments of `from_file`."""
    return ()

  def from_file(self, values: np.ndarray) -> np.ndarray:
    """The array of a label file as a label [H, W, K]; called with those of `file_fields` that dataset.json gives.

    Args:
      values: [H, W] or [H, W, channels], of any dtype.

    Raises:
      ValueError: what is wrong with it, without the file's name.
    """
    values = self._plane(values) if self.label_channels == 1 else values
    if values.ndim != 3 or values.shape[2] != self.label_channels:
      raise ValueError(f'has shape {values.shape}; {self.kind} has {self.label_channels} channels')
    if values.dtype.kind not in 'uif':
      raise ValueError(f'holds {values.dtype} numbers; {self.kind} is float or 16-bit')
    values = float32(values)
    return np.where(np.isfinite(values), values, self.unlabelled)

  def file_warnings(self, values: np.ndarray) -> dict[str, int]:
    """Pixels of a label file that may not mean what they seem to, for `--mode=check`; arguments as of `from_file`.

    Returns:
      {what is said of them, as it follows "12% of the pixels": how many}.
    """
    del values
    return {}

  def _plane(self, values: np.ndarray) -> np.ndarray:
    """Values [H, W] or [H, W, 1] as [H, W, 1]."""
    if values.ndim == 3 and values.shape[2] == 1:
      return values
    if values.ndim != 2:
      raise ValueError(f'has shape {values.shape}; a {self.kind} label has one channel')
    return values[..., None]

  # --- Raw maps ------------------------------------------------------------------------------

  def activate(self, logits: jax.Array) -> jax.Array:
    """Raw output [..., H, W, C_t] to the prediction that metrics and pictures use, [..., H, W] or [..., H, W, 3]."""
    logits = logits.astype(jnp.float32)
    return logits[..., 0] if self.channels == 1 else logits

  def pixel_loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array) -> jax.Array:
    """Loss [B, H, W] of each pixel of raw maps [B, H, W, C_t] float32; anything where not `valid` [B, H, W]."""
    del valid
    return jnp.abs(logits - label).sum(-1)

  def soft_prediction(self, logits: jax.Array) -> jax.Array:
    """Raw maps to a differentiable prediction of the same shape: probabilities, unit vectors, values."""
    return logits.astype(jnp.float32)

  def encode_label(self, label: jax.Array) -> jax.Array:
    """A label [B, H, W, K] as a map [B, H, W, C_t] of about 0..1, for networks that read labels (XTC)."""
    return label

  def encode_prediction(self, logits: jax.Array, key: jax.Array) -> jax.Array:
    """Raw maps encoded as `encode_label` encodes labels, differentiable; `key` for kinds that draw classes."""
    del key
    return self.soft_prediction(logits)

  def consistency(self, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Distance [B, h, w] of raw maps [B, h, w, C_t] to the network's own `soft_prediction` of the same pixels.

    As MTPSL's, it is 0 where the target is not to be trusted: for values, where the two lie `FAR` or more apart.
    """
    return near(jnp.abs(self.soft_prediction(logits) - target).mean(-1))

  def mean(self, draws: jax.Array) -> jax.Array:
    """Raw map [..., C_t] float32 whose activation is the mean of the activated raw maps [K, ..., C_t].

    Being a raw map it is enlarged like one, with edges as smooth as without sampling.
    """
    return draws.astype(jnp.float32).mean(0)

  def sample_spread(self, draws: jax.Array) -> jax.Array:
    """How far the activated predictions of raw maps [K, ..., C_t] differ: [..., 1] float32 >= 0, in `spread_unit`."""
    return draws.astype(jnp.float32).std(0).mean(-1, keepdims=True)

  def self_uncertainty(self, logits: jax.Array) -> jax.Array | None:
    """How unsure a raw map [..., C_t] says it is itself: [...] float32; None of kinds that say nothing of it."""
    del logits

  # --- Scores --------------------------------------------------------------------------------

  def pixel_error(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """How wrong each pixel of a prediction (see `activate`) is against a label [H, W, K]: [H, W] float32."""
    return np.abs(prediction.reshape(label.shape) - label.astype(np.float32)).mean(-1)

  def scorer(self, protocol: str = 'plain', tolerance: float = 0.0075, quick: bool = False):
    """The `metrics.Metric` of the task.

    Args:
      protocol: config.eval.protocol, which definitions the benchmark uses.
      tolerance: of boundaries, as a share of the image's diagonal.
      quick: for a periodic evaluation.
    """
    return self.scored_by(self, protocol)

  def blank_prediction(self) -> np.ndarray:
    """A prediction of one pixel, [1, 1] or [1, 1, 3], for metrics of nothing."""
    return np.zeros((1, 1) if self.label_channels == 1 else (1, 1, self.label_channels), np.float32)

  # --- Pictures and files --------------------------------------------------------------------

  def spread_limit(self, limits: tuple[float, float] | None) -> float:
    """Where the colours of `sample_spread` end, for a map with these `limits`."""
    del limits
    return self.spread_most

  def limits(self, values: np.ndarray) -> tuple[float, float] | None:
    """Values at the ends of the colours for a map; None where they are the same for every map."""
    del values

  def picture(self, values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """A prediction (see `activate`) or a label [H, W, K] as uint8 [H, W, 3] RGB; unlabelled pixels are hatched."""
    low, high = limits or (0.0, 1.0)
    plane = values.reshape(*values.shape[:2], -1)[..., 0]
    return colors.hatch_unless(np.isfinite(plane), colors.heat(plane, (low, high)))

  def key(self, limits=None, present=None) -> legends.Key:
    """What the colours mean: a scale, or names with colours.

    Args:
      limits: at the ends of the colours, see `limits`.
      present: class ids to name; default all.
    """
    del present
    low, high = limits or (0.0, 1.0)
    return legends.Scale(colors.ramp(), f'{low:.3g}', f'{high:.3g}')

  def legend(self, width: int, limits=None, present=None, scale: float = 1) -> np.ndarray:
    """`key` drawn: uint8 [h, width, 3] on white; letters at scale 1 suit a picture of 640 pixels."""
    return self.key(limits, present).draw(width, scale)

  def overlay_label(self, image: np.ndarray, label: np.ndarray, limits=None) -> np.ndarray:
    """A label [H, W, K] laid over its image; unlabelled pixels show the image alone."""
    shares = 0.65 * self.valid(label)[..., None]
    return colors.overlay(image, self.picture(label, limits), shares)

  def overlay_prediction(self, image: np.ndarray, values: np.ndarray, limits=None) -> np.ndarray:
    """A prediction laid over its image, both uint8 [H, W, 3]."""
    return colors.overlay(image, self.picture(values, limits))

  def overlay_legend(self, width: int, limits=None, present=None, scale: float = 1) -> np.ndarray:
    """As `legend`, of `overlay_prediction`."""
    return self.legend(width, limits, present, scale)

  def resized(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A prediction at another size (H, W)."""
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)

  def encode_file(self, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Suffix and content of the file that keeps a prediction: '.png' of whole numbers, or '.npy'."""
    return '.npy', values.astype(np.float32)


def nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A label [h, w, K] at another size (H, W), by nearest neighbour."""
  return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).reshape(*size, -1)


def near(distance: jax.Array) -> jax.Array:
  """Distances below `FAR`; 0 for others, and no gradient."""
  return jnp.where(distance < FAR, distance, 0)


def float32(values: np.ndarray) -> np.ndarray:
  """What is too large for float32 becomes infinite."""
  with np.errstate(over='ignore'):
    return values.astype(np.float32)
