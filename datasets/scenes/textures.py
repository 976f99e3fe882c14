"""Materials: procedural textures over surface coordinates in metres. Colours are linear RGB."""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np

NOISE_SIZE = 1024
NOISE_CELLS = 64  # table entries a unit of the texture coordinates


@dataclasses.dataclass(frozen=True)
class Material:
  """What a surface looks like.

  Attributes:
    texture: a key of `TEXTURES`.
    colors: [3,3], the texture's colours, linear RGB 0..1.
    scale: texture cells a metre along u and v.
    offset: of the texture's origin, in cells; also picks its random pattern.
    gloss: strength of highlights, 0..1.
    glow: light that the surface emits, relative to its albedo.
  """

  texture: str
  colors: np.ndarray
  scale: tuple[float, float] = (1.0, 1.0)
  offset: tuple[float, float] = (0.0, 0.0)
  gloss: float = 0.1
  glow: float = 0.0


def albedo(materials: Sequence[Material], counts: Sequence[int], u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Linear RGB [3,N] at surface coordinates u, v [N] in metres, of which each material has the next `counts`."""

  def repeat(values):
    return np.repeat(np.array(values, np.float32).T, counts, -1)

  scale, offset = repeat([m.scale for m in materials]), repeat([m.offset for m in materials])
  u = (u * scale[0] + offset[0]).astype(np.float32)
  v = (v * scale[1] + offset[1]).astype(np.float32)
  first, second, shade = np.empty((3, len(u)), np.float32)
  names = [m.texture for m in materials]
  for name in set(names):
    of_it = np.flatnonzero(np.repeat([n == name for n in names], counts))
    first[of_it], second[of_it], shade[of_it] = TEXTURES[name](u[of_it], v[of_it])
  a, b, c = (repeat([m.colors[i] for m in materials]) for i in range(3))
  return np.clip((a + (b - a) * first + (c - a) * second) * shade, 0.01, 0.95)


@functools.cache
def _tables():
  """Smooth fractal noise about 0 with deviation 1, and white noise 0..1; both tile the plane."""
  rng = np.random.default_rng(20240617)
  white = rng.random((256, 256)).astype(np.float32)
  frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIZE), np.fft.rfftfreq(NOISE_SIZE), indexing='ij'))
  falloff = (np.maximum(frequency, 4 / NOISE_SIZE)) ** -1.6 * np.exp(-((frequency * 6) ** 2))
  smooth = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE))) * falloff)
  return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32), white


def noise(u, v):
  """Smooth noise, deviation 1, with details of a tenth of a cell to several cells."""
  i = (v * NOISE_CELLS).astype(np.int32) & (NOISE_SIZE - 1)
  j = (u * NOISE_CELLS).astype(np.int32) & (NOISE_SIZE - 1)
  return _tables()[0][i, j]


def cell(i, j):
  """A random number 0..1 for each cell of the plane."""
  return _tables()[1][i.astype(np.int32) & 255, j.astype(np.int32) & 255]


def _plain(u, v):
  return 0, 0, 1 + 0.05 * noise(u, v)


def _framed(u, v):
  """Coordinates -1..1 within the frame; their offset, a multiple of 4, only picks another noise."""
  return (u + 2) % 4 - 2, (v + 2) % 4 - 2


def _doors(u, v):
  """Two doors with frames and knobs, over a front of -1..1."""
  n = noise(u, v * 0.3)
  u, v = _framed(u, v)
  x, y = np.abs(u), np.abs(v)
  groove = (x < 0.03) | (np.abs(x - 0.88) < 0.03) | (np.abs(x - 0.16) < 0.03) | (np.abs(y - 0.85) < 0.025)
  knob = (x - 0.1) ** 2 + y**2 < 0.003
  return 0.5 + 0.3 * np.sin(14 * u + 2.5 * n), knob.astype(np.float32), np.where(groove & ~knob, 0.5, 1)


def _landscape(u, v):
  """A painting over -1..1: sky, hills, a sun."""
  far, close = 0.45 * noise(u * 0.35, v * 0) - 0.1, 0.35 * noise(u * 0.3, v * 0 + 7) - 0.55
  u, v = _framed(u, v)
  hills, near = v < far, v < close
  sun = (u - 0.4) ** 2 + (v - 0.5) ** 2 < 0.05
  shade = np.where(near, 0.6, 0.85 + 0.25 * v)
  return np.where(near, 0.5, hills.astype(np.float32)), 0.9 * (sun & ~hills), shade


def _portrait(u, v):
  """A painting over -1..1: head and shoulders before a mottled ground."""
  ground = 1 + 0.1 * noise(u, v)
  u, v = _framed(u, v)
  head = (u / 0.32) ** 2 + ((v - 0.25) / 0.42) ** 2 < 1
  hair = ((u / 0.4) ** 2 + ((v - 0.4) / 0.42) ** 2 < 1) & ~head
  body = ((u / 0.75) ** 2 + ((v + 1.1) / 0.85) ** 2 < 1) & ~head
  shade = np.where(hair, 0.3, np.where(body, 0.8, ground))
  return head.astype(np.float32), (body | hair).astype(np.float32), shade


def _abstract(u, v):
  """A painting of flat fields."""
  field = cell(np.floor(u * 1.7 + 40), np.floor(v * 1.7 + 40))
  line = (u * 1.7 % 1 < 0.08) | (v * 1.7 % 1 < 0.08)
  return (field > 0.6).astype(np.float32), (field < 0.3).astype(np.float32), np.where(line, 0.1, 1)


def _window(u, v):
  """Sky over trees behind two casements, over -1..1."""
  clouds, leaves = 0.9 + 0.12 * noise(u * 0.4, v * 0.6), 0.7 + 0.25 * noise(u * 3, v * 3)
  crowns = 0.3 * noise(u * 0.6, v * 0) - 0.35
  u, v = _framed(u, v)
  bar = (np.abs(u) < 0.05) | (np.abs(v - 0.3) < 0.04)
  trees = v < crowns
  shade = np.where(bar, 0.8, np.where(trees, leaves, clouds))
  return (trees & ~bar).astype(np.float32), bar.astype(np.float32), shade


TEXTURES = {
  'plain': _plain,
  'doors': _doors,
  'landscape': _landscape,
  'portrait': _portrait,
  'abstract': _abstract,
  'window': _window,
}
