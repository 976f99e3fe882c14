"""The job `--mode=check`: describes and draws the data of a config before anything is trained."""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import dataclasses
from typing import NamedTuple

import numpy as np

from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.configs import check as check_config
from dmtl_jax.data import pipeline, transforms
from dmtl_jax.data import source as source_lib
from dmtl_jax.datasets import duplicates
from dmtl_jax.datasets.summary import ImageSummary, LabelSummary
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.jobs import recipe
from dmtl_jax.tasks import Task
from dmtl_jax.training import setup, step

SHOWN = 12  # images in the picture
CHUNK = 256  # images handed to the reading threads at a time
FARTHEST = (0.1, 1000)  # metres between which the farthest pixel of a folder of photographs lies
WARN_ABOVE = 0.001  # share of a task's pixels


class Report(NamedTuple):
  """What a check found.

  Attributes:
    text: what both splits hold, and what a run would learn from.
    picture: path of the labels drawn over images; None where the training split cannot be used.
    is_trainable: whether nothing stands in the way of training.
  """

  text: str
  picture: str | None
  is_trainable: bool


def run(config, out: str | None = None, write: bool = False, time_steps: bool = False) -> int:
  """The job `--mode=check`: `examine`; returns 1 where something stands in the way of training, else 0."""
  return int(not examine(config, out, write, time_steps).is_trainable)


def examine(config, out: str | None = None, write: bool = False, time_steps: bool = False) -> Report:
  """Reads every image and label of both splits, prints what they hold, and draws the labels of a dozen images.

  Of a folder without dataset.json it first prints the one that its labels suggest.

  Args:
    out: the picture, PNG; default runs/check_NAME.png, with the name of the data set.
    write: whether to write that dataset.json, and go on with it.
    time_steps: whether to time the networks of the recipe, see `recipe.lines`.

  Raises:
    UserError: the config cannot be trained with any data.
  """
  check_config.check(config.to_dict())
  sources: dict[str, source_lib.Source] = {}
  texts: list[str] = []
  picture = None

  def report(*lines: str):
    texts.append('\n'.join(lines))
    say(texts[-1])

  if proposal := source_lib.propose(config.data):
    if write:
      proposal.write()
    report(*proposal.lines(written=write))
    if not write:
      return Report('\n'.join(texts), None, is_trainable=False)
  source_lib.data_tasks(config.data)
  together = source_lib.holdout_fraction(config.data) > 0
  for splits in [source_lib.SPLITS] if together else [(split,) for split in source_lib.SPLITS]:
    try:
      opened = source_lib.open_splits(config.data, splits)
    except UserError as error:
      name = ' and '.join(splits)
      report(f'{name}: cannot be used', *(f'  {sanitize(str(part), 1000)}' for part in error.parts or [error]))
      continue
    for split, source in opened.items():
      report(f'{split}: {len(source)} images', *contents(source))
    sources |= opened
  if 'train' in sources:
    whole, val = sources['train'], sources.get('val')
    train = setup.visible_part(config, whole)
    report('', *first_lines(config, train, val, len(whole) - len(train)), *copies(train, val))
    picture = out or f'runs/check_{config.data.name}.png'
    labelled = whole.labelled()
    save_png(picture, draw_labels(labelled, config))
    report(f'labels of {min(SHOWN, len(labelled))} images drawn over them: {picture}')
    report(*recipe.lines(config, train, time_steps))
  # Last, since the network (its channels, for instance) depends on the data.
  setup.check(config, fresh=False)  # downloads nothing
  return Report('\n'.join(texts), picture, is_trainable=len(sources) == 2)


