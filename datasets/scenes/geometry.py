"""Solids and how rays meet them, in closed form (a torus by sphere tracing).

A solid is a unit body under an affine map: `pose` [3,4] takes local to world coordinates. Such a
map keeps the ray parameter t, so rays are intersected in local coordinates:

  box      |x|, |y|, |z| <= 1
  sphere   |(x, y, z)| <= 1
  frustum  |z| <= 1, radius 1 at z = -1 and `ratio` at z = 1 (a cylinder at 1, a cone at 0)
  torus    ring of radius 1 in the plane z = 0, tube of radius `ratio`; poses must scale evenly

The axes of a pose, its first three columns, are at right angles.

World coordinates are metres, z up. Vectors are triples of arrays that broadcast: no product over rays
is left to BLAS, whose rounding may change with its number of threads.
"""

import dataclasses
import functools

import numpy as np

from dmtl_jax.datasets.scenes.textures import Material

NEAREST = 1e-4  # hits with a smaller t are the ray's own start
TORUS_STEPS = 32
SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


@dataclasses.dataclass(frozen=True)
class Solid:
  """One body.

  Attributes:
    kind: 'box', 'sphere', 'frustum' or 'torus'.
    pose: [3,4] float64, local to world.
    material: what it looks like.
    label: class id.
    part: part id of a figure, 0 for all else.
    ratio: see module.
  """

  kind: str
  pose: np.ndarray
  material: Material
  label: int
  part: int = 0
  ratio: float = 1.0

  def moved(self, rotation: np.ndarray, translation: np.ndarray) -> 'Solid':
    """The solid after rotation [3,3] and then translation [3]."""
    center = rotation @ self.pose[:, 3] + translation
    pose = np.column_stack([rotation @ self.pose[:, :3], center])
    return dataclasses.replace(self, pose=pose)

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """World to local directions [3,3]."""
    return np.linalg.inv(self.pose[:, :3])

  @functools.cached_property
  def scale(self) -> np.ndarray:
    """Length in metres of the local unit along each axis [3]."""
    return np.sqrt((self.pose[:, :3] ** 2).sum(0))

  @property
  def half(self) -> np.ndarray:
    """Half sizes [3] in metres of a box around the body, along its axes."""
    widest = dict(torus=1 + self.ratio, frustum=max(1, self.ratio)).get(self.kind, 1)
    return self.scale * (widest, widest, self.ratio if self.kind == 'torus' else 1)

  @functools.cached_property
  def corners(self) -> np.ndarray:
    """Corners [8,3] of that box."""
    edges = self.pose[:, :3] * (self.half / self.scale)
    return (SIGNS[:, None, :] * edges).sum(-1) + self.pose[:, 3]

  @functools.cached_property
  def radius(self) -> float:
    """Of a ball about pose[:, 3] that holds the body."""
    if self.kind == 'sphere':
      return float(self.scale.max())
    x, y, z = self.half
    return float(np.sqrt(x * x + y * y + z * z) if self.kind == 'box' else np.hypot(max(x, y), z))


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


def rotate(matrix: np.ndarray, vector) -> tuple:
  """matrix [3,3] times a triple of arrays, in their dtype (python's numbers do not widen it)."""
  x, y, z = vector
  return tuple([a * x + b * y + c * z for a, b, c in matrix.tolist()])


def to_local(solid: Solid, points) -> tuple:
  """World points (a triple of arrays or numbers) to local ones."""
  return rotate(solid.inverse, [p - c for p, c in zip(points, solid.pose[:, 3].tolist())])


def first_hit(solid: Solid, origin, direction) -> np.ndarray:
  """The smallest t > NEAREST where origin + t direction enters the solid; inf where it never does.

  Args:
    solid: seen from outside.
    origin: triple of python's numbers or of arrays, world coordinates.
    direction: triple of arrays.
  """
  o, d = to_local(solid, origin), rotate(solid.inverse, direction)
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    if solid.kind == 'box':
      return _box(o, d)
    if solid.kind == 'sphere':
      return _sphere(o, d)
    if solid.kind == 'frustum':
      return _frustum(o, d, float(solid.ratio))
    return _torus(o, d, float(solid.ratio))


def _slabs(o, d, half):
  """Where rays enter and leave the box |x_i| <= half_i."""
  near, far = -np.inf, np.inf
  for oi, di, h in zip(o, d, half):
    inverse = 1 / np.where(np.abs(di) < 1e-12, di.dtype.type(1e-12), di)
    middle, reach = -oi * inverse, h * np.abs(inverse)
    near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
  return near, far


def _box(o, d):
  near, far = _slabs(o, d, (1, 1, 1))
  return np.where((near <= far) & (near > NEAREST), near, np.inf)


