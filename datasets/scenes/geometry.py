"""Solids and how rays meet them, in closed form (a torus by sphere tracing).

A solid is a unit body under an affine map: `pose` [3,4] takes local to world coordinates. Such a
map keeps the ray parameter t, so rays are intersected in local coordinates:

  box      |x|, |y|, |z| <= 1
  sphere   |(x, y, z)| <= 1
  frustum  |z| <= 1, radius 1 at z = -1 and `ratio` at z = 1 (a cylinder at 1, a cone at 0)
  torus    ring of radius 1 in the plane z = 0, tube of radius `ratio`; poses must scale evenly

The axes of a pose, its first three columns, are at right angles.

World coordinates are metres, z up. Vectors are arrays [3,...]. No product over rays is left to BLAS, whose rounding may
change with its number of threads.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools

import numpy as np

from dmtl_jax.datasets.scenes.textures import Material

NEAREST = 1e-4  # hits with a smaller t are the ray's own start
TORUS_STEPS = 32
BATCH = 8192  # rays
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

  @property
  def center(self) -> np.ndarray:
    """[3]."""
    return self.pose[:, 3]

  @functools.cached_property
  def inverse(self) -> np.ndarray:
    """World to local directions [3,3]."""
    return np.linalg.inv(self.pose[:, :3])

  @functools.cached_property
  def scale(self) -> np.ndarray:
    """Length in metres of the local unit along each axis [3]."""
    return np.sqrt((self.pose[:, :3] ** 2).sum(0))

  @property
  def shape(self) -> tuple[float, float, float]:
    """What rays need of `ratio`: of a frustum the middle radius, its slope and the top radius squared."""
    r = float(self.ratio)
    return (1 + r, r, 0.0) if self.kind == 'torus' else ((r + 1) / 2, (r - 1) / 2, r * r)

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


def rotate(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """matrix [3,3] times vectors [3,...], in the vectors' dtype; or a matrix for each, [3,3,N] times [3,N]."""
  if matrix.ndim == 2:
    matrix = matrix.astype(vectors.dtype).reshape(3, 3, *[1] * (vectors.ndim - 1))
  return matrix[:, 0] * vectors[0] + matrix[:, 1] * vectors[1] + matrix[:, 2] * vectors[2]


def spread(vector: np.ndarray, like: np.ndarray) -> np.ndarray:
  """A vector [3] with the dtype and the number of axes of an array [3,...], to calculate with it."""
  return vector.astype(like.dtype).reshape(3, *[1] * (like.ndim - 1))


class Batch:
  """Some solids of one kind, and values of theirs for each of N points or rays: `counts` [S] of each solid.

  Attributes:
    members: indices of the solids.
    kind: of all of them.
  """

  def __init__(self, solids, members, counts, dtype):
    self.members, self.counts, self.dtype = members, counts, dtype
    self.solids = [solids[k] for k in members]
    self.kind = self.solids[0].kind

  def values(self, name: str) -> np.ndarray:
    """The solids' attribute, float64 [...,S]."""
    return np.stack([getattr(solid, name) for solid in self.solids], -1)

  def repeat(self, values: np.ndarray, cast: bool = True) -> np.ndarray:
    """Values per solid [...,S], in the points' dtype unless not `cast`, as [...,N] or, of a single solid, [...,1]."""
    values = values.astype(self.dtype) if cast else values
    return values if len(self.counts) == 1 else np.repeat(values, self.counts, -1)

  def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The members' arrays [3,n] as one [3,N]."""
    return np.concatenate([arrays[k] for k in self.members], 1)

  def split(self, values: np.ndarray) -> Iterator:
    """(index of the solid, its values [...,n]) of values [...,N]."""
    start = 0
    for k, count in zip(self.members, self.counts):
      yield k, values[..., start : start + count]
      start += count


