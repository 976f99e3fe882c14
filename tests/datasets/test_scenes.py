"""The embedded data set: geometry against closed forms, labels against each other, builder against renderer."""

import subprocess
import sys

from ml_collections import ConfigDict
import numpy as np
import pytest

from dmtl_jax.basics.errors import UserError
from dmtl_jax.datasets import raw, scenes, stored
from dmtl_jax.datasets.scenes import geometry, labels, objects, render, shading, textures
from dmtl_jax.datasets.scenes.classes import CLASSES, FLOOR, HANGING, PERSON, THING, WALL
from dmtl_jax.datasets.scenes.figure import figure, PARTS, POSES
from dmtl_jax.datasets.scenes.palette import Palette
from dmtl_jax.datasets.scenes.scene import Camera, draw, Light, Scene
from dmtl_jax.datasets.scenes.scenes_dataset_builder import Builder

GREY = textures.Material('plain', np.full((3, 3), 0.5))
ROOM = np.array([4.0, 6.0, 3.0])
EYE = np.array([2.0, 1.0, 1.5])  # 5 m before the back wall
AXES = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def room(*instances, light=(2.0, 3.0, 2.9), tangent=0.5) -> Scene:
  """An empty grey room seen by a level camera, with some things in it."""
  lamp = Light(np.array(light), 0.01, np.ones(3), np.full(3, 0.2), np.zeros(3))
  return Scene(ROOM, [GREY] * 6, [[], *instances], Camera(EYE, AXES, tangent), lamp)


def seen(index: int, size=(96, 128)):
  """A scene of the training split, its camera points [H,W,3] and labels."""
  scene_seed, _ = np.random.SeedSequence([0, 0, index]).spawn(2)
  scene = draw(np.random.default_rng(scene_seed))
  maps = labels.labels(scene, size)
  pixel = scene.camera.pixel(size[1])
  x = (np.arange(size[1]) + 0.5 - size[1] / 2) * pixel
  y = (size[0] / 2 - np.arange(size[0]) - 0.5) * pixel
  rays = np.stack([*np.meshgrid(x, y), np.full(size, -1.0)], -1)
  return scene, rays * maps['depth'], maps


def angles(a, b):
  """Degrees between unit vectors along the last axis."""
  return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def inside(kind, ratio, p):
  """Is p [...,3] in the unit body? Straight from the definitions."""
  x, y, z = np.moveaxis(p, -1, 0)
  r = np.hypot(x, y)
  return dict(
    box=(np.abs(p) <= 1).all(-1),
    sphere=(p**2).sum(-1) <= 1,
    frustum=(np.abs(z) <= 1) & (r <= (1 + ratio) / 2 + (ratio - 1) / 2 * z),
    torus=(r - 1) ** 2 + z**2 <= ratio**2,
  )[kind]


BODIES = [('box', 1), ('sphere', 1), ('frustum', 0), ('frustum', 1.5), ('torus', 0.3)]


@pytest.mark.parametrize('kind, ratio', BODIES)
def test_first_hit_is_where_a_march_along_the_ray_enters(kind, ratio):
  rng = np.random.default_rng(5)
  turned = geometry.rotation(0, 0.7) @ geometry.rotation(2, 1.1)
  scale = np.full(3, 0.8) if kind == 'torus' else np.array([0.5, 0.9, 1.2])
  pose = np.column_stack([turned @ np.diag(scale), [0.3, -0.2, 0.5]])
  solid = geometry.Solid(kind, pose, GREY, THING, ratio=ratio)
  origin = np.array([4.0, 2.0, -3.0])
  direction = pose[:, 3] + rng.normal(0, 0.7, (200, 3)) - origin  # meets the centre's plane near t = 1
  t = np.linspace(0, 2, 4001)
  points = (origin + t[:, None, None] * direction - pose[:, 3]) @ np.linalg.inv(pose[:, :3]).T
  hit = inside(kind, ratio, points)
  expected = np.where(hit.any(0), t[hit.argmax(0)], np.inf)
  (found,) = geometry.first_hits([solid], origin, [direction.T])
  grazing = np.isfinite(found) != np.isfinite(expected)  # thinner than a step of the march
  assert grazing.mean() < 0.03
  assert np.isfinite(found).sum() > 40
  np.testing.assert_allclose(found[~grazing], expected[~grazing], atol=1.5 * 5e-4)


