"""Everything that a section of the report says of its data."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import NamedTuple

from dmtl_jax.report.data import classes, poorest, prospects, sentence
from dmtl_jax.report.pictures import Album
from dmtl_jax.report.results import Entry, Run, Section
from dmtl_jax.tasks import Task


class LabelRow(NamedTuple):
  """Labels of one task: of training images, of validation images, and pixels of the latter's labels in %.

  None for what is not known. `predicted` of the training images have a label that a model predicted.
  """

  task: Task
  training: int | None
  predicted: int
  training_images: int | None
  validation: int | None
  validation_images: int | None
  pixels: float | None


class ClassPart(NamedTuple):
  """The classes of a task."""

  task: Task
  rows: list[classes.ClassRow]
  heat: classes.HeatMap


@dataclasses.dataclass(frozen=True)
class DataPart:
  """What a section says of its data, from one of its runs.

  Attributes:
    is_open: whether the section is about one run; otherwise the part is folded, and names its run.
    sentences: for the owner of the data; [] without scores.
    more_steps, more_labels: whether they would help; '' if that is not known.
    command: how to find out about labels; '' where a run shows it, or there are several.
  """

  run: Run
  is_open: bool
  sentences: list[str]
  labels: list[LabelRow]
  classes: list[ClassPart]
  poorest: list[poorest.Poorest]
  more_steps: str
  more_labels: str
  rule: str
  command: str


def describe(section: Section, sections: Sequence[Section], album: Album, folder: pathlib.Path) -> DataPart | None:
  """The data part of a section; None for all but one section of a data set.

  Args:
    sections: of the whole report.
    folder: where the report is written.
  """
  of_data = [other for other in sections if other.data == section.data]
  run = _run_to_show(section)
  if run is None or section is not max(of_data, key=lambda other: _labels_seen(_run_to_show(other))):
    return None
  runs = [run for other in sections for entry in other.entries for run in entry.runs]
  counted = [task for task in run.tasks if task.name in run.confusion and run.confusion[task.name].any()]
  smaller = prospects.find_smaller(run, runs)
  gains = prospects.label_gains(run, smaller) if smaller else []
  return DataPart(
    run=run,
    is_open=is_of_one_run(section),
    sentences=sentence.describe(run),
    labels=_label_rows(run),
    classes=[_class_part(run, task) for task in counted],
    poorest=[found for task in run.tasks if (found := poorest.poorest_images(run, task, album))],
    more_steps=prospects.more_steps(run),
    more_labels=prospects.more_labels(gains),
    rule=prospects.RULE,
    command='' if gains or not run_to_halve(sections) else prospects.half_command(run, folder),
  )


def sentences(section: Section) -> list[str]:
  """The sentences for the owner of the data, for a section of one run; else []."""
  return sentence.describe(section.entries[0].runs[0]) if is_of_one_run(section) else []


def is_of_one_run(section: Section) -> bool:
  return sum(len(entry.runs) for entry in section.entries) == 1


def run_to_halve(sections: Sequence[Section]) -> Run | None:
  """The only run of a report, for which the page gives a command that trains on half of its labels; else None."""
  runs = [run for section in sections for entry in section.entries for run in entry.runs]
  return runs[0] if len(runs) == 1 and runs[0].evaluation and runs[0].label_counts else None


def _run_to_show(section: Section) -> Run | None:
  """The evaluated run that is best at most tasks, the first of several; None if no run was evaluated."""
  runs = [run for entry in section.entries for run in entry.runs if run.evaluation]
  return max(runs, key=lambda run: _wins(run, section.entries), default=None)


def _wins(run: Run, entries: Sequence[Entry]) -> int:
  """At how many tasks no run of the section is better."""
  wins = 0
  for task in run.tasks:
    scores = [score for entry in entries for score in entry.scores('final', task)]
    if scores and run.score('final', task) == (max if task.higher_is_better else min)(scores):
      wins += 1
  return wins


def _labels_seen(run: Run | None) -> int:
  """Number of labels of a run; -1 without a run, so that it is shown last."""
  if run is None:
    return -1
  return sum(run.label_counts.tasks.values()) if run.label_counts else 0


def _label_rows(run: Run) -> list[LabelRow]:
  counts = run.label_counts
  rows = []
  for task in run.tasks:
    shares = [share for row in run.image_rows if (share := poorest.number(row, f'{task.name}/labelled %'))]
    rows.append(
      LabelRow(
        task,
        training=counts.tasks.get(task.name, 0) if counts else None,
        predicted=counts.predicted.get(task.name, 0) if counts else 0,
        training_images=counts.images if counts else None,
        validation=len(shares) if shares else None,
        validation_images=len(run.image_rows) or None,
        pixels=sum(shares) / len(shares) if shares else None,
      )
    )
  return rows if counts or run.image_rows else []


def _class_part(run: Run, task: Task) -> ClassPart:
  confusion = run.confusion[task.name]
  rows = classes.class_rows(confusion, task.classes, run.scores('per_class', task))
  return ClassPart(task, rows, classes.heat_map(confusion, task.classes))
