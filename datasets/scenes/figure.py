"""An articulated figure: six kinds of parts, joints with human limits, random poses and clothes.

In the figure's own coordinates x points to its right, y forward, z up. A limb hangs along -z of its
joint's frame; positive flexion swings it forward.
"""

import numpy as np

from dmtl_jax.datasets.scenes import palette as colors
from dmtl_jax.datasets.scenes.geometry import ellipsoid, limb, rotation, Solid

HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)
PARTS = ('head', 'torso', 'upper arm', 'lower arm', 'upper leg', 'lower leg')
DOWN = np.array([0, 0, -1.0])
POSES = ('stand', 'walk', 'reach', 'wave', 'wide')


def draw_pose(rng: np.random.Generator, kind: str) -> dict:
  """Joint angles in degrees: lean (pitch, roll), twist; a side's (right, left) shoulder, hip, elbow, knee.

  shoulder and hip are (flexion, abduction).
  """

  def around(mean, spread):
    return mean + spread * rng.uniform(-1, 1)

  def bends(mean, spread):  # right and left
    return [around(mean, spread) for _ in range(2)]

  def swings(*angles):
    return [tuple(around(*angle) for angle in angles) for _ in range(2)]

  pose = dict(
    lean=(around(3, 6), around(0, 4)),
    twist=around(0, 15),
    nod=(around(0, 15), around(0, 35)),
    shoulder=swings((5, 20), (12, 8)),
    elbow=bends(25, 20),
    hip=swings((2, 5), (5, 4)),
    knee=bends(5, 5),
  )
  if kind == 'walk':
    stride = around(28, 10) * rng.choice([-1, 1])
    pose.update(
      hip=[(stride, 3), (-stride * 0.7, 3)],
      knee=[around(12, 8) + max(0, -stride), around(12, 8) + max(0, stride)],
      shoulder=[(-stride * 1.1, 8), (stride * 1.1, 8)],
      elbow=bends(40, 25),
    )
  elif kind == 'reach':
    pose.update(shoulder=swings((85, 40), (10, 15)), elbow=bends(25, 25))
  elif kind == 'wave':
    arm = rng.integers(2)
    pose['shoulder'][arm] = (around(60, 40), around(80, 40))
    pose['elbow'][arm] = around(70, 40)
  elif kind == 'wide':
    pose.update(shoulder=swings((10, 15), (80, 40)), elbow=bends(20, 20), hip=swings((5, 8), (18, 8)))
  return pose


def figure(rng, palette, height: float, kind: str, label: int) -> list[Solid]:
  """A dressed figure in a random pose of the kind, its lowest point on the floor z = 0.

  Args:
    height: in metres when upright.
    kind: one of POSES.
  """
  pose = draw_pose(rng, kind)
  body = _Body(height * rng.uniform(0.9, 1.15), label, _clothes(rng, palette), [])
  lean = np.radians(pose['lean'])
  hips = np.zeros(3)
  spine = rotation(0, -lean[0]) @ rotation(1, lean[1])
  chest = spine @ rotation(2, np.radians(pose['twist']))
  shoulders = hips + spine @ np.array([0, 0, 0.285 * height])
  body.torso(height, hips, shoulders, spine, chest)
  nod, turn = np.radians(pose['nod'])
  body.head(height, shoulders, chest @ rotation(2, turn) @ rotation(0, nod))
  for i, side in enumerate((1, -1)):
    shoulder = shoulders + chest @ np.array([side * 0.112 * height, 0, -0.022 * height])
    body.arm(height, shoulder, chest, side, pose['shoulder'][i], pose['elbow'][i])
    hip = hips + np.array([side * 0.052 * height, 0, -0.03 * height])
    body.leg(height, hip, side, pose['hip'][i], pose['knee'][i])
  lowest = min(solid.corners[:, 2].min() for solid in body.solids if solid.part == LOWER_LEG)
  lift = np.array([0, 0, -lowest])
  return [solid.moved(np.eye(3), lift) for solid in body.solids]


def _clothes(rng, palette):
  """Materials by what they cover; lower arms and legs are bare."""
  skin = palette.plain(palette.like(palette.choose(colors.SKIN), 0.1), 0.15)
  shirt = palette.material(colors.FABRICS, gloss=0.0)
  trousers = palette.material(colors.TROUSERS, gloss=0.0)
  hair = palette.plain(palette.like(palette.choose(colors.HAIR), 0.2), 0.2)
  rng.random(3)  # as when limbs were covered now and then, see `Palette.material`
  return dict(
    skin=skin,
    hair=hair,
    shirt=shirt,
    trousers=trousers,
    sleeve=shirt,
    forearm=skin,
    shin=skin,
    shoe=palette.plain(palette.color((0, 0.5), (0.05, 0.5)), 0.3),
    eye=palette.plain(np.full(3, 0.02), 0.5),
  )


