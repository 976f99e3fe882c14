"""Joins an export into a folder data set: all files of an import appear together, or none does."""

import collections
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import shutil

import cv2
import numpy as np

from dmtl_jax.basics import atomic, files
from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.basics.progress import Progress
from dmtl_jax.imports import classes
from dmtl_jax.imports.classes import Options, Plan
from dmtl_jax.imports.export import Annotated, Drawing, Export
from dmtl_jax.imports.photos import Photo, Photos, turn
from dmtl_jax.imports.target import listed, LOG, SPLITS, Target
from dmtl_jax.tasks import IGNORE

BY_HAND = 'label files'  # the format of labels that were there before the first import
FIX = 'choose another --task=NAME, or replace it with --force'
MAX_DEPTH = 65.535  # metres, in 16 bits of millimetres
LINE = 0.02  # of the image's diagonal: what is wider is no line
MOST_AREAS = 0.5  # share of the pixels of boundaries that may lie in areas, such as where lines meet


@dataclasses.dataclass
class Summary:
  """What an import did.

  Attributes:
    classes: of the task.
    taken: those that the export has.
    images: number of photographs by how they came: 'linked', 'copied', 'written', 'already there'.
    labels: number of labels by task.
    unchanged: how many labels were already there, pixel for pixel.
    pixels: number of pixels by value of the label.
    notes: {what was left out: how often}.
    missing: names of images of the export without a photograph.
    kept, removed: ids of images in which nothing is drawn, and whose label from an earlier import stays or is removed.
    unnamed: ids of images that have a label for the task, and are not in the export or not among the photographs.
    others: the other formats of the task's labels; with any, labels may be of another tool, so none is removed.
    turned: ids of images whose labels were turned with the photograph.
    ambiguous: ids of images which EXIF turns to the same size.
    remarks: what the user should know.
  """

  classes: tuple[str, ...]
  taken: tuple[str, ...]
  notes: collections.Counter
  remarks: list[str]
  images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  unchanged: int = 0
  pixels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  missing: list[str] = dataclasses.field(default_factory=list)
  kept: list[str] = dataclasses.field(default_factory=list)
  removed: list[str] = dataclasses.field(default_factory=list)
  unnamed: list[str] = dataclasses.field(default_factory=list)
  others: list[str] = dataclasses.field(default_factory=list)
  turned: list[str] = dataclasses.field(default_factory=list)
  ambiguous: list[str] = dataclasses.field(default_factory=list)


def join(root: pathlib.Path, export: Export, photos: Photos | None, options: Options, source: str) -> Summary:
  """Writes photographs and labels below `root`; raises UserError, with nothing written, if anything does not fit.

  Args:
    photos: None where the export holds them.
    source: name of the export, for the list in dataset.json.
  """
  target = Target(root)
  if photos:
    photos.match({id: path for id, (_, path) in target.images.items()})
  known = target.classes(options.task, options.kind)
  labelled = _labelled(target, options.task)
  unnamed = labelled - _named(export, photos)
  others = (target.formats(options.task) or ({BY_HAND} if labelled else set())) - {export.tool}
  if options.force and labelled and not unnamed and not others:
    taken = (*(options.classes or export.classes), options.background)
    known = tuple(name for name in known if name in taken)
    target.forget_imports(options.task)
  plan = classes.plan(export.classes, known, target.background(options.task), options, str(target.description))
  summary = Summary(plan.classes, tuple(plan.ids), +export.notes, plan.remarks)
  summary.unnamed, summary.others = sorted(unnamed), sorted(others)
  entry = {'from': source, 'format': export.tool, 'task': options.task}
  entry |= {'background': options.background} if options.background else {}
  with _new_folders(target, options.task), atomic.transaction():
    by_hand = [{'format': BY_HAND, 'task': options.task}] if BY_HAND in others else []
    _describe(target, options, plan, [*by_hand, entry], any(image.depth for image in export.images))
    _Writer(target, options, plan, summary).write(export, photos)
  return summary


def _labelled(target: Target, task: str) -> set[str]:
  """The ids of images that have a label for a task."""
  return {id for folder in target.folders.values() for id in listed(folder / 'labels' / task)}


def _named(export: Export, photos: Photos | None) -> set[str]:
  """The ids of the images whose labels an export replaces: not of a test split, nor without a photograph."""
  named = set()
  for image in (image for image in export.images if image.split != 'test'):
    with contextlib.suppress(UserError):  # of an ambiguous name, which is raised later
      photo = photos.find(image.where, image.names) if photos else None
      if photo or image.pixels:
        named.add(photo.id if photo else image.names[0])
  return named


@contextlib.contextmanager
def _new_folders(target: Target, task: str) -> Iterator[None]:
  """Removes the folders that the block made if it fails."""
  names = ('', 'images', 'labels', f'labels/{task}', 'labels/depth')
  inside = [place / name for place in target.folders.values() for name in names]
  new = [path for path in (target.root, *inside) if not path.exists()]
  try:
    yield
  except BaseException:
    for path in sorted(new, reverse=True):
      with contextlib.suppress(OSError):  # not there, or not empty
        path.rmdir()
    raise


