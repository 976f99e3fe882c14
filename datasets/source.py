"""A split of a data set: random access to images and their visible labels."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from pathlib import Path

import numpy as np

from dmtl_jax.datasets.summary import ImageSummary, summarize
from dmtl_jax.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """One split. It is picklable and does not use JAX.

  An example is {'image': uint8 [H, W, 3] RGB, 'labels': {task: [H, W, K]} (the visible ones, see tasks/base.py),
  'index': int}. `dataclasses.replace(source, label_mask=...)` hides labels; hidden labels are not even read.

  Attributes:
    ids: ids of the images.
    label_mask: [N, T] bool, which labels exist and are visible.
    read: (index, tasks) -> {'image', 'labels'}, with the existing labels of these tasks.
    reads_reduced: whether `read` takes `least` as a third argument, see `example`.
    read_truth: index -> the result of `truth`; None: {}.
    official: {label setting: file of the benchmark's mapping for it} (see label_settings.py).
    read_summary: (index, tasks) -> the result of `summary`; None: the image and its labels are read.
    units: {task: unit of its values, to append to a number}, without tasks that have no unit.
    crop_guide: task whose label, even if hidden, is added to examples as 'crop_guide' [H, W, K]: the crop may depend
      on it (the PASCAL recipe), the loss may not.
    classes_shown: [N, F] bool, for each class of each task whether the image's label shows it; None: not known.
    positives_shown: [N, B] bool, for each binary task whether the image's label has a positive pixel; None: not known.
    thumbnails: [N, P] uint8 of the images (see duplicates.py); None: not known.
    predicted: [N, T] bool, which labels a model predicted, where none was made by hand; None: no such labels. They are
      not in `label_mask` before `label_settings.apply_labels`, which makes them visible, and only to training.
    predicted_by: {task: what predicted its labels}, see datasets/folder/predicted.py.
    part_of: the whole split, if this is a part of one; mappings name its images and tasks.
  """

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  label_mask: np.ndarray
  read: Callable[..., dict]
  read_truth: Callable[[int], dict] | None = None
  official: dict[str, Path] = dataclasses.field(default_factory=dict)
  read_summary: Callable[[int, Sequence[Task]], ImageSummary] | None = None
  units: dict[str, str] = dataclasses.field(default_factory=dict)
  crop_guide: Task | None = None
  classes_shown: np.ndarray | None = None
  positives_shown: np.ndarray | None = None
  thumbnails: np.ndarray | None = None
  predicted: np.ndarray | None = None
  predicted_by: dict[str, dict] = dataclasses.field(default_factory=dict)
  part_of: 'Source | None' = None
  reads_reduced: bool = False

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> dict:
    return self.example(index)

  def example(self, index: int, least: tuple[int, int] | None = None) -> dict:
    """The example of an image, which may be reduced to save time.

    Args:
      least: height and width to which the image may shrink, by a whole divisor (`photographs.read_image`); labels keep
        their size. None: the image keeps its size.
    """
    visible = [task for t, task in enumerate(self.tasks) if self.label_mask[index, t]]
    hidden = [self.crop_guide] if self.crop_guide and self.crop_guide not in visible else []
    reduced = (least,) if self.reads_reduced else ()
    loaded = self.read(index, visible + hidden, *reduced)
    labels = loaded['labels']
    example = {'image': loaded['image'], 'labels': {task.name: labels[task.name] for task in visible}, 'index': index}
    if self.crop_guide and self.crop_guide.name in labels:
      example['crop_guide'] = labels[self.crop_guide.name]
    return example

  def subset(self, positions: Sequence[int]) -> 'Source':
    """A source with only these images."""

    def select(reader: Callable | None) -> Callable | None:
      return reader and functools.partial(_read_at, reader, tuple(positions))

    def rows(array: np.ndarray | None) -> np.ndarray | None:
      return None if array is None else array[list(positions)]

    return self._part(
      ids=[self.ids[i] for i in positions],
      label_mask=self.label_mask[list(positions)],
      predicted=None if self.predicted is None else self.predicted[list(positions)],
      read=select(self.read),
      read_truth=select(self.read_truth),
      read_summary=select(self.read_summary),
      classes_shown=rows(self.classes_shown),
      positives_shown=rows(self.positives_shown),
      thumbnails=rows(self.thumbnails),
    )

  def labelled(self) -> 'Source':
    """A source with only the images that have a visible label; this one if all have."""
    shown = self.label_mask.any(1)
    return self if shown.all() else self.subset(np.flatnonzero(shown).tolist())

  def with_tasks(self, columns: Sequence[int]) -> 'Source':
    """A source with only these tasks, in this order."""
    columns = list(columns)
    predicted = None if self.predicted is None else self.predicted[:, columns]
    tasks = tuple(self.tasks[t] for t in columns)
    predicted_by = {task.name: self.predicted_by[task.name] for task in tasks if task.name in self.predicted_by}
    mask = self.label_mask[:, columns]
    return self._part(tasks=tasks, label_mask=mask, predicted=predicted, predicted_by=predicted_by)

  def _part(self, **fields) -> 'Source':
    return dataclasses.replace(self, **fields, part_of=self.part_of or self)

  def truth(self, index: int) -> dict[str, np.ndarray | None]:
    """What a benchmark scores an image against instead of its labels: {task: map [H, W], or None if not scored}."""
    return self.read_truth(index) if self.read_truth else {}

  def summary(self, index: int) -> ImageSummary:
    """What an image and its visible labels hold."""
    visible = [task for t, task in enumerate(self.tasks) if self.label_mask[index, t]]
    if self.read_summary:
      return self.read_summary(index, visible)
    example = self.read(index, visible)
    labels = {task.name: summarize(task, example['labels'][task.name]) for task in visible}
    return ImageSummary(example['image'].shape[:2], labels)


def _read_at(read, positions: tuple[int, ...], index: int, *arguments):
  return read(positions[index], *arguments)