class _Body:
  """Collects solids; `stout` metres scale all radii, lengths come from the height."""

  def __init__(self, stout, label, clothes, solids):
    self.stout, self.label, self.clothes, self.solids = stout, label, clothes, solids

  def limb(self, start, end, radii, cloth, part, **shape):
    radii = [r * self.stout for r in radii]
    self.solids.append(limb(start, end, radii, self.clothes[cloth], self.label, part, **shape))

  def blob(self, center, radii, cloth, part, turned=None):
    radii = np.asarray(radii) * self.stout
    self.solids.append(ellipsoid(center, radii, self.clothes[cloth], self.label, part, turned))

  def torso(self, height, hips, shoulders, spine, chest):
    waist = hips + 0.42 * (shoulders - hips)
    self.blob(hips - spine[:, 2] * 0.01 * height, (0.088, 0.066, 0.07), 'trousers', TORSO, spine)
    self.limb(hips, waist, (0.086, 0.076), 'shirt', TORSO, flat=0.72, side=spine[:, 0])
    top = shoulders - chest[:, 2] * 0.03 * height
    self.limb(waist, top, (0.076, 0.1), 'shirt', TORSO, flat=0.68, side=chest[:, 0])
    self.blob(top, (0.1, 0.066, 0.045), 'shirt', TORSO, chest)

  def head(self, height, shoulders, turned):
    center = shoulders + turned @ np.array([0, 0.012, 0.105]) * height
    self.limb(shoulders - 0.02 * height * turned[:, 2], center, (0.034, 0.03), 'skin', HEAD)
    self.blob(center, (0.049, 0.059, 0.071), 'skin', HEAD, turned)
    crown = center + turned @ np.array([0, -0.014, 0.017]) * height
    nose = center + turned @ np.array([0, 0.058, -0.01]) * height
    self.blob(crown, (0.055, 0.058, 0.066), 'hair', HEAD, turned)
    self.blob(nose, (0.009, 0.014, 0.014), 'skin', HEAD, turned)
    for side in (1, -1):
      eye = center + turned @ np.array([side * 0.02, 0.052, 0.008]) * height
      self.blob(eye, np.full(3, 0.01), 'eye', HEAD)

  def arm(self, height, shoulder, frame, side, angles, bend):
    frame = frame @ rotation(1, -side * np.radians(angles[1])) @ rotation(0, np.radians(angles[0]))
    elbow = shoulder + 0.172 * height * frame @ DOWN
    frame = frame @ rotation(0, np.radians(bend))
    wrist = elbow + 0.145 * height * frame @ DOWN
    self.blob(shoulder, np.full(3, 0.034), 'sleeve', UPPER_ARM)
    self.limb(shoulder, elbow, (0.033, 0.026), 'sleeve', UPPER_ARM)
    self.blob(elbow, np.full(3, 0.026), 'forearm', LOWER_ARM)
    self.limb(elbow, wrist, (0.026, 0.019), 'forearm', LOWER_ARM)
    hand = wrist + 0.035 * height * frame @ DOWN
    self.blob(hand, (0.014, 0.024, 0.045), 'skin', LOWER_ARM, frame)

  def leg(self, height, hip, side, angles, bend):
    flexion, abduction = np.radians(angles)
    frame = rotation(1, -side * abduction) @ rotation(0, flexion)
    knee = hip + 0.235 * height * frame @ DOWN
    shin = frame @ rotation(0, -np.radians(bend))
    ankle = knee + 0.225 * height * shin @ DOWN
    self.blob(hip, np.full(3, 0.052), 'trousers', UPPER_LEG)
    self.limb(hip, knee, (0.05, 0.036), 'trousers', UPPER_LEG)
    self.blob(knee, np.full(3, 0.036), 'shin', LOWER_LEG)
    self.limb(knee, ankle, (0.036, 0.023), 'shin', LOWER_LEG)
    level = np.clip(np.radians(bend) - flexion, -0.7, 0.7)  # as far as the ankle goes
    foot = shin @ rotation(0, level)
    center = ankle + foot @ np.array([0, 0.035, -0.02]) * height
    self.blob(center, (0.026, 0.066, 0.026), 'shoe', LOWER_LEG, foot)