def test_solids_that_are_hit_together_are_hit_as_each_alone():
  rng = np.random.default_rng(6)
  kinds = [body for body in BODIES for _ in range(3)]
  solids = [
    geometry.Solid(kind, np.column_stack([np.eye(3), rng.normal(0, 1, 3)]), GREY, THING, ratio=ratio)
    for kind, ratio in kinds
  ]
  forward = np.float32([[0], [0], [1]])
  rays = [forward + rng.normal(0, 0.3, (3, 20 + k)).astype(np.float32) for k in range(len(solids))]
  starts = [np.float32([[0], [0], [-5]]) + np.zeros_like(directions) for directions in rays]
  for origins in (np.array([0.0, 0, -5]), starts):
    together = geometry.first_hits(solids, origins, rays)
    for k, t in enumerate(together):
      own = origins if isinstance(origins, np.ndarray) else [origins[k]]
      (alone,) = geometry.first_hits([solids[k]], own, [rays[k]])
      np.testing.assert_array_equal(t, alone)
      assert t.dtype == np.float32
  assert np.isfinite(np.concatenate(together)).any()


@pytest.mark.parametrize('size', [(16, 24), (13, 27)])
def test_tiles_hold_neighbours_and_give_the_image_back(size):
  image = np.arange(2 * size[0] * size[1]).reshape(2, *size)
  points = shading.to_tiles(image)
  np.testing.assert_array_equal(points[:, : shading.AREA].reshape(2, 8, 8), image[:, :8, :8])
  np.testing.assert_array_equal(shading.to_image(points, *size), image)


def test_no_shadow_is_lost_to_culling(monkeypatch):
  scenes_seen = [draw(np.random.default_rng(seed)) for seed in range(3)]
  culled = [render.picture(scene, 24, 32) for scene in scenes_seen]

  def all_beams(light, tiles, centers, radii, to_light, distance, wanted):
    return ((k, np.flatnonzero(wanted)) for k in range(len(radii)))

  monkeypatch.setattr(shading, '_near_beams', all_beams)
  for scene, expected in zip(scenes_seen, culled):
    np.testing.assert_array_equal(render.picture(scene, 24, 32), expected)


def test_a_fronto_parallel_wall_has_constant_depth_and_faces_the_camera():
  maps = labels.labels(room(tangent=0.2), (24, 32))
  np.testing.assert_allclose(maps['depth'], 5, rtol=1e-6)
  np.testing.assert_allclose(maps['normals'], np.broadcast_to([0.0, 0, 1], (24, 32, 3)), atol=1e-7)
  assert (maps['semseg'] == WALL).all()
  assert not maps['boundary'].any()
  assert not maps['saliency'].any()
  assert (maps['parsing'] == 255).all()


def test_the_floor_faces_up_and_its_depth_follows_from_the_height_of_the_eye():
  maps = labels.labels(room(tangent=1.0), (64, 64))
  floor = maps['semseg'][..., 0] == FLOOR
  rows = np.arange(64)[:, None] + np.zeros((1, 64))
  expected = 1.5 / ((rows + 0.5 - 32) / 32)  # eye height over the ray's slope
  assert floor.any()
  np.testing.assert_allclose(maps['depth'][floor, 0], expected[floor], rtol=1e-6)
  upwards = np.broadcast_to([0.0, 1, 0], (floor.sum(), 3))
  np.testing.assert_allclose(maps['normals'][floor], upwards, atol=1e-7)


def test_depth_normals_and_outline_of_a_sphere_by_closed_form():
  center, radius, size = np.array([0.3, 0.2, -3.0]), 0.6, (120, 160)  # camera coordinates
  at = EYE + AXES.T @ center
  maps = labels.labels(room([geometry.ellipsoid(at, radius, GREY, THING)]), size)
  x, y = np.meshgrid((np.arange(160) - 79.5) / 160, (59.5 - np.arange(120)) / 160)  # tangent 0.5: width 1
  ray = np.stack([x, y, -np.ones(size)], -1)
  b, a = ray @ center, (ray**2).sum(-1)
  root = b**2 - a * (center @ center - radius**2)
  ball = root > 0
  depth = (b[ball] - np.sqrt(root[ball])) / a[ball]
  np.testing.assert_array_equal(maps['semseg'][..., 0] == THING, ball)
  np.testing.assert_allclose(maps['depth'][ball, 0], depth, rtol=1e-6)
  np.testing.assert_allclose(maps['normals'][ball], (ray[ball] * depth[:, None] - center) / radius, atol=1e-5)
  np.testing.assert_array_equal(maps['saliency'][..., 0] == 1, ball)


