"""Workdirs for tests of the report, written by hand, and a look at the page made of them."""

import csv
import io
import json
import pathlib
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from dmtl_jax import report as report_package
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
SCRIPT = (pathlib.Path(report_package.__file__).parent / 'templates/sort.js').read_text(encoding='utf-8').strip()
STAGES = ('label', 'initial', 'step0', 'step1', 'final', 'change')


def write_run(
  path, arg='method=prediction', final=(50, 20, 1), initial=None, tasks=TASKS, seed=0, cost=True, by=BY, **fields
):
  """A workdir as training and evaluation leave it, without pictures; scores are in the order of the tasks.

  Args:
    by: what metrics.json says of how it was scored.
  """
  config = common.base(arg)
  config.seed = seed
  config.data.update({'name': 'rooms', 'size': (32, 32)})
  for name, value in fields.items():
    group, _, field = name.partition('__')
    config[group][field] = value
  atomic.write_json(path / 'config.json', workdir_lib.to_json(config))
  workdir_lib.write_tasks(path, tasks)
  if final is not None:
    stages = {
      stage: {task.name: {task.metric: value} for task, value in zip(tasks, scores)}
      for stage, scores in (('final', final), ('initial', initial))
      if scores
    }
    atomic.write_json(path / 'metrics.json', {**by, 'step': 7, **stages, 'seconds_per_image': 0.25})
  if cost:
    costs = {'parameters': 2_500_000, 'gmac': 3.5, 'train_memory_bytes': None, 'devices': '1 x cpu', 'batch': 4}
    atomic.write_json(path / 'cost.json', costs)
  return path


def write_pictures(path, ids=('a', 'b'), tasks=TASKS, stages=STAGES, color=None, size=(12, 8)):
  """W/panels with pictures of one colour each; returns {(id, task, stage): colour}."""
  images = []
  colors = {}
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
  """The page (its root element), the Markdown and the CSV rows of some runs."""
  path = report.run([str(run) for run in runs], str(tmp_path / 'out'))
  rows = list(csv.DictReader(io.StringIO(path.with_suffix('.csv').read_text())))
  return parse_page(path.read_text()), path.with_suffix('.md').read_text(), rows


def parse_page(page):
  """The root element, after checking what every page must be: self-contained, with our script only, and well-formed."""
  root = ElementTree.fromstring(page)
  ids = [element.get('id') for element in root.iter() if 'id' in element.attrib]
  assert len(set(ids)) == len(ids)
  for element in root.iter():
    assert element.tag != 'script' or element.text.strip() == SCRIPT
    assert element.tag != 'img' or element.get('alt')
    assert not any(name.startswith('on') for name in element.attrib)
    assert element.get('src', 'data:').startswith('data:')
    assert element.get('for', ids[0]) in ids
    assert element.get('href', f'#{ids[0]}').removeprefix('#') in ids
  assert len(page) < 5_000_000
  return root


def words(element):
  """The text of an element with single spaces."""
  return ' '.join(''.join(element.itertext()).split())


def find_section(page, title):
  """The section under a heading; None if the page does not have it."""
  return next((section for section in page.iter('section') if section.findtext('h3') == title), None)


def find_class(element, name):
  """Elements of a class, in their order."""
  return [found for found in element.iter() if name in found.get('class', '').split()]


def read_table(element):
  """The cells of the first table: a list of texts per row, its head first."""
  return [[words(cell) for cell in row] for row in next(element.iter('table')).iter('tr')]
