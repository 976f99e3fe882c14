"""An image and its exact labels from (seed, split, index), and how they are stored.

Labels are those of the ray through a pixel's centre; the image is antialiased.
"""

import numpy as np

from dmtl_jax.basics.files import decode_image, encode_png
from dmtl_jax.datasets.scenes import render
from dmtl_jax.datasets.scenes.classes import HANGING, PERSON
from dmtl_jax.datasets.scenes.scene import draw, FACE_LABELS, Scene
from dmtl_jax.metrics.thinning import thin
from dmtl_jax.tasks import IGNORE

SPLITS = ('train', 'val')
NORMAL_STEPS = 32767  # of a stored normal's component
DEPTH_STEPS = 5000  # of a stored metre


def example(seed: int, split: str, index: int, size: tuple[int, int]) -> dict:
  """One image of the data set. The same scene is drawn for any size.

  Args:
    size: (H, W).

  Returns:
    {'image': uint8 [H,W,3] RGB, 'labels': {task: [H,W,K]}}, encoded as `dmtl_jax.tasks` says. Normals
    are in camera coordinates (x right, y up, z towards the camera), depth is z-depth in metres.
  """
  scene_seed, film_seed = np.random.SeedSequence([seed, SPLITS.index(split), index]).spawn(2)
  scene = draw(np.random.default_rng(scene_seed))
  image = render.develop(render.picture(scene, *size), np.random.default_rng(film_seed))
  return dict(image=image, labels=labels(scene, size))


def labels(scene: Scene, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Exact labels {task: [H,W,K]} of a scene."""
  hits = render.trace(scene, *size)
  semseg = np.array([*FACE_LABELS, *(solid.label for solid in scene.solids)], np.uint8)[hits.ids]
  parts = np.array([0] * render.FACES + [solid.part for solid in scene.solids], np.uint8)[hits.ids]
  numbers = [np.full(len(solids), k) for k, solids in enumerate(scene.instances)]
  instances = np.concatenate([np.zeros(render.FACES, int), *numbers])[hits.ids]
  maps = dict(
    semseg=semseg,
    parsing=parts if parts.any() else np.full_like(parts, IGNORE),
    saliency=saliency(instances, semseg),
    normals=render.normals(scene, hits).astype(np.float32),
    boundary=boundary(np.where(instances > 0, 100 + instances, semseg)),
    depth=hits.depth.astype(np.float32),
  )
  return {task: label if label.ndim == 3 else label[..., None] for task, label in maps.items()}


def saliency(instances: np.ndarray, semseg: np.ndarray) -> np.ndarray:
  """1 [H,W] uint8 on the things that strike the eye: large, near the middle, figures above all.

  A thing's weight is the sum over its visible pixels of a Gaussian about the image's centre
  (deviation 0.35 of height and width), twice that for a figure. What weighs at least 0.4 of the
  heaviest is salient. Walls, floor, ceiling and what hangs on walls never are.

  Args:
    instances: [H,W] number of the thing; 0 is the room.
    semseg: [H,W] class ids.
  """
  y, x = (np.linspace(-0.5, 0.5, n) / 0.35 for n in instances.shape)
  weight = np.exp(-(x[None, :] ** 2 + y[:, None] ** 2) / 2) * np.where(semseg == PERSON, 2, 1)
  weight[(instances == 0) | (semseg == HANGING)] = 0
  total = np.bincount(instances.ravel(), weight.ravel())
  salient = (total > 0) & (total >= 0.4 * total.max())
  return salient[instances].astype(np.uint8)


def boundary(regions: np.ndarray) -> np.ndarray:
  """1 [H,W] uint8 on thin lines along the changes of regions [H,W] int.

  Marked is the pixel left of or above a change; corners are thinned.
  """
  mask = np.zeros(regions.shape, bool)
  mask[:, :-1] = regions[:, :-1] != regions[:, 1:]
  mask[:-1] |= regions[:-1] != regions[1:]
  return thin(mask).astype(np.uint8)


def encode(settings: tuple[int, int, int], id: str) -> dict:
  """What is stored of an image: its id and PNG files, by task.

  Args:
    settings: seed, H, W.
    id: 'SPLIT_INDEX'.

  Returns:
    id, image (8-bit RGB), semseg, parsing, saliency, boundary (8-bit grey), normals (16-bit RGB:
    NORMAL_STEPS (xyz + 1)), depth (16-bit grey: DEPTH_STEPS a metre), as bytes.
  """
  split, index = id.split('_')
  seed, *size = settings
  item = example(seed, split, int(index), tuple(size))
  maps = item['labels'] | {
    'normals': np.rint((item['labels']['normals'] + 1) * NORMAL_STEPS).astype(np.uint16),
    'depth': np.rint(item['labels']['depth'] * DEPTH_STEPS).clip(1, 65535).astype(np.uint16),
  }
  return dict(id=id, image=encode_png(item['image'])) | {task: encode_png(label) for task, label in maps.items()}


def decode(task: str, data: bytes) -> np.ndarray:
  """The label [H,W,K] of a PNG file that `encode` made."""
  label = decode_image(data)
  if task == 'normals':
    vectors = label.astype(np.float32) * np.float32(1 / NORMAL_STEPS) - 1
    return vectors / np.sqrt((vectors * vectors).sum(-1, keepdims=True))
  if task == 'depth':
    return label * np.float32(1 / DEPTH_STEPS)
  return label