@pytest.mark.parametrize('index', [0, 3, 7])
def test_normals_agree_with_differences_of_depth(index):
  scene, points, maps = seen(index)
  normals = maps['normals']
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-6)
  assert normals.dtype == np.float32
  assert maps['depth'].dtype == np.float32
  ids = render.trace(scene, 96, 128).ids
  across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
  estimate = np.cross(down, across)
  estimate /= np.linalg.norm(estimate, axis=-1, keepdims=True)
  middle = ids[1:-1, 1:-1]
  around = ids[1:-1, 2:], ids[1:-1, :-2], ids[2:, 1:-1], ids[:-2, 1:-1]
  same = np.all([middle == other for other in around], 0)
  error = angles(estimate, normals[1:-1, 1:-1])
  flat = same & (middle < render.FACES)
  assert flat.mean() > 0.15
  assert error[flat].max() < 0.1
  curved = same & (middle >= render.FACES)
  assert np.median(error[curved]) < 3
  assert np.quantile(error[curved], 0.8) < 20
  toward = (normals * points).sum(-1)  # what is seen faces the eye
  assert toward.max() < 1e-4


def test_the_image_size_only_samples_the_scene():
  """A pixel of the small image has the ray of the middle one of three by three pixels."""
  _, _, small = seen(2, (32, 40))
  _, _, large = seen(2, (96, 120))
  for task in ('semseg', 'parsing'):
    np.testing.assert_array_equal(small[task], large[task][1::3, 1::3])
  np.testing.assert_allclose(small['depth'], large['depth'][1::3, 1::3], rtol=1e-6)
  np.testing.assert_allclose(small['normals'], large['normals'][1::3, 1::3], atol=1e-6)


def test_boundaries_are_thin_lines_at_label_changes():
  blocks = pixels = 0
  for index in range(4):
    scene, _, maps = seen(index)
    line = maps['boundary'][..., 0].astype(bool)
    owner = np.concatenate([np.zeros(6, int), *(np.full(len(s), k) for k, s in enumerate(scene.instances))])
    ids = render.trace(scene, 96, 128).ids
    regions = np.stack([maps['semseg'][..., 0], owner[ids]], -1)
    change = np.zeros(line.shape, bool)
    change[:, :-1] |= (regions[:, :-1] != regions[:, 1:]).any(-1)
    change[:-1] |= (regions[:-1] != regions[1:]).any(-1)
    assert line.any()
    assert not (line & ~change).any()
    padded = np.pad(line, 1)
    near = np.any([padded[y : y + 96, x : x + 128] for y in range(3) for x in range(3)], 0)
    assert (change & ~near).sum() <= 0.02 * change.sum()  # thinning takes corners, not lines
    blocks += (line[1:, 1:] & line[1:, :-1] & line[:-1, 1:] & line[:-1, :-1]).sum()
    pixels += line.sum()
  assert blocks <= 0.003 * pixels  # where diagonals cross thinning must leave four pixels


def test_boundary_of_two_halves_and_of_a_pixel():
  regions = np.zeros((6, 8), int)
  regions[:, 4:] = 1
  expected = np.zeros((6, 8), np.uint8)
  expected[:, 3] = 1
  np.testing.assert_array_equal(labels.boundary(regions), expected)
  assert not labels.boundary(np.ones((5, 5), int)).any()


def test_parts_are_those_of_figures():
  for index in range(12):
    _, _, maps = seen(index, (48, 64))
    np.testing.assert_array_equal(maps['parsing'] > 0, maps['semseg'] == PERSON)
    assert maps['parsing'].max() <= len(PARTS)


def test_saliency_weighs_size_place_and_figures():
  instances, semseg = np.zeros((20, 40), int), np.full((20, 40), WALL)

  def thing(number, label, rows, columns):
    instances[rows, columns], semseg[rows, columns] = number, label

  thing(1, THING, slice(8, 12), slice(18, 24))  # in the middle
  thing(2, THING, slice(0, 2), slice(0, 12))  # as large, at a corner
  thing(3, HANGING, slice(2, 7), slice(10, 30))  # largest, on the wall
  thing(4, THING, slice(13, 14), slice(20, 22))  # too small
  np.testing.assert_array_equal(labels.saliency(instances, semseg) == 1, instances == 1)
  thing(4, PERSON, slice(13, 15), slice(18, 22))  # 8 of 24 pixels: enough for a figure only
  np.testing.assert_array_equal(labels.saliency(instances, semseg) == 1, (instances == 1) | (instances == 4))
  assert not labels.saliency(np.zeros((4, 4), int), np.zeros((4, 4), int)).any()


