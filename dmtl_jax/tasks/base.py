"""The interface of a task. Each kind of task is a subclass in its own file; no other code depends on the kind.

Label encoding, the same for every data set (arrays are [..., H, W, K]):

| kind     | K | dtype   | values                               | unlabelled pixel |
|----------|---|---------|--------------------------------------|------------------|
| semseg   | 1 | uint8   | class id 0..C-1, or C + k (below)    | 255              |
| parsing  | 1 | uint8   | the same; class 0 is background      | 255              |
| saliency | 1 | uint8   | 0 background, 1 salient              | 255              |
| boundary | 1 | uint8   | 0 interior, 1 boundary               | 255              |
| normals  | 3 | float32 | unit vector, camera space            | 0, 0, 0          |
| depth    | 1 | float32 | depth in the data set's unit, > 0    | 0                |

A label that is hidden from the model is a map of unlabelled pixels (`Task.blank`). Functions marked
*numpy or jax* accept both kinds of array; the data pipeline's workers call them with numpy.

Labels of semseg and parsing may have been annotated for some of the classes only (`Task.annotated`, K sets of classes).
A pixel that is none of the k-th set then has the id C + k: it is one of the classes outside that set.
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
MAX_IDS = 254  # of classes and sets of annotated classes together; larger ids are left to files
FAR = 0.1  # distance of values from which `Task.consistency` is 0
SURE = 0.95  # probability of a class below which `Task.consistency` is 0
MAX_NAME_LENGTH = 64  # characters
KINDS: dict[str, type['Task']] = {}  # by name; each kind registers itself when its file is imported


@dataclasses.dataclass(frozen=True)
class Task:
  """One dense prediction task of a data set. The methods here implement plain regression with an L1 loss.

  Attributes:
    name: unique in the data set; names label folders, parameters, metrics and files, so it is an identifier.
    classes: class names (at least two) of kinds that have classes, else empty.
    annotated: sets of class ids, in ascending order, that were annotated in partly annotated labels; each leaves at
      least two classes. They belong to the data: networks, runs and predictions do not depend on them.
    class_weights: factors of the loss, one per class; (): none. They belong to the training of a run.

  Class attributes of a kind:
    kind, title: its name in files and configs, and its name for people.
    metric: headline metric, as named in metrics.json.
    metric_class: computes it, (task, protocol) -> `Metric`.
    quick_metric: replaces `metric` in the periodic evaluation of a run; '' if `metric` is fast enough.
    lower_metrics: names of the metrics for which lower is better.
    digits: decimals of scores in tables.
    label_channels, label_dtype, unlabelled: K, dtype and value of an unlabelled pixel of a label.
    raw_channels: C_t of the raw output map; None: one per class.
    guides_crops: whether a random crop must not be filled by one class (the PASCAL recipe).
    relative_to_view: whether values depend on how large the scene appears, so that tiles of an image disagree.
    binary: whether labels are 0 and 1 without class names.
    line_like: whether labels are lines (1) on background (0), which `resize_label` keeps connected and thin.
    framed: whether pictures are white like a page and need a frame.
    spread_unit: unit of `sample_spread`, appended to a number.
    max_spread: upper end of the colour scale of `sample_spread`, the same for all images so that they compare.

  Raises:
    ValueError: the name is no identifier, the kind cannot have this number of classes, or sets or weights do not fit
      the classes.
  """

  name: str
  classes: tuple[str, ...] = ()
  annotated: tuple[tuple[int, ...], ...] = ()
  class_weights: tuple[float, ...] = ()

  kind: ClassVar[str]
  title: ClassVar[str]
  metric: ClassVar[str] = 'MAE'
  metric_class: ClassVar[type[Metric]] = AbsoluteError
  quick_metric: ClassVar[str] = ''
  lower_metrics: ClassVar[frozenset[str]] = frozenset({'MAE'})
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
  max_spread: ClassVar[float] = 0.5

  def __init_subclass__(cls):
    if cls.line_like and (cls.label_dtype is not np.uint8 or cls.unlabelled in (0, 1)):
      raise ValueError(f'{cls.__name__}: line_like needs label_dtype = np.uint8, and unlabelled other than 0 and 1')
    KINDS[cls.kind] = cls

  def __post_init__(self):
    if not self.name.isidentifier() or len(self.name) > MAX_NAME_LENGTH:
      name = sanitize(self.name, MAX_NAME_LENGTH)
      raise ValueError(f"task '{name}': a name consists of at most {MAX_NAME_LENGTH} letters, digits and _")
    if self.raw_channels is None and not 2 <= len(self.classes) <= IGNORE:
      raise ValueError(f"task '{self.name}': {self.kind} needs 2 to {IGNORE} class names, got {len(self.classes)}")
    if self.raw_channels is not None and self.classes:
      raise ValueError(f"task '{self.name}': {self.kind} takes no class names")
    room = MAX_IDS - len(self.classes)
    if self.annotated and len(self.annotated) > room:
      raise ValueError(f"task '{self.name}': {len(self.annotated)} sets of annotated classes, {max(room, 0)} fit")
    sizes = range(1, len(self.classes) - 1)
    if not all(len(ids) in sizes and sorted({*ids} & {*range(len(self.classes))}) == [*ids] for ids in self.annotated):
      raise ValueError(f"task '{self.name}': annotated {self.annotated} are not sets of 1 to C - 2 of its class ids")
    if self.class_weights and len(self.class_weights) != len(self.classes):
      raise ValueError(f"task '{self.name}': {len(self.class_weights)} weights of {len(self.classes)} classes")

  @property
  def channels(self) -> int:
    """Channels C_t of the task's raw output map."""
    return self.raw_channels or len(self.classes)

  @property
  def has_probabilities(self) -> bool:
    """Whether predictions are probabilities: of classes, or of a binary label."""
    return bool(self.classes) or self.binary

  @property
  def id_names(self) -> tuple[str, ...]:
    """Names of the ids that a label with classes can hold: the classes, then 'not road', 'not road/car', ..."""
    return (*self.classes, *(f'not {"/".join(self.classes[i] for i in ids)}' for ids in self.annotated))

  @property
  def possible_classes(self) -> np.ndarray:
    """Which classes a pixel with each id can be: bool [C + K, C]."""
    classes = np.arange(len(self.classes))
    outside = [~np.isin(classes, ids) for ids in self.annotated]
    return np.concatenate([np.eye(len(classes), dtype=bool), np.array(outside, bool).reshape(-1, len(classes))])

  @property
  def higher_is_better(self) -> bool:
    """Whether a higher headline metric is better."""
    return not self.lower_is_better(self.metric)

  def lower_is_better(self, metric: str) -> bool:
    """Whether a lower value of this metric of the task is better."""
    return metric in self.lower_metrics

  @property
  def heading(self) -> str:
    """The task's name for people: the kind's title, after the task's own name if that differs from the kind."""
    return self.title if self.name == self.kind else f'{self.name} ({self.title.lower()})'

  # --- Labels --------------------------------------------------------------------------------

  def blank(self, height: int, width: int) -> np.ndarray:
    """A label [height, width, K] without a single labelled pixel."""
    return np.full((height, width, self.label_channels), self.unlabelled, self.label_dtype)

  def valid(self, label):
    """Mask [..., H, W] bool of the labelled pixels of label [..., H, W, K]; numpy or jax."""
    return (label != self.unlabelled).any(-1)

  def flip_values(self, values):
    """Adapts the values of a map [..., K] whose pixels were mirrored horizontally; numpy or jax."""
    return values

  def rescale_for_zoom(self, values, zoom):
    """Adapts the values of a map [..., K] to a scene that appears `zoom` times as large; numpy or jax."""
    return values

  def label_after_crop(self, label: np.ndarray) -> np.ndarray:
    """The label to use for a cropped label [H, W, K]: itself, or `blank` if the crop made it meaningless."""
    return label

  def resize_label(self, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a label [h, w, K] to (H, W), same dtype; at its own size the label itself is returned.

    By nearest neighbour, so that values never blend; line-like kinds by `metrics.thinning.resize_lines`.
    """
    if label.shape[:2] == tuple(size):
      return label
    if self.line_like:
      return resize_lines(label[..., 0], size, self.unlabelled)[..., None]
    return nearest(label, size)

  @property
  def file_fields(self) -> tuple[str, ...]:
    """The fields of dataset.json among "ignore", "positive" and "scale" that `from_file` takes as keyword arguments."""
    return ()

  def from_file(self, values: np.ndarray) -> np.ndarray:
    """Converts the array of a label file to a label [H, W, K].

    Args:
      values: [H, W] or [H, W, channels], of any dtype.

    Raises:
      ValueError: says what is wrong with the array, without the file's name.
    """
    values = self._plane(values) if self.label_channels == 1 else values
    if values.ndim != 3 or values.shape[2] != self.label_channels:
      raise ValueError(f'has shape {values.shape}; {self.kind} has {self.label_channels} channels')
    if values.dtype.kind not in 'uif':
      raise ValueError(f'holds {values.dtype} numbers; {self.kind} needs integers or floating-point numbers')
    values = to_float32(values)
    return np.where(np.isfinite(values), values, self.unlabelled)

  def to_file(self, label: np.ndarray) -> tuple[str, np.ndarray]:
    """Suffix ('.png' or '.npy') and content of a label file that `from_file` reads as this label [H, W, K].

    It takes the same `file_fields` as `from_file`.
    """
    return '.npy', label.astype(np.float32)

  def file_warnings(self, values: np.ndarray, **file_fields) -> dict[str, int]:
    """Counts suspicious pixels of a label file, for `--mode=check`; same arguments as `from_file`.

    Returns:
      {what is suspicious, as it follows "12% of the pixels": number of pixels}.
    """
    return {}

  def _plane(self, values: np.ndarray) -> np.ndarray:
    """Reshapes values [H, W] or [H, W, 1] to [H, W, 1]."""
    if values.ndim == 3 and values.shape[2] == 1:
      return values
    if values.ndim != 2:
      raise ValueError(f'has shape {values.shape}; a {self.kind} label has one channel')
    return values[..., None]

  # --- Raw maps ------------------------------------------------------------------------------

  def activate(self, logits: jax.Array) -> jax.Array:
    """Converts raw maps [..., H, W, C_t] to the prediction for metrics and pictures, [..., H, W] or [..., H, W, 3]."""
    logits = logits.astype(jnp.float32)
    return logits[..., 0] if self.channels == 1 else logits

  def pixel_loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array) -> jax.Array:
    """Loss [B, H, W] of each pixel of raw maps [B, H, W, C_t] float32; arbitrary where not `valid` [B, H, W]."""
    return jnp.abs(logits - label).sum(-1)

  def soft_prediction(self, logits: jax.Array) -> jax.Array:
    """Converts raw maps to a differentiable prediction of the same shape: probabilities, unit vectors, values."""
    return logits.astype(jnp.float32)

  def encode_label(self, label: jax.Array) -> jax.Array:
    """Encodes a label [B, H, W, K] as a map [B, H, W, C_t] of about 0..1, for networks that read labels (XTC)."""
    return label

  def encode_prediction(self, logits: jax.Array, key: jax.Array) -> jax.Array:
    """Encodes raw maps as `encode_label` encodes labels, differentiably; kinds with classes sample them by `key`."""
    return self.soft_prediction(logits)

  def to_unit(self, values: jax.Array) -> jax.Array:
    """Maps values of a label or of `soft_prediction` to about 0..1, by the same rule for all images (JTR)."""
    return values

  def reconstruction_error(self, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Error [B, H, W] of raw maps [B, H, W, C_t] of an autoencoder against what it reconstructs (JTR).

    Args:
      target: [B, H, W, C_t], values as those of `soft_prediction`, or one-hot classes.
    """
    return jnp.abs(jax.nn.sigmoid(logits) - self.to_unit(target)).sum(-1)

  def consistency(self, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Distance [B, h, w] of raw maps [B, h, w, C_t] from the network's own `soft_prediction` of the same pixels.

    As in MTPSL, it is 0 where the target cannot be trusted: for values, where the two are `FAR` or more apart.
    """
    return keep_near(jnp.abs(self.soft_prediction(logits) - target).mean(-1))

  def mean(self, draws: jax.Array) -> jax.Array:
    """Raw map [..., C_t] float32 whose activation is the mean of the activated raw maps [K, ..., C_t].

    A raw map can be upsampled like that of a single draw, with edges as smooth.
    """
    return draws.astype(jnp.float32).mean(0)

  def sample_spread(self, draws: jax.Array) -> jax.Array:
    """How much the predictions of raw maps [K, ..., C_t] differ: [..., 1] float32 >= 0, in `spread_unit`."""
    return draws.astype(jnp.float32).std(0).mean(-1, keepdims=True)

  def self_uncertainty(self, logits: jax.Array) -> jax.Array | None:
    """Uncertainty [...] float32 that a raw map [..., C_t] itself expresses; None for kinds that express none."""

  # --- Scores --------------------------------------------------------------------------------

  def pixel_error(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Error [H, W] float32 of each pixel of a prediction (see `activate`) against a label [H, W, K]."""
    return np.abs(prediction.reshape(label.shape) - label.astype(np.float32)).mean(-1)

  def scorer(self, protocol: str = 'plain', tolerance: float = 0.0075, quick: bool = False):
    """Makes the `metrics.Metric` of the task.

    Args:
      protocol: config.eval.protocol, which definitions the benchmark uses.
      tolerance: for matching boundaries, as a share of the image's diagonal.
      quick: whether to use the quick metric of periodic evaluations.
    """
    return self.metric_class(self, protocol)

  def blank_prediction(self) -> np.ndarray:
    """A prediction of one pixel, [1, 1] or [1, 1, 3], for the state of an empty set."""
    return np.zeros((1, 1) if self.label_channels == 1 else (1, 1, self.label_channels), np.float32)

  # --- Pictures and files --------------------------------------------------------------------

  def spread_limit(self, limits: tuple[float, float] | None) -> float:
    """Upper end of the colour scale of `sample_spread` for a map with these `limits`."""
    return self.max_spread

  def limits(self, values: np.ndarray) -> tuple[float, float] | None:
    """Ends of the colour scale for a map; None for kinds whose scale is the same for every map."""

  def picture(self, values: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Colours a prediction (see `activate`) or label [H, W, K], uint8 [H, W, 3] RGB; unlabelled pixels are hatched."""
    low, high = limits or (0.0, 1.0)
    plane = values.reshape(*values.shape[:2], -1)[..., 0]
    return colors.hatch_unlabelled(np.isfinite(plane), colors.heat(plane, (low, high)))

  def key(self, limits=None, present=None, unit: str = '') -> legends.Key:
    """The legend of `picture`: a scale, or names with colours.

    Args:
      limits: ends of the colour scale, see `limits`.
      present: class ids to name; default all.
      unit: of the values; '' if it is not known.
    """
    low, high = limits or (0.0, 1.0)
    return legends.Scale(colors.ramp(), f'{low:.3g}', f'{high:.3g} {unit}'.rstrip())

  def legend(self, width: int, limits=None, present=None, scale: float = 1, unit: str = '') -> np.ndarray:
    """Draws `key`: uint8 [h, width, 3] on white; letters at scale 1 suit a picture of 640 pixels."""
    return self.key(limits, present, unit).draw(width, scale)

  def overlay_label(self, image: np.ndarray, label: np.ndarray, limits=None) -> np.ndarray:
    """Overlays a label [H, W, K] on its image; unlabelled pixels show only the image."""
    alpha = 0.65 * self.valid(label)[..., None]
    return colors.overlay(image, self.picture(label, limits), alpha)

  def overlay_prediction(self, image: np.ndarray, values: np.ndarray, limits=None) -> np.ndarray:
    """Overlays a prediction on its image, uint8 [H, W, 3]."""
    return colors.overlay(image, self.picture(values, limits))

  def overlay_legend(self, width: int, limits=None, present=None, scale: float = 1, unit: str = '') -> np.ndarray:
    """Draws the legend of `overlay_prediction`, as `legend` does."""
    return self.legend(width, limits, present, scale, unit)

  def resize_prediction(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a prediction to (H, W)."""
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)

  def encode_file(self, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Suffix and content of the file in which a prediction is saved: '.png' with integers, or '.npy'."""
    return '.npy', values.astype(np.float32)


def nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a label [h, w, K] to (H, W) by nearest neighbour."""
  return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).reshape(*size, -1)


def keep_near(distance: jax.Array) -> jax.Array:
  """Distances below `FAR`; others become 0, without a gradient."""
  return jnp.where(distance < FAR, distance, 0)


def to_float32(values: np.ndarray) -> np.ndarray:
  """Converts to float32; numbers too large for it become infinite."""
  with np.errstate(over='ignore'):
    return values.astype(np.float32)