def _describe(target: Target, options: Options, plan: Plan, entries: list[dict], has_depth: bool):
  """Writes dataset.json with the task, and with those of the entries that are new in the list of imports."""
  tasks = target.content['tasks']
  described = dict(tasks.get(options.task, {})) | ({'kind': options.kind} if options.kind != options.task else {})
  tasks[options.task] = described | ({'classes': list(plan.classes)} if plan.classes else {})
  if has_depth:
    target.classes('depth', 'depth')
    tasks.setdefault('depth', {})
  log = target.content.setdefault(LOG, [])
  log += [entry for entry in entries if entry not in log]
  atomic.write_json(target.description, target.content)


class _Writer:
  """Writes the files of an import, image by image."""

  def __init__(self, target: Target, options: Options, plan: Plan, summary: Summary):
    self.target = target
    self.options = options
    self.plan = plan
    self.summary = summary
    self.problems: list[str] = []
    self.seen: dict[str, str] = {}  # where the export mentions each image
    self.areas = 0  # pixels of boundaries that do not lie on a line
    self.annotated = {split: target.annotated(split, options.task) for split in SPLITS}
    self.labels = {
      (split, task): listed(target.folders[split] / 'labels' / task)
      for split in SPLITS
      for task in (options.task, 'depth')
    }

  def write(self, export: Export, photos: Photos | None):
    """Writes everything; raises UserError with all images that do not fit, or if no label is left."""
    before = {split: dict(entries) for split, entries in self.annotated.items()}
    rest = {photo.id: photo for photo in photos.photos} if photos else {}
    with Progress('importing', len(export.images), 'img') as progress:
      for image in export.images:
        try:
          photo = photos.find(image.where, image.names) if photos else None
          if photo:
            rest.pop(photo.id, None)
          self._write_image(image, photo)
        except UserError as error:
          self.problems.append(str(error))
        progress.update()
    for photo in rest.values():
      try:
        self._link(photo, 'train')
      except UserError as error:
        self.problems.append(str(error))
    self._check(export)
    for split, entries in self.annotated.items():
      path = self.target.annotated_path(split, self.options.task)
      if entries and entries != before[split]:
        atomic.write_json(path, entries)
      elif not entries and before[split]:
        atomic.remove(path)

  def _check(self, export: Export):
    if self.problems:
      more = f' (and {len(self.problems) - 1} more images)' if len(self.problems) > 1 else ''
      if self.summary.kept and not self.summary.others and FIX in self.problems[0]:
        names = join_names(self.summary.kept)
        more += f'; --force would also remove the labels of images in which nothing is drawn any more ({names})'
      raise UserError(f'{self.problems[0]}{more}; nothing was written', self.problems)
    drawn = self.summary.pixels[1]
    if self.options.kind == 'boundary' and self.areas > MOST_AREAS * drawn:
      raise UserError(
        f'{export.images[0].where}: {self.areas / drawn:.0%} of what is drawn in the export are areas, and a boundary '
        'is a thin line; give areas another --task, for instance saliency, or draw the lines; nothing was written'
      )
    if not self.summary.labels:
      reason = 'nothing is drawn in its images'
      if self.summary.missing:
        reason = f'none of its images is among --images, for instance {join_names(self.summary.missing)}'
      elif self.summary.notes:
        reason = f'it has {join_names([f"{what}: {n}" for what, n in self.summary.notes.items()])}'
      raise UserError(f'{export.images[0].where}: no label can be made of the export: {reason}; nothing was written')

  def _write_image(self, image: Annotated, photo: Photo | None):
    """Writes the photograph and labels of an image."""
    notes = self.summary.notes
    if image.split == 'test':
      notes['images in a folder or file called test, left out'] += 1
      return
    if photo is None and image.pixels is None:
      self.summary.missing.append(sanitize('/'.join(image.names[0].split('/')[-2:]), 80))
      return
    id = photo.id if photo else image.names[0]
    if id in self.seen:
      raise UserError(
        f'{image.where}: {id} is also labelled by {self.seen[id]}; import one of them, or each as a task of its own'
      )
    self.seen[id] = image.where
    split = self._link(photo, image.split) if photo else self._write_pixels(image, id)
    if image.label is not None or (self.options.empty and image.may_be_empty):
      self._write_label(id, split, self._draw(image, photo))
    else:
      self._leave_unlabelled(id, split, 'images without a drawn region, left unlabelled')
    if image.depth:
      depth = np.nan_to_num(image.depth(), nan=0, posinf=0, neginf=0)
      depth = np.where((depth > 0) & (depth <= MAX_DEPTH), depth, 0)
      self._save('depth', id, split, np.round(depth * 1000).astype(np.uint16))

  def _draw(self, image: Annotated, photo: Photo | None) -> np.ndarray:
    """The class map, as viewers show the photograph."""
    label = image.label or Drawing([])
    notes = self.summary.notes
    if photo is None:
      assert image.size is not None
      return label.draw(image.size[::-1], self.plan.ids, self.plan.rest, notes)
    width, height, orientation = photo.stored
    if photo.is_turned(image.where, image.size):
      self.summary.turned.append(photo.id)
      return turn(photo, label.draw((height, width), self.plan.ids, self.plan.rest, notes))
    if orientation > 1 and (image.size is None or photo.shown == (width, height)):
      self.summary.ambiguous.append(photo.id)
    return label.draw(photo.shown[::-1], self.plan.ids, self.plan.rest, notes)

  def _write_label(self, id: str, split: str, plane: np.ndarray):
    values, counts = np.unique(plane, return_counts=True)
    if values.tolist() == [IGNORE]:
      self._leave_unlabelled(id, split, 'images without a labelled pixel, left unlabelled')
      return
    entries, names = self.annotated[split], list(self.plan.annotated)
    labels = self.labels[split, self.options.task]
    if id in labels and not self.options.force and entries.get(id, []) != names:
      raise UserError(f'{labels[id]}: is there with other annotated classes; {FIX}')
    self._save(self.options.task, id, split, plane)
    entries.pop(id, None)
    if names:
      entries[id] = names
    self.summary.pixels.update(dict(zip(values.tolist(), counts.tolist())))
    if self.options.kind == 'boundary':
      self.areas += _count_areas(plane == 1)

  def _leave_unlabelled(self, id: str, split: str, note: str):
    """Counts an image without a label; its old label is removed with --force, if it can only be of the same tool."""
    old = self.labels[split, self.options.task].get(id)
    if old is None:
      self.summary.notes[note] += 1
    elif self.options.force and not self.summary.others:
      atomic.remove(old)
      self.annotated[split].pop(id, None)
      self.summary.removed.append(id)
    else:
      self.summary.kept.append(id)

  def _save(self, task: str, id: str, split: str, plane: np.ndarray):
    """Writes a label, unless it is there; raises UserError if another is."""
    old = self.labels[split, task].get(id)
    path = self.target.folders[split] / 'labels' / task / f'{id}.png'
    self.summary.labels[task] += 1
    if old is not None:
      if _holds(old, plane):
        self.summary.unchanged += 1
        return
      if not self.options.force:
        raise UserError(f'{old}: is another label of this image; {FIX}')
      if old != path:
        atomic.remove(old)
    with atomic.atomic_open(path, 'wb') as file:
      file.write(files.encode_png(plane))

  def _link(self, photo: Photo, split: str) -> str:
    """Puts a photograph into the split, or leaves it in the one where it is; returns that split."""
    if photo.id in self.target.images:
      split, old = self.target.images[photo.id]
      if old != photo.known:
        raise UserError(
          f'{photo.path}: {old} has that name and is another photograph; give --images the folder above those of both, '
          'or if this one was edited since it was imported, delete the old one'
        )
      self.summary.images['already there'] += 1
      return split
    photo.stored  # noqa: B018 (refuses what is no image)
    with atomic.atomic_path(
      self.target.folders[split] / 'images' / files.nfc(f'{photo.id}{photo.path.suffix}')
    ) as temporary:
      try:
        os.link(photo.path.resolve(), f'{temporary}.link')
        os.replace(f'{temporary}.link', temporary)
        self.summary.images['linked'] += 1
      except OSError:  # another disk, or one without links
        shutil.copyfile(photo.path, temporary)
        self.summary.images['copied'] += 1
    return split

  def _write_pixels(self, image: Annotated, id: str) -> str:
    """Writes a photograph that the export holds; returns its split."""
    assert image.pixels is not None
    pixels = np.ascontiguousarray(image.pixels())
    if id in self.target.images:
      split, old = self.target.images[id]
      if not _holds(old, pixels):
        raise UserError(f'{old}: is another photograph than that of {image.where}; import into another folder')
      self.summary.images['already there'] += 1
      return split
    with atomic.atomic_open(self.target.folders[image.split] / 'images' / f'{id}.png', 'wb') as file:
      file.write(files.encode_png(pixels))
    self.summary.images['written'] += 1
    return image.split


def _count_areas(drawn: np.ndarray) -> int:
  """The pixels of a mask [H, W] that are no lines: those that squares of the width `LINE` reach within it."""
  side = max(round(LINE * np.hypot(*drawn.shape)), 3)
  return int(cv2.morphologyEx(drawn.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)).sum())


def _holds(path: pathlib.Path, plane: np.ndarray) -> bool:
  """Whether a PNG file holds this array."""
  try:
    return path.suffix.lower() == '.png' and np.array_equal(np.asarray(files.open_image(path, ['PNG'])), plane)
  except ValueError:
    return False
