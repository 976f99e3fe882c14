"""Does a second round of training, on a model's own predictions as labels, beat the first?

  python -m benchmarks.self_training --data=rooms --out=OUT [--seeds=3] [--init_from=ENCODER] [--camvid=PATH]

Each training image has one label, drawn by the seed; validation images have all. All rounds start from the same
weights, and learn by configs/folder.py, method=prediction:

  first     the labels, N steps
  longer    the labels, 2 N steps: what the time of two rounds buys without predictions
  second    N steps on the labels and those that `first` predicted, at a confidence and weight
  continued the same, but starting from `first`: 2 N steps in all

The first seed runs every candidate of confidence and weight; the others the best of them. A run that is done is not
made again. OUT/DATA/results.json has all scores, OUT/DATA/table.md the comparison.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np

from dmtl_jax import get_config
from dmtl_jax.basics import files
from dmtl_jax.basics.atomic import write_atomic, write_json
from dmtl_jax.data import label_settings
from dmtl_jax.data import source as source_lib
from dmtl_jax.metrics.delta_m import delta_m
from dmtl_jax.report.results import read_run

CANDIDATES = ((0.9, 0.3), (0.9, 1.0), (0.0, 1.0))  # (confidence, weight)
COMMON = {'train.eval_every': 10**6, 'train.eval_images': 8, 'eval.workers': 0, 'eval.panels': 0,
          'eval.resolution': 'input', 'eval.weights': 'latest', 'data.threads': 1}  # fmt: skip
FLAGS = {
  'rooms': {'data.size': (64, 96), 'model.token_stride': 1},
  'camvid': {'data.size': (96, 128), 'model.token_stride': 1, 'model.width': 64},
}
STEPS = {'rooms': 300, 'camvid': 150}
ROOM_TASKS = ('semseg', 'normals', 'depth')


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', choices=FLAGS, required=True)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--init_from', default='')
  parser.add_argument('--camvid', default='')
  args = parser.parse_args()
  study = Study(args)
  for seed in range(args.seeds):
    study.train('first', seed, study.steps)
    study.train('longer', seed, 2 * study.steps)
    for candidate in CANDIDATES if seed == 0 else [study.best()]:
      study.second(seed, *candidate)
    study.second(seed, *study.best(), 'continued', init_from=study.folder / f'first-{seed}')
    study.summarize()


class Study:
  """Makes the runs of a data set in a folder."""

  def __init__(self, args):
    self.args = args
    self.folder = args.out / args.data
    self.steps = STEPS[args.data]

  def data(self, seed: int) -> pathlib.Path:
    """The folder data set of a seed, written if it is not there."""
    root = self.folder / f'data-{seed}'
    if not (root / 'dataset.json').exists():
      if self.args.data == 'rooms':
        fields = {'data.size': FLAGS['rooms']['data.size'], 'data.train_count': 300, 'data.val_count': 100,
                  'data.dir': str(self.args.out / 'scenes'), 'data.tasks': ROOM_TASKS}  # fmt: skip
        config = get_config('scenes', **fields)
      else:
        config = get_config('folder', **{'data.path': self.args.camvid})
      train = label_settings.apply_labels(source_lib.open_source(config.data, 'train'), 'one', seed)
      write_folder(root, {'train': train, 'val': source_lib.open_source(config.data, 'val')})
    return root

  def train(self, name: str, seed: int, steps: int, root: pathlib.Path | None = None, **fields):
    workdir = self.folder / f'{name}-{seed}'
    if not (workdir / 'metrics.json').exists():
      flags = COMMON | FLAGS[self.args.data] | {'seed': seed, 'train.steps': steps, 'init_from': self.args.init_from}
      flags |= {'data.path': root or self.data(seed)} | fields
      config = '--config=configs/folder.py:method=prediction'
      run(config, *(f'--config.{field}={value}' for field, value in flags.items()), f'--workdir={workdir}')

  def second(self, seed: int, confidence: float, weight: float, name: str = 'second', **fields):
    root = self.folder / f'data-{seed}-{confidence:g}'
    predicted = root / 'train' / 'predicted'
    if not predicted.exists():
      (root / 'train').mkdir(parents=True, exist_ok=True)
      data = self.data(seed).absolute()
      for part in ('dataset.json', 'val', 'train/images', 'train/labels'):
        if not (root / part).exists():
          (root / part).symlink_to(data / part)
      images = f'--images={root / "train" / "images"}'
      where = f'--workdir={self.folder / f"first-{seed}"}', images, f'--out={predicted}'
      run('--mode=predict', '--save=labels', f'--confidence={confidence}', *where)
    fields |= {'data.predicted_labels': True, 'data.predicted_weight': weight}
    self.train(name_of(confidence, weight, name), seed, self.steps, root, **fields)

  def scores(self, name: str, seed: int) -> dict[str, float] | None:
    workdir = self.folder / f'{name}-{seed}'
    if not (workdir / 'metrics.json').exists():
      return None
    result = read_run(workdir)
    self.tasks = result.tasks
    return {task.name: result.score('final', task) for task in result.tasks}

  def gain(self, name: str, over: str, seed: int) -> float | None:
    """Delta_m of a run over another of the same seed."""
    own, other = self.scores(name, seed), self.scores(over, seed)
    return None if own is None or other is None else delta_m(own, other, self.tasks)

  def best(self) -> tuple[float, float]:
    """The candidate with the highest gain over `first` on the first seed."""
    return max(CANDIDATES, key=lambda candidate: self.gain(name_of(*candidate), 'first', 0))

  def summarize(self):
    """Writes results.json and table.md."""
    names = ['first', 'longer', *(name_of(*candidate) for candidate in CANDIDATES), name_of(*self.best(), 'continued')]
    scores = {name: {seed: self.scores(name, seed) for seed in range(self.args.seeds)} for name in names}
    lines = ['| run | seed | ' + ' | '.join(f'{t.name} {t.metric}' for t in self.tasks)
             + ' | gain over first | over longer |',
             '|' + '---|' * (len(self.tasks) + 4)]  # fmt: skip
    for name, by_seed in scores.items():
      gains = {over: [] for over in ('first', 'longer')}
      for seed, values in by_seed.items():
        if values is None:
          continue
        for over in gains:
          gain = self.gain(name, over, seed)
          gains[over].append(float('nan') if gain is None else gain)
        cells = [f'{values[task.name]:.{task.digits}f}' for task in self.tasks]
        lines.append(f'| {name} | {seed} | {" | ".join(cells)} | ' + ' | '.join(f'{g[-1]:+.2f}' for g in gains.values())
                     + ' |')  # fmt: skip
      if len(gains['first']) > 1:
        means = [f'{statistics.fmean(g):+.2f} ± {statistics.stdev(g) / len(g) ** 0.5:.2f}' for g in gains.values()]
        lines.append(f'| **{name}** | mean | {" | ".join("" for _ in self.tasks)} | {" | ".join(means)} |')
    write_json(self.folder / 'results.json', scores)
    write_atomic(self.folder / 'table.md', '\n'.join(lines) + '\n')


def name_of(confidence: float, weight: float, name: str = 'second') -> str:
  return f'{name}-c{confidence:g}-w{weight:g}'


def write_folder(root: pathlib.Path, splits: dict):
  """Writes splits, with their visible labels, as a folder data set; dataset.json last."""
  for split, source in splits.items():
    for i, id in enumerate(source.ids):
      example = source[i]
      save(root / split / 'images' / f'{id}.png', example['image'])
      for task in source.tasks:
        if task.name in example['labels']:
          suffix, values = task.to_file(example['labels'][task.name])
          save(root / split / 'labels' / task.name / f'{id}{suffix}', values)
  entries = {t.name: {'kind': t.kind} | ({'classes': t.classes} if t.classes else {}) for t in source.tasks}
  for task in source.tasks:
    if 'ignore' in task.file_fields and task.kind != 'depth':
      entries[task.name]['ignore'] = task.unlabelled
  write_json(root / 'dataset.json', {'tasks': entries})


def save(path: pathlib.Path, values: np.ndarray):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.png':
    path.write_bytes(files.encode_png(values))
  else:
    np.save(path, values)


def run(*arguments: str):
  print(json.dumps(arguments), flush=True)
  subprocess.run([sys.executable, '-m', 'dmtl_jax', *arguments], check=True)


if __name__ == '__main__':
  main()
