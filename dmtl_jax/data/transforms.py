"""Joint transforms of an image and its labels, in NumPy and OpenCV (docs/paper.md, Augmentation).

An image (uint8 [H, W, 3]) and its labels are transformed together. `Task.resize_label` resizes labels: by nearest
neighbour, so that unlabelled values never blend, except that lines stay connected and thin. The recipes of
`PUBLISHED` resize all labels by nearest neighbour. All randomness comes from the generator passed in. Workers of the
input pipeline run these functions, so they do not use JAX.
"""

from collections.abc import Callable, Sequence
import math

import cv2
import numpy as np

from dmtl_jax.basics.photographs import MEAN, STD
from dmtl_jax.tasks import IGNORE, Task
from dmtl_jax.tasks.base import nearest

LIGHT_ZOOM = 1.4  # of the recipe 'light', at most
PUBLISHED = ('pascal', 'mtan')  # recipes of the authors' code, which breaks thin lines into dots
_NORMALIZED = ((np.arange(256, dtype=np.float32)[:, None] / 255 - MEAN) / STD)[None]  # lookup table by pixel value


def train_transform(data_config, tasks: tuple[Task, ...]) -> Callable[[dict, np.random.Generator], dict]:
  """Makes the training transform (example, rng) -> example for `stack`, for the recipe config.data.augment.

  - 'pascal': scale by 0.5-2, crop (no class over 75% of the labelled pixels of example['crop_guide'], if there is
    one; see also `Task.label_after_crop`), flip, photometric distortion, centred padding.
  - 'mtan' (NYUD, Cityscapes): crop 1, 1/1.2 or 1/1.5 of the size and resize back, flip.
  - 'light' (scenes, folder): crop and scale to the size, by 1-1.4 times the smallest scale at which the image covers
    it, flip, photometric distortion of half the strength.
  - 'none': scale to fit into the size.
  """
  recipe, size = data_config.augment, tuple(data_config.size)
  named = {task.name: task for task in tasks}

  def transform(example: dict, rng: np.random.Generator) -> dict:
    image, labels = example['image'], example['labels']
    if recipe == 'pascal':
      zoom = rng.uniform(0.5, 2.0)
      image, labels = rescale(image, labels, zoom, named, zoom, shrink=cv2.INTER_LINEAR, by_nearest=True)
      guide = example.get('crop_guide')
      image, labels = crop(image, labels, size, rng, None if guide is None else nearest(guide, image.shape[:2]))
      labels = {name: named[name].label_after_crop(label) for name, label in labels.items()}
    elif recipe == 'mtan':
      image, labels = crop_and_resize(image, labels, size, rng, named)
    elif recipe == 'light':
      image, labels = crop_and_scale(image, labels, size, rng, named)
    else:
      image, labels = fit(image, labels, size, named)
    if recipe != 'none' and rng.random() < 0.5:
      image, labels = flip(image, labels, named)
    if recipe in ('pascal', 'light'):
      image = photometric(image, rng, 1.0 if recipe == 'pascal' else 0.5)
    return finish(image, labels, size, example['index'], centred=recipe == 'pascal')

  return transform


def least_size(data_config) -> tuple[int, int] | None:
  """Height and width to which an image may be reduced before the training transform (see `Source.example`).

  The recipe 'light' then still shrinks it to half or less, so that its pixels hardly change: those of noisy photographs
  of 12 megapixels by 0.5 of 255 on average, where storing them as JPEGs of quality 85 changes 0.7. None: it must keep
  its size.
  """
  if data_config.augment != 'light':
    return None
  height, width = (math.ceil(2 * LIGHT_ZOOM * n) for n in data_config.size)
  return height, width


