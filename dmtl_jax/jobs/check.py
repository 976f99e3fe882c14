"""The job `--mode=check`: describes and draws the data of a config before anything is trained."""

import collections
from concurrent.futures import ThreadPoolExecutor
import dataclasses
from typing import NamedTuple

import numpy as np

from dmtl_jax.basics.errors import join_names, sanitize, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.configs import check as check_config
from dmtl_jax.data import label_settings, transforms
from dmtl_jax.data import source as source_lib
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.jobs import recipe
from dmtl_jax.tasks import Task
from dmtl_jax.training import setup, step

SHOWN = 12  # images in the picture
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


def run(config, out: str | None = None, time_steps: bool = False) -> int:
  """The job `--mode=check`: `examine`; returns 1 where something stands in the way of training, else 0."""
  return int(not examine(config, out, time_steps).is_trainable)


def examine(config, out: str | None = None, time_steps: bool = False) -> Report:
  """Reads every image and label of both splits, prints what they hold, and draws the labels of a dozen images.

  Args:
    out: the picture, PNG; default runs/check_NAME.png, with the name of the data set.
    time_steps: whether to time the networks of the recipe, see `recipe.lines`.

  Raises:
    UserError: the config cannot be trained with any data.
  """
  check_config.check(config.to_dict())
  source_lib.data_tasks(config.data)
  sources: dict[str, source_lib.Source] = {}
  texts: list[str] = []
  picture = None

  def report(*lines: str):
    texts.append('\n'.join(lines))
    say(texts[-1])

  for split in ('train', 'val'):
    try:
      sources[split] = source_lib.open_source(config.data, split)
    except UserError as error:
      report(f'{split}: cannot be used', *(f'  {sanitize(str(part), 1000)}' for part in error.parts or [error]))
      continue
    report(f'{split}: {len(sources[split])} images', *contents(sources[split]))
  if 'train' in sources:
    train = label_settings.apply_labels(sources['train'], config.data.labels, config.data.label_seed)
    report('', *first_lines(config, train, sources.get('val')))
    picture = out or f'runs/check_{config.data.name}.png'
    save_png(picture, draw_labels(sources['train'], config))
    report(f'labels of {min(SHOWN, len(train))} images drawn over them: {picture}')
    report(*recipe.lines(config, train, time_steps))
  # Last, since the network (its channels, for instance) depends on the data.
  setup.check(config, fresh=False)  # downloads nothing
  return Report('\n'.join(texts), picture, is_trainable=len(sources) == 2)


def first_lines(config, source, val=None) -> list[str]:
  """Describes what a run is trained and validated on, without reading an image or a label."""
  pairs = source.label_mask.sum(1)
  batch = config.train.batch
  counts = _label_counts(source)
  lines = [
    f'{config.method} on {config.data.name}: {len(source)} images, labels ({config.data.labels}): {counts}',
    f'a batch of {batch} images holds {batch * pairs.mean():.3g} pairs of image and task, and has room for '
    f'{setup.pair_count(source, batch)}',
    'loss weights: '
    + ', '.join(f'{t.name} {w:g}' for t, w in zip(source.tasks, step.task_weights(config.loss_weights, source.tasks))),
  ]
  if val is not None:
    lines.append(f'validated on {len(val)} images: {_label_counts(val)}')
    missing = [task.name for task, labelled in zip(val.tasks, val.label_mask.any(0)) if not labelled]
    lines += [f'  {name}: no validation label, so no score; add some to val' for name in missing]
  return lines


def _label_counts(source) -> str:
  return ', '.join(f'{task.name} {int(n)}' for task, n in zip(source.tasks, source.label_mask.sum(0)))


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

  def add(self, task: Task, id: str, label: np.ndarray):
    values = label[task.valid(label)]
    self.labels += 1
    self.pixels += label[..., 0].size
    self.labelled += len(values)
    if not len(values):
      self.empty.append(id)
    elif task.classes or task.binary:
      self.values.update(dict(enumerate(np.bincount(values[:, 0]))))
    else:
      self.low = min(self.low, float(values.min()))
      self.high = max(self.high, float(values.max()))

  def describe(self, task: Task, unit: str = '') -> str:
    """'300 labels, 98% of their pixels labelled: sky 30%, road 70%; nowhere: car'."""
    text = f'{self.labels} labels, {share(self.labelled, self.pixels)} of their pixels labelled'
    names = task.classes or (('no', 'yes') if task.binary else ())
    if self.labelled and names:
      order = sorted(range(len(names)), key=lambda i: -self.values[i])
      text += ': ' + ', '.join(f'{names[i]} {share(self.values[i], self.labelled)}' for i in order if self.values[i])
      nowhere = [names[i] for i in order if not self.values[i]]
      text += f'; nowhere: {", ".join(nowhere)}' if nowhere else ''
    elif self.labelled and task.label_channels == 1:
      text += f', from {self.low:.4g} to {self.high:.4g} {unit}'.rstrip()
    return text

  def warning_lines(self) -> list[str]:
    """'12% of the pixels hold 65535 = 65.5 m: ...'."""
    return [
      f'{share(n, self.pixels)} of the pixels {text}'
      for text, n in self.warnings.items()
      if n > WARN_ABOVE * self.pixels
    ]


def share(part: int, whole: int) -> str:
  return f'{100 * part / max(whole, 1):.3g}%'


def contents(source) -> list[str]:
  """Describes the sizes of the images and the labels of every task, in lines. Reads every file."""
  sizes = collections.Counter()
  stats = {task.name: LabelStats() for task in source.tasks}

  def read(index: int):
    return source[index], source.warnings(index)

  with Progress('reading', len(source), 'img') as progress, ThreadPoolExecutor() as pool:
    for index, (example, warnings) in enumerate(pool.map(read, range(len(source)))):
      height, width = example['image'].shape[:2]
      sizes[f'{width}x{height}'] += 1
      for task in source.tasks:
        if task.name in example['labels']:
          stats[task.name].add(task, source.ids[index], example['labels'][task.name])
          stats[task.name].warnings.update(warnings.get(task.name, {}))
      progress.update()
  common = ', '.join(f'{size} ({count})' for size, count in sizes.most_common(3))
  lines = [f'  size: {common}' + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')]
  for task in source.tasks:
    lines.append(f'  {task.name}: {stats[task.name].describe(task, source.units.get(task.name, ""))}')
    lines += [f'    {line}' for line in stats[task.name].warning_lines()]
    lines += [f'    {join_names(empty)}: no labelled pixel'] if (empty := stats[task.name].empty) else []
  unlabelled = [source.ids[i] for i in np.flatnonzero(~source.label_mask.any(1))]
  return lines + ([f'  labelled for nothing: {join_names(unlabelled)}'] if unlabelled else [])


def draw_labels(source, config) -> np.ndarray:
  """Draws the `panels.contact_sheet` of images spread over the source, with their labels, as the network gets them.

  They are scaled to config.data.size as in evaluation, without padding, so details lost by scaling are visible.
  """
  transform = transforms.eval_transform(config.data, config.eval.geometry, source.tasks)
  shown = []
  for i in np.linspace(0, len(source) - 1, min(SHOWN, len(source))).round().astype(int).tolist():
    example = source[i]
    ready = transform(example)
    top, left, height, width = ready['region']
    inside = np.s_[top : top + height, left : left + width]
    labels = {name: ready['labels'][name][inside] for name in example['labels']}
    shown.append((source.ids[i], transforms.to_uint8(ready['image'][inside]), labels))
  return panels.contact_sheet(shown, source.tasks)
