"""Traces a scene's rays and develops the light that they bring."""

import dataclasses

import cv2
import numpy as np

from dmtl_jax.datasets.scenes import geometry, shading, textures
from dmtl_jax.datasets.scenes.scene import Scene

FACES = 6  # ids 0..5 are the room's faces, id FACES + k is the k-th solid
SAMPLES = 2  # rays a pixel along each side of the image


@dataclasses.dataclass(frozen=True)
class Hits:
  """What the rays [H,W] meet first.

  Attributes:
    direction: [3,H,W], world; one unit of t is one metre of z-depth.
    depth: [H,W] z-depth in metres.
    ids: [H,W] int16: 0..5 the room's faces (low and high x, y, z), then all solids in order.
  """

  direction: np.ndarray
  depth: np.ndarray
  ids: np.ndarray


def trace(scene: Scene, height: int, width: int, dtype=np.float64) -> Hits:
  """Sends a ray through the centre of each pixel of a height x width image."""
  camera = scene.camera
  pixel = camera.pixel(width)
  x = ((np.arange(width) + 0.5 - width / 2) * pixel).astype(dtype)[None, :]
  y = ((height / 2 - np.arange(height) - 0.5) * pixel).astype(dtype)[:, None]
  right, up, back = camera.axes.astype(dtype)
  direction = np.stack([x * right[i] + y * up[i] - back[i] for i in range(3)])
  depth, ids = _room(scene, direction)
  windows = list(_windows(scene, pixel, height, width))
  rays = [direction[:, rows, columns].reshape(3, -1) for _, rows, columns in windows]
  hits = geometry.first_hits([scene.solids[k] for k, _, _ in windows], camera.position, rays)
  for (k, rows, columns), t in zip(windows, hits):
    seen = depth[rows, columns]
    nearer = t.reshape(seen.shape) < seen
    np.copyto(seen, t.reshape(seen.shape), where=nearer)
    np.copyto(ids[rows, columns], FACES + k, where=nearer)
  return Hits(direction, depth, ids)


def normals(scene: Scene, hits: Hits) -> np.ndarray:
  """Unit normals [H,W,3] in camera coordinates: x right, y up, z towards the camera."""
  seen = _surfaces(scene, hits.ids.ravel(), _points(scene, hits).reshape(3, -1))
  camera = geometry.unit(geometry.rotate(scene.camera.axes, seen.unsorted(seen.normal)))
  return camera.T.reshape(*hits.ids.shape, 3)


def picture(scene: Scene, height: int, width: int) -> np.ndarray:
  """Linear light [height,width,3] float32 that reaches the camera."""
  shape = SAMPLES * height, SAMPLES * width
  hits = trace(scene, *shape, np.float32)
  points = shading.to_tiles(_points(scene, hits))
  seen = _surfaces(scene, shading.to_tiles(hits.ids), points)
  materials = [scene.faces[id] if id < FACES else scene.solids[id - FACES].material for id in seen.ids]
  albedo = textures.albedo(materials, seen.counts, seen.u, seen.v)
  gloss, glow = (np.repeat(np.float32([getattr(m, x) for m in materials]), seen.counts) for x in ('gloss', 'glow'))
  normal, albedo, gloss, glow = map(seen.unsorted, (seen.normal, albedo, gloss, glow))
  light = shading.shade(scene, points, normal, albedo, gloss, glow, shape)
  light = np.ascontiguousarray(np.moveaxis(shading.to_image(light, *shape), 0, -1))
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
  """(k, rows, columns) of each solid in view: the part of the image around it."""
  corners = np.array([solid.corners for solid in scene.solids]).reshape(-1, 8, 3) - scene.camera.position
  x, y, z = geometry.rotate(scene.camera.axes, np.moveaxis(corners, -1, 0))
  ahead = z < -0.05
  z = np.where(ahead, z, -1)
  column, row = x / -z / pixel + width / 2, height / 2 - y / -z / pixel
  whole = ahead.all(1)  # else it reaches behind the camera and may be seen anywhere
  top, left = np.where(whole, row.min(1), 0), np.where(whole, column.min(1), 0)
  bottom, right = np.where(whole, row.max(1), height), np.where(whole, column.max(1), width)
  bounds = np.stack([top - 1, bottom + 2, left - 1, right + 2], 1).clip(0, [height, height, width, width])
  for k, (top, bottom, left, right) in enumerate(bounds.astype(int).tolist()):
    if ahead[k].any() and top < bottom and left < right:
      yield k, slice(top, bottom), slice(left, right)


def _points(scene, hits):
  return geometry.spread(scene.camera.position, hits.direction) + hits.depth * hits.direction


@dataclasses.dataclass(frozen=True)
class _Surfaces:
  """What N points lie on, sorted by id.

  Attributes:
    order: [N] the points' indices.
    ids, counts: of the points, each id that occurs.
    normal: [3,N] unit vectors, world.
    u, v: [N] texture coordinates, metres.
  """

  order: np.ndarray
  ids: list[int]
  counts: list[int]
  normal: np.ndarray
  u: np.ndarray
  v: np.ndarray

  def unsorted(self, values: np.ndarray) -> np.ndarray:
    """Values [...,N] in the points' order."""
    result = np.empty_like(values)
    result[..., self.order] = values
    return result


def _surfaces(scene, ids, points):
  order = np.argsort(ids, kind='stable')
  present, starts = np.unique(ids[order], return_index=True)
  parts = np.split(points.take(order, 1), starts[1:], 1)
  walls = int(np.searchsorted(present, FACES))
  found = [_face(id, part) for id, part in zip(present[:walls].tolist(), parts)]
  found += geometry.surfaces([scene.solids[id - FACES] for id in present[walls:]], parts[walls:])
  normal, u, v = (np.concatenate(values, -1) for values in zip(*found))
  return _Surfaces(order, present.tolist(), [part.shape[1] for part in parts], normal, u, v)


def _face(id, points):
  axis, high = divmod(id, 2)
  normal = np.zeros_like(points)
  normal[axis] = -1 if high else 1
  return normal, points[1 if axis == 0 else 0], points[1 if axis == 2 else 2]
