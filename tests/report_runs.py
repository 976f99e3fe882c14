"""Workdirs for tests of the report, written by hand, and what every page must be."""

import csv
import html.parser
import io
import json

import numpy as np
from PIL import Image

from dmtl_jax.basics import atomic
from dmtl_jax.configs import common
from dmtl_jax.jobs import report
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import make_task

SEMSEG, NORMALS, DEPTH = (
  make_task('semseg', 'semseg', ('sky', 'road')),
  make_task('normals', 'normals'),
  make_task('depth', 'depth'),
)
TASKS = (SEMSEG, NORMALS, DEPTH)
BY = {'protocol': 'plain', 'weights': 'best', 'resolution': 'input'}
STAGES = ('label', 'initial', 'step0', 'step1', 'final', 'change')


def write_run(
  path, arg='method=prediction', final=(50, 20, 1), initial=None, tasks=TASKS, seed=0, cost=True, by=BY, **fields
):
  """A workdir as training and evaluation leave it, without pictures; scores are in the order of the tasks.

  Args:
    by: what metrics.json says of how it was scored.
  """
  config = common.base(arg)
  config.seed, config.data.name, config.data.size = seed, 'rooms', (32, 32)
  for name, value in fields.items():
    group, _, field = name.partition('__')
    config[group][field] = value
  atomic.write_json(path / 'config.json', workdir_lib.to_json(config))
  workdir_lib.write_tasks(path, tasks)
  table = lambda values: {task.name: {task.metric: value} for task, value in zip(tasks, values)}
  if final is not None:
    stages = {'final': table(final)} | ({'initial': table(initial)} if initial else {})
    atomic.write_json(path / 'metrics.json', {**by, 'step': 7, **stages, 'seconds_per_image': 0.25})
  if cost:
    atomic.write_json(path / 'cost.json', {'parameters': 2_500_000, 'gmac': 3.5, 'train_memory_bytes': None})
  return path


def write_pictures(path, ids=('a', 'b'), tasks=TASKS, stages=STAGES, color=None, size=(12, 8)):
  """W/panels with pictures of one colour each; returns {(id, task, stage): colour}."""
  images, colors = [], {}
  rng = np.random.default_rng(abs(hash(path.name)) % 1000)
  for index, id in enumerate(ids):
    entry = {'id': id, 'index': index, 'input': f'{id}/input.jpg', 'tasks': {}}
    (path / 'panels' / id).mkdir(parents=True)
    Image.new('RGB', size, (10, 20, 30)).save(path / 'panels' / entry['input'])
    for task in tasks:
      files = {stage: f'{id}/{task.name}_{stage}.png' for stage in stages}
      for stage, file in files.items():
        colors[id, task.name, stage] = tuple(rng.integers(0, 256, 3).tolist())
        pixels = color(rng, size) if color else np.full((*size[::-1], 3), colors[id, task.name, stage], np.uint8)
        Image.fromarray(pixels).save(path / 'panels' / file)
      why = ['panel', *(['best'] if index == 0 else []), *(['worst'] if index == len(ids) - 1 else [])]
      entry['tasks'][task.name] = {'why': why, 'scores': {'initial': 40.0, 'final': 30.0 + index}, 'files': files}
    images.append(entry)
  atomic.write_json(path / 'panels' / 'index.json', {'images': images})
  return colors


def write_log(path, rows):
  (path / 'log.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"step": 9, "loss/to')


def make(tmp_path, *runs):
  """The page, the Markdown and the CSV rows of some runs."""
  page = report.write_report([str(run) for run in runs], str(tmp_path / 'out')).read_text()
  Checker().check(page)
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'report.csv').read_text())))
  return page, (tmp_path / 'out' / 'report.md').read_text(), rows


class Checker(html.parser.HTMLParser):
  """What every page must be: well nested, self-contained, without scripts, pictures described, labels of inputs."""

  VOID = {'meta', 'img', 'input', 'line', 'circle', 'polyline'}

  def check(self, page):
    self.open, self.ids, self.targets = [], [], []
    self.feed(page)
    assert not self.open and len(set(self.ids)) == len(self.ids)
    assert set(self.targets) <= set(self.ids)
    assert len(page) < 5_000_000

  def handle_starttag(self, tag, attributes):
    values = dict(attributes)
    if tag not in self.VOID:
      self.open.append(tag)
    self.ids += [values['id']] if 'id' in values else []
    self.targets += [values[name].lstrip('#') for name in ('for', 'href') if name in values]
    assert tag != 'script' and not any(name.startswith('on') for name in values)
    assert values.get('src', 'data:').startswith('data:') and values.get('href', '#').startswith('#')
    assert tag != 'img' or values.get('alt')

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag
