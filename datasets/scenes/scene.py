"""Draws a scene: room, things in it, light and camera. Knows nothing of pixels."""

import dataclasses
import functools

import numpy as np

from dmtl_jax.datasets.scenes import objects
from dmtl_jax.datasets.scenes import palette as colors
from dmtl_jax.datasets.scenes.classes import CEILING, FLOOR, HANGING, PERSON, WALL
from dmtl_jax.datasets.scenes.figure import figure, POSES
from dmtl_jax.datasets.scenes.geometry import box, rotation, Solid
from dmtl_jax.datasets.scenes.objects import Thing
from dmtl_jax.datasets.scenes.palette import Palette
from dmtl_jax.datasets.scenes.textures import Material

FACE_LABELS = (WALL, WALL, WALL, WALL, FLOOR, CEILING)  # of the room: low and high x, y, z


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera.

  Attributes:
    position: [3] metres.
    axes: [3,3], rows right, up and back (towards the viewer): world to camera directions.
    tangent: half the image's width at unit depth.
  """

  position: np.ndarray
  axes: np.ndarray
  tangent: float

  def pixel(self, width: int) -> float:
    """Size of a pixel at unit depth."""
    return 2 * self.tangent / width


@dataclasses.dataclass(frozen=True)
class Light:
  """A ball that shines, and what else there is of light.

  Attributes:
    position: [3] metres.
    radius: of the ball; the larger, the softer its shadows.
    color: [3] its irradiance at the room's middle.
    ambient: [3] light from everywhere.
    fill: [3] light from the camera's direction, without shadows.
  """

  position: np.ndarray
  radius: float
  color: np.ndarray
  ambient: np.ndarray
  fill: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
  """All of a scene.

  Attributes:
    size: [3] the room is the box from 0 to size.
    faces: materials of the room's six faces (low and high x, y, z).
    instances: solids of each instance; the first one is what belongs to the walls and the floor.
    camera, light: see there.
  """

  size: np.ndarray
  faces: list[Material]
  instances: list[list[Solid]]
  camera: Camera
  light: Light

  @functools.cached_property
  def solids(self) -> list[Solid]:
    """All solids, instance by instance."""
    return [solid for solids in self.instances for solid in solids]


def draw(rng: np.random.Generator) -> Scene:
  """A random scene: a figure, near and upright, three to five things around it, windows and pictures on the walls."""
  palette = Palette(rng)
  size = np.array([rng.uniform(3.6, 7), rng.uniform(4, 8), rng.uniform(2.3, 3.2)])
  faces = _faces(rng, palette)
  camera = draw_camera(rng, size)
  placer = _Placer(rng, camera, size)
  figures = _figure(rng, palette, placer)
  things = _furniture(rng, palette, placer)
  hangings = _hangings(rng, palette, size)
  instances = [_fittings(rng, palette, size, faces), *hangings, *figures, *things]
  return Scene(size, faces, instances, camera, draw_light(rng, size))


def draw_camera(rng, size) -> Camera:
  """A camera near the low-y wall that looks into the room."""
  position = np.array([rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.25, 0.9), rng.uniform(0.9, 2.0)])
  target = size * np.array([rng.uniform(0.2, 0.8), rng.uniform(0.55, 0.9), 0])
  target[2] = rng.uniform(0.2, 1.3)
  back = (position - target) / np.linalg.norm(position - target)
  right = np.cross([0, 0, 1.0], back)
  right /= np.linalg.norm(right)
  axes = np.stack([right, np.cross(back, right), back])
  roll = rotation(2, np.radians(rng.normal(0, 2)))
  return Camera(position, roll @ axes, np.tan(np.radians(rng.uniform(48, 70)) / 2))


def draw_light(rng, size) -> Light:
  """A lamp below the ceiling, or daylight from a side."""
  position = size * np.array([rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.8), rng.uniform(0.75, 0.96)])
  radius = rng.uniform(0.05, 0.22)
  if rng.random() < 0.35:
    side = rng.choice([-1.5, size[0] + 1.5])
    position = np.array([side, rng.uniform(0, 0.7) * size[1], rng.uniform(2.2, 4.5)])
    radius = rng.uniform(0.1, 0.35)
  warmth = rng.uniform(-0.12, 0.2)
  color = np.array([1 + warmth, 1.0, 1 - 1.3 * warmth]) * rng.uniform(0.7, 1.5)
  ambient = np.array([1 - warmth / 2, 1.0, 1 + warmth / 2]) * rng.uniform(0.18, 0.5)
  return Light(position, radius, color, ambient, np.full(3, rng.uniform(0.0, 0.25)))


def _faces(rng, palette):
  wall = palette.material(colors.WALLS, palette.color((0.0, 0.12), (0.75, 0.95)), gloss=0.0, motley=0.1)
  accent = palette.material(colors.WALLS, palette.color((0.05, 0.55), (0.35, 0.95)), gloss=0.0, motley=0.1)
  floor = palette.material(colors.FLOORS, palette.ground(), gloss=rng.choice([0.0, 0.1, 0.3]), motley=0.2)
  ceiling = palette.plain(palette.color((0, 0.1), (0.8, 0.97)), 0.0)
  back = accent if rng.random() < 0.4 else wall
  return [wall, wall, wall, back, floor, ceiling]


def _fittings(rng, palette, size, faces):
  """Skirting boards, and a rug that is part of the floor: no edge of the labels."""
  w, l, _ = size
  board = palette.plain(palette.like(faces[3].colors[0], 0.5))
  high, thick = rng.uniform(0.04, 0.08), 0.012
  solids = [
    box((w / 2, l, high), (w / 2, thick, high), board, WALL),
    box((0, l / 2, high), (thick, l / 2, high), board, WALL),
    box((w, l / 2, high), (thick, l / 2, high), board, WALL),
  ]
  if rng.random() < 0.55:
    half = (rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.1), 0.003)
    rug = box((0, 0, 0.003), half, palette.material(colors.RUGS, gloss=0.0), FLOOR)
    at = np.array([rng.uniform(0.3, 0.7) * w, rng.uniform(0.35, 0.7) * l, 0])
    solids.append(rug.moved(rotation(2, rng.uniform(-0.6, 0.6)), at))
  return solids


def _hangings(rng, palette, size):
  """Pictures and windows on the three walls in view, each with its frame."""
  w, l, h = size
  spots = {0: (np.array([w / 2, l, 0]), 0.0, w), 1: (np.array([0, l * 0.65, 0]), np.pi / 2, l * 0.6)}
  spots[2] = (np.array([w, l * 0.65, 0]), -np.pi / 2, l * 0.6)
  result = []
  for wall, (origin, turn, length) in spots.items():
    slots = np.linspace(-0.5, 0.5, int(length / 1.3) + 1) * (length - 0.4)
    for left, right in zip(slots[:-1], slots[1:]):
      if rng.random() < 0.35:
        continue
      hang = _window if rng.random() < 0.3 else _picture
      solids = hang(rng, palette, right - left, h)
      shift = np.array([(left + right) / 2 + rng.uniform(-0.1, 0.1), 0, 0])
      matrix = rotation(2, turn)
      result.append([solid.moved(matrix, origin + matrix @ shift) for solid in solids])
  return result


def _picture(rng, palette, room, height):
  half = np.array([rng.uniform(0.18, min(0.6, room / 2 - 0.15)), rng.uniform(0.18, 0.45)])
  z = rng.uniform(1.2, max(1.25, height - half[1] - 0.25))
  wooden = rng.random() < 0.6
  frame = palette.plain(palette.like(palette.choose(colors.WOODS)) if wooden else palette.color((0, 0.5)))
  painting = palette.framed(palette.choose(colors.PAINTINGS), half)
  edge = rng.uniform(0.02, 0.06)
  return [
    box((0, -0.015, z), (half[0] + edge, 0.015, half[1] + edge), frame, HANGING),
    box((0, -0.02, z), (half[0], 0.014, half[1]), painting, HANGING),
  ]


def _window(rng, palette, room, height):
  half = np.array([rng.uniform(0.3, min(0.75, room / 2 - 0.12)), rng.uniform(0.4, 0.6)])
  z = height - half[1] - rng.uniform(0.2, 0.5)
  sky = colors.linear(np.array([0.6, 0.78, 0.97]) * rng.uniform(0.85, 1.0))
  trees = palette.like(np.array([0.08, 0.2, 0.05]))
  white = colors.linear(np.full(3, rng.uniform(0.7, 0.95)))
  glow = rng.uniform(0.5, 1.3)
  pane = palette.framed('window', half, np.stack([sky, trees, white]), gloss=0.4, glow=glow)
  frame = palette.plain(white)
  solids = [
    box((0, -0.01, z), (half[0] + 0.07, 0.015, half[1] + 0.07), frame, HANGING),
    box((0, -0.015, z), (half[0], 0.014, half[1]), pane, HANGING),
    box((0, -0.06, z - half[1] - 0.08), (half[0] + 0.1, 0.07, 0.015), frame, HANGING),
  ]
  if rng.random() < 0.4:
    cloth = palette.material(colors.FABRICS, gloss=0.0)
    for side in (-1, 1):
      at = (side * (half[0] + 0.02), -0.05, z - 0.05)
      solids.append(box(at, (0.14, 0.03, half[1] + 0.15), cloth, HANGING))
  return solids


def _figure(rng, palette, placer):
  """One figure near the middle of the view, that more or less faces the camera."""
  solids = figure(rng, palette, rng.uniform(1.5, 1.9), palette.choose(POSES), PERSON)
  place = placer.find((0.32, 0.32), farthest=2.6, nearest=1.5, spread=0.5)
  if place is None:
    return []
  position, toward = place
  return [Thing(solids, (0.3, 0.3)).placed(position, toward + rng.normal(0, 0.6) + np.pi).solids]


def _furniture(rng, palette, placer):
  result = []
  for _ in range(rng.integers(3, 6)):
    maker = palette.choose(objects.THINGS)
    thing = maker(rng, palette)
    against = maker is objects.cabinet and rng.random() < 0.8
    place = placer.find(thing.half, farthest=4.5, against=against)
    if place is None:
      continue
    position, turn = place
    if not against:
      turn += rng.normal(0, 0.7) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
    result.append(thing.placed(position, turn).solids)
  return result


class _Placer:
  """Finds free places on the floor within the camera's view."""

  def __init__(self, rng, camera, size):
    self.rng, self.camera, self.size = rng, camera, size
    self.taken = []  # (x, y, radius)

  def find(self, half, farthest, nearest=1.2, against=False, spread=1.0):
    """(position [3], turn that faces the camera or the room) or None; `against` a wall, in a share of the view."""
    radius = 0.85 * np.hypot(*half)
    forward = -self.camera.axes[2, :2] / np.linalg.norm(self.camera.axes[2, :2])
    for _ in range(25):
      angle = spread * np.arctan(self.camera.tangent) * self.rng.uniform(-1, 1)
      c, s = np.cos(angle), np.sin(angle)
      direction = np.array([c * forward[0] - s * forward[1], s * forward[0] + c * forward[1]])
      distance = self.rng.uniform(nearest + radius, min(farthest, self.size[1] + 1))
      spot = self.camera.position[:2] + distance * direction
      turn = np.arctan2(direction[1], direction[0]) - np.pi / 2
      if against:
        spot, turn = self._to_wall(spot, half)
      away = np.linalg.norm(spot - self.camera.position[:2])
      inside = (spot > radius * (not against)).all() and (spot < self.size[:2] - radius * (not against)).all()
      free = all(np.hypot(*(spot - [x, y])) > radius + r for x, y, r in self.taken)
      if inside and free and away > nearest + radius:
        self.taken.append((*spot, radius))
        return np.array([*spot, 0]), turn
    return None

  def _to_wall(self, spot, half):
    wall = self.rng.integers(3)
    depth = half[1] + 0.04
    if wall == 0:
      return np.array([spot[0], self.size[1] - depth]), 0.0
    if wall == 1:
      return np.array([depth, spot[1]]), np.pi / 2
    return np.array([self.size[0] - depth, spot[1]]), -np.pi / 2