def first_lines(config, source, val=None, left_out: int = 0) -> list[str]:
  """Describes what a run is trained and validated on, without reading an image or a label.

  Args:
    left_out: see `setup.Data`.
  """
  batch = config.train.batch
  pairs = source.label_mask.sum() / pipeline.images_per_epoch(source.label_mask)
  counts = _label_counts(source)
  lines = [f'{config.method} on {config.data.name}: {len(source)} images, labels ({config.data.labels}): {counts}']
  if left_out:
    lines.append(f'left out of batches: {left_out} images without a visible label; method=ss learns from these too')
  if unlabelled := int((~source.label_mask.any(1)).sum()):
    lines.append(
      f'{unlabelled} of the images have no visible label; an epoch takes at most as many of these as labelled ones'
    )
  lines += [
    f'a batch of {batch} images holds {batch * pairs:.3g} pairs of image and task, and has room for '
    f'{setup.pair_count(source, batch)}',
    'loss weights: '
    + ', '.join(f'{t.name} {w:g}' for t, w in zip(source.tasks, step.task_weights(config.loss_weights, source.tasks))),
  ]
  if source.predicted is not None:
    counts = _counts(source, source.predicted)
    unread = join_names([task.name for task in source.tasks if not task.has_probabilities])
    lines.insert(
      1,
      f'predicted labels, which weigh {config.data.predicted_weight:g}: {counts}'
      + (f'; those of {unread}, which have no probabilities, are not read' if unread else ''),
    )
  if val is not None:
    share = source_lib.holdout_fraction(config.data)
    held_out = f', held out of the training images ({share:g} of the labelled ones)' if share else ''
    lines.append(f'validated on {len(val)} images{held_out}: {_label_counts(val)}')
    missing = [task.name for task, labelled in zip(val.tasks, val.label_mask.any(0)) if not labelled]
    fix = 'label a second image for it' if share else 'add some to val'
    lines += [f'  {name}: no validation label, so no score; {fix}' for name in missing]
  return lines


def copies(train, val=None) -> list[str]:
  """Names the training images that show the same picture as a validation image, in lines."""
  if val is None or train.thumbnails is None or val.thumbnails is None:
    return []
  numbers = duplicates.pictures(np.concatenate([train.thumbnails, val.thumbnails]))
  learned = dict(zip(numbers[: len(train)].tolist(), train.ids))
  pairs = [f'{learned[n]} = {id}' for n, id in zip(numbers[len(train) :].tolist(), val.ids) if n in learned]
  if not pairs:
    return []
  return [
    f'{len(pairs)} of {len(val)} validation images are training images too, or copies of them (resized or compressed '
    f'again), so scores would be too good; remove one of each: {join_names(pairs, 10)}'
  ]


def _label_counts(source) -> str:
  """'semseg 20, depth 5', the labels that no model predicted."""
  return _counts(source, source.label_mask if source.predicted is None else source.label_mask & ~source.predicted)


def _counts(source, mask: np.ndarray) -> str:
  return ', '.join(f'{task.name} {int(n)}' for task, n in zip(source.tasks, mask.sum(0)))


# --- What a split holds ----------------------------------------------------------------------


