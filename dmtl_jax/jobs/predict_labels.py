"""`--mode=predict --save=labels`: predictions as label files, in the layout that training reads."""

import collections
from collections.abc import Sequence
import contextlib
import dataclasses
import datetime
import numbers
import os
import pathlib

import numpy as np

from dmtl_jax.basics import bucket, files, photographs, stopping
from dmtl_jax.basics.atomic import atomic_open, remove, remove_abandoned, transaction
from dmtl_jax.basics.errors import join_names, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.datasets import folder
from dmtl_jax.datasets.folder import annotated, listing, predicted
from dmtl_jax.inference import images, many
from dmtl_jax.inference.predicted_labels import predict_label
from dmtl_jax.inference.prediction import load
from dmtl_jax.inference.raw_maps import RawMaps
from dmtl_jax.jobs import disk_use, predict_record
from dmtl_jax.jobs.predict_record import Record
from dmtl_jax.runs import hub
from dmtl_jax.tasks import Task

CONFIDENCE = 0.9  # default of --confidence


@dataclasses.dataclass(frozen=True)
class Target:
  """Where labels are written.

  Attributes:
    tasks: those to write.
    encodings: {task: keyword arguments of `Task.to_file`}.
    labelled: {task: names of images that have a label of their own}, for which none is predicted.
  """

  folder: pathlib.Path
  tasks: tuple[Task, ...]
  encodings: dict[str, dict]
  labelled: dict[str, frozenset[str]]

  def missing(self, name: str) -> list[Task]:
    """The tasks for which an image has no label of its own."""
    return [task for task in self.tasks if name not in self.labelled.get(task.name, ())]


def run(
  workdir: str,
  step: str,
  spec: str | Sequence[str] | None,
  out: str | None,
  samples: int = 1,
  zoom: float | None = None,
  confidence: float = CONFIDENCE,
) -> int:
  """Writes OUT/TASK/NAME.png (or .npy) for each image, and OUT/source.json, see `folder.predicted`.

  If OUT is PATH/train/predicted, labels that images have in PATH/train/labels are not predicted. A label in which no
  pixel is sure is not written. Labels that OUT holds already, of the same photograph by the same weights and settings,
  stay, see `predict_record`.

  Args:
    spec: as for `predict.run`; None: the images of the folder that the run was trained on, PATH/train/images and
      PATH/unlabelled.
    out: None: PATH/train/predicted of that folder.
    confidence: see `predict_label`.

  Returns:
    As `predict.run`.

  Raises:
    UserError: as `predict.run`; also two images of one name, or a folder with other classes than the run's.
  """
  if not (isinstance(confidence, numbers.Real) and 0 <= confidence <= 1):
    raise UserError(f'--confidence={confidence}: give a probability, 0 to 1')
  predictor = load(workdir, step)
  predictor.check(samples, zoom)
  spec, out = find_places(predictor.config, spec, out)
  paths = images.find_images(spec, out)
  readable = [path for path in paths if not (photographs.unsupported_format(path) or images.is_video(path))]
  names = _names(readable)
  target = _target(pathlib.Path(out), predictor.tasks)
  fingerprint = predict_record.fingerprint(predictor, 'labels', samples, zoom, confidence, target.encodings)
  origin = dict(run=hub.name_of(os.path.abspath(workdir)), step=predictor.step, confidence=confidence, samples=samples)
  origin['fingerprint'] = fingerprint
  origin['date'] = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  items = [
    predict_record.describe_item(path, name, fingerprint, [task.name for task in target.missing(name)])
    for path, name in zip(readable, names)
  ]
  record = Record(target.folder)
  unlabelled = [item for item in items if target.missing(item.name)]
  held = {item.name for item in unlabelled if record.holds(item)}
  todo = [item for item in unlabelled if item.name not in held]
  for sentence in record.describe(items, todo, len(held)):
    say(sentence)
  labels = [label for item in unlabelled if item.name in held for label in record.files_of(item)]
  photos = [item.path for item in todo]
  if todo:
    say(disk_use.describe_labels(photos, [target.missing(item.name) for item in todo], target.folder))
  broken = [f'{path}: a video; predict its frames as images' for path in paths if images.is_video(path)]
  # Those with all labels of their own count as done.
  progress = Progress('predicting', len(items), 'img', start=len(items) - len(todo))
  saved = []  # by threads, some of which finish after an interruption

  def write(place: int, image: np.ndarray, raw: RawMaps) -> tuple[pathlib.Path, list[pathlib.Path]]:
    item = todo[place]
    with transaction():
      written = _write_labels(raw, image.shape[:2], item.name, target, confidence)
      record.replace(item, written)
    record.add(item, written)
    saved.append(item)
    return item.path, written

  def describe_kept() -> str:
    return many.describe_kept(max(progress.done, progress.start + len(saved)), len(items), out)

  with stopping.report_interruption(describe_kept, out), progress:
    remove_abandoned(target.folder)
    predicted.write_source(target.folder, target.tasks, origin)
    with contextlib.closing(many.predict_photographs(predictor, photos, write, broken, samples, zoom)) as results:
      for path, written in results:
        labels += [file.relative_to(target.folder).as_posix() for file in written]
        progress.update(1, path.name)
    progress.update(len(items) - progress.done)
  say(_summary(labels, len(items), target))
  return images.report_skipped(paths, broken)


