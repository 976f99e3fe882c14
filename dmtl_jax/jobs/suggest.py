"""The job `--mode=suggest`: which images to label next, and for which task (inference/ranking.py chooses)."""

import collections
from collections.abc import Sequence
import dataclasses
import pathlib
import sys

import jax.numpy as jnp
import numpy as np

from dmtl_jax.basics import photographs, stopping
from dmtl_jax.basics.atomic import transaction, write_csv
from dmtl_jax.basics.errors import check_count, sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import duplicates
from dmtl_jax.datasets.source import Source
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.inference import images, ranking, tiles
from dmtl_jax.inference.prediction import load, Predictor
from dmtl_jax.inference.ranking import Pick
from dmtl_jax.runs import run_tasks
from dmtl_jax.tasks import Task

DRAWN = 24  # pairs on the contact sheet
SIDE = 640  # longest side of what is drawn, in pixels


def run(workdir: str, out: str, spec: str | Sequence[str] | None, count: int, force: bool = False) -> int:
  """The job `--mode=suggest`. It writes

    OUT/suggestions.csv    rank, image, task, uncertainty (see `Pick`), and the reason in words
    OUT/suggestions.png    the first `DRAWN`: photograph, prediction and where it is uncertain

  Args:
    spec: photographs to choose from, see `images.find_images`; None: the run's training images, with all that lie there
      without a label.
    count: how many pairs.

  Returns:
    1 if a photograph was skipped since it could not be read (each is reported), else 0.

  Raises:
    UserError: no run, its data are gone, nothing is left to label, or OUT cannot be written.
  """
  check_count('--count', count, 'pairs to suggest')
  paths = _photographs(spec, out) if spec else []
  predictor = load(workdir)
  config = run_tasks.match(predictor.config, predictor.tasks, workdir, force)
  if 'predicted_labels' in config.data:
    config.data.predicted_labels = False  # which are no labels here
  whole = source_lib.open_source(config.data, 'train')
  training = label_settings.apply_labels(whole, config.data.labels, config.data.label_seed)
  broken: dict[int, str] = {}
  thumbnails: dict[int, np.ndarray] = {}
  folder = pathlib.Path(out)
  with stopping.report_interruption(lambda: f'what lies in {folder} is as it was', folder):
    if spec:
      training = training.subset(np.flatnonzero(training.label_mask.any(1)).tolist())
    elif whole.label_mask.all():
      raise UserError(
        f'{workdir}: all {len(training)} training images are labelled for all tasks; name others with --images=PHOTOS'
      )
    sources = [training, *([_open_photographs(paths, training.tasks, broken, thumbnails)] if spec else [])]
    parts = [ranking.measure(predictor, _without_labels(one), config.data) for one in sources]
    labelled = np.concatenate([one.label_mask for one in sources])
    candidates = ~labelled if spec else ~whole.label_mask  # a label that config.data.labels hides need not be drawn
    if spec:
      candidates[: len(training)] = False
      candidates[len(training) :] = _missing_labels(
        len(paths), thumbnails, broken, [whole, source_lib.open_source(config.data, 'val')]
      )
    picks = ranking.rank(np.concatenate(parts), labelled, candidates, count, config.seed)
    names = [*training.ids, *(sanitize(str(path), 4096) for path in paths)]
    with transaction():
      write_csv(folder / 'suggestions.csv', as_rows(picks, names, training.tasks))
      if picks:
        save_png(folder / 'suggestions.png', _draw(predictor, sources, picks[:DRAWN], names))
  for reason in broken.values():
    print(f'skipped: {reason}', file=sys.stderr)
  say(f'{len(picks)} of {int(candidates.sum())} pairs without a label suggested: {folder}/suggestions.csv and .png')
  return 1 if broken else 0


def _photographs(spec: str | Sequence[str], out: str) -> list[pathlib.Path]:
  """The files of --images; raises UserError for videos and for formats that are not read."""
  paths = images.find_images(spec, out)
  if unsupported := photographs.unsupported_files(paths):
    raise UserError(f'--images: {unsupported}')
  if video := next(filter(images.is_video, paths), None):
    raise UserError(f'--images: {video} is a video; give photographs')
  return paths