@dataclasses.dataclass
class LabelStats:
  """Statistics of the labels of one task: their number, their pixels and the values of these."""

  labels: int = 0
  pixels: int = 0
  labelled: int = 0
  values: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of class ids
  low: float = np.inf
  high: float = -np.inf
  warnings: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # see `Task.file_warnings`
  empty: list[str] = dataclasses.field(default_factory=list)  # ids of labels without a labelled pixel

  def add(self, id: str, label: LabelSummary):
    self.labels += 1
    self.pixels += label.pixels
    self.labelled += label.labelled
    self.values.update(dict(enumerate(label.counts)))
    self.warnings.update(label.warnings)
    if not label.labelled:
      self.empty.append(id)
    if label.low is not None:
      self.low = min(self.low, label.low)
      self.high = max(self.high, label.high)

  def describe(self, task: Task, unit: str = '') -> str:
    """'300 labels, 98% of their pixels labelled: sky 30%, road 70%; nowhere: car'."""
    text = f'{self.labels} labels, {share(self.labelled, self.pixels)} of their pixels labelled'
    names = task.id_names or (('no', 'yes') if task.binary else ())
    if self.labelled and names:
      order = sorted(range(len(names)), key=lambda i: -self.values[i])
      text += ': ' + ', '.join(f'{names[i]} {share(self.values[i], self.labelled)}' for i in order if self.values[i])
      nowhere = [names[i] for i in order if not self.values[i] and i < max(len(task.classes), 2)]
      text += f'; nowhere: {", ".join(nowhere)}' if nowhere else ''
    elif self.labelled and task.label_channels == 1:
      text += f', from {self.low:.4g} to {self.high:.4g} {unit}'.rstrip()
    return text

  def warning_lines(self, task: Task, unit: str = '') -> list[str]:
    """'12% of the pixels hold 65535 = 65.5 m: ...', and what is unlikely of all labels together."""
    lines = [
      f'{share(n, self.pixels)} of the pixels {text}'
      for text, n in self.warnings.items()
      if n > WARN_ABOVE * self.pixels
    ]
    if task.binary and self.values[1] > self.labelled / 2:
      lines.append(f"'yes' on most pixels is unlikely for {task.kind}: if the files mark all else, invert them")
    if unit == 'm' and self.labelled and not FARTHEST[0] <= self.high <= FARTHEST[1]:
      lines.append(
        f'the farthest pixel is {self.high:.4g} m away, which is unlikely; "scale" in dataset.json sets the metres of '
        'one unit of whole numbers, and .npy files of fractions must hold metres'
      )
    return lines


def share(part: int, whole: int) -> str:
  return f'{100 * part / max(whole, 1):.3g}%'


def contents(source) -> list[str]:
  """Describes the sizes of the images and the labels of every task, in lines. Reads every file, or the scan of it."""
  sizes = collections.Counter()
  stats = {task.name: LabelStats() for task in source.tasks}
  with Progress('reading', len(source), 'img') as progress:
    for id, summary in zip(source.ids, _summaries(source)):
      height, width = summary.size
      sizes[f'{width}x{height}'] += 1
      for name, label in summary.labels.items():
        stats[name].add(id, label)
      progress.update()
  common = ', '.join(f'{size} ({count})' for size, count in sizes.most_common(3))
  lines = [f'  size: {common}' + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')]
  for task in source.tasks:
    lines.append(f'  {task.name}: {stats[task.name].describe(task, source.units.get(task.name, ""))}')
    warnings = stats[task.name].warning_lines(task, source.units.get(task.name, ''))
    lines += [f'    {line}' for line in warnings]
    lines += [f'    {join_names(empty)}: no labelled pixel'] if (empty := stats[task.name].empty) else []
  unlabelled = [source.ids[i] for i in np.flatnonzero(~source.label_mask.any(1))]
  return lines + ([f'  without a label: {len(unlabelled)} images ({join_names(unlabelled)})'] if unlabelled else [])


def _summaries(source) -> Iterator[ImageSummary]:
  """The summary of every image, a few read ahead."""
  with ThreadPoolExecutor() as pool:
    for start in range(0, len(source), CHUNK):
      yield from pool.map(source.summary, range(start, min(start + CHUNK, len(source))))


def draw_labels(source, config) -> np.ndarray:
  """Draws the `panels.contact_sheet` of images spread over the source, with their labels, as the network gets them.

  They are scaled to config.data.size as in evaluation, without padding, so details lost by scaling are visible.
  """
  transform = transforms.eval_transform(config.data, config.eval.geometry, source.tasks)
  shown = []
  for i in np.linspace(0, len(source) - 1, min(SHOWN, len(source))).round().astype(int).tolist():
    ready = transform(source[i])
    shown.append((source.ids[i], ready['image'], ready['labels']))
  return panels.contact_sheet(shown, source.tasks, source.units)