@pytest.mark.parametrize('kind', sorted(set(POSES)))
def test_figures_are_whole_and_stand_on_the_floor(kind):
  rng = np.random.default_rng(1)
  solids = figure(rng, Palette(rng), 1.7, kind, PERSON)
  assert {solid.part for solid in solids} == set(range(1, 7))
  assert min(solid.corners[:, 2].min() for solid in solids if solid.part == 6) == pytest.approx(0, abs=1e-9)
  upper, lower = ([s for s in solids if s.part == part and s.kind == 'frustum'] for part in (3, 4))
  for above, below in zip(upper, lower, strict=True):
    elbow, start = above.pose @ [0, 0, 1, 1], below.pose @ [0, 0, -1, 1]
    np.testing.assert_allclose(elbow, start, atol=1e-12)
    assert np.linalg.norm(above.pose[:, 2]) * 2 == pytest.approx(0.172 * 1.7)
  # one body: each solid touches another one
  for i, solid in enumerate(solids):
    others = solids[:i] + solids[i + 1 :]
    gaps = [np.linalg.norm(solid.pose[:, 3] - o.pose[:, 3]) - solid.radius - o.radius for o in others]
    assert min(gaps) < 0


def bottom(solid) -> float:
  """Height of the lowest point (of the bounding box, if not a ball)."""
  if solid.kind == 'sphere':
    return solid.pose[2, 3] - np.linalg.norm(solid.pose[2, :3])
  return solid.corners[:, 2].min()


def test_every_object_stands_on_its_base():
  rng = np.random.default_rng(2)
  for maker in objects.THINGS:
    for _ in range(9):
      thing = maker(rng, Palette(rng))
      lowest = min(bottom(solid) for solid in thing.solids)
      assert -0.02 < lowest < 0.001
      assert len({solid.label for solid in thing.solids}) == 1


def test_textures_are_colours():
  u, v = np.random.default_rng(0).uniform(-5, 5, (2, 500)).astype(np.float32)
  for name in textures.TEXTURES:
    colors = np.array([[0.1, 0.2, 0.3], [0.7, 0.5, 0.3], [0.9, 0.9, 0.2]])
    material = textures.Material(name, colors, (1.3, 1.1))
    color = textures.albedo([material], [500], u, v)
    assert color.shape == (3, 500)
    assert color.dtype == np.float32
    assert color.min() >= np.float32(0.01)
    assert color.max() <= np.float32(0.95)
    assert color.std(1).max() > 0.002


def test_a_body_between_lamp_and_floor_casts_its_shadow_there():
  ball = geometry.ellipsoid((2, 3, 1.6), 0.3, GREY, THING)
  size, scene = (96, 128), room([ball], tangent=1.0)
  lit, shadowed = render.picture(room(tangent=1.0), *size), render.picture(scene, *size)
  hits = render.trace(scene, *size)
  x, y, _z = (p + hits.depth * d for p, d in zip(EYE, hits.direction))
  floor = hits.ids == 4
  share = (shadowed / lit)[..., 1]
  # The lamp is 2.9 m above the floor, the ball 1.3 m below it: its shadow is a disc about (2, 3).
  radius = 2.9 * np.tan(np.arcsin(0.3 / 1.3))
  distance = np.hypot(x - 2, y - 3)
  assert (floor & (distance < 0.8 * radius)).sum() > 20
  assert share[floor & (distance < 0.8 * radius)].max() < 0.5
  assert share[floor & (distance > 1.2 * radius)].min() > 0.95


def test_images_depend_on_seed_split_and_index_alone():
  ids = [f'train_{index:05d}' for index in range(18)]
  splits, settings = {'train': ids}, (4, 16, 24)
  one, two = ([e for _, e in raw.encode_split(labels.encode, settings, splits, 'train', n)] for n in (1, 2))
  assert one == two
  assert len(one) == 18
  assert len({e['image'] for e in one}) == 18
  other_split, other_seed = labels.encode(settings, 'val_00000'), labels.encode((5, 16, 24), 'train_00000')
  assert len({one[0]['image'], other_split['image'], other_seed['image']}) == 3


def test_the_rooms_are_those_of_the_published_scores():
  """Rooms had textures; what was drawn for these is drawn still (see `Palette.material`): the means are of that time."""
  means = [labels.example(0, 'train', index, (24, 32))['image'].mean() for index in range(8)]
  np.testing.assert_allclose(means, [151.0, 143.8, 147.4, 161.5, 153.5, 126.3, 133.0, 154.1], atol=0.1)


def test_scenes_show_a_figure_near():
  shares = [(seen(index, (24, 32))[2]['semseg'] == PERSON).mean() for index in range(12)]
  assert np.mean(shares) > 0.06
  assert np.mean(np.array(shares) > 0) > 0.9


def data(tmp_path, **settings):
  return ConfigDict(dict(dir=str(tmp_path), size=(48, 64), train_count=3, val_count=1, seed=9) | settings)


def test_builder_gives_back_what_was_rendered(tmp_path, monkeypatch):
  builder = scenes.builder(data(tmp_path))
  assert builder.info.metadata['ids'] == {'train': [f'train_{i:05d}' for i in range(3)], 'val': ['val_00000']}
  assert not builder.url_infos
  source = builder.as_data_source('train')
  assert len(source) == 3
  for index in range(3):
    expected, found = labels.example(9, 'train', index, (48, 64)), scenes.decode(source[index])
    np.testing.assert_array_equal(found['image'], expected['image'])
    assert list(found['labels']) == [task.name for task in scenes.TASKS]
    for task in scenes.TASKS:
      label, truth = found['labels'][task.name], expected['labels'][task.name]
      assert label.shape == (48, 64, task.label_channels)
      assert label.dtype == truth.dtype == task.label_dtype
      tolerance = {'normals': 5e-5, 'depth': 1.01e-4}.get(task.name, 0)
      np.testing.assert_allclose(label.astype(float), truth.astype(float), rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(found['labels']['normals'], axis=-1), 1, atol=1e-6)
  assert list(scenes.decode(source[0], scenes.TASKS[:1])['labels']) == ['semseg']

  monkeypatch.setattr(labels, 'encode', None)  # the second time nothing is rendered
  assert scenes.builder(data(tmp_path)).data_path == builder.data_path
  assert {task.name: task.channels for task in scenes.TASKS} == dict(
    semseg=len(CLASSES), parsing=7, saliency=2, normals=3, boundary=1, depth=1
  )


def test_a_damaged_record_is_named_and_never_read(tmp_path):
  """A bit flipped anywhere in the records, and a file cut short: what is read is what was stored, or nothing is."""
  settings = data(tmp_path)
  whole = [scenes.open_split(settings, 'train')[i] for i in range(3)]
  (path,) = scenes.builder(settings).data_path.glob('*train*')
  stored_bytes, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
  used = len(stored_bytes.rstrip(b'\0'))  # the rest fills a block
  for flipped in [*rng.integers(used, size=20), None]:
    content = bytearray(stored_bytes) if flipped is not None else bytearray(stored_bytes[:-1000])
    if flipped is not None:
      content[flipped] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    source = scenes.open_split(settings, 'train')
    for i, example in enumerate(whole):
      try:
        read = source[i]
      except UserError as error:
        refused += 1
        assert f'image {i} of train cannot be read' in str(error)
        assert 'prepare the data set again' in str(error)
      else:
        np.testing.assert_array_equal(read['image'], example['image'])
        for name, label in example['labels'].items():
          np.testing.assert_array_equal(read['labels'][name], label)
  assert refused > 10


def test_default_settings_and_other_ones_have_their_own_folders(tmp_path, monkeypatch):
  monkeypatch.setattr(stored, 'build', lambda builder: None)
  default = scenes.builder(ConfigDict(dict(dir=str(tmp_path), size=(96, 128))))
  assert default.data_path == Builder(data_dir=str(tmp_path)).data_path
  others = ({}, dict(seed=1), dict(size=(64, 64)))
  folders = {scenes.builder(data(tmp_path, **other)).data_path for other in others}
  assert len(folders | {default.data_path}) == 4


WRONG = [(dict(size=(8, 64)), 'size'), (dict(val_count=0), 'val_count'), (dict(seed=-1), 'seed')]


@pytest.mark.parametrize('setting, field', WRONG)
def test_settings_out_of_range_are_named(tmp_path, setting, field):
  with pytest.raises(UserError, match=f'config.data.*{field}'):
    scenes.builder(data(tmp_path, **setting))


def test_no_tensorflow(tmp_path):
  code = f"""
import sys
from ml_collections import ConfigDict
from dmtl_jax.datasets import scenes
if __name__ == '__main__':
  builder = scenes.builder(ConfigDict(dict(dir={str(tmp_path)!r}, size=(16, 16), train_count=1, val_count=1)))
  scenes.decode(builder.as_data_source('val')[0])
  assert not [name for name in ('tensorflow', 'torch') if name in sys.modules]
"""
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