def _sphere(o, d):
  a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
  b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
  c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
  root = b * b - a * c
  t = (-b - np.sqrt(np.maximum(root, 0))) / a
  return np.where((root > 0) & (t > NEAREST), t, np.inf)


def _frustum(o, d, ratio):
  middle, slope = (ratio + 1) / 2, (ratio - 1) / 2  # radius = middle + slope z
  radius, change = middle + slope * o[2], slope * d[2]
  a = d[0] * d[0] + d[1] * d[1] - change * change
  b = o[0] * d[0] + o[1] * d[1] - radius * change
  c = o[0] * o[0] + o[1] * o[1] - radius * radius
  root = b * b - a * c
  spread = np.sqrt(np.maximum(root, 0))
  best = np.full(np.shape(d[0]), np.inf, d[0].dtype)
  for sign in (-1, 1):
    t = (-b + sign * spread) / a
    valid = (root > 0) & (np.abs(o[2] + t * d[2]) <= 1) & (t > NEAREST) & (radius + t * change >= 0)
    best = np.where(valid & (t < best), t, best)
  for z, cap in ((-1, 1.0), (1, ratio)):
    t = (z - o[2]) / d[2]
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    best = np.where((x * x + y * y <= cap * cap) & (t > NEAREST) & (t < best), t, best)
  return best


def _torus(o, d, ratio):
  near, far = _slabs(o, d, (1 + ratio, 1 + ratio, ratio))
  length = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
  result = np.full(np.shape(d[0]), np.inf, d[0].dtype)
  rays = np.nonzero((near <= far) & (far > NEAREST))
  o = [np.broadcast_to(oi, result.shape)[rays] for oi in o]
  d, length, far = [di[rays] for di in d], length[rays], far[rays]
  t = np.maximum(near[rays], NEAREST)
  for _ in range(TORUS_STEPS):
    x, y, z = (oi + t * di for oi, di in zip(o, d))
    distance = np.hypot(np.hypot(x, y) - 1, z) - ratio
    t = t + distance / length
  result[rays] = np.where((np.abs(distance) < 2e-3) & (t <= far) & (t > NEAREST), t, np.inf)
  return result


def surface(solid: Solid, points) -> tuple:
  """Unit normals and texture coordinates at points on the solid's surface.

  Args:
    points: triple of arrays [N], world coordinates.

  Returns:
    normal: triple of [N], world, pointing outwards.
    u, v: [N], metres along the surface.
  """
  x, y, z = local = to_local(solid, points)
  sx, sy, sz = solid.scale.tolist()
  if solid.kind == 'box':
    normal, u, v = _box_surface(local, (sx, sy, sz))
  elif solid.kind == 'sphere':
    normal, u, v = local, np.arctan2(y, x) * sx, np.arcsin(np.clip(z, -1, 1)) * sz
  elif solid.kind == 'frustum':
    r, slope = np.hypot(x, y), float(solid.ratio - 1) / 2
    radius = 1 + slope * (z + 1)
    cap = 1 - np.abs(z) < np.abs(r - radius)
    normal = [np.where(cap, 0, x), np.where(cap, 0, y), np.where(cap, np.sign(z), -slope * radius)]
    u, v = np.where(cap, x * sx, np.arctan2(y, x) * sx), np.where(cap, y * sy, z * sz)
  else:
    r = np.hypot(x, y)
    normal = (x - x / r, y - y / r, z)
    u, v = np.arctan2(y, x) * sx, np.arctan2(z, r - 1) * sx * float(solid.ratio)
  return unit(rotate(solid.inverse.T, normal)), u, v


def _box_surface(local, scale):
  size = np.abs(np.stack(local))
  axis = size.argmax(0)
  normal = [np.where(axis == i, np.sign(local[i]), 0).astype(local[i].dtype) for i in range(3)]
  metres = [p * s for p, s in zip(local, scale)]
  u = np.where(axis == 0, metres[1], metres[0])
  v = np.where(axis == 2, metres[1], metres[2])
  return normal, u, v


def dot(a, b) -> np.ndarray:
  """Scalar product of two triples."""
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(vector) -> tuple:
  """The triple scaled to length 1."""
  length = np.sqrt(dot(vector, vector))
  return tuple(component / length for component in vector)


def rotation(axis: int, angle: float) -> np.ndarray:
  """Rotation matrix [3,3] about a coordinate axis, by the right-hand rule, in radians."""
  c, s = np.cos(angle), np.sin(angle)
  i, j = (axis + 1) % 3, (axis + 2) % 3
  matrix = np.eye(3)
  matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
  return matrix