def _open_photographs(
  paths: Sequence[pathlib.Path], tasks: tuple[Task, ...], broken: dict[int, str], thumbnails: dict[int, np.ndarray]
) -> Source:
  """Photographs without labels; fills `thumbnails`. Those that cannot be read are black, and named in `broken`."""

  def read(index: int, _) -> dict:
    try:
      image = photographs.read_image(paths[index])
      thumbnails[index] = duplicates.thumbnail(image)
    except UserError as error:
      broken[index] = str(error)
      image = np.zeros((1, 1, 3), np.uint8)
    return {'image': image, 'labels': {}}

  return Source(tasks, [str(path) for path in paths], np.zeros((len(paths), len(tasks)), bool), read)


def _missing_labels(
  count: int, thumbnails: dict[int, np.ndarray], broken: dict[int, str], sources: Sequence[Source]
) -> np.ndarray:
  """Which labels [N, T] bool `count` photographs lack, in themselves and in copies of them in the sources.

  Args:
    thumbnails, broken: see `_open_photographs`; nothing is missing of what cannot be read.

  Raises:
    UserError: no photograph can be read, or no label is missing.
  """
  if len(broken) == count:
    raise UserError(f'--images: none of {count} photographs can be read; {broken[min(broken)]}')
  missing = np.zeros((count, len(sources[0].tasks)), bool)
  known = labels_of_copies(list(thumbnails.values()), sources)
  missing[list(thumbnails)] = ~known
  if not missing.any():
    raise UserError(f'--images: all {len(known)} photographs are in the data, labelled for all tasks; name others')
  if known.any():
    say(
      f'{int(known.any(1).sum())} of {len(known)} photographs are labelled in the data already; '
      'they are suggested only for labels that they do not have'
    )
  return missing


def labels_of_copies(thumbnails: Sequence[np.ndarray], sources: Sequence[Source]) -> np.ndarray:
  """Which labels [N, T] bool exist of N photographs: those of the images in the sources that show the same picture.

  None of sources whose thumbnails are not known.
  """
  count = len(thumbnails)
  thumbnailed = [source for source in sources if source.thumbnails is not None]
  pictures = duplicates.pictures(np.concatenate([np.stack(thumbnails), *(one.thumbnails for one in thumbnailed)]))
  labels = np.zeros((pictures.max() + 1, len(sources[0].tasks)), bool)
  np.logical_or.at(labels, pictures[count:], np.concatenate([labels[:0], *(one.label_mask for one in thumbnailed)]))
  return labels[pictures[:count]]


def _without_labels(source: Source) -> Source:
  """The images alone, so that no label is read."""
  return dataclasses.replace(source, label_mask=np.zeros_like(source.label_mask), crop_guide=None)


def as_rows(picks: Sequence[Pick], names: Sequence[str], tasks: Sequence[Task]) -> list[dict]:
  """The rows of suggestions.csv."""
  before = collections.Counter()
  rows = []
  for number, pick in enumerate(picks, 1):
    rows.append(
      {
        'rank': number,
        'image': names[pick.image],
        'task': tasks[pick.task].name,
        'uncertainty': f'{pick.uncertainty:.3f}',
        'why': explain(pick, tasks[pick.task].name, before[pick.task]),
      }
    )
    before[pick.task] += 1
  return rows


def explain(pick: Pick, task: str, before: int) -> str:
  """The reasons for a pick, in words; `before` picks were of the same task."""
  labels = f'{pick.labels - before}, and {before} suggested before' if before else f'{pick.labels}'
  share = f'more uncertain than {pick.uncertainty:.0%} of the images without this label'
  return f'{task} has the fewest labels ({labels}); {share}'


def _draw(predictor: Predictor, sources: Sequence[Source], picks: Sequence[Pick], names: Sequence[str]) -> np.ndarray:
  """The contact sheet, see `panels.suggestion_sheet`."""
  rows = []
  for number, pick in enumerate(picks, 1):
    first = len(sources[0])
    source, index = (sources[0], pick.image) if pick.image < first else (sources[1], pick.image - first)
    image = images.shrink(_without_labels(source)[index]['image'], SIDE)
    task = predictor.tasks[pick.task]
    raw = predictor.raw(image, 1, 1)
    final = jnp.asarray(raw.calibrated(task))
    uncertainty = np.asarray(ranking.uncertainty_map(task, final, raw.maps.get(('initial', task.name))))
    enlarged = tiles.enlarge(uncertainty[..., None], raw.extent, image.shape[:2], slice(None), raw.origin)
    title = f'{number}. {task.name}: {pathlib.Path(names[pick.image]).name}'
    prediction = raw.prediction('final', task, image.shape[:2])
    rows.append(panels.Suggestion(title, task, image, prediction, enlarged[..., 0]))
  return panels.suggestion_sheet(rows)
