"""Command lines and workdirs from elsewhere, mutated; see test_fuzz.py."""

import json
import pathlib
import sys

from flax.traverse_util import flatten_dict
from hypothesis import strategies as st
import numpy as np

from dmtl_jax import cli
from dmtl_jax.configs import common, scenes
from dmtl_jax.inference import gallery
from dmtl_jax.jobs import report
from dmtl_jax.runs import workdir
from tests import fuzzing
from tests.conftest import TASKS
from tests.readers import encoded, PARTS, pattern
from tests.whole.test_fuzz import run

ROOT = pathlib.Path(__file__).resolve().parents[2]


# --- The command line ------------------------------------------------------------------------

FIELDS = list(flatten_dict(common.base(None).to_dict(), sep='.')) + [
    'x', '.', '..', 'optim..lr', 'optim.', 'optm.lr', '__class__', 'model.__class__.x', 'data.size[0]', 'data.size[9]', 'a[b]',
    'optim.lr.x', 'keys', 'items', 'loss_weights.semseg', 'data.path', 'size(', 'é', 'data', 'model', '',
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(['1', '-1', '0', '', '1e999', 'nan', '(1,2)', '(1', '[1,2]', '{}', '{"a":1}', 'None', 'True', '9' * 5000,
                     '-' * 3000 + '1', '(' * 3000, '\0', '\ud800', '\n', '../x', "(1.5,'a')", '1_0', '[[[[', '1+1j', '9**9**9',
                     '__import__("os").system("touch evil")', 'lambda: 0', '(64, 96)', '0.5', 'xtc']),
    st.text(max_size=6),
)  # fmt: skip
CONFIGS = st.sampled_from(
  ['configs/scenes.py'] * 4
  + ['configs/folder.py'] * 3
  + ['configs/nope.py', 'configs', '/etc/passwd', '', 'README.md', 'x\0', 'x' * 5000]
)


def test_command_lines(tmp_path, monkeypatch, fresh_flags):
  monkeypatch.chdir(ROOT)
  override = st.builds(lambda field, value: f'--config.{field}={value}', st.sampled_from(FIELDS), VALUES)
  other = st.sampled_from(
    '--workdir --mode=x --noconfig.seed --config.train.remat -x x -- --flagfile=nope --force=x'.split()
  )
  argvs = st.builds(
      lambda path, parts, rest: [
        'main.py', '--workdir=x', f'--config={path}' + (':' + ','.join(parts) if parts else ''), *rest],
      CONFIGS, st.lists(PARTS, max_size=1), st.lists(st.one_of(override, override, override, other), max_size=2),
  )  # fmt: skip

  def check(argv):
    monkeypatch.setattr(sys, 'argv', argv)
    fresh_flags()
    return fuzzing.told(lambda _: cli._parse(argv), tmp_path / 'x', '')

  run(60, argvs, check)


# --- Workdirs --------------------------------------------------------------------------------

INDEX = {'images': [{'id': 'a', 'index': 0, 'input': 'a/input.jpg', 'tasks': {
    'depth': {'why': ['panel', 'best'], 'scores': {'initial': 1.0, 'final': 0.5}, 'limits': [1.0, 4.0],
              'files': {'label': 'a/depth_label.png', 'initial': 'a/depth_initial.png', 'final': 'a/depth_final.png'}}}}]}  # fmt: skip
METRICS = (
  {'step': 20, 'delta_m': None, 'seconds_per_image': 0.1}
  | {stage: {task.name: {task.metric: 0.5} for task in TASKS} for stage in ('initial', 'final')}
  | {'per_class': {'semseg': {'sky': 1.0, 'road': None}}}
)
LOG = [{'step': step, 'loss/total': 3.0 / step, 'loss/final/depth': 1.0} for step in (1, 2, 3)]


def write_run(path: pathlib.Path) -> dict[str, object]:
  """A run without its checkpoints: what JSON files it holds."""
  config = scenes.get_config('method=mtl_baseline')
  config.model.width, config.model.channels, config.data.size = 8, 8, (32, 32)
  content = {'config.json': workdir.to_json(config), 'metrics.json': METRICS, 'panels/index.json': INDEX,
             'cost.json': {'parameters': 10, 'gmac': 2.0}}  # fmt: skip
  workdir.write_tasks(path, TASKS)
  content['tasks.json'] = json.loads((path / 'tasks.json').read_text())
  (path / 'panels/a').mkdir(parents=True)
  for name, value in content.items():
    (path / name).write_text(json.dumps(value))
  (path / 'log.jsonl').write_text('\n'.join(map(json.dumps, LOG)) + '\n')
  for name in ('input.jpg', 'depth_label.png', 'depth_initial.png', 'depth_final.png'):
    (path / 'panels/a' / name).write_bytes(
      encoded(pattern(np.uint8, 200, 3), 'jpeg' if name.endswith('jpg') else 'png')
    )
  return content


def test_workdirs(tmp_path, monkeypatch):
  """Reports of runs whose files were mutated; config.json and tasks.json are what predict and evaluate read too."""
  path = tmp_path / 'run'
  content = write_run(path)
  monkeypatch.setattr('dmtl_jax.basics.progress.say', lambda text: None)
  monkeypatch.setattr('dmtl_jax.report.table._count', lambda entry: {})  # seconds each
  cases = [st.tuples(st.just(name), fuzzing.as_json(value)) for name, value in content.items()]
  cases.append(st.tuples(st.just('log.jsonl'), fuzzing.files((path / 'log.jsonl').read_bytes())))
  lines = fuzzing.trees(*LOG).map(lambda row: json.dumps(row).encode())
  cases.append(st.tuples(st.just('log.jsonl'), st.lists(lines, max_size=3).map(b'\n'.join)))

  def check(case):
    file = path / case[0]
    whole = file.read_bytes()
    file.write_bytes(case[1])
    try:
      return fuzzing.told(lambda _: report.write_report([str(path)], str(tmp_path / 'out')), tmp_path / 'x', file.name)
    finally:
      file.write_bytes(whole)

  run(60, st.one_of(cases), check)


def test_an_index_of_panels_deletes_nothing_elsewhere(tmp_path):
  folder, victim = tmp_path / 'run/panels', tmp_path / 'victim'
  folder.mkdir(parents=True)
  victim.mkdir()
  (tmp_path / 'other.png').write_bytes(b'')
  ids = ['../../victim', str(victim), '../../other', '..', '.', '', None, {}, 'mine']
  (folder / 'index.json').write_text(json.dumps({'images': [{'id': id} for id in ids]}))
  (folder / 'mine').mkdir()
  (folder / 'mine/input.jpg').write_bytes(b'')
  gallery.save_panels(folder, TASKS, {}, None)
  assert victim.is_dir() and (tmp_path / 'other.png').exists() and folder.is_dir() and not (folder / 'mine').exists()
