"""Cost of a train step against batch, image size, tasks T, steps S and labelled pairs: measured and plotted.

  python -m dmtl_jax.benchmarks.scaling [--config=configs/pascal.py:method=prediction] [--repeats=10]
      [--json=FILE] [--plot=docs/scaling.png]

Varies one number at a time around a small base (128x128, batch 4, five tasks, S = 2, one label per image, a
narrow network), so that it runs on a CPU in minutes; most of them compile. The plot wants matplotlib.
"""

import dataclasses

from absl import flags
import numpy as np

from dmtl_jax.benchmarks import common, synthetic, timing, train_step, work
from dmtl_jax.data.source import data_tasks

flags.DEFINE_string('plot', None, 'File to draw to, a .png.')


@dataclasses.dataclass(frozen=True)
class Point:
  """What is varied; the defaults are the base.

  Attributes:
    size: height and width of images.
    tasks: T; the first of the data set's.
    steps: S.
    labels: labelled tasks an image.
  """

  batch: int = 4
  size: int = 128
  tasks: int = 5
  steps: int = 2
  labels: int = 1


SWEEPS = {
  'batch': (2, 4, 8),
  'size': (64, 128, 192, 256),
  'tasks': (1, 3, 5),
  'steps': (1, 2, 4),
  'labels': (1, 2, 3, 5),
}
TITLES = {
  'batch': 'batch',
  'size': 'image pixels (thousands)',
  'tasks': 'tasks T, one label per image',
  'steps': 'denoising steps S',
  'labels': 'labelled pairs (batch 4, T = 5)',
}
NARROW = dict(width=32, channels=128)


def configured(config, point: Point):
  """The config at a point, with a narrow network."""
  config = config.copy_and_resolve_references()
  config.data.tasks = tuple(task.name for task in data_tasks(config.data)[: point.tasks])
  config.data.size = (point.size, point.size)
  config.train.batch, config.model.diffusion_steps = point.batch, point.steps
  config.model.update(NARROW)
  return config


def mask_of(point: Point) -> np.ndarray:
  """Labels [IMAGES, T] with point.labels tasks an image, in turn."""
  image, k = np.indices((synthetic.IMAGES, point.labels))
  mask = np.zeros((synthetic.IMAGES, point.tasks), bool)
  mask[image, (image + k) % point.tasks] = True
  return mask


def measure(config, point: Point, repeats: int) -> dict:
  """{'seconds', 'executed', 'needed', 'pairs'} of a step at a point."""
  config = configured(config, point)
  job = train_step.build(config, mask_of(point))
  _, step = job.compiled()
  seconds = timing.measure({'jax': step}, repeats)['jax']
  return {
    'seconds': timing.spread(seconds),
    'executed': sum(n for _, n in job.flops()),
    'needed': work.needed(config, job.tasks, point.batch, job.pairs),
    'pairs': job.pairs,
  }


def benchmark(config, flags_) -> dict:
  """{'base', 'sweeps': {what: [{'value', 'seconds', 'executed', 'needed', 'pairs'}]}}."""
  measured, sweeps = {}, {}
  for what, values in SWEEPS.items():
    sweeps[what] = []
    for value in values:
      point = dataclasses.replace(Point(), **{what: value})
      if point not in measured:
        timing.say(f'{point}')
        measured[point] = measure(config, point, flags_.repeats)
      sweeps[what].append({'value': value} | measured[point])
  result = {'base': dataclasses.asdict(Point()) | NARROW, 'device': timing.device(), 'sweeps': sweeps}
  if flags_.plot:
    plot(result, flags_.plot)
  return result


def as_text(result: dict) -> str:
  """The result for a person."""
  lines = [f'train step around {result["base"]}', f'{"":<8}{"value":>6}{"pairs":>7}{"time":>10}{"FLOP":>9}{"rate":>10}']
  for what, rows in result['sweeps'].items():
    for row in rows:
      seconds = row['seconds']['median']
      lines.append(
        f'{what:<8}{row["value"]:>6}{row["pairs"]:>7}{common.time_text(seconds):>10}{common.si(row["executed"]):>9}'
        f'{common.si(row["executed"] / seconds):>9}/s'
      )
  return '\n'.join(lines)


def plot(result: dict, path: str):
  """Draws time and FLOPs of every sweep, each by its value at the base."""
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(1, len(result['sweeps']), figsize=(15, 3.2), layout='constrained')
  for axis, (what, rows) in zip(axes, result['sweeps'].items()):
    base = next(row for row in rows if row['value'] == result['base'][what])
    x = [_position(what, row) for row in rows]
    time = [[row['seconds'][q] / base['seconds']['median'] for row in rows] for q in ('median', 'low', 'high')]
    axis.plot(x, [row['executed'] / base['executed'] for row in rows], 's--', color='#b3541e', label='FLOPs')
    axis.plot(x, time[0], 'o-', color='#1f5fa8', label='time')
    axis.fill_between(x, time[1], time[2], color='#1f5fa8', alpha=0.2, linewidth=0, label='quartiles of time')
    axis.plot([0, max(x)], [0, max(x) / _position(what, base)], ':', color='grey', label='proportional')
    axis.set(xlim=(0, 1.05 * max(x)), ylim=(0, 1.15 * max(time[2] + time[0])))
    axis.set_title(TITLES[what], fontsize='medium')
    axis.spines[['top', 'right']].set_visible(False)
  axes[0].set_ylabel('cost, 1 at the base')
  axes[0].legend(frameon=False, fontsize='small')
  figure.savefig(path, dpi=80)
  plt.close(figure)


def _position(what: str, row: dict) -> float:
  if what == 'size':
    return row['value'] ** 2 / 1000
  return row['pairs'] if what == 'labels' else row['value']


if __name__ == '__main__':
  common.run(benchmark, __doc__, as_text)
