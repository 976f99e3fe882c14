"""A folder data set small enough to train on in seconds: coloured boxes on a floor."""

import json
import pathlib

import cv2
import numpy as np

DESCRIPTION = {
  'tasks': {
    'semseg': {'classes': ['wall', 'floor', 'box']},
    'saliency': {},
    'boundary': {},
    'normals': {},
    'depth': {},
  }
}


def write(root: pathlib.Path, train: int = 8, val: int = 3, size=(64, 96), kinds: dict[str, str] | None = None):
  """Writes train and val splits with all labels of every image.

  Args:
    kinds: {name: kind} of tasks that go by another name than their kind's.
  """
  root.mkdir(parents=True, exist_ok=True)
  names = {kind: name for name, kind in (kinds or {}).items()}
  tasks = {names.get(kind, kind): entry | {'kind': kind} for kind, entry in DESCRIPTION['tasks'].items()}
  (root / 'dataset.json').write_text(json.dumps({'tasks': tasks}))
  rng = np.random.default_rng(0)
  for split, count in (('train', train), ('val', val)):
    for n in range(count):
      _write_image(root / split, f'{split}{n:02d}', rng, size)
    for kind, name in names.items():
      (root / split / 'labels' / kind).rename(root / split / 'labels' / name)


def _write_image(folder: pathlib.Path, name: str, rng: np.random.Generator, size):
  height, width = size
  semseg = np.zeros(size, np.uint8)
  semseg[height // 2 :] = 1
  top, left = rng.integers(4, height // 2), rng.integers(4, width // 2)
  semseg[top : top + height // 3, left : left + width // 3] = 2
  image = np.array([[180, 160, 140], [90, 120, 60], [40, 60, 200]])[semseg] + rng.integers(-15, 15, (*size, 3))
  edge = np.zeros(size, bool)
  edge[:, 1:] |= semseg[:, 1:] != semseg[:, :-1]
  edge[1:] |= semseg[1:] != semseg[:-1]
  normals = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1]], np.float32)[semseg]
  depth = np.array([4, 3, 2], np.float32)[semseg]
  arrays = {'semseg': semseg, 'saliency': (semseg == 2).astype(np.uint8), 'boundary': edge.astype(np.uint8)}
  for kind in ('images', *(f'labels/{task}' for task in DESCRIPTION['tasks'])):
    (folder / kind).mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(folder / 'images' / f'{name}.png'), np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])
  for task, label in arrays.items():
    cv2.imwrite(str(folder / 'labels' / task / f'{name}.png'), label)
  np.save(folder / 'labels' / 'normals' / f'{name}.npy', normals)
  cv2.imwrite(str(folder / 'labels' / 'depth' / f'{name}.png'), (depth * 1000).astype(np.uint16))
