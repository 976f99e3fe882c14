"""Furniture and small things: lists of solids about the origin, standing on z = 0, front towards -y.

Every maker takes (rng, palette) and returns a `Thing`.
"""

import dataclasses

import numpy as np

from dmtl_jax.datasets.scenes import palette as colors
from dmtl_jax.datasets.scenes.classes import THING
from dmtl_jax.datasets.scenes.geometry import box, ellipsoid, limb, ring, rotation, Solid, upright


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object: what is labelled as one instance.

  Attributes:
    solids: in its own coordinates.
    half: [2] half size of its footprint, metres.
  """

  solids: list[Solid]
  half: tuple[float, float]

  def placed(self, position, turn: float) -> 'Thing':
    """The thing turned by `turn` radians about z and moved to position [3]."""
    moved = [solid.moved(rotation(2, turn), np.asarray(position, float)) for solid in self.solids]
    return dataclasses.replace(self, solids=moved)


def cabinet(rng, palette) -> Thing:
  """A cupboard with doors, a bookcase, a chest, or a stack of cartons."""
  kind = rng.choice(['doors', 'books', 'chest', 'cartons'])
  if kind == 'cartons':
    return _cartons(rng, palette)
  half = np.array([rng.uniform(0.3, 0.65), rng.uniform(0.18, 0.28)])
  height = rng.uniform(0.6, 1.0) if kind == 'chest' else rng.uniform(1.0, 2.0)
  body = palette.material(colors.FURNITURE)
  solids = [box((0, 0, height / 2), (*half, height / 2), body, THING)]
  solids.append(box((0, 0, height + 0.015), (*(half + 0.02), 0.015), body, THING))
  face = (half[0] - 0.03, height / 2 - 0.03)
  if kind == 'books':
    material = palette.material(('books',), palette.color((0.2, 0.6)), gloss=0.0)
  else:
    paint = np.stack([body.colors[0], body.colors[0] * 0.6, palette.color((0, 0.2))])
    material = palette.framed('doors', face, paint)
  solids.append(box((0, -half[1], height / 2), (face[0], 0.008, face[1]), material, THING))
  return Thing(solids, tuple(half))


def _cartons(rng, palette):
  solids, z, half = [], 0.0, rng.uniform(0.22, 0.4, 2)
  for _ in range(rng.integers(1, 4)):
    height = rng.uniform(0.12, 0.3)
    material = palette.material(('plain', 'mottled', 'stripes', 'checks'))
    solid = box((0, 0, 0), (*half, height), material, THING)
    solids.append(solid.moved(rotation(2, rng.uniform(-0.3, 0.3)), np.array([0, 0, z + height])))
    z, half = z + 2 * height, half * rng.uniform(0.65, 0.95)
  return Thing(solids, (0.4, 0.4))


def table(rng, palette) -> Thing:
  """A table with four legs or a round one on a pedestal."""
  height = rng.choice([rng.uniform(0.38, 0.5), rng.uniform(0.68, 0.78)])
  top, leg = palette.material(colors.FURNITURE), palette.material(colors.FURNITURE)
  if rng.random() < 0.35:
    radius = rng.uniform(0.3, 0.55)
    solids = [
      upright(0.04, (radius, radius), top, THING, height - 0.04),
      upright(height - 0.04, (0.06, 0.04), leg, THING),
      upright(0.03, (radius * 0.6, radius * 0.5), leg, THING),
    ]
    return Thing(solids, (radius * 0.7, radius * 0.7))
  half = np.array([rng.uniform(0.4, 0.8), rng.uniform(0.28, 0.45)])
  thick, inset = rng.uniform(0.02, 0.035), half - rng.uniform(0.04, 0.1)
  solids = [box((0, 0, height - 0.02), (*half, 0.02), top, THING)]
  apron = (inset[0], inset[1], 0.04)
  solids.append(box((0, 0, height - 0.08), apron, leg, THING))
  for x in (-1, 1):
    for y in (-1, 1):
      stand = (thick, thick, height / 2 - 0.02)
      solids.append(box((x * inset[0], y * inset[1], stand[2]), stand, leg, THING))
  return Thing(solids, tuple(half))


def chair(rng, palette) -> Thing:
  """A chair with a back, or an armchair."""
  if rng.random() < 0.35:
    return _armchair(rng, palette)
  seat, half, back = rng.uniform(0.42, 0.47), rng.uniform(0.19, 0.23), rng.uniform(0.4, 0.5)
  wood, cloth = palette.material(colors.FURNITURE), palette.material(colors.FABRICS + colors.FURNITURE)
  solids = [box((0, 0, seat - 0.02), (half, half, 0.025), cloth, THING)]
  for x in (-1, 1):
    front, rear = x * half * 0.9, x * half * 0.95
    solids.append(limb((front, -half * 0.9, 0), (front, -half * 0.85, seat), (0.018, 0.02), wood, THING))
    top = (front, half * 1.1, seat + back)
    solids.append(limb((rear, half, 0), top, (0.018, 0.018), wood, THING))
  if rng.random() < 0.5:
    solids.append(box((0, half * 1.05, seat + back * 0.65), (half * 0.9, 0.015, back * 0.32), cloth, THING))
  else:
    for z in (0.4, 0.65, 0.9):
      solids.append(box((0, half * 1.05, seat + back * z), (half * 0.9, 0.012, 0.035), wood, THING))
  return Thing(solids, (half + 0.03, half + 0.03))


def _armchair(rng, palette):
  wide = rng.uniform(0.3, 0.75)  # up to a sofa
  cloth, cushion = palette.material(colors.FABRICS, gloss=0.0), palette.material(colors.FABRICS, gloss=0.0)
  wood = palette.plain(palette.like(palette.choose(colors.WOODS)))
  solids = [
    box((0, 0, 0.2), (wide, 0.36, 0.14), cloth, THING),
    box((0, -0.03, 0.38), (wide - 0.01, 0.31, 0.05), cushion, THING),
    box((0, 0.3, 0.5), (wide, 0.08, 0.32), cloth, THING),
    limb((-wide, 0.3, 0.82), (wide, 0.3, 0.82), (0.08, 0.08), cloth, THING),
  ]
  for x in (-1, 1):
    solids.append(box((x * (wide + 0.06), 0, 0.3), (0.06, 0.36, 0.24), cloth, THING))
    arm = x * (wide + 0.06)
    solids.append(limb((arm, -0.36, 0.54), (arm, 0.36, 0.54), (0.07, 0.07), cloth, THING))
    for y in (-0.3, 0.3):
      solids.append(limb((x * wide, y, 0), (x * wide, y, 0.08), (0.02, 0.03), wood, THING))
  return Thing(solids, (wide + 0.13, 0.38))


def plant(rng, palette) -> Thing:
  """A pot with leaves on stems, or a little tree of stacked cones."""
  size = rng.uniform(0.7, 1.4)
  pot = palette.material(('plain', 'stripes', 'zigzag', 'marble', 'bands'))
  radius, rim = size * rng.uniform(0.13, 0.18), size * rng.uniform(0.22, 0.32)
  solids = [
    upright(rim, (radius * 0.7, radius), pot, THING),
    ring((0, 0, rim), radius, radius * 0.12, pot, THING),
  ]
  green = np.array([0.06, 0.2, 0.04]) if rng.random() < 0.75 else palette.color((0.3, 0.8))
  if rng.random() < 0.3:
    leaves = palette.material(('mottled',), palette.like(green), gloss=0.0)
    solids.append(upright(size * 0.15, (0.02, 0.02), palette.plain(colors.WOODS[2]), THING, rim))
    for i in range(3):
      wide, base = size * (0.26 - 0.06 * i), size * (0.36 + 0.18 * i)
      solids.append(upright(size * 0.34, (wide, 0.01), leaves, THING, base))
    return Thing(solids, (size * 0.22, size * 0.22))
  for angle in np.arange(11) * 2.4:
    out, lift = rng.uniform(0.08, 0.26) * size, rng.uniform(0.45, 0.95) * size
    tip = np.array([out * np.cos(angle), out * np.sin(angle), lift])
    tilt = rotation(2, angle) @ rotation(1, rng.uniform(0.3, 1.2))
    leaf = palette.plain(palette.like(green, 0.3), 0.3)
    solids.append(limb((0, 0, rim), tip, (0.012 * size, 0.006 * size), leaf, THING))
    solids.append(ellipsoid(tip, size * np.array([0.15, 0.07, 0.018]), leaf, THING, turned=tilt))
  return Thing(solids, (size * 0.25, size * 0.25))


def toy(rng, palette) -> Thing:
  """Balls, blocks, cones and towers of rings."""
  return rng.choice([_ball, _cone, _tower, _blocks, _drum])(rng, palette, rng.uniform(0.16, 0.32))


def _ball(rng, palette, size):
  turned = rotation(0, rng.uniform(-0.8, 0.8)) @ rotation(1, rng.uniform(-0.8, 0.8))
  material = palette.material(colors.TOYS, gloss=0.4)
  return Thing([ellipsoid((0, 0, size), size, material, THING, turned=turned)], (size, size))


def _cone(rng, palette, size):
  material = palette.material(('bands', 'plain', 'zigzag', 'dots'))
  solids = [
    upright(2.6 * size, (0.85 * size, 0.12 * size), material, THING, 0.1 * size),
    box((0, 0, 0.06 * size), (size, size, 0.06 * size), palette.plain(material.colors[0]), THING),
  ]
  return Thing(solids, (size, size))


def _tower(rng, palette, size):
  solids, z, radius = [], 0.0, size
  for _ in range(rng.integers(1, 5)):
    tube = radius * 0.38
    material = palette.plain(palette.color((0.5, 0.9)), 0.4)
    solids.append(ring((0, 0, z + tube), radius * 0.75, tube, material, THING))
    z, radius = z + 1.7 * tube, radius * 0.83
  solids.append(ellipsoid((0, 0, z + radius * 0.4), radius * 0.5, palette.plain(palette.color(), 0.4), THING))
  return Thing(solids, (size, size))


def _blocks(rng, palette, size):
  solids = []
  for x, z in ((-0.62, 0), (0.62, 0), (0, 1)):
    half = size * 0.55
    block = box((0, 0, 0), (half, half, half), palette.material(colors.TOYS), THING)
    at = np.array([x * size, rng.uniform(-0.1, 0.1) * size, half * (1 + 2 * z)])
    solids.append(block.moved(rotation(2, rng.uniform(-0.4, 0.4)), at))
  return Thing(solids, (size * 1.3, size * 0.8))


def _drum(rng, palette, size):
  material = palette.material(colors.TOYS)
  radius, height = size * rng.uniform(0.5, 1), size * rng.uniform(1, 2.4)
  return Thing([upright(height, (radius, radius), material, THING)], (radius, radius))


THINGS = (cabinet, table, chair, plant, toy)
