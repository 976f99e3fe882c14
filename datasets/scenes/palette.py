"""Random colours and materials of a scene."""

import colorsys

import numpy as np

from dmtl_jax.datasets.scenes.textures import Material

WALLS = ('plain', 'plain', 'mottled', 'stripes', 'wallpaper', 'bricks', 'tiles', 'bands')
FLOORS = ('planks', 'planks', 'tiles', 'checkered tiles', 'carpet', 'marble')
RUGS = ('checks', 'bands', 'plaid', 'zigzag', 'dots', 'carpet', 'camouflage')
FURNITURE = ('wood', 'wood', 'wood', 'plain', 'plain', 'marble', 'planks')
FABRICS = ('plain', 'plain', 'bands', 'stripes', 'plaid', 'checks', 'dots', 'camouflage', 'zigzag', 'mottled')
TOYS = ('plain', 'checks', 'stripes', 'dots', 'zigzag', 'bands', 'marble', 'camouflage')
PAINTINGS = ('landscape', 'landscape', 'portrait', 'abstract')

CELLS = {  # texture cells a metre, from and to
    'plain': (1, 2), 'checks': (4, 12), 'stripes': (4, 14), 'bands': (5, 14), 'plaid': (4, 9),
    'dots': (6, 16),
    'tiles': (1.6, 4), 'checkered tiles': (1.6, 3.5), 'bricks': (5, 8), 'planks': (5, 9), 'wood': (1, 2.5),
    'marble': (1, 3), 'mottled': (1, 4), 'camouflage': (2, 6), 'carpet': (1, 3), 'wallpaper': (2.5, 6),
    'zigzag': (4, 10), 'books': (2.4, 3.2),
}  # fmt: skip
SKIN = np.array([[0.62, 0.36, 0.24], [0.5, 0.27, 0.17], [0.3, 0.15, 0.09], [0.14, 0.07, 0.045], [0.7, 0.45, 0.34]])
HAIR = np.array([[0.02, 0.015, 0.01], [0.06, 0.03, 0.015], [0.2, 0.1, 0.04], [0.45, 0.32, 0.14], [0.3, 0.3, 0.3]])
WOODS = np.array([[0.35, 0.18, 0.08], [0.5, 0.32, 0.16], [0.2, 0.09, 0.04], [0.6, 0.45, 0.28], [0.12, 0.06, 0.035]])


def linear(srgb) -> np.ndarray:
  """sRGB 0..1 to linear light."""
  srgb = np.asarray(srgb, float)
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


class Palette:
  """Draws materials; now and then in the room's own colours, so that colour alone tells little.

  Attributes:
    WALLS: saturation and value of walls, from and to.
    COVERED: how often the clothes of a figure cover a limb.
  """

  WALLS = (0.03, 0.4), (0.5, 0.95)
  COVERED = dict(sleeve=0.85, forearm=0.45, shin=0.75)

  def __init__(self, rng: np.random.Generator):
    self.rng = rng
    self.room = []

  def color(self, saturation=(0.1, 0.75), value=(0.25, 0.95)) -> np.ndarray:
    """A random colour [3], linear RGB."""
    hue, s, v = self.rng.random(), self.rng.uniform(*saturation), self.rng.uniform(*value)
    return linear(colorsys.hsv_to_rgb(hue, s, v))

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

  def material(self, textures, base=None, gloss=None, scale=1.0, motley=0.6) -> Material:
    """A material with one of the textures.

    Args:
      base: [3] its main colour.
      gloss: see Material.
      scale: multiplies its number of cells.
      motley: how often its other colours have nothing to do with the main one.
    """
    rng, texture = self.rng, self.choose(textures)
    if base is None and self.room and rng.random() < 0.25:
      base = self.like(self.choose(self.room))
    if base is None:
      base = self.like(self.choose(WOODS)) if texture in ('wood', 'planks') else self.color()
    colors = np.stack([base, self.like(base, 0.35), self.like(base, 0.6)])
    if rng.random() < motley:
      colors[1:] = self.color(), self.color()
    if texture in ('wood', 'planks'):
      colors[1] = base * rng.uniform(0.35, 0.7)
    if texture in ('tiles', 'checkered tiles', 'bricks'):
      colors[2] = self.color((0, 0.15), (0.4, 0.8))
    cells = scale * rng.uniform(*CELLS[texture])
    gloss = rng.choice([0.0, 0.1, 0.4]) if gloss is None else gloss
    return Material(texture, colors, (cells, cells), tuple(rng.uniform(0, 64, 2)), float(gloss))

  def plain(self, base, gloss=0.1, glow=0.0) -> Material:
    """One colour [3]."""
    return Material('plain', np.stack([base] * 3), (1.5, 1.5), tuple(self.rng.uniform(0, 64, 2)), gloss, glow)

  def framed(self, texture, half, colors=None, gloss=0.1, glow=0.0) -> Material:
    """A texture drawn once over a face of half size (u, v) in metres."""
    colors = np.stack([self.color(), self.color(), self.color()]) if colors is None else colors
    offset = tuple(4.0 * self.rng.integers(1, 60, 2))
    return Material(texture, colors, (1 / half[0], 1 / half[1]), offset, gloss, glow)


class PlainPalette(Palette):
  """As `Palette`, but things are of one colour, which tells more: pale walls, brown wood, bright cloth, bare limbs."""

  WALLS = (0.0, 0.12), (0.75, 0.95)
  COVERED = dict(sleeve=1.0, forearm=0.0, shin=0.0)

  def material(self, textures, base=None, gloss=None, scale=1.0, motley=0.6) -> Material:
    if base is None:
      wooden = 'wood' in textures
      base = self.like(self.choose(WOODS)) if wooden else self.color((0.6, 0.95), (0.45, 0.95))
    return self.plain(base, super().material(textures, base, gloss, scale, motley).gloss)
