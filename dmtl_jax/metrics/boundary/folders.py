"""The Berkeley protocol on folders of images."""

import functools
import pathlib

import cv2
import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.processes import mapper
from dmtl_jax.basics.progress import Progress
from dmtl_jax.metrics import boundary
from dmtl_jax.metrics.base import merge, State


def evaluate(
  predictions: pathlib.Path, truths: pathlib.Path, ignore: int | None = None, workers: int = 1, **options
) -> dict:
  """Scores every prediction ID.png against ID.mat or else ID.png.

  Args:
    predictions: folder of grey PNGs, 8 or 16 bits; white is a certain boundary.
    truths: folder with one file for each prediction, as `read_truths` takes it.
    ignore: grey value of truth PNGs that marks unlabelled pixels; predictions there do not count.
    **options: tolerance, count, thinning of `boundary.counts`.

  Returns:
    `boundary.summary` with `images` (by id, the summary's 'ods' of each) and `curve`.

  Raises:
    UserError: a folder without PNGs, a prediction without truth or the other way round, or a
      file that cannot be scored.
  """
  found = pairs(predictions, truths)
  score = functools.partial(_score, ignore=ignore, **options)
  states = {}
  processes = 0 if workers == 1 else min(workers, len(found))
  with Progress('scoring boundaries', len(found), 'img') as progress, mapper(processes, '--workers') as map_pairs:
    for name, state in zip(found, map_pairs(score, found.values())):
      states[name] = state
      progress.update(1, name)
  total = functools.reduce(merge, states.values())
  return boundary.summary(total) | {
    'curve': {name: list(map(float, values)) for name, values in boundary.curve(total).items()},
    'images': {name: boundary.summary(state)['ods'] for name, state in states.items()},
  }


def pairs(predictions: pathlib.Path, truths: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
  """{id: (prediction, truth)}; raises UserError as `evaluate`."""
  for folder in (predictions, truths):
    if not folder.is_dir():
      raise UserError(f'{folder} is not a folder; give the folders of predictions and of ground truths.')
  ours = {path.stem: path for path in sorted(predictions.glob('*.png'))}
  theirs = {path.stem: path for suffix in ('png', 'mat') for path in sorted(truths.glob(f'*.{suffix}'))}
  if not ours:
    raise UserError(f'{predictions} holds no *.png predictions.')
  for name in sorted(ours.keys() ^ theirs.keys()):
    has, lacks = (ours[name], truths) if name in ours else (theirs[name], predictions)
    raise UserError(f'{has} has no counterpart of the same name in {lacks}; add it or take the file away.')
  return {name: (ours[name], theirs[name]) for name in ours}


def _score(pair, ignore, **options) -> State:
  prediction = read_prediction(pair[0])
  truths, valid = read_truths(pair[1], ignore)
  if prediction.shape != valid.shape:
    raise UserError(
      f'{pair[0]} is {prediction.shape[1]}x{prediction.shape[0]} pixels but {pair[1]} is '
      f'{valid.shape[1]}x{valid.shape[0]}; resize the prediction to its ground truth.'
    )
  return boundary.counts(np.where(valid, prediction, 0), truths, **options)


def read_prediction(path: pathlib.Path) -> np.ndarray:
  """Probability [H, W] float64 of a grey PNG."""
  image = _read_grey(path)
  return image / np.iinfo(image.dtype).max


def read_truths(path: pathlib.Path, ignore: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
  """Boundaries [H, W] bool, one an annotator, and the mask [H, W] of labelled pixels.

  A PNG is one annotator: every value but 0 and `ignore` is a boundary. A .mat file is BSDS's:
  cell `groundTruth`, field `Boundaries`.

  Raises:
    UserError: an unreadable file, or a PNG whose 255 may be a boundary or unlabelled.
  """
  if path.suffix == '.mat':
    truths = _read_annotators(path)
    return truths, np.ones(truths[0].shape, bool)
  image = _read_grey(path)
  if ignore is None and {1, 255} <= set(np.unique(image)):
    raise UserError(f'{path} holds both 1 and 255; pass --ignore 255 if 255 marks unlabelled pixels.')
  valid = image != (-1 if ignore is None else ignore)
  return [(image != 0) & valid], valid


def _read_annotators(path):
  try:
    cells = loadmat(path)['groundTruth'].ravel()
    return [cell['Boundaries'][0, 0] != 0 for cell in cells]
  except (MatReadError, LookupError, ValueError, TypeError, NotImplementedError) as error:
    raise UserError(f'{path} is no BSDS truth (cell groundTruth, field Boundaries): {error}') from error


def _read_grey(path) -> np.ndarray:
  image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
  if image is None:
    raise UserError(f'{path} cannot be read as an image; replace the file.')
  if image.ndim != 2:
    raise UserError(f'{path} has {image.shape[2]} channels; save it as a grey PNG.')
  return image