def batches(solids: Sequence[Solid], arrays: Sequence[np.ndarray]) -> Iterator[Batch]:
  """Solids of one kind whose arrays [3,n] have about BATCH points together: few calls, and what fits the cache."""
  members: list[int] = []
  points = 0
  for k in sorted(range(len(solids)), key=lambda k: solids[k].kind):
    count = arrays[k].shape[1]
    if members and (solids[k].kind != solids[members[0]].kind or points + count > BATCH):
      yield Batch(solids, members, [arrays[i].shape[1] for i in members], arrays[0].dtype)
      members, points = [], 0
    members.append(k)
    points += count
  if members:
    yield Batch(solids, members, [arrays[i].shape[1] for i in members], arrays[0].dtype)


def first_hits(solids: Sequence[Solid], origins, directions: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The smallest t > NEAREST where a ray origin + t direction enters its solid; inf where it never does.

  Args:
    solids: seen from outside.
    origins: [3,n] for each solid, of the directions' dtype; or one [3] float64 for all rays. World coordinates.
    directions: [3,n] for each solid.
  """
  result = [np.empty(0)] * len(solids)
  for batch in batches(solids, directions):
    center, inverse, shape = batch.values('center'), batch.values('inverse'), batch.values('shape')
    matrix = batch.repeat(inverse)
    d = rotate(matrix, batch.join(directions))
    if isinstance(origins, list):
      o, shape, repeat = rotate(matrix, batch.join(origins) - batch.repeat(center)), batch.repeat(shape), _of_rays
    else:  # what follows from the one origin alone stays in float64
      o, repeat = rotate(inverse, origins[:, None] - center), batch.repeat
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
      t = HITS[batch.kind](o, d, shape, repeat)
    for k, hits in batch.split(t):
      result[k] = hits
  return result


def _of_rays(values, cast=True):
  """In place of `Batch.repeat`: these are already values of rays."""
  return values


# Where rays enter a unit body. Arguments: local origins [3,S] and `shape` [3,S], of solids or of rays; local directions
# [3,N]; what repeats values of solids for their rays.


def _slabs(o, d, half=None):
  """Where rays enter and leave the box |x_i| <= half_i, by default 1."""
  inverse = 1 / np.where(np.abs(d) < 1e-12, d.dtype.type(1e-12), d)
  middle, reach = -o * inverse, np.abs(inverse)
  reach = reach if half is None else half * reach
  near, far = middle - reach, middle + reach
  return np.maximum(np.maximum(near[0], near[1]), near[2]), np.minimum(np.minimum(far[0], far[1]), far[2])


def _box(o, d, shape, repeat):
  near, far = _slabs(repeat(o), d)
  return np.where((near <= far) & (near > NEAREST), near, np.inf)


def _sphere(o, d, shape, repeat):
  a, b = dot(d, d), dot(repeat(o), d)
  c = repeat(dot(o, o) - 1)
  root = b * b - a * c
  t = (-b - np.sqrt(np.maximum(root, 0))) / a
  return np.where((root > 0) & (t > NEAREST), t, np.inf)


def _frustum(o, d, shape, repeat):
  middle, slope, top = shape  # radius = middle + slope z
  radius = middle + slope * o[2]
  c = repeat(o[0] * o[0] + o[1] * o[1] - radius * radius)
  ends = repeat(np.stack([-1 - o[2], 1 - o[2]]))
  (x, y, z), radius, slope, top = repeat(o), repeat(radius), repeat(slope), repeat(top)
  change = slope * d[2]
  a = d[0] * d[0] + d[1] * d[1] - change * change
  b = x * d[0] + y * d[1] - radius * change
  root = b * b - a * c
  depth = np.sqrt(np.maximum(root, 0))
  side = np.stack([-b - depth, -b + depth]) / a
  on_side = (root > 0) & (np.abs(z + side * d[2]) <= 1) & (radius + side * change >= 0)
  end = ends / d[2]
  x, y = x + end * d[0], y + end * d[1]
  on_end = x * x + y * y <= np.stack([np.ones_like(top), top])
  t = np.concatenate([np.where(on_side, side, np.inf), np.where(on_end, end, np.inf)])
  return np.where(t > NEAREST, t, np.inf).min(0)


def _torus(o, d, shape, repeat):
  near, far = _slabs(repeat(o), d, repeat(shape)[[0, 0, 1]])
  length = np.sqrt(dot(d, d))
  result = np.full(d.shape[1], np.inf, d.dtype)
  rays = np.flatnonzero((near <= far) & (far > NEAREST))
  o, shape = (np.broadcast_to(repeat(x, cast=False), d.shape)[:, rays] for x in (o, shape))  # the march in float64
  d, length, far, tube = d[:, rays], length[rays], far[rays], shape[1]
  t = np.maximum(near[rays], NEAREST)
  for _ in range(TORUS_STEPS):
    x, y, z = o + t * d
    distance = np.hypot(np.hypot(x, y) - 1, z) - tube
    t = t + distance / length
  result[rays] = np.where((np.abs(distance) < 2e-3) & (t <= far) & (t > NEAREST), t, np.inf)
  return result


HITS = {'box': _box, 'sphere': _sphere, 'frustum': _frustum, 'torus': _torus}


def surfaces(solids: Sequence[Solid], points: Sequence[np.ndarray]) -> list:
  """(unit normals [3,n], texture coordinates u, v [n]) at points [3,n] on each solid's surface, world coordinates.

  Normals point outwards, u and v are metres along the surface.
  """
  result = [None] * len(solids)
  for batch in batches(solids, points):
    inverse, scale = batch.repeat(batch.values('inverse')), batch.repeat(batch.values('scale'))
    local = rotate(inverse, batch.join(points) - batch.repeat(batch.values('center')))
    normal, u, v = SURFACES[batch.kind](local, scale, batch.repeat(batch.values('shape')))
    normal = unit(rotate(inverse.swapaxes(0, 1), normal))
    for (k, n), (_, part_u), (_, part_v) in zip(batch.split(normal), batch.split(u), batch.split(v)):
      result[k] = (n, part_u, part_v)
  return result


# Normals, not of length 1, and texture coordinates of local points [3,N], given `scale` and `shape` [3,N].


def _box_surface(local, scale, shape):
  axis = np.abs(local).argmax(0)
  normal = np.where(axis == np.arange(3)[:, None], np.sign(local), 0)
  metres = local * scale
  return normal, np.where(axis == 0, metres[1], metres[0]), np.where(axis == 2, metres[1], metres[2])


def _sphere_surface(local, scale, shape):
  x, y, z = local
  return local, np.arctan2(y, x) * scale[0], np.arcsin(np.clip(z, -1, 1)) * scale[2]


def _frustum_surface(local, scale, shape):
  (x, y, z), slope = local, shape[1]
  r, radius = np.hypot(x, y), 1 + slope * (z + 1)
  cap = 1 - np.abs(z) < np.abs(r - radius)
  normal = np.stack([np.where(cap, 0, x), np.where(cap, 0, y), np.where(cap, np.sign(z), -slope * radius)])
  sx, sy, sz = scale
  return normal, np.where(cap, x * sx, np.arctan2(y, x) * sx), np.where(cap, y * sy, z * sz)


def _torus_surface(local, scale, shape):
  x, y, z = local
  r = np.hypot(x, y)
  normal = np.stack([x - x / r, y - y / r, z])
  return normal, np.arctan2(y, x) * scale[0], np.arctan2(z, r - 1) * scale[0] * shape[1]


SURFACES = {'box': _box_surface, 'sphere': _sphere_surface, 'frustum': _frustum_surface, 'torus': _torus_surface}


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Scalar products [...] of vectors [3,...]."""
  product = a * b
  return product[0] + product[1] + product[2]


def unit(vectors: np.ndarray) -> np.ndarray:
  """The vectors [3,...] scaled to length 1."""
  return vectors / np.sqrt(dot(vectors, vectors))


def rotation(axis: int, angle: float) -> np.ndarray:
  """Rotation matrix [3,3] about a coordinate axis, by the right-hand rule, in radians."""
  c, s = np.cos(angle), np.sin(angle)
  i, j = (axis + 1) % 3, (axis + 2) % 3
  matrix = np.eye(3)
  matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
  return matrix
