"""Colours of class ids, numbers and unlabelled pixels; overlays."""

import functools

import cv2
import numpy as np

INK = (31, 36, 48)
SOFT = (110, 118, 132)
PAPER = (255, 255, 255)
ORANGE = (255, 106, 0)
BLUE = (0, 114, 178)
# The first classes: a dark background, then Okabe and Ito's colours for every kind of colour vision.
FIRST = ('28324a', 'e69f00', '56b4e9', '009e73', 'f0e442', '0072b2', 'd55e00', 'cc79a7')
# Linear RGB as seen without green cones (Machado et al. 2009, deuteranomaly, severity 1).
_DEUTAN = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])


@functools.cache
def palette() -> np.ndarray:
  """Colours [256, 3] uint8 of class ids 0..254, the same for every data set; 255 is grey.

  Each colour after the first few is the one farthest from all before it in OKLab, where a distance is the smaller one
  of normal and green-blind vision.
  """
  first = np.array([[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in FIRST]) / 255
  colors = np.concatenate([first, _candidates()])
  looks = _looks(colors)
  chosen = list(range(len(first)))
  # White and black are already used for the page, boundaries and text.
  nearest = _distance(looks, _looks(np.array([[1.0, 1, 1], [0, 0, 0]]))).min(1)
  nearest = np.minimum(nearest, _distance(looks, looks[:, chosen]).min(1))
  while len(chosen) < 255:
    chosen.append(int(nearest.argmax()))
    nearest = np.minimum(nearest, _distance(looks, looks[:, chosen[-1:]])[:, 0])
  grey = np.full((1, 3), 0.85)
  return np.round(255 * np.concatenate([colors[chosen], grey])).astype(np.uint8)


def _candidates() -> np.ndarray:
  """sRGB colours [N, 3] of a regular grid in OKLCH, neither too bright nor too dull."""
  light, chroma, hue = np.meshgrid(
    np.arange(0.42, 0.91, 0.06), np.arange(0.05, 0.21, 0.03), np.radians(range(0, 360, 9))
  )
  lab = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)], -1).reshape(-1, 3)
  lms = (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3
  linear = lms @ np.linalg.inv(_RGB_TO_LMS).T
  linear = linear[((linear >= 0) & (linear <= 1)).all(1)]
  return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


# OKLab (Ottosson 2020): linear sRGB to cone responses; their cube roots to lightness and two opponent colours.
_RGB_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LMS_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _looks(srgb: np.ndarray) -> np.ndarray:
  """OKLab [2, N, 3] of sRGB colours [N, 3] for normal and for green-blind vision."""
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
  perceived = np.stack([linear, np.clip(linear @ _DEUTAN.T, 0, 1)])
  return np.cbrt(perceived @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The smaller of the distances in the two kinds of vision: [2, N, 3], [2, M, 3] -> [N, M]."""
  return np.linalg.norm(a[:, :, None] - b[:, None], axis=-1).min(0)


def heat(values: np.ndarray, limits: tuple[float, float], scale: int = cv2.COLORMAP_VIRIDIS) -> np.ndarray:
  """Colours numbers [...] on a perceptually uniform scale between two limits: uint8 [..., 3]."""
  low, high = limits
  level = np.clip((np.asarray(values, np.float32) - low) / max(high - low, 1e-12), 0, 1)
  return ramp(scale).take(np.round(255 * level).astype(np.uint8), 0)


def signed(values: np.ndarray) -> np.ndarray:
  """Colours numbers [...] from -1 (orange) over 0 (white) to 1 (blue): uint8 [..., 3]."""
  values = np.clip(values, -1, 1)[..., None]
  return np.round(255 + np.abs(values) * (np.where(values > 0, BLUE, ORANGE) - 255.0)).astype(np.uint8)


@functools.cache
def ramp(scale: int = cv2.COLORMAP_VIRIDIS) -> np.ndarray:
  """The colours [256, 3] uint8 of a scale, from low to high."""
  return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], scale)[:, 0, ::-1]


def hatch_unlabelled(labelled: np.ndarray, picture: np.ndarray) -> np.ndarray:
  """Hatches a picture [H, W, 3] where it is not `labelled` [H, W]: uint8."""
  if labelled.all():  # as in every prediction; the stripes would take most of the time
    return picture.astype(np.uint8, copy=False)
  return np.where(labelled[..., None], picture, hatch(*labelled.shape)).astype(np.uint8)


def hatch(height: int, width: int) -> np.ndarray:
  """Grey stripes, uint8 [height, width, 3], which mean *unlabelled*."""
  return np.where(_stripes(height, width)[..., None], np.uint8(206), np.uint8(228)).repeat(3, -1)


def stripe(mask: np.ndarray, picture: np.ndarray) -> np.ndarray:
  """Draws white stripes over the pixels of a picture [H, W, 3] that `mask` [H, W] marks: uint8."""
  return np.where((mask & _stripes(*mask.shape))[..., None], np.array(PAPER, np.uint8), picture)


def _stripes(height: int, width: int) -> np.ndarray:
  """Diagonal stripes, bool [height, width]."""
  return np.add.outer(np.arange(height), np.arange(width)) % 8 < 3


def overlay(image: np.ndarray, colors: np.ndarray, alpha: float | np.ndarray = 0.55) -> np.ndarray:
  """Blends colours over an image, both uint8 [H, W, 3]; `alpha` (a number or [H, W, 1]) is the share of the colours."""
  if isinstance(alpha, np.ndarray):
    share = alpha[..., 0].astype(np.float32)
    return cv2.blendLinear(image, colors, 1 - share, share)
  return cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
