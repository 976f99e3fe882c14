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
from dmtl_jax.report import reading
from dmtl_jax.runs import run_tasks
from dmtl_jax.runs import workdir as workdir_lib
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
  is_built = source_lib.is_built(config.data)
  if is_built and not spec:
    raise _all_labelled(workdir)
  broken: dict[int, str] = {}
  thumbnails: dict[int, np.ndarray] = {}
  folder = pathlib.Path(out)
  with stopping.report_interruption(lambda: f'what lies in {folder} is as it was', folder):
    if is_built:  # its images are no photographs of the owner, and building it may take long
      known = {}
      labels = count_learned(workdir, predictor.tasks)
    else:
      known = source_lib.open_splits(config.data, source_lib.SPLITS if spec else ('train',))
      visible = label_settings.apply_labels(known['train'], config.data.labels, config.data.label_seed)
      labels = visible.label_mask.sum(0)
    if spec:
      source = _open_photographs(paths, predictor.tasks, broken, thumbnails)
    else:
      source = known['train']
      if source.label_mask.all():
        raise _all_labelled(workdir)
    uncertainty = ranking.measure(predictor, _without_labels(source), config.data)
    # A label that config.data.labels hides need not be drawn.
    candidates = _missing_labels(source, thumbnails, broken, [*known.values()]) if spec else ~source.label_mask
    counts = np.zeros(len(source.tasks), int) if labels is None else labels
    picks = ranking.rank(uncertainty, counts, candidates, count, config.seed)
    names = [sanitize(str(path), 4096) for path in paths] if spec else source.ids
    with transaction():
      write_csv(folder / 'suggestions.csv', as_rows(picks, names, source.tasks, labels is not None))
      if picks:
        save_png(folder / 'suggestions.png', _draw(predictor, source, picks[:DRAWN], names))
  for reason in broken.values():
    print(f'skipped: {reason}', file=sys.stderr)
  say(f'{len(picks)} of {int(candidates.sum())} pairs without a label suggested: {folder}/suggestions.csv and .png')
  return 1 if broken else 0


def _all_labelled(workdir: str) -> UserError:
  return UserError(f'{workdir}: all its training images are labelled for all tasks; name others with --images=PHOTOS')


def count_learned(workdir: str, tasks: Sequence[Task]) -> list[int] | None:
  """How many labels of each task a run learned from; None, and a line, if its folder does not list them."""
  learned = reading.read_label_counts(workdir_lib.resolve_run(workdir) / 'labels.json')
  if learned is None:
    say(f'{workdir}: does not list the labels that it learned from (labels.json), so they are not counted')
    return None
  return [learned.tasks.get(task.name, 0) for task in tasks]


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
  photographs: Source, thumbnails: dict[int, np.ndarray], broken: dict[int, str], known: Sequence[Source]
) -> np.ndarray:
  """Which labels [N, T] bool the photographs lack: those that no copy of them in the known sources has.

  Args:
    thumbnails, broken: see `_open_photographs`; nothing is missing of what cannot be read.

  Raises:
    UserError: no photograph can be read, or no label is missing.
  """
  count = len(photographs)
  if len(broken) == count:
    raise UserError(f'--images: none of {count} photographs can be read; {broken[min(broken)]}')
  missing = np.zeros((count, len(photographs.tasks)), bool)
  labels = labels_of_copies(list(thumbnails.values()), photographs.tasks, known)
  missing[list(thumbnails)] = ~labels
  if not missing.any():
    raise UserError(f'--images: all {len(labels)} photographs are in the data, labelled for all tasks; name others')
  if labels.any():
    say(
      f'{int(labels.any(1).sum())} of {len(labels)} photographs are labelled in the data already; '
      'they are suggested only for labels that they do not have'
    )
  return missing


def labels_of_copies(thumbnails: Sequence[np.ndarray], tasks: Sequence[Task], sources: Sequence[Source]) -> np.ndarray:
  """Which labels [N, T] bool exist of N photographs: those of the images in the sources that show the same picture.

  None of sources whose thumbnails are not known.
  """
  count = len(thumbnails)
  thumbnailed = [source for source in sources if source.thumbnails is not None]
  pictures = duplicates.pictures(np.concatenate([np.stack(thumbnails), *(one.thumbnails for one in thumbnailed)]))
  labels = np.zeros((pictures.max() + 1, len(tasks)), bool)
  np.logical_or.at(labels, pictures[count:], np.concatenate([labels[:0], *(one.label_mask for one in thumbnailed)]))
  return labels[pictures[:count]]


def _without_labels(source: Source) -> Source:
  """The images alone, so that no label is read."""
  return dataclasses.replace(source, label_mask=np.zeros_like(source.label_mask), crop_guide=None)


def as_rows(picks: Sequence[Pick], names: Sequence[str], tasks: Sequence[Task], counted: bool) -> list[dict]:
  """The rows of suggestions.csv; `counted`: whether the picks know how many labels there are."""
  before = collections.Counter()
  rows = []
  for number, pick in enumerate(picks, 1):
    rows.append(
      {
        'rank': number,
        'image': names[pick.image],
        'task': tasks[pick.task].name,
        'uncertainty': f'{pick.uncertainty:.3f}',
        'why': explain(pick, tasks[pick.task].name, before[pick.task], counted),
      }
    )
    before[pick.task] += 1
  return rows


def explain(pick: Pick, task: str, before: int, counted: bool) -> str:
  """The reasons for a pick, in words; `before` picks were of the same task. See `as_rows`."""
  labels = f'{pick.labels - before}, and {before} suggested before' if before else f'{pick.labels}'
  share = f'more uncertain than {pick.uncertainty:.0%} of the images without this label'
  if not counted:
    return f'tasks take turns, since labels are not counted; {share}'
  return f'{task} has the fewest labels ({labels}); {share}'


def _draw(predictor: Predictor, source: Source, picks: Sequence[Pick], names: Sequence[str]) -> np.ndarray:
  """The contact sheet, see `panels.suggestion_sheet`."""
  rows = []
  for number, pick in enumerate(picks, 1):
    image = images.shrink(_without_labels(source)[pick.image]['image'], SIDE)
    task = predictor.tasks[pick.task]
    raw = predictor.raw(image, 1, 1)
    final = jnp.asarray(raw.calibrated(task))
    uncertainty = np.asarray(ranking.uncertainty_map(task, final, raw.maps.get(('initial', task.name))))
    enlarged = tiles.enlarge(uncertainty[..., None], raw.extent, image.shape[:2], slice(None), raw.origin)
    title = f'{number}. {task.name}: {pathlib.Path(names[pick.image]).name}'
    prediction = raw.prediction('final', task, image.shape[:2])
    rows.append(panels.Suggestion(title, task, image, prediction, enlarged[..., 0]))
  return panels.suggestion_sheet(rows)
