"""What tests of predictions share; the fixture `predictor` is in `conftest`."""

import cv2
import numpy as np

from tests.tiny import SIZE, TASKS

SAMPLES = 3


def photo(height, width, seed=0):
  """An image of soft blobs."""
  small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Pointwise:
  """Stands in for the network: each cell's maps are a function of its own 8x8 pixels."""

  def __init__(self, predictor, monkeypatch):
    self.calls = 0
    self.batches = []

    def step(variables, images):
      self.calls += 1
      self.batches.append(len(images))
      cells = np.asarray(images).reshape(-1, SIZE[0] // 8, 8, SIZE[1] // 8, 8, 3).mean((2, 4, 5))[..., None]
      return {'final': {task.name: np.repeat(cells, task.channels, -1) for task in TASKS}}

    monkeypatch.setattr(predictor, '_compile_for', lambda samples: step)
