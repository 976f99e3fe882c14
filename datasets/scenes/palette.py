"""Random colours and materials of a scene."""

import colorsys

import numpy as np

from dmtl_jax.datasets.scenes.textures import Material

# Names of textures, of which few are drawn today: see `Palette.material`.
WALLS = ('plain', 'plain', 'mottled', 'stripes', 'wallpaper', 'bricks', 'tiles', 'bands')
FLOORS = ('planks', 'planks', 'tiles', 'tiles', 'carpet', 'marble')
RUGS = ('checks', 'bands', 'plaid', 'zigzag', 'dots', 'carpet', 'camouflage')
FURNITURE = ('wood', 'wood', 'wood', 'plain', 'plain', 'marble', 'planks')
FABRICS = ('plain', 'plain', 'bands', 'stripes', 'plaid', 'checks', 'dots', 'camouflage', 'zigzag', 'mottled')
TROUSERS = ('plain', 'plain', 'mottled', 'plaid', 'camouflage')
TOYS = ('plain', 'checks', 'stripes', 'dots', 'zigzag', 'bands', 'marble', 'camouflage')
PAINTINGS = ('landscape', 'landscape', 'portrait', 'abstract')

SKIN = np.array([[0.62, 0.36, 0.24], [0.5, 0.27, 0.17], [0.3, 0.15, 0.09], [0.14, 0.07, 0.045], [0.7, 0.45, 0.34]])
HAIR = np.array([[0.02, 0.015, 0.01], [0.06, 0.03, 0.015], [0.2, 0.1, 0.04], [0.45, 0.32, 0.14], [0.3, 0.3, 0.3]])
WOODS = np.array([[0.35, 0.18, 0.08], [0.5, 0.32, 0.16], [0.2, 0.09, 0.04], [0.6, 0.45, 0.28], [0.12, 0.06, 0.035]])


def linear(srgb) -> np.ndarray:
  """sRGB 0..1 to linear light."""
  srgb = np.asarray(srgb, float)
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


class Palette:
  """Draws materials of one colour, which tells what a thing is: pale walls, brown wood, bright cloth and toys."""

  def __init__(self, rng: np.random.Generator):
    self.rng = rng

  def color(self, saturation=(0.1, 0.75), value=(0.25, 0.95)) -> np.ndarray:
    """A random colour [3], linear RGB."""
    hue = self.rng.random()
    return linear(colorsys.hsv_to_rgb(hue, self.rng.uniform(*saturation), self.rng.uniform(*value)))

  def like(self, color, spread=0.25) -> np.ndarray:
    """A colour near `color`."""
    return np.clip(color * np.exp(self.rng.normal(0, spread, 3)), 0.01, 0.95)

  def choose(self, options):
    """One of a sequence."""
    return options[self.rng.integers(len(options))]

  def ground(self) -> np.ndarray:
    """A colour [3] of floors: mostly woods and greys, sometimes any muted colour."""
    if self.rng.random() < 0.55:
      return self.like(self.choose(WOODS))
    return self.color((0.02, 0.45), (0.25, 0.85))

  def material(self, textures, base=None, gloss=None, motley=0.6) -> Material:
    """A material of one colour [3]: `base`, or else brown where a texture is 'wood', and bright where none is.

    Rooms had textures once. The random numbers of these are still drawn, so that the rooms stay those that published
    scores were taken on; `motley` was the probability of other colours.
    """
    rng = self.rng
    if base is None:
      base = self.like(self.choose(WOODS)) if 'wood' in textures else self.color((0.6, 0.95), (0.45, 0.95))
    texture = self.choose(textures)
    rng.normal(size=6)
    if rng.random() < motley:
      rng.random(6)
    rng.random({'wood': 2, 'planks': 2, 'tiles': 4, 'bricks': 4}.get(texture, 1))
    gloss = rng.choice([0.0, 0.1, 0.4]) if gloss is None else gloss
    rng.random(2)
    return self.plain(base, float(gloss))

  def plain(self, base, gloss=0.1) -> Material:
    """One colour [3]."""
    return Material('plain', np.stack([base] * 3), (1.5, 1.5), tuple(self.rng.uniform(0, 64, 2)), gloss)

  def framed(self, texture, half, colors=None, gloss=0.1, glow=0.0) -> Material:
    """A texture drawn once over a face of half size (u, v) in metres."""
    colors = np.stack([self.color(), self.color(), self.color()]) if colors is None else colors
    offset = tuple(4.0 * self.rng.integers(1, 60, 2))
    return Material(texture, colors, (1 / half[0], 1 / half[1]), offset, gloss, glow)
