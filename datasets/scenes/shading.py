"""Light on surface points: lamp with soft shadows, ambient light that bodies near the points take, highlights.

Points are sorted by tiles of the image, TILE x TILE neighbours each, in which they are culled together.
"""

import functools

import numpy as np

from dmtl_jax.datasets.scenes import geometry
from dmtl_jax.datasets.scenes.geometry import dot
from dmtl_jax.datasets.scenes.scene import Scene

TILE = 8  # points along a side of a tile
AREA = TILE * TILE
REACH = 0.4  # metres over which bodies darken what is near them
SMALL = 0.04  # bodies of this radius darken nothing
PAIRS = 256  # of balls and tiles that are sorted out together
SLACK = 0.01  # metres by which shadows are looked for farther than they fall


def to_tiles(image: np.ndarray) -> np.ndarray:
  """An image [..., H, W] as points [..., N] tile by tile; the last rows and columns fill what they do not."""
  rows, columns = (-n % TILE for n in image.shape[-2:])
  if rows or columns:
    image = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, rows), (0, columns)], 'edge')
  *first, height, width = image.shape
  tiles = image.reshape(*first, height // TILE, TILE, width // TILE, TILE)
  return tiles.swapaxes(-3, -2).reshape(*first, -1)


def to_image(points: np.ndarray, height: int, width: int) -> np.ndarray:
  """The inverse of `to_tiles`."""
  *first, _ = points.shape
  tiles = points.reshape(*first, -1, -(-width // TILE), TILE, TILE)
  return tiles.swapaxes(-3, -2).reshape(*first, -1, tiles.shape[-3] * TILE)[..., :height, :width]


def shade(scene: Scene, points, normal, albedo, gloss, glow, shape: tuple[int, int]) -> np.ndarray:
  """Light [3,N] that leaves the points towards the camera.

  Args:
    points, normal, albedo: [3,N] float32, tile by tile.
    gloss, glow: [N].
    shape: (H, W) of their image.
  """
  light, tiles = scene.light, _Tiles(points)
  view = geometry.unit(geometry.spread(scene.camera.position, points) - points)
  to_light = geometry.spread(light.position, points) - points
  squared = dot(to_light, to_light)
  distance = np.sqrt(squared)
  to_light /= distance
  middle = light.position - scene.size / 2
  falloff = np.minimum(float(middle @ middle) / squared, 4)  # 1 in the room's middle
  facing = np.maximum(dot(normal, to_light), 0)
  lit = _lit(
    scene, tiles, points + 2e-3 * normal, _lamp_samples(light, scene.size / 2, shape), to_light, distance, facing
  )
  direct = facing * falloff * lit
  ambient = _openness(scene, tiles, points, normal)
  front = ambient * np.maximum(dot(normal, view), 0)
  ambient *= 0.8 + 0.2 * normal[2]
  half = geometry.unit(view + to_light)
  shine = gloss * np.maximum(dot(normal, half), 0) ** 40 * np.minimum(4 * direct, 1)
  sources = zip(light.color.tolist(), light.ambient.tolist(), light.fill.tolist())
  received = np.stack([a * direct + b * ambient + c * front for a, b, c in sources])
  return albedo * (received + glow) + shine


class _Tiles:
  """Balls around the tiles of points [3,N]."""

  def __init__(self, points):
    inside = points.reshape(3, -1, AREA)
    low, high = inside.min(-1), inside.max(-1)
    self.center = (low + high) / 2
    self.radius = np.sqrt(dot(high - low, high - low)) / 2


def _casters(scene):
  """What shades others, all but the rugs and skirting boards: (solids, centres [3,S,1], radii [S,1])."""
  solids = scene.solids[len(scene.instances[0]) :]
  centers = np.array([solid.center for solid in solids], np.float32).reshape(-1, 3)
  return solids, centers.T[..., None], np.array([solid.radius for solid in solids], np.float32)[:, None]


def _lit(scene, tiles, start, lamp, to_light, distance, facing):
  """Share of the lamp [N] that the points see, from one shadow ray each from `start` to `lamp`: 0 or 1."""
  ray, dark = lamp - start, facing <= 0
  solids, centers, radii = _casters(scene)
  candidates = list(_near_beams(scene.light, tiles, centers, radii, to_light, distance, ~dark))
  solids = [solids[k] for k, _ in candidates]
  starts, rays = ([x.take(chosen, 1) for _, chosen in candidates] for x in (start, ray))
  for (_, chosen), t in zip(candidates, geometry.first_hits(solids, starts, rays)):
    dark[chosen[t < 1]] = True
  return 1 - dark.astype(np.float32)


def _near_beams(light, tiles, centers, radii, to_light, distance, wanted):
  """(k, indices of points) of each ball that a ray from the points to the lamp may touch; some do not."""
  wide = float(light.radius)
  beam = geometry.spread(light.position, tiles.center) - tiles.center
  near = _crosses(tiles.center[:, None], beam[:, None], centers, radii + wide + tiles.radius)
  ball, tile = np.nonzero(near)
  offset = centers[..., 0] - geometry.spread(light.position, centers[..., 0])
  away, radius = np.sqrt(dot(offset, offset)), radii[:, 0] + SLACK
  to_light, closeness, wanted = (x.reshape(*x.shape[:-1], -1, AREA) for x in (to_light, 1 / distance, wanted))
  found = []
  for first in range(0, len(ball), PAIRS):
    k, t = ball[first : first + PAIRS], tile[first : first + PAIRS]
    # A ray passes the line from the lamp's middle by at most `wide` times the share of its length beyond the ball.
    along = dot(offset[:, k, None], to_light.take(t, 1))
    beside = (radius + wide)[k, None] - (wide * (away - radius))[k, None] * closeness.take(t, 0)
    may = (along * along + beside * beside >= (away * away)[k, None]) & wanted.take(t, 0)
    pair, point = np.divmod(np.flatnonzero(may).astype(np.int32), AREA)
    found.append((k[pair], t[pair] * AREA + point))
  ball, point = (np.concatenate(x) for x in zip(*found)) if found else (np.zeros(0, int),) * 2
  present, starts = np.unique(ball, return_index=True)
  return zip(present.tolist(), np.split(point, starts[1:]))


def _lamp_samples(light, middle, shape):
  """A point [3,N] on the lamp's disc for each ray; neighbours take different ones."""
  ring, cosine, sine = _disc_samples(*shape)
  distance = float(light.radius) * ring
  x, y = distance * cosine, distance * sine
  axis = (middle - light.position) / np.linalg.norm(middle - light.position)
  side = np.cross(axis, [0.3, 0.9, 0.2])
  side /= np.linalg.norm(side)
  other = np.cross(axis, side)
  axes = zip(light.position.tolist(), side.tolist(), other.tolist())
  return np.stack([p + x * a + y * b for p, a, b in axes])


@functools.lru_cache(maxsize=4)
def _disc_samples(height, width):
  """(radius, cosine, sine) [3,N] of a point of the unit disc per ray, tile by tile; a pixel's rays take four rings."""
  rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
  turn = (52.9829189 * ((0.06711056 * (columns // 2) + 0.00583715 * (rows // 2)) % 1)) % 1
  sample = 2 * (rows % 2) + columns % 2
  angle = (2 * np.pi * turn + sample * np.pi / 2).astype(np.float32)
  radius = np.sqrt((sample.astype(np.float32) + 0.5) / 4)
  return to_tiles(np.stack([np.broadcast_to(radius, angle.shape), np.cos(angle), np.sin(angle)]))


def _crosses(start, ray, center, radius):
  """Do the rays from start to start + ray touch the balls? Arguments broadcast."""
  offset = center - start
  square, along = dot(ray, ray), dot(offset, ray)
  nearest = np.clip(along / square, 0, 1)  # of the ray's points, as a share of its length
  return dot(offset, offset) - nearest * (2 * along - nearest * square) < radius * radius


def _openness(scene, tiles, points, normal):
  """Share of the ambient light [N] that walls and bodies near the points leave."""
  share = np.ones_like(points[0])
  for axis in range(3):
    beside = np.where(np.abs(normal[axis]) < 0.9, np.float32(0.35), 0)
    for wall in (points[axis], float(scene.size[axis]) - points[axis]):
      share *= 1 - beside * np.exp(-3 * wall)
  solids, centers, radii = _casters(scene)
  offset = centers - tiles.center[:, None]
  near = (dot(offset, offset) < (radii + REACH + tiles.radius) ** 2) & (radii > SMALL)
  points, normal, share = (x.reshape(*x.shape[:-1], -1, AREA) for x in (points, normal, share))
  for solid, tiles_near in zip(solids, near):
    chosen = np.flatnonzero(tiles_near)
    if chosen.size:
      share[chosen] *= 1 - _occlusion(solid, points.take(chosen, 1), normal.take(chosen, 1))
  return share.ravel()


def _occlusion(solid, points, normal):
  """Share of the hemisphere that the solid hides, as if it were the ellipsoid in its local unit sphere."""
  offset = geometry.spread(solid.center, points) - points
  local = geometry.rotate(solid.inverse, offset)
  away = np.maximum(dot(local, local), 1)
  side = np.maximum(dot(normal, geometry.unit(offset)) + 0.1, 0)
  far = np.sqrt(away)
  distance = (far - 1) / far  # 0 at the surface, 1 far away
  return 0.6 * np.minimum(side / away, 1) * (1 - distance)