def _write_labels(
  raw: RawMaps, size: tuple[int, int], name: str, target: Target, confidence: float
) -> list[pathlib.Path]:
  """Writes the missing labels of one image, in one transaction; returns their paths."""
  written = []
  with transaction():
    for task in target.missing(name):
      label = predict_label(raw, task, size, confidence)
      suffix, values = task.to_file(label, **target.encodings[task.name])
      is_sure = bool(task.valid(label).any())
      for other in listing.LABEL_SUFFIXES:  # of an earlier prediction
        older = target.folder / task.name / f'{name}{other}'
        if older.exists() and not (is_sure and other == suffix):
          remove(older)
      if is_sure:
        written.append(target.folder / task.name / f'{name}{suffix}')
        with atomic_open(written[-1], 'wb') as file:
          file.write(files.encode_png(values)) if suffix == '.png' else np.save(file, values)
  return written


def find_places(config, spec, out: str | None):
  """Where images and labels lie; by default in the folder that the run was trained on."""
  if spec and out:
    return spec, out
  if config is None or config.data.name != 'folder':
    raise UserError('--save=labels needs --images and --out: the run was not trained on a folder of images')
  if bucket.is_address(config.data.path):
    raise UserError(f'--save=labels: labels are not written to {config.data.path}; give --images and --out')
  root = pathlib.Path(config.data.path)
  if not root.is_dir():
    raise UserError(f'--save=labels: {root}, which the run was trained on, is not there; give --images and --out')
  where = predicted.place(root)
  own = [str(path) for path in (where.parent / 'images', root / listing.POOL) if path.is_dir() and any(path.iterdir())]
  return spec or own, out or str(where)


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
  """The images' names, which their labels get; raises UserError where two have the same."""
  names = [files.nfc(path.stem) for path in paths]
  first: dict[str, pathlib.Path] = {}
  for path, name in zip(paths, names):
    if first.setdefault(name.casefold(), path) != path:
      raise UserError(f'{path}: {first[name.casefold()]} has the same name, so they would share a label; rename one')
    if not files.is_name(f'{name}.png'):
      raise UserError(f'{path}: the name is too long for that of a label, NAME.png; shorten it')
  return names


def _target(out: pathlib.Path, tasks: tuple[Task, ...]) -> Target:
  """What to write to OUT; if that is PATH/train/predicted, only what PATH/dataset.json and its labels leave open.

  Raises UserError where dataset.json has none of the tasks, or one with another kind or other classes.
  """
  root = predicted.find_root(out)
  if root is None:
    return Target(out, tasks, {task.name: predicted.encoding(task, {}) for task in tasks}, {})
  description = root / 'dataset.json'
  own_tasks, own = folder.read_description(description)
  by_name = {task.name: task for task in own_tasks}
  common = tuple(task for task in tasks if task.name in by_name)
  if other := [task.name for task in common if predicted.describe(task) != predicted.describe(by_name[task.name])]:
    raise UserError(
      f'{description}: {join_names(other)} had another kind or other classes when the run learned; train on this '
      'folder again without config.data.predicted_labels and predict with that run, or give another --out'
    )
  if not common:
    names = join_names([task.name for task in tasks])
    raise UserError(f'{description} has none of the tasks that the run learned, {names}; give another --out')
  labels = predicted.place(root).parent / 'labels'
  labelled = {
    task.name: frozenset(listing.by_stem(labels / task.name, listing.LABEL_SUFFIXES, beside=annotated.NAME))
    for task in common
    if (labels / task.name).is_dir()
  }
  return Target(out, common, {task.name: predicted.encoding(task, own[task.name]) for task in common}, labelled)


def _summary(labels: Sequence[str], total: int, target: Target) -> str:
  """The last line of the job; `labels` are TASK/NAME.png of all labels."""
  counts = collections.Counter(label.partition('/')[0] for label in labels)
  text = ', '.join(f'{task.name} {counts[task.name]}' for task in target.tasks)
  kept = sum(len(names) for names in target.labelled.values())
  also = f'; {kept} labels of their own are kept' if kept else ''
  learn = '; train on them with --config.data.predicted_labels=True' if predicted.find_root(target.folder) else ''
  return f'labels predicted for {images.count_of(total, "image")}: {text}{also}, in {target.folder}/TASK{learn}'