def eval_transform(data_config, geometry: str, tasks: tuple[Task, ...]) -> Callable[[dict], dict]:
  """Makes the deterministic transform example -> example for `stack`, of at most config.data.size.

  `geometry` (config.eval.geometry) 'fit' scales to fit and is padded at the bottom and right; 'pad' only shrinks images
  that are too large, and is padded all around. Labels are resized as config.data.augment resizes them in training. The
  result has one entry more than that of `finish`: 'size', the original height and width.
  """
  size, pad = tuple(data_config.size), geometry == 'pad'
  by_nearest = data_config.augment in PUBLISHED
  named = {task.name: task for task in tasks}

  def transform(example: dict) -> dict:
    image, labels = fit(example['image'], example['labels'], size, named, not pad, by_nearest)
    return finish(image, labels, size, example['index'], centred=pad) | {'size': example['image'].shape[:2]}

  return transform


def resize(
  image, labels: dict, size: tuple[int, int], named: dict[str, Task], shrink=cv2.INTER_AREA, by_nearest: bool = False
) -> tuple[np.ndarray, dict]:
  """Resizes to `size` (H, W): image bilinear, or by `shrink` if it gets smaller; labels by task, or all by nearest."""
  if image.shape[:2] == size:
    return image, labels
  interpolation = shrink if size[0] < image.shape[0] else cv2.INTER_LINEAR
  resizers = {name: nearest if by_nearest else named[name].resize_label for name in labels}
  labels = {name: resizers[name](label, size) for name, label in labels.items()}
  return cv2.resize(image, size[::-1], interpolation=interpolation), labels


def rescale(
  image, labels, factor: float, named, zoom: float = 1.0, shrink: int = cv2.INTER_AREA, by_nearest: bool = False
) -> tuple[np.ndarray, dict]:
  """Resizes by a factor and divides depth by `zoom`: how much closer the scene looks than in evaluation."""
  height, width = (max(round(n * factor), 1) for n in image.shape[:2])
  image, labels = resize(image, labels, (height, width), named, shrink, by_nearest)
  return image, rescale_labels(labels, named, zoom)


def rescale_labels(labels: dict, named: dict[str, Task], zoom: float) -> dict:
  """Adapts label values to a scene that appears `zoom` times as large."""
  return {name: named[name].rescale_for_zoom(label, np.float32(zoom)) for name, label in labels.items()}


def fit(image, labels, size, named, upscale: bool = True, by_nearest: bool = False) -> tuple[np.ndarray, dict]:
  """Scales to fit inside `size`, keeping the aspect ratio."""
  factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
  if factor > 1 and not upscale:
    return image, labels
  return rescale(image, labels, factor, named, by_nearest=by_nearest)


