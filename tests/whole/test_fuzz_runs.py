"""Command lines and workdirs from elsewhere, mutated; see test_fuzz.py."""

import json
import sys

from flax.traverse_util import flatten_dict
from hypothesis import strategies as st

from dmtl_jax import cli
from dmtl_jax.configs import common
from dmtl_jax.inference import gallery
from dmtl_jax.jobs import report
from tests import fuzzing, report_runs
from tests.readers import PARTS
from tests.tiny import ROOT

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
ODD_CONFIGS = ['configs/nope.py', 'configs', '/etc/passwd', '', 'README.md', 'x\0', 'x' * 5000]
CONFIGS = st.sampled_from(['configs/scenes.py'] * 4 + ['configs/folder.py'] * 3 + ODD_CONFIGS)


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

  def accepts(argv):
    monkeypatch.setattr(sys, 'argv', argv)
    fresh_flags()
    return fuzzing.accepts(lambda _: cli._parse(argv), tmp_path / 'x', '')

  fuzzing.run(60, argvs, accepts)


# --- Workdirs --------------------------------------------------------------------------------

FILES = ('config.json', 'tasks.json', 'metrics.json', 'cost.json', 'panels/index.json')
LOG = [{'step': step, 'loss/total': 3.0 / step, 'loss/final/depth': 1.0} for step in (1, 2, 3)]


def test_workdirs(tmp_path, monkeypatch):
  """Reports of runs whose files were mutated; config.json and tasks.json are what predict and evaluate read too."""
  path = report_runs.write_run(tmp_path / 'run', 'method=mtl_baseline', initial=(40, 30, 2))
  report_runs.write_pictures(path, ['a'])
  report_runs.write_log(path, LOG)
  content = {name: json.loads((path / name).read_text()) for name in FILES}
  content['metrics.json'] |= {'delta_m': None, 'per_class': {'semseg': {'sky': 1.0, 'road': None}}}
  content['panels/index.json']['images'][0]['tasks']['depth']['limits'] = [1.0, 4.0]
  monkeypatch.setattr('dmtl_jax.basics.progress.silent', True)
  monkeypatch.setattr('dmtl_jax.report.table._count', lambda entry: {})  # seconds each
  cases = [st.tuples(st.just(name), fuzzing.as_json(value)) for name, value in content.items()]
  lines = fuzzing.trees(*LOG).map(lambda row: json.dumps(row).encode())
  log = st.one_of(fuzzing.files((path / 'log.jsonl').read_bytes()), st.lists(lines, max_size=3).map(b'\n'.join))
  cases += [st.tuples(st.just('log.jsonl'), log)] * 2

  def accepts(case):
    file = path / case[0]
    whole = file.read_bytes()
    file.write_bytes(case[1])
    try:
      return fuzzing.accepts(lambda _: report.run([str(path)], str(tmp_path / 'out')), tmp_path / 'x', file.name)
    finally:
      file.write_bytes(whole)

  fuzzing.run(60, st.one_of(cases), accepts)


def test_an_index_of_panels_deletes_nothing_elsewhere(tmp_path):
  folder, victim = tmp_path / 'run/panels', tmp_path / 'victim'
  (folder / 'mine').mkdir(parents=True)
  victim.mkdir()
  (tmp_path / 'other.png').touch()
  ids = ['../../victim', str(victim), '../../other', '..', '.', '', None, {}, 'mine']
  (folder / 'index.json').write_text(json.dumps({'images': [{'id': id} for id in ids]}))
  (folder / 'mine/input.jpg').touch()
  gallery.save_panels(folder, report_runs.TASKS, {}, None)
  assert {path.name for path in tmp_path.iterdir()} == {'run', 'victim', 'other.png'}
  assert not (folder / 'mine').exists()
  assert folder.is_dir()
