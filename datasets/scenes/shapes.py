"""Short ways to write solids: boxes, ellipsoids, limbs and rings in an object's own coordinates."""

import numpy as np

from dmtl_jax.datasets.scenes.geometry import Solid


def box(center, half, material, label) -> Solid:
  """A box with edges along the axes; half sizes in metres."""
  return Solid('box', np.column_stack([np.diag(np.asarray(half, float)), center]), material, label)


def ellipsoid(center, radii, material, label, part=0, turned=None) -> Solid:
  """An ellipsoid; `turned` [3,3] rotates its axes."""
  axes = np.diag(np.broadcast_to(np.asarray(radii, float), 3))
  axes = axes if turned is None else turned @ axes
  return Solid('sphere', np.column_stack([axes, center]), material, label, part)


def limb(start, end, radii, material, label, part=0, flat=1.0, side=(1.0, 0.0, 0.0)) -> Solid:
  """A frustum from start to end [3] with the radii (start, end); across `side` it is `flat` times as thick.

  `side` [3] is the direction in which the cross-section has the full radius.
  """
  start, end = np.asarray(start, float), np.asarray(end, float)
  half = (end - start) / 2
  along = half / np.linalg.norm(half)
  side = np.asarray(side, float) - np.dot(side, along) * along
  if np.linalg.norm(side) < 1e-3:
    side = np.cross(along, np.eye(3)[np.abs(along).argmin()])
  side /= np.linalg.norm(side)
  widest = max(radii[0], 1e-4)
  axes = np.column_stack([widest * side, flat * widest * np.cross(along, side), half])
  pose = np.column_stack([axes, (start + end) / 2])
  return Solid('frustum', pose, material, label, part, radii[1] / widest)


def upright(height, radii, material, label, base=0.0) -> Solid:
  """A standing frustum of (bottom, top) radii."""
  return limb((0, 0, base), (0, 0, base + height), radii, material, label)


def ring(center, radius, tube, material, label) -> Solid:
  """A lying torus."""
  return Solid('torus', np.column_stack([np.eye(3) * radius, center]), material, label, ratio=tube / radius)
