"""The job `--mode=check`: what the data of a config hold, told and drawn, before anything is trained."""

import collections
from concurrent.futures import ThreadPoolExecutor
import dataclasses

import numpy as np

from dmtl_jax.basics.errors import listed, sanitize, UserError
from dmtl_jax.basics.progress import Progress, say
from dmtl_jax.configs import check as check_config
from dmtl_jax.data import label_settings, transforms
from dmtl_jax.data import source as source_lib
from dmtl_jax.draw import panels
from dmtl_jax.draw.png import save_png
from dmtl_jax.tasks import Task
from dmtl_jax.training import setup, step

SHOWN = 12  # images of the picture
MANY = 0.001  # share of a task's pixels from which on a warning is shown


def run(config, out: str | None = None) -> int:
  """The job `--mode=check`: reads every image and label of both splits, and draws the labels of a dozen images.

  Args:
    out: the picture, PNG; default runs/check_NAME.png, of the data set's name.

  Returns:
    1 where something is in the way of training, else 0.

  Raises:
    UserError: a config that cannot be trained, whatever its data are.
  """
  check_config.check(config.to_dict())
  source_lib.data_tasks(config.data)
  sources, broken = {}, False
  for split in ('train', 'val'):
    try:
      sources[split] = source_lib.open_source(config.data, split)
    except UserError as error:
      broken = True
      say(
        '\n'.join([f'{split}: cannot be used', *(f'  {sanitize(str(part), 1000)}' for part in error.parts or [error])])
      )
      continue
    say('\n'.join([f'{split}: {len(sources[split])} images', *contents(sources[split])]))
  if 'train' in sources:
    setting, seed = config.data.labels, config.data.label_seed
    seen = label_settings.apply_labels(sources['train'], setting, seed)
    say('\n'.join(['', *first_lines(config, seen, sources.get('val'))]))
    path = out or f'runs/check_{config.data.name}.png'
    save_png(path, drawn(sources['train'], config))
    say(f'labels of {min(SHOWN, len(seen))} images drawn over them: {path}')
  # Last: what the network must be like, its channels for instance, depends on the data, and they have been seen now.
  setup.check(config, fresh=False)  # nothing is downloaded for this
  return int(broken)


def first_lines(config, source, val=None) -> list[str]:
  """What a run learns from, and is scored on: lines that need no image or label to be read."""
  count = lambda source: ', '.join(f'{t.name} {int(n)}' for t, n in zip(source.tasks, source.label_mask.sum(0)))
  pairs, batch = source.label_mask.sum(1), config.train.batch
  lines = [
    f'{config.method} on {config.data.name}: {len(source)} images, labels ({config.data.labels}): {count(source)}',
    f'a batch of {batch} images holds {batch * pairs.mean():.3g} pairs of image and task, and has room for '
    f'{setup.pair_count(source, batch)}',
    'loss weights: '
    + ', '.join(f'{t.name} {w:g}' for t, w in zip(source.tasks, step.task_weights(config.loss_weights, source.tasks))),
  ]
  if val is not None:
    lines.append(f'validated on {len(val)} images: {count(val)}')
    missing = [task.name for task, labelled in zip(val.tasks, val.label_mask.any(0)) if not labelled]
    lines += [f'  {name}: no validation label, so no score; add some to val' for name in missing]
  return lines


# --- What a split holds ----------------------------------------------------------------------


@dataclasses.dataclass
class Seen:
  """Of the labels of one task: how many, their pixels, and the values of these."""

  labels: int = 0
  pixels: int = 0
  labelled: int = 0
  values: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of class ids
  low: float = np.inf
  high: float = -np.inf
  warnings: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # see `Task.file_warnings`
  empty: list[str] = dataclasses.field(default_factory=list)  # ids of labels without a labelled pixel

  def add(self, task: Task, id: str, label: np.ndarray):
    found = label[task.valid(label)]
    self.labels += 1
    self.pixels += label[..., 0].size
    self.labelled += len(found)
    if not len(found):
      self.empty.append(id)
    elif task.classes or task.binary:
      self.values.update(dict(enumerate(np.bincount(found[:, 0]))))
    else:
      self.low, self.high = min(self.low, float(found.min())), max(self.high, float(found.max()))

  def told(self, task: Task, unit: str = '') -> str:
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
      f'{share(n, self.pixels)} of the pixels {text}' for text, n in self.warnings.items() if n > MANY * self.pixels
    ]


def share(part: int, whole: int) -> str:
  return f'{100 * part / max(whole, 1):.3g}%'


def contents(source) -> list[str]:
  """Sizes of the images, and of every task its labels: lines. Reads every file."""
  sizes, seen = collections.Counter(), {task.name: Seen() for task in source.tasks}
  with Progress('reading', len(source), 'img') as progress, ThreadPoolExecutor() as pool:
    read = lambda index: (source[index], source.warnings(index))
    for index, (example, warnings) in enumerate(pool.map(read, range(len(source)))):
      height, width = example['image'].shape[:2]
      sizes[f'{width}x{height}'] += 1
      for task in source.tasks:
        if task.name in example['labels']:
          seen[task.name].add(task, source.ids[index], example['labels'][task.name])
          seen[task.name].warnings.update(warnings.get(task.name, {}))
      progress.update()
  common = ', '.join(f'{size} ({count})' for size, count in sizes.most_common(3))
  lines = [f'  size: {common}' + (f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else '')]
  for task in source.tasks:
    lines.append(f'  {task.name}: {seen[task.name].told(task, source.units.get(task.name, ""))}')
    lines += [f'    {line}' for line in seen[task.name].warning_lines()]
    lines += [f'    {listed(empty)}: no labelled pixel'] if (empty := seen[task.name].empty) else []
  bare = [source.ids[i] for i in np.flatnonzero(~source.label_mask.any(1))]
  return lines + ([f'  labelled for nothing: {listed(bare)}'] if bare else [])


def drawn(source, config) -> np.ndarray:
  """`panels.contact_sheet` of images spread over the source, with their labels, as the network is given them.

  That is at config.data.size as evaluation fits them into it, without padding: what is lost there is seen here.
  """
  transform, shown = transforms.eval_transform(config.data, config.eval.geometry, source.tasks), []
  for i in np.linspace(0, len(source) - 1, min(SHOWN, len(source))).round().astype(int).tolist():
    example = source[i]
    ready = transform(example)
    top, left, height, width = ready['region']
    inside = np.s_[top : top + height, left : left + width]
    labels = {name: ready['labels'][name][inside] for name in example['labels']}
    shown.append((source.ids[i], transforms.to_uint8(ready['image'][inside]), labels))
  return panels.contact_sheet(shown, source.tasks)