def crop(image, labels, size, rng, guide: np.ndarray | None = None) -> tuple[np.ndarray, dict]:
  """Crops a random window of at most `size`; redraws it up to 10 times while a class of `guide` fills 3/4.

  The size is in pixels of the image; labels of a reduced image are larger by a whole factor.
  """
  spare = [max(length - cropped, 0) for length, cropped in zip(image.shape[:2], size)]
  for _ in range(11):
    top, left = (int(rng.integers(0, s + 1)) for s in spare)
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    if guide is None or _largest_share(guide[window]) < 0.75:
      break
  return image[window], {name: _crop_label(label, window, len(label) // len(image)) for name, label in labels.items()}


def _crop_label(label: np.ndarray, window: tuple[slice, slice], factor: int) -> np.ndarray:
  """The window of a label that is `factor` times as large as its image."""
  rows, columns = (slice(factor * part.start, factor * part.stop) for part in window)
  return label[rows, columns]


def _largest_share(label) -> float:
  """Share of the most frequent class in the labelled pixels; 1 if there are none."""
  counts = cv2.calcHist([label], [0], None, [IGNORE], [0, IGNORE]).astype(int)
  return counts.max() / max(counts.sum(), 1) if counts.any() else 1.0


def crop_and_scale(image, labels, size, rng, named) -> tuple[np.ndarray, dict]:
  """Crops a random window and scales it to `size`, by 1 to 1.4 times the scale at which the whole image covers it.

  Depth is divided by how much closer the scene looks than in evaluation, which fits the whole image into `size`.
  Cropping comes first because a narrow strip, scaled as a whole, may not fit into memory.
  """
  ratios = (size[0] / image.shape[0], size[1] / image.shape[1])
  factor = max(ratios) * rng.uniform(1.0, LIGHT_ZOOM)
  window = [max(round(n / factor), 1) for n in size]
  image, labels = crop(image, labels, window, rng)
  image, labels = resize(image, labels, size, named)
  return image, rescale_labels(labels, named, factor / min(ratios))


def crop_and_resize(image, labels, size, rng, named) -> tuple[np.ndarray, dict]:
  """MTAN's zoom: crops 1, 1/1.2 or 1/1.5 of the size and resizes it back, bilinearly with aligned corners."""
  image, labels = resize(image, labels, size, named, by_nearest=True)
  scale = (1.0, 1.2, 1.5)[rng.integers(3)]
  height, width = int(size[0] / scale), int(size[1] / scale)
  top, left = int(rng.integers(0, size[0] - height + 1)), int(rng.integers(0, size[1] - width + 1))
  rows = np.linspace(top, top + height - 1, size[0], dtype=np.float32)
  columns = np.linspace(left, left + width - 1, size[1], dtype=np.float32)
  image = cv2.remap(image, *np.meshgrid(columns, rows), interpolation=cv2.INTER_LINEAR)
  rows = top + np.arange(size[0]) * height // size[0]
  columns = left + np.arange(size[1]) * width // size[1]
  labels = {name: label[rows][:, columns] for name, label in labels.items()}
  return image, rescale_labels(labels, named, scale)


def flip(image, labels, named) -> tuple[np.ndarray, dict]:
  """Mirrors horizontally."""
  labels = {name: named[name].flip_values(_mirror(label)) for name, label in labels.items()}
  return _mirror(image), labels


def _mirror(pixels: np.ndarray) -> np.ndarray:
  """As pixels[:, ::-1], which takes NumPy 40 times as long to copy."""
  return cv2.flip(pixels, 1).reshape(pixels.shape)


def photometric(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
  """Changes brightness by +-32, contrast and saturation by factors 0.5-1.5, hue by +-18 (of OpenCV's 180).

  Each with probability 1/2; contrast comes first or last. uint8 [H, W, 3] to the same.
  """

  def draw(limit: float) -> float:
    """0 with probability 1/2, else uniform in +-limit."""
    return strength * rng.uniform(-limit, limit) if rng.random() < 0.5 else 0.0

  brightness = round(draw(32))
  contrast_first = rng.random() < 0.5
  contrast = 1 + draw(0.5)
  saturation = 1 + draw(0.5)
  hue = round(draw(18))
  image = _brighten(image, brightness)
  image = _scale_contrast(image, contrast) if contrast_first else image
  image = _change_colors(image, hue, saturation)
  return image if contrast_first else _scale_contrast(image, contrast)


# OpenCV's arithmetic takes half of the time of its lookup tables.


def _brighten(image: np.ndarray, amount: int) -> np.ndarray:
  if not amount:
    return image
  add = cv2.add if amount > 0 else cv2.subtract
  return add(image, np.full(4, abs(amount), np.float64))


def _scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
  return image if factor == 1 else cv2.convertScaleAbs(image, alpha=factor)


def _change_colors(image: np.ndarray, hue: int, saturation: float) -> np.ndarray:
  """Adds to the hue, at most 75 of OpenCV's 180, and scales the saturation."""
  if not hue and saturation == 1:
    return image
  # Converting back wraps hues above 180, but bytes cannot be below 0; swapping red and blue mirrors the circle of hues.
  to_hsv, to_rgb = (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB) if hue >= 0 else (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR)
  change = np.array([[1, 0, 0, abs(hue)], [0, saturation, 0, 0], [0, 0, 1, 0]], np.float32)
  return cv2.cvtColor(cv2.transform(cv2.cvtColor(image, to_hsv), change), to_rgb)


def normalize_image(image: np.ndarray) -> np.ndarray:
  """Normalises uint8 [H, W, 3] by ImageNet's mean and standard deviation, to float32."""
  return cv2.LUT(np.ascontiguousarray(image), _NORMALIZED)


def corner(shape: Sequence[int], size: tuple[int, int], centred: bool) -> tuple[int, int]:
  """Top and left of an image of `shape` padded to `size`."""
  return ((size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2) if centred else (0, 0)


def pad_image(image: np.ndarray, size: tuple[int, int], top_left: tuple[int, int]) -> np.ndarray:
  """Normalises an image, uint8 [h, w, 3], and pads it with zeros to float32 [H, W, 3]."""
  padded = np.zeros((*size, 3), np.float32)
  top, left = top_left
  padded[top : top + image.shape[0], left : left + image.shape[1]] = normalize_image(image)
  return padded


def finish(image, labels: dict, size, index: int, centred: bool = False) -> dict:
  """Makes an example for `stack`, which pads it all around if `centred`, else at the bottom and right.

  Returns:
    {'image' uint8 [h, w, 3], 'labels' {task: [h, w, K]}, 'region' (top, left, h, w) inside the padding, 'index'}.
  """
  return {
    'image': image,
    'labels': labels,
    'region': (*corner(image.shape, size, centred), *image.shape[:2]),
    'index': index,
  }


def stack(examples: Sequence[dict], size: tuple[int, int], tasks: Sequence[Task]) -> dict:
  """Stacks and pads examples of one transform to a batch that holds only visible labels; see `add_hidden_labels`.

  The padding is 0 in the images and unlabelled in labels.

  Returns:
    {'image' uint8 [B, H, W, 3], 'labels' {task: [N_t, H, W, K]} of the N_t images that have one, 'label_mask' bool
    [B, T], 'region' int32 [B, 4], 'index' int32 [B]}, and what else the examples have, as arrays.
  """
  regions = [example['region'] for example in examples]
  mask = np.array([[task.name in example['labels'] for task in tasks] for example in examples], bool)

  def pad(arrays: list[np.ndarray], rows: Sequence[int], fill: int, channels: int, dtype) -> np.ndarray:
    padded = _full((len(rows), *size, channels), fill, dtype)
    for target, row, array in zip(padded, rows, arrays):
      top, left, height, width = regions[row]
      target[top : top + height, left : left + width] = array
    return padded

  names = examples[0].keys() - {'image', 'labels'}
  batch = {name: np.array([example[name] for example in examples]) for name in names}
  batch |= {name: values.astype(np.int32) for name, values in batch.items() if values.dtype == int}
  batch['image'] = pad([example['image'] for example in examples], range(len(examples)), 0, 3, np.uint8)
  batch |= {'label_mask': mask, 'labels': {}}
  for t, task in enumerate(tasks):
    rows = np.flatnonzero(mask[:, t]).tolist()
    labels = [examples[row]['labels'][task.name] for row in rows]
    batch['labels'][task.name] = pad(labels, rows, task.unlabelled, task.label_channels, task.label_dtype)
  return batch


def add_hidden_labels(batch: dict, tasks: Sequence[Task]) -> dict:
  """A batch of `stack` with labels [B, H, W, K] of every image: blank ones where there is none."""
  labels = {}
  for t, task in enumerate(tasks):
    shown = batch['label_mask'][:, t]
    labels[task.name] = visible = batch['labels'][task.name]
    if not shown.all():
      labels[task.name] = _full((len(shown), *visible.shape[1:]), task.unlabelled, visible.dtype)
      labels[task.name][shown] = visible
  return batch | {'labels': labels}


def _full(shape: tuple[int, ...], fill: int, dtype) -> np.ndarray:
  """As np.full; pages of zeros take no memory before they are written to."""
  return np.full(shape, fill, dtype) if fill else np.zeros(shape, dtype)
