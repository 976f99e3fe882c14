"""A split of a data set: random access to images and those of their labels that may be seen."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from pathlib import Path

import numpy as np

from dmtl_jax.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """One split. It is picklable, and knows nothing of jax.

  An example is {'image': uint8 [H, W, 3] RGB, 'labels': {task: [H, W, K]} (see tasks/base.py; visible
  ones only), 'index': int}. `dataclasses.replace(source, label_mask=...)` hides labels: they are never even read.

  Attributes:
    ids: of the images.
    label_mask: [N, T] bool, which labels exist and may be seen.
    read: (index, tasks) -> {'image', 'labels'}, of these tasks the labels that exist.
    read_truth: index -> what `truth` gives; None: {}.
    official: {label setting: file of the benchmark's mapping for it} (see label_settings.py).
    read_warnings: (index, tasks) -> what `warnings` gives; None: {}.
    units: {task: unit of its values, as it stands behind a number}, of the tasks that have one.
    crop_guide: a task whose label, if there is one, an example has as 'crop_guide' [H, W, K], be it visible or not:
      where to crop may depend on it (the PASCAL recipe), what is learned may not.
    part_of: the whole split, of which this is a selection: a mapping names all images and tasks of that.
  """

  tasks: tuple[Task, ...]
  ids: Sequence[str]
  label_mask: np.ndarray
  read: Callable[[int, Sequence[Task]], dict]
  read_truth: Callable[[int], dict] | None = None
  official: dict[str, Path] = dataclasses.field(default_factory=dict)
  read_warnings: Callable[[int, Sequence[Task]], dict] | None = None
  units: dict[str, str] = dataclasses.field(default_factory=dict)
  crop_guide: Task | None = None
  part_of: 'Source | None' = None

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> dict:
    visible = [task for t, task in enumerate(self.tasks) if self.label_mask[index, t]]
    hidden = [self.crop_guide] if self.crop_guide and self.crop_guide not in visible else []
    found = self.read(index, visible + hidden)
    labels = found['labels']
    example = {'image': found['image'], 'labels': {task.name: labels[task.name] for task in visible}, 'index': index}
    return example | (
      {'crop_guide': labels[self.crop_guide.name]} if self.crop_guide and self.crop_guide.name in labels else {}
    )

  def subset(self, positions: Sequence[int]) -> 'Source':
    """The source of some of its images."""
    at = lambda read: read and functools.partial(_read_at, read, tuple(positions))
    chosen = dict(ids=[self.ids[i] for i in positions], label_mask=self.label_mask[list(positions)])
    reads = {name: at(getattr(self, name)) for name in ('read', 'read_truth', 'read_warnings')}
    return self._part(**chosen, **reads)

  def with_tasks(self, columns: Sequence[int]) -> 'Source':
    """The source of some of its tasks, in this order."""
    return self._part(tasks=tuple(self.tasks[t] for t in columns), label_mask=self.label_mask[:, list(columns)])

  def _part(self, **chosen) -> 'Source':
    return dataclasses.replace(self, **chosen, part_of=self.part_of or self)

  def truth(self, index: int) -> dict[str, np.ndarray | None]:
    """What a benchmark scores an image against instead of its labels: {task: map [H, W]; None: it does not}."""
    return self.read_truth(index) if self.read_truth else {}

  def warnings(self, index: int) -> dict[str, dict[str, int]]:
    """Pixels of an image's labels that may not mean what they seem to: {task: see `Task.file_warnings`}."""
    visible = [task for task, shown in zip(self.tasks, self.label_mask[index]) if shown]
    return self.read_warnings(index, visible) if self.read_warnings else {}


def _read_at(read, positions: tuple[int, ...], index: int, *tasks):
  return read(positions[index], *tasks)
