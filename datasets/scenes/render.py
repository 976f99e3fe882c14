"""Traces a scene's rays and shades what they hit."""

import dataclasses
import math

import cv2
import numpy as np

from dmtl_jax.datasets.scenes import geometry, textures
from dmtl_jax.datasets.scenes.geometry import dot
from dmtl_jax.datasets.scenes.scene import Light, Scene

FACES = 6  # ids 0..5 are the room's faces, id FACES + k is the k-th solid
SAMPLES = 2  # rays a pixel along each side of the image
TILE = 8  # rays along a side of the tiles that are sorted out together
REACH = 0.4  # metres over which bodies darken what is near them
SMALL = 0.04  # bodies of this radius darken nothing


@dataclasses.dataclass(frozen=True)
class Hits:
  """What the rays [H,W] meet first.

  Attributes:
    direction: triple of [H,W], world; one unit of t is one metre of z-depth.
    depth: [H,W] z-depth in metres.
    ids: [H,W] int16: 0..5 the room's faces (low and high x, y, z), then all solids in order.
  """

  direction: tuple
  depth: np.ndarray
  ids: np.ndarray


def trace(scene: Scene, height: int, width: int, dtype=np.float64) -> Hits:
  """Sends a ray through the centre of each pixel of a height x width image."""
  camera = scene.camera
  pixel = camera.pixel(width)
  x = ((np.arange(width) + 0.5 - width / 2) * pixel).astype(dtype)[None, :]
  y = ((height / 2 - np.arange(height) - 0.5) * pixel).astype(dtype)[:, None]
  right, up, back = camera.axes.astype(dtype)
  eye = camera.position.tolist()
  direction = tuple(x * right[i] + y * up[i] - back[i] for i in range(3))
  depth, ids = _room(scene, direction)
  for k, view in _windows(scene, pixel, height, width):
    t = geometry.first_hit(scene.solids[k], eye, [d[view] for d in direction])
    nearer = t < depth[view]
    depth[view] = np.where(nearer, t, depth[view])
    ids[view] = np.where(nearer, FACES + k, ids[view])
  return Hits(direction, depth, ids)


def normals(scene: Scene, hits: Hits) -> np.ndarray:
  """Unit normals [H,W,3] in camera coordinates: x right, y up, z towards the camera."""
  world = np.empty((3, hits.ids.size))
  for id, where in _groups(hits.ids.ravel()):
    world[:, where] = _surface(scene, id, _points(scene, hits, where))[0]
  camera = geometry.unit(geometry.rotate(scene.camera.axes, world))
  return np.stack(camera, -1).reshape(*hits.ids.shape, 3)


def picture(scene: Scene, height: int, width: int) -> np.ndarray:
  """Linear light [height,width,3] float32 that reaches the camera."""
  hits = trace(scene, SAMPLES * height, SAMPLES * width, np.float32)
  points = np.stack([p.astype(np.float32) for p in _points(scene, hits, slice(None))])
  normal, albedo = np.empty_like(points), np.empty_like(points)
  gloss, glow = np.empty_like(points[0]), np.empty_like(points[0])
  for id, where in _groups(hits.ids.ravel()):
    normal[:, where], u, v = _surface(scene, id, points[:, where])
    material = scene.faces[id] if id < FACES else scene.solids[id - FACES].material
    albedo[:, where] = textures.albedo(material, u, v)
    gloss[where], glow[where] = material.gloss, material.glow
  light = _shade(scene, points, normal, albedo, gloss, glow, hits.ids.shape)
  light = light.T.reshape(SAMPLES * height, SAMPLES * width, 3)
  return cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA)


