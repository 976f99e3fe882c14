"""Scores folders of images by the Berkeley protocol."""

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
    predictions: folder of grey PNGs, 8 or 16 bits; white is probability 1.
    truths: folder with one file per prediction, in a format of `read_truths`.
    ignore: grey value of unlabelled pixels in truth PNGs; predictions there do not count.
    **options: tolerance, count, thinning of `boundary.counts`.

  Returns:
    `boundary.summary` with `images` (by id, the summary's 'ods' of each) and `curve`.

  Raises:
    UserError: a folder without PNGs, a prediction without truth or vice versa, or a file that cannot be scored.
  """
  files = pairs(predictions, truths)
  score = functools.partial(_score, ignore=ignore, **options)
  states = {}
  processes = 0 if workers == 1 else min(workers, len(files))
  with Progress('scoring boundaries', len(files), 'img') as progress, mapper(processes, '--workers') as map_pairs:
    for name, state in zip(files, map_pairs(score, files.values())):
      states[name] = state
      progress.update(1, name)
  total = functools.reduce(merge, states.values())
  return boundary.summary(total) | {
    'curve': {name: list(map(float, values)) for name, values in boundary.curve(total).items()},
    'images': {name: boundary.summary(state)['ods'] for name, state in states.items()},
  }


def pairs(predictions: pathlib.Path, truths: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
  """{id: (prediction, truth)}; raises UserError as `evaluate` does."""
  for folder in (predictions, truths):
    if not folder.is_dir():
      raise UserError(f'{folder} is not a folder; give the folders of predictions and of ground truths')
  predicted = {path.stem: path for path in sorted(predictions.glob('*.png'))}
  labelled = {path.stem: path for suffix in ('png', 'mat') for path in sorted(truths.glob(f'*.{suffix}'))}
  if not predicted:
    raise UserError(f'{predictions} contains no *.png predictions')
  for name in sorted(predicted.keys() ^ labelled.keys()):
    path, other = (predicted[name], truths) if name in predicted else (labelled[name], predictions)
    raise UserError(f'{path} has no counterpart of the same name in {other}; add it or remove the file')
  return {name: (predicted[name], labelled[name]) for name in predicted}


def _score(pair, ignore, **options) -> State:
  prediction = read_prediction(pair[0])
  truths, valid = read_truths(pair[1], ignore)
  if prediction.shape != valid.shape:
    raise UserError(
      f'{pair[0]} is {prediction.shape[1]}x{prediction.shape[0]} pixels but {pair[1]} is '
      f'{valid.shape[1]}x{valid.shape[0]}; resize the prediction to the size of its ground truth'
    )
  return boundary.counts(np.where(valid, prediction, 0), truths, **options)


def read_prediction(path: pathlib.Path) -> np.ndarray:
  """Reads a grey PNG as probabilities [H, W] float64."""
  image = _read_grey(path)
  return image / np.iinfo(image.dtype).max


def read_truths(path: pathlib.Path, ignore: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
  """Reads the boundaries [H, W] bool of each annotator, and the mask [H, W] of labelled pixels.

  A PNG holds one annotator: every value but 0 and `ignore` is a boundary. A .mat file has BSDS's format: cell
  `groundTruth`, field `Boundaries`.

  Raises:
    UserError: an unreadable file, or a PNG in which 255 may mean boundary or unlabelled.
  """
  if path.suffix == '.mat':
    truths = _read_annotators(path)
    return truths, np.ones(truths[0].shape, bool)
  image = _read_grey(path)
  if ignore is None and {1, 255} <= set(np.unique(image)):
    raise UserError(f'{path} contains both 1 and 255; pass --ignore 255 if 255 marks unlabelled pixels')
  valid = image != (-1 if ignore is None else ignore)
  return [(image != 0) & valid], valid


def _read_annotators(path):
  try:
    cells = loadmat(path)['groundTruth'].ravel()
    return [cell['Boundaries'][0, 0] != 0 for cell in cells]
  except (MatReadError, LookupError, ValueError, TypeError, NotImplementedError) as error:
    raise UserError(f'{path} is not a BSDS ground truth (cell groundTruth, field Boundaries): {error}') from error


def _read_grey(path) -> np.ndarray:
  image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
  if image is None:
    raise UserError(f'{path} cannot be read as an image; replace the file')
  if image.ndim != 2:
    raise UserError(f'{path} has {image.shape[2]} channels; save it as a grey PNG')
  return image