def develop(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A photograph [H,W,3] uint8 sRGB of linear light: exposure, film curve, blur, vignette, noise."""
  height, width = light.shape[:2]
  exposure = rng.uniform(0.22, 0.42) / np.median(light.mean(-1))
  x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
  vignette = 1 - rng.uniform(0, 0.25) * (x**2 + y**2) / 2
  light = light * (exposure * vignette[..., None]).astype(np.float32)
  light = 1 - np.exp(-1.25 * light)  # highlights bend instead of clipping
  if rng.random() < 0.4:
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 0.6) * (width / 128) ** 0.5)
  image = np.where(light < 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055)
  grain = rng.uniform(0.003, 0.02) * rng.standard_normal(image.shape, np.float32)
  grain += rng.uniform(0, 0.012) * rng.standard_normal((height, width, 1), np.float32)
  return np.rint(np.clip(image + grain, 0, 1) * 255).astype(np.uint8)


def _room(scene, direction):
  """z-depth and id of the room's faces, seen from inside."""
  best = np.full(np.broadcast_shapes(*(d.shape for d in direction)), np.inf, direction[0].dtype)
  ids = np.zeros(best.shape, np.int16)
  for axis, d in enumerate(direction):
    ahead = float(scene.size[axis] - scene.camera.position[axis])
    wall = np.where(d > 0, d.dtype.type(ahead), d.dtype.type(-scene.camera.position[axis]))
    t = wall / np.where(np.abs(d) < 1e-9, d.dtype.type(1e-9), d)
    nearer = (t > 0) & (t < best)
    best = np.where(nearer, t, best)
    ids = np.where(nearer, 2 * axis + (d > 0), ids).astype(np.int16)
  return best, ids


def _windows(scene, pixel, height, width):
  """(k, (rows, columns)) of each solid in view: the part of the image around it."""
  corners = np.array([solid.corners for solid in scene.solids]).reshape(-1, 8, 3) - scene.camera.position
  x, y, z = (dot(axis, np.moveaxis(corners, -1, 0)) for axis in scene.camera.axes)
  ahead = z < -0.05
  z = np.where(ahead, z, -1)
  column, row = x / -z / pixel + width / 2, height / 2 - y / -z / pixel
  whole = ahead.all(1)  # else it reaches behind the camera and may be seen anywhere
  top, left = np.where(whole, row.min(1), 0), np.where(whole, column.min(1), 0)
  bottom, right = np.where(whole, row.max(1), height), np.where(whole, column.max(1), width)
  bounds = np.stack([top - 1, bottom + 2, left - 1, right + 2], 1).clip(0, [height, height, width, width])
  for k, (top, bottom, left, right) in enumerate(bounds.astype(int).tolist()):
    if ahead[k].any() and top < bottom and left < right:
      yield k, (slice(top, bottom), slice(left, right))


def _groups(ids):
  """(id, indices of its pixels) of each id that occurs in ids [N]."""
  order = np.argsort(ids, kind='stable')
  present, starts = np.unique(ids[order], return_index=True)
  return zip(present.tolist(), np.split(order, starts[1:]))


def _points(scene, hits, where):
  t = hits.depth.ravel()[where]
  return [p + t * d.ravel()[where] for p, d in zip(scene.camera.position.tolist(), hits.direction)]


def _surface(scene, id, points):
  if id >= FACES:
    return geometry.surface(scene.solids[id - FACES], points)
  axis, high = divmod(id, 2)
  normal = np.zeros_like(np.stack(points))
  normal[axis] = -1 if high else 1
  return normal, points[1 if axis == 0 else 0], points[1 if axis == 2 else 2]


def _shade(scene, points, normal, albedo, gloss, glow, shape):
  """Light [3,N] that leaves the points towards the camera."""
  light, tiles = scene.light, _Points(points, normal, shape)
  view = geometry.unit([p - x for p, x in zip(scene.camera.position.tolist(), points)])
  to_light = [p - x for p, x in zip(light.position.tolist(), points)]
  squared = dot(to_light, to_light)
  to_light = [x / np.sqrt(squared) for x in to_light]
  middle = light.position - scene.size / 2
  falloff = np.minimum(float(middle @ middle) / squared, 4)  # 1 in the room's middle
  facing = np.maximum(dot(normal, to_light), 0)
  direct = facing * falloff * _visible(scene, tiles, facing, shape)
  ambient = _openness(scene, tiles)
  front = ambient * np.maximum(dot(normal, view), 0)
  ambient *= 0.8 + 0.2 * normal[2]
  half = geometry.unit([a + b for a, b in zip(view, to_light)])
  shine = gloss * np.maximum(dot(normal, half), 0) ** 40 * np.minimum(4 * direct, 1)
  sources = zip(light.color.tolist(), light.ambient.tolist(), light.fill.tolist())
  received = np.stack([a * direct + b * ambient + c * front for a, b, c in sources])
  return albedo * (received + glow) + shine


class _Points:
  """Surface points [3,N] with a quick way to find those in a region: balls around tiles of the image."""

  def __init__(self, points, normal, shape):
    rows, columns = (np.minimum(np.arange(math.ceil(n / TILE) * TILE), n - 1).reshape(-1, TILE) for n in shape)
    index = rows[:, None, :, None] * shape[1] + columns[None, :, None, :]
    self.tiles = index.reshape(-1, TILE * TILE)  # indices of the points; at the margin some occur twice
    self.points, self.normal = points, normal
    inside = points[:, self.tiles]
    low, high = inside.min(-1), inside.max(-1)
    self.center = (low + high) / 2
    self.radius = np.sqrt(dot(high - low, high - low)) / 2

  def __getitem__(self, tiles):
    """Indices of the points of the chosen tiles [T] bool."""
    return self.tiles[tiles].ravel()


def _casters(scene):
  """What shades others, all but the rugs and skirting boards: (solids, centres [3,S,1], radii [S,1])."""
  solids = scene.solids[len(scene.instances[0]) :]
  centers = np.array([solid.pose[:, 3] for solid in solids], np.float32).reshape(-1, 3)
  return solids, centers.T[..., None], np.array([solid.radius for solid in solids], np.float32)[:, None]


def _visible(scene, points, facing, shape):
  """Share of the lamp [N] that the points see, from one shadow ray each: 0 or 1."""
  start = points.points + 2e-3 * points.normal
  ray = _lamp_samples(scene.light, scene.size / 2, shape) - start
  solids, centers, radii = _casters(scene)
  beam = scene.light.position.astype(np.float32)[:, None] - points.center
  near = _crosses(points.center, beam, centers, radii + float(scene.light.radius) + points.radius)
  dark = facing <= 0
  for solid, tiles in zip(solids, near):
    rays = points[tiles]
    rays = rays[~dark[rays]]
    if rays.size:
      dark[rays[geometry.first_hit(solid, start.take(rays, 1), ray.take(rays, 1)) < 1]] = True
  return 1 - dark.astype(np.float32)


def _lamp_samples(light: Light, middle, shape):
  """A point [3,N] on the lamp's disc for each ray; neighbours take different ones."""
  rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
  turn = (52.9829189 * ((0.06711056 * (columns // 2) + 0.00583715 * (rows // 2)) % 1)) % 1
  sample = 2 * (rows % 2) + columns % 2
  angle = (2 * np.pi * turn + sample * np.pi / 2).ravel().astype(np.float32)
  distance = float(light.radius) * np.sqrt((sample.ravel().astype(np.float32) + 0.5) / 4)
  axis = (middle - light.position) / np.linalg.norm(middle - light.position)
  side = np.cross(axis, [0.3, 0.9, 0.2])
  side /= np.linalg.norm(side)
  x, y = distance * np.cos(angle), distance * np.sin(angle)
  other = np.cross(axis, side)
  axes = zip(light.position.tolist(), side.tolist(), other.tolist())
  return np.stack([p + x * a + y * b for p, a, b in axes])


def _crosses(start, ray, center, radius):
  """Do the rays from start to start + ray touch the balls? Arguments broadcast."""
  offset = [c - s for c, s in zip(center, start)]
  square, along = dot(ray, ray), dot(offset, ray)
  nearest = np.clip(along / square, 0, 1)  # of the ray's points, as a share of its length
  return dot(offset, offset) - nearest * (2 * along - nearest * square) < radius * radius


def _openness(scene, points):
  """Share of the ambient light [N] that walls and bodies near the points leave."""
  at, normal = points.points, points.normal
  share = np.ones_like(at[0])
  for axis in range(3):
    beside = np.where(np.abs(normal[axis]) < 0.9, np.float32(0.35), 0)
    for wall in (at[axis], float(scene.size[axis]) - at[axis]):
      share *= 1 - beside * np.exp(-3 * wall)
  solids, centers, radii = _casters(scene)
  offset = [c - p for c, p in zip(centers, points.center)]
  near = (dot(offset, offset) < (radii + REACH + points.radius) ** 2) & (radii > SMALL)
  for solid, tiles in zip(solids, near):
    close = points[tiles]
    if close.size:
      share[close] *= 1 - _occlusion(solid, at.take(close, 1), normal.take(close, 1))
  return share


def _occlusion(solid, points, normal):
  """Share of the hemisphere that the solid hides, as if it were the ellipsoid in its local unit sphere."""
  local = geometry.to_local(solid, points)
  away = np.maximum(dot(local, local), 1)
  toward = geometry.unit([c - p for c, p in zip(solid.pose[:, 3].tolist(), points)])
  side = np.maximum(dot(normal, toward) + 0.1, 0)
  distance = (np.sqrt(away) - 1) / np.sqrt(away)  # 0 at the surface, 1 far away
  return 0.6 * np.minimum(side / away, 1) * (1 - distance)
